r"""Do intervals hold? Their coverage on wells that neither networks nor intervals have seen.

    OMP_NUM_THREADS=1 python -m benchmarks.uncertainty --out uncertainty [--check]
    OMP_NUM_THREADS=1 python -m benchmarks.uncertainty --out real --plate plate --calibrate B03,B04
        --test C03,C04 [--level 0.6]

A plate is simulated at 20x, 96 wells that differ as wells do, a field of 512 pixels in each: 32
teach a network, 48 its calibration and intervals, 16 judge. Or a plate is given; its other wells
teach the network. At the level that is asked for, for each target: the share of test wells' pixels
that are inside, overall, by stratum and by well; the mean width over the standard deviation of the
stain's counts, and over that of one width for all pixels, which is calibrated by the same rule.

Strata are those of the true stain: inside (nuclei and droplets as the challenge's pipelines find
them, cytoplasm by Otsu's threshold of the logarithm), edges (within two pixels of a border of
these), and ground. With fewer wells for the intervals: the same figures for the first so many.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu
from tqdm import tqdm

from adipocyte.config import GeneratorConfig, PreprocessConfig, build
from adipocyte.domain import TARGETS, FieldKey, Intensities
from adipocyte.errors import ConfigError
from adipocyte.evaluation.cellprofiler.cells import find_nuclei
from adipocyte.evaluation.cellprofiler.droplets import find_droplets, merge
from adipocyte.evaluation.cellprofiler.parameters import PARAMETERS
from adipocyte.evaluation.fields import FieldPaths
from adipocyte.evaluation.painting import (
    cross_calibrated,
    fit_calibrations,
    fit_intervals,
    paint_fields,
)
from adipocyte.imaging.intervals import WORST
from adipocyte.plate.fields import RawField, write_field
from adipocyte.plate.tiff import read_image
from adipocyte.preparation.prepare import prepare
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
FEWER = (2, 4, 8, 12, 16, 24)  # wells for the intervals
EDGE_PX = 2
STRATA = ("ground", "inside", "edges")
AT_LEAST = {f"{target} coverage": 0.88 for target in TARGETS} | {
    f"{target} {stratum}": 0.80 for target in TARGETS for stratum in (*STRATA, "least well")
}
AT_MOST = (
    {f"{target} coverage": 0.92 for target in TARGETS}
    | {f"{target} {part}": 0.97 for target in TARGETS for part in (*STRATA, "greatest well")}
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


def trained(plate: Path, calibrate: str, test: str, epochs: int, out: Path) -> tuple[Store, Path]:
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
        train_generator(store, build(GeneratorConfig, given), None, out / "trained", Silent())
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


def strata(target: str, truth: NDArray[np.uint16], magnification: int) -> NDArray[np.intp]:
    """The place in STRATA of each pixel (Y, X) of a true stain."""
    unit, parameters = truth.astype(np.float32) / np.float32(65535), PARAMETERS[magnification]
    if target == "A1":
        inside = find_nuclei(unit, parameters)[0] > 0
    elif target == "A2":
        small, big = find_droplets(unit, parameters)
        inside = merge(big, small) > 0
    else:
        smooth = np.log1p(ndimage.gaussian_filter(truth.astype(np.float64), 1))
        inside = smooth > threshold_otsu(smooth)
    grow = partial(ndimage.binary_dilation, iterations=EDGE_PX)
    return np.where(grow(inside) & grow(~inside), 2, inside.astype(np.intp))


@dataclass
class Judged:
    """What the test wells say of one target."""

    inside: dict[str, list[float]]  # by well and by stratum: pixels inside, and all pixels
    widths: list[float]
    truths: list[NDArray[np.uint16]]

    def share(self, name: str) -> float:
        n_inside, n = self.inside[name]
        return n_inside / n


def judge(stainer: Stainer, store: Store, level: float) -> dict[str, Judged]:
    """Paint the test wells with intervals of *level*."""
    found = {target: Judged(defaultdict(lambda: [0.0, 0.0]), [], []) for target in TARGETS}
    for key in store.keys("test"):
        stained = stainer.stain(store.planes(key), key.magnification, level=level)
        for target, (low, high) in stained.intervals.items():
            truth, one = store.stain(key, target), found[target]
            inside = (low <= truth) & (truth <= high)
            places = strata(target, truth, key.magnification)
            names = {"coverage": np.ones_like(inside), f"well {key.well}": np.ones_like(inside)}
            names |= {name: places == place for place, name in enumerate(STRATA)}
            for name, pixels in names.items():
                one.inside[name][0] += float(inside[pixels].sum())
                one.inside[name][1] += float(pixels.sum())
            one.widths.append(float((high.astype(np.float64) - low).mean()))
            one.truths.append(truth)
    return found


def constant_width(fields: Sequence[FieldPaths], way: str, target: str, level: float) -> float:
    """The width of an interval that is the same for all pixels, by the rule of `Widths`."""
    tails: dict[str, NDArray[np.int64]] = {}
    for key, truth, image in images(fields, way, target):
        error = np.abs(truth.astype(np.int32) - image)
        tails[key.well] = tails.get(key.well, 0) + np.bincount(error.ravel(), minlength=65536)
    outside = np.stack([1 - np.cumsum(n) / n.sum() for n in tails.values()])
    risk = (outside.sum(axis=0) + outside.max(axis=0).clip(WORST)) / (len(outside) + 1)
    return float(2 * np.flatnonzero(risk <= 1 - level)[0])


def images(
    fields: Sequence[FieldPaths], way: str, target: str
) -> Iterator[tuple[FieldKey, NDArray[np.uint16], NDArray[np.uint16]]]:
    """Key, truth and what is painted in a *way*."""
    for field in fields:
        yield field.key, read_image(field.truth[target]), read_image(field.painted[way][target])


def figures(
    fields: Sequence[FieldPaths], bundle: Path, store: Store, way: Intensities, level: float
) -> dict[str, float]:
    """All figures of the intervals that *fields* teach."""
    write_intervals(bundle, fit_intervals(fields, way))
    found = {}
    for target, judged in judge(Stainer(bundle), store, level).items():
        wells = [judged.share(name) for name in judged.inside if name.startswith("well ")]
        width, constant = np.mean(judged.widths), constant_width(fields, way, target, level)
        found |= {f"{target} {name}": judged.share(name) for name in ("coverage", *STRATA)}
        found |= {
            f"{target} least well": min(wells),
            f"{target} greatest well": max(wells),
            f"{target} width to stain": float(width / np.std(np.stack(judged.truths))),
            f"{target} width to constant": float(width / constant),
        }
    return found


def with_fewer(
    fields: Sequence[FieldPaths], bundle: Path, store: Store, way: Intensities, level: float
) -> dict[str, float]:
    """Coverage and width, over that with all wells, with the first 2, 4, … wells alone."""
    found, wells = {}, sorted({field.key.well for field in fields})
    for number in FEWER:
        some = [field for field in fields if field.key.well in wells[:number]]
        try:
            all_figures = figures(some, bundle, store, way, level)
        except ConfigError as error:
            print(f"{number} wells: {error}", file=sys.stderr)
            continue
        found |= {
            f"{number} wells {name}": value
            for name, value in all_figures.items()
            if name.endswith(("coverage", "width to stain"))
        }
    return found


def main() -> int:
    """Make what is missing, then judge and print the figures."""
    line = parser(__doc__)
    line.add_argument("--out", type=Path, required=True)
    line.add_argument("--epochs", type=int, default=6, help="of 200 steps")
    line.add_argument("--level", type=float, default=0.9)
    line.add_argument("--intensities", type=Intensities, default=Intensities.HIGHLIGHTS)
    line.add_argument("--batch_effect", choices=["wells", "none"], default="wells")
    line.add_argument("--plate", type=Path, help="instead of a simulated one")
    line.add_argument("--calibrate", default=",".join(CALIBRATE), help="its wells for intervals")
    line.add_argument("--test", default=",".join(TEST), help="its wells that judge")
    given = line.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    plate = given.plate or simulated(given.out, given.batch_effect)
    store, bundle = trained(plate, given.calibrate, given.test, given.epochs, given.out)
    way = given.intensities
    fields = painted(store, bundle, way, given.out)
    found = figures(fields, bundle, store, way, given.level)
    fewer = with_fewer(fields, bundle, store, way, given.level)
    about = {"level": given.level, "intensities": way.value}
    return report(found | fewer, given.check, at_most=AT_MOST, at_least=AT_LEAST, **about)


if __name__ == "__main__":
    sys.exit(main())
