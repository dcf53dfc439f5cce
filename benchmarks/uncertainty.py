r"""Do intervals hold? Their coverage on wells that neither networks nor intervals have seen.

    OMP_NUM_THREADS=1 python -m benchmarks.uncertainty --out uncertainty [--check]
    OMP_NUM_THREADS=1 python -m benchmarks.uncertainty --out started --start pretrained --epochs 24
    OMP_NUM_THREADS=1 python -m benchmarks.uncertainty --out alike --batch_effect none
    OMP_NUM_THREADS=1 python -m benchmarks.uncertainty --out real --plate plate --calibrate B03,B04
        --test C03,C04 [--level 0.6]

A plate is simulated at 20x, 96 wells that differ as wells do, a field of 512 pixels in each: 32
teach a network, 48 its calibration and intervals, 16 judge. Or a plate is given; its other wells
teach the network. At the level that is asked for, for each target: the share of test wells' pixels
that are inside, overall, by stratum and by well; the mean width over the standard deviation of the
stain's counts, and over that of one width for all pixels, which is calibrated by the same rule.

Strata are those of the true stain: inside (nuclei and droplets as the challenge's pipelines find
them, cytoplasm by Otsu's threshold of the logarithm), edges (within two pixels of a border of
these), and ground. "constant" is the share inside of one width for all pixels. With fewer wells for
the intervals: coverage and width by 2, 3, 4, … of them, means over draws. Splits: which of the
wells teach intervals and which judge is drawn anew, for images with the intensities "none".
"""

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from adipocyte.config import NO_START, PRETRAINED, GeneratorConfig, PreprocessConfig, build
from adipocyte.domain import TARGETS, UM_PER_PX, FieldKey, Intensities
from adipocyte.evaluation.fields import FieldPaths
from adipocyte.evaluation.painting import (
    cross_calibrated,
    fit_calibrations,
    fit_intervals,
    paint_fields,
)
from adipocyte.evaluation.sureness import PLACES, places
from adipocyte.imaging.histograms import N_COUNTS
from adipocyte.imaging.intervals import WORST, Widths
from adipocyte.networks.start import Start
from adipocyte.plate.fields import RawField, write_field
from adipocyte.plate.tiff import read_image
from adipocyte.preparation.prepare import prepare
from adipocyte.pretrained import BUNDLE
from adipocyte.simulation import Conditions, draw_conditions, simulate_field
from adipocyte.staining.bundle import calibrate_bundle, write_intervals
from adipocyte.staining.stainer import Stainer
from adipocyte.store.reader import Store
from adipocyte.training.generator import train_generator
from adipocyte.training.loop import NETWORK_FOLDER
from adipocyte.training.tracker import Silent
from benchmarks.report import parser, report
from benchmarks.shift import bundled, manifest_of

MAGNIFICATION, SIDE_PX = 20, 512
WELLS = tuple(f"{row}{column:02d}" for row in "ABCDEFGH" for column in range(1, 13))
TRAIN, CALIBRATE, TEST = WELLS[:32], WELLS[32:80], WELLS[80:]
FEWER, N_DRAWS = (2, 3, 4, 8, 12, 16), 10  # wells for the intervals, and draws of so many
N_SPLITS = 20
AT_LEAST = {f"{of}{target} coverage": 0.88 for of in ("", "splits ") for target in TARGETS} | {
    f"{target} {stratum}": 0.80 for target in TARGETS for stratum in (*PLACES, "least well")
}
AT_MOST = (
    {f"{of}{target} coverage": 0.92 for of in ("", "splits ") for target in TARGETS}
    | {f"{target} {part}": 0.97 for target in TARGETS for part in (*PLACES, "greatest well")}
    | {f"{target} width to constant": 0.75 for target in TARGETS}
)


# What is painted.


def simulated(folder: Path, batch_effect: str) -> Path:
    """A plate whose wells differ as wells do, or that have all the same conditions."""
    for number, well in enumerate(tqdm(WELLS, desc="plate")):
        if (folder / "done").exists():
            break
        made = simulate_field(
            MAGNIFICATION,
            (SIDE_PX, SIDE_PX),
            seed=(13, number),
            conditions=Conditions() if batch_effect == "none" else draw_conditions((13, number)),
        )
        key = FieldKey(MAGNIFICATION, well, 1)
        write_field(folder / "plate", key, RawField(made.planes, made.targets))
    (folder / "done").touch()
    return folder / "plate"


def trained(
    plate: Path, calibrate: str, test: str, epochs: int, start: str, out: Path
) -> tuple[Store, Path]:
    """The store of the *plate*, and a bundle of a network that its training wells taught."""
    settings = {
        "plate": plate,
        "store": out / "store",
        "align": "none",
        "validation_wells": calibrate,
        "test_wells": test,
    }
    store, bundle = prepare(build(PreprocessConfig, settings)), out / "bundle"
    if not bundle.exists():
        given = {"target": "all", "recipe": "shared", "epochs": epochs, "epoch_steps": 200}
        config = build(GeneratorConfig, given | {"start": start})
        begun = Start(BUNDLE / "A1-A2-A3", TARGETS, sees_mask=False, source=start)
        train_generator(
            store,
            config,
            None,
            out / "trained",
            Silent(),
            start=begun if config.names_start else None,
        )
        bundled(store, out / "trained" / NETWORK_FOLDER, bundle, manifest_of(store))
    return store, bundle


def painted(store: Store, bundle: Path, way: Intensities, out: Path) -> list[FieldPaths]:
    """The validation fields in a *way*, which the bundle keeps from now on, as `register` does."""
    stainer = Stainer(bundle)
    plain = [Intensities.NONE, Intensities.MATCHING]
    fields = paint_fields(stainer, store, store.keys("validation"), plain, out / "painted")
    calibrate_bundle(bundle, fit_calibrations(fields), way)
    return cross_calibrated(fields, stainer.histograms, out / "painted")


# What is judged.


@dataclass(frozen=True)
class Seen:
    """A stain of a test field: true, painted, and where each pixel lies in PLACES; (Y, X)."""

    key: FieldKey
    target: str
    truth: NDArray[np.uint16]
    image: NDArray[np.uint16]
    places: NDArray[np.uint8]


def seen(store: Store, bundle: Path) -> list[Seen]:
    """The test fields, painted."""
    stainer, found = Stainer(bundle), []
    for key in tqdm(store.keys("test"), desc="test", unit="field"):
        painted = stainer.stain(store.planes(key), key.magnification).images
        for target, image in painted.items():
            truth = store.stain(key, target)
            at = places(target, truth, key.magnification, UM_PER_PX[key.magnification])
            found.append(Seen(key, target, truth, image, at))
    return found


def constant_width(fields: Sequence[FieldPaths], way: str, target: str, level: float) -> float:
    """The width of an interval that is the same for all pixels, by the rule of `Widths`."""
    errors: dict[str, NDArray[np.int64]] = {}
    for field in fields:
        images = (read_image(path) for path in (field.truth[target], field.painted[way][target]))
        truth, image = (one.astype(np.int32) for one in images)
        n = np.bincount(np.abs(truth - image).ravel(), minlength=N_COUNTS)
        errors[field.key.well] = errors.get(field.key.well, 0) + n
    outside = np.stack([1 - np.cumsum(n) / n.sum() for n in errors.values()])
    risk = (outside.sum(axis=0) + outside.max(axis=0).clip(WORST)) / (len(outside) + 1)
    return float(2 * np.flatnonzero(risk <= 1 - level)[0])


def judge(test: Sequence[Seen], widths: Widths, constant: float, level: float) -> dict[str, float]:
    """The figures of one target on the *test* fields; *constant* is the width for all pixels."""
    shares, total = defaultdict(list), []
    for one in test:
        low, high = widths.interval(one.image, level)
        inside = (low <= one.truth) & (one.truth <= high)
        by_constant = np.abs(one.truth.astype(np.int32) - one.image) <= constant / 2
        shares["coverage"].append(inside)
        shares[f"well {one.key.well}"].append(inside)
        for place, name in enumerate(PLACES):
            shares[name].append(inside[one.places == place])
            shares[f"constant {name}"].append(by_constant[one.places == place])
        total.append(float((high.astype(np.float64) - low).mean()))
    found = {name: float(np.concatenate(parts, axis=None).mean()) for name, parts in shares.items()}
    wells = [found.pop(name) for name in list(found) if name.startswith("well ")]
    spread = float(np.std(np.concatenate([one.truth for one in test], axis=None)))
    return found | {
        "least well": min(wells),
        "greatest well": max(wells),
        "width to stain": float(np.mean(total)) / spread,
        "width to constant": float(np.mean(total)) / constant,
    }


def figures(
    taught: Mapping[str, Widths], test: Sequence[Seen], constant: Mapping[str, float], level: float
) -> dict[str, float]:
    """The figures of all targets on the *test* fields, by what was *taught*."""
    found = {}
    for name, widths in taught.items():
        target = name.rpartition("/")[2]
        of_target = [one for one in test if one.target == target]
        judged = judge(of_target, widths, constant[target], level)
        found |= {f"{target} {figure}": value for figure, value in judged.items()}
    return found


def with_fewer(
    fields: Sequence[FieldPaths],
    test: Sequence[Seen],
    constant: Mapping[str, float],
    way: Intensities,
    level: float,
) -> dict[str, float]:
    """Coverage and width with 2, 4, … wells alone: means over draws, those refused left out."""
    found: dict[str, list[float]] = defaultdict(list)
    random, wells = np.random.default_rng(0), sorted({field.key.well for field in fields})
    work = [number for number in FEWER if number < len(wells) for _ in range(N_DRAWS)]
    for number in tqdm(work, desc="fewer wells"):
        drawn = set(random.choice(wells, number, replace=False))
        taught = fit_intervals([field for field in fields if field.key.well in drawn], way)
        for name, widths in taught.items():
            is_refused = level > widths.highest_level
            found[f"{number} wells {name} refused"].append(is_refused)
            if not is_refused:
                judged = figures({name: widths}, test, constant, level)
                for figure, value in judged.items():
                    if figure.endswith(("coverage", "width to stain")):
                        found[f"{number} wells {figure}"].append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def over_splits(
    fields: Sequence[FieldPaths], n_taught: int, way: Intensities, level: float
) -> dict[str, float]:
    """Coverage where other wells teach and judge: mean and standard deviation over splits.

    *n_taught* of the wells of *fields* teach the intervals, the others judge.
    """
    found: dict[str, list[float]] = defaultdict(list)
    random, wells = np.random.default_rng(0), sorted({field.key.well for field in fields})
    for _ in tqdm(range(N_SPLITS), desc="splits"):
        teach = set(random.choice(wells, n_taught, replace=False))
        taught = fit_intervals([field for field in fields if field.key.well in teach], way)
        for name, widths in taught.items():
            target = name.rpartition("/")[2]
            inside = []
            for field in (field for field in fields if field.key.well not in teach):
                low, high = widths.interval(read_image(field.painted[way][target]), level)
                truth = read_image(field.truth[target])
                inside.append(((low <= truth) & (truth <= high)).mean())
            found[target].append(float(np.mean(inside)))
    means = {f"splits {target} coverage": np.mean(shares) for target, shares in found.items()}
    spreads = {f"splits {target} deviation": np.std(shares) for target, shares in found.items()}
    return {name: float(value) for name, value in (means | spreads).items()}


def main() -> int:
    """Make what is missing, then judge and print the figures."""
    line = parser(__doc__)
    line.add_argument("--out", type=Path, required=True)
    line.add_argument("--epochs", type=int, default=6, help="of 200 steps")
    line.add_argument("--start", choices=[NO_START, PRETRAINED], default=NO_START)
    line.add_argument("--level", type=float, default=0.9)
    line.add_argument("--intensities", type=Intensities, default=Intensities.HIGHLIGHTS)
    line.add_argument("--batch_effect", choices=["wells", "none"], default="wells")
    line.add_argument("--plate", type=Path, help="instead of a simulated one")
    line.add_argument("--calibrate", default=",".join(CALIBRATE), help="its wells for intervals")
    line.add_argument("--test", default=",".join(TEST), help="its wells that judge")
    given = line.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    plate = given.plate or simulated(given.out, given.batch_effect)
    store, bundle = trained(
        plate, given.calibrate, given.test, given.epochs, given.start, given.out
    )
    way = given.intensities
    fields = painted(store, bundle, way, given.out)
    taught, test = fit_intervals(fields, way), seen(store, bundle)
    write_intervals(bundle, taught)
    constant = {target: constant_width(fields, way, target, given.level) for target in TARGETS}
    found = figures(taught, test, constant, given.level)
    fewer = with_fewer(fields, test, constant, way, given.level)
    keys, none = store.keys("test"), Intensities.NONE
    judging = paint_fields(Stainer(bundle), store, keys, [none], given.out / "painted")
    n_taught = len({field.key.well for field in fields})
    splits = over_splits([*fields, *judging], n_taught, none, given.level)
    about = {"level": given.level, "intensities": way.value}
    return report(found | fewer | splits, given.check, at_most=AT_MOST, at_least=AT_LEAST, **about)


if __name__ == "__main__":
    sys.exit(main())
