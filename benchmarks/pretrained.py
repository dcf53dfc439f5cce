r"""The pretrained network: made from simulation alone, and judged on microscopes it has not seen.

    OMP_NUM_THREADS=1 python -m benchmarks.pretrained --out pretrained [--check]

Makes what lies in adipocyte/pretrained. 1536 fields are simulated, each of another culture under
another microscope, with objectives of 20x, 40x and 60x: in one half all that `benchmarks.shift`
changes is changed at once, the other half are the laboratories of `simulate -P
batch_effect=laboratories`, whose microscopes and cultures differ more. All are brought to pixels of
20x, and one compact network learns all stains from them, from stacks of any number of planes. The
bundle is written to <out>/bundle. Continues where it was stopped: run it again. It takes half an
hour for the fields and an hour for the network on two cores.

It is judged on microscopes of both kinds, six each at each magnification and in its own pixels,
with all seven planes, with three and with one: r, Pearson's correlation with the true stain, mean
over the fields. The instrument of the challenge's plates stands beside them. Pictures:
<out>/<20>x.png. --check wants the figures of "other" microscopes and seven planes.
"""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from adipocyte.config import GeneratorConfig, PreprocessConfig, build
from adipocyte.domain import BRIGHTFIELD, MAGNIFICATIONS, ROWS, TARGETS, FieldKey, Intensities
from adipocyte.imaging.grey import display_range, to_grey
from adipocyte.networks.files import load_network
from adipocyte.networks.quantisation import measure_ranges
from adipocyte.plate.fields import RawField, write_field
from adipocyte.plate.names import brightfield_name, magnification_folder
from adipocyte.preparation.prepare import prepare
from adipocyte.simulation import (
    INSTRUMENTS,
    Conditions,
    Instrument,
    SimulatedField,
    draw_any_conditions,
    draw_instrument,
    simulate_field,
)
from adipocyte.staining.bundle import NetworkEntry
from adipocyte.staining.stainer import Stainer
from adipocyte.store.reader import Store
from adipocyte.training.generator import train_generator
from adipocyte.training.loop import NETWORK_FOLDER
from adipocyte.training.tracker import Silent
from benchmarks.report import parser, report
from benchmarks.shift import bundled, correlation, manifest_of

SEEN = 20  # the magnification in whose pixels the network sees every field
SIDE_PX = 320  # in these pixels
WELLS = tuple(f"{row}{column:02d}" for column in range(1, 49) for row in ROWS)
VALIDATION, TEST = WELLS[::32], WELLS[1::512]
SETTINGS: dict[str, Any] = {
    "target": "all",
    "recipe": "shared",
    "augmentations": "any_planes",
    "epochs": 22,
    "learning_rate": 4.26e-3,  # so that the highest is 1e-3 in a training of this length
    "select": "units",
    "epoch_steps": 1000,
}
LICENCE = "trained from random weights on simulated cells alone"
CAUTION = (
    "painted by the pretrained network, which has seen simulated cells only: compare shapes, not "
    "counts; a few stained fields of your own make it better (train_gan -P start=pretrained)"
)
JUDGED_PX = {20: 512, 40: 640, 60: 768}
N_JUDGED = 6  # microscopes of a kind at each magnification
STACKS = {"7 planes": slice(None), "3 planes": slice(1, 6, 2), "1 plane": slice(3, 4)}
AT_LEAST = {"A1": 0.6, "A2": 0.9, "A3": 0.8}  # r with seven planes, at each magnification
MOST_MB = 12.0


# Microscopes and cultures.


def other_instrument(magnification: int, rng: np.random.Generator) -> Instrument:
    """A microscope in which all that `benchmarks.shift` changes is changed at once."""
    home = INSTRUMENTS[magnification]
    of_home, light = home.optics, home.exposures[BRIGHTFIELD]
    step_um = of_home.focus_step_um * rng.uniform(0.75, 1.25)
    if rng.random() < 0.5:  # the series keeps its middle, and else its beginning
        first_um = of_home.first_focus_um + 3 * of_home.focus_step_um - 3 * step_um
    else:
        first_um = of_home.first_focus_um * step_um / of_home.focus_step_um
    optics = replace(
        of_home,
        um_per_px=of_home.um_per_px * rng.uniform(0.85, 1.15),
        aperture=min(of_home.aperture * rng.uniform(0.85, 1.15), 1.2),
        condenser_aperture=of_home.condenser_aperture * rng.uniform(0.7, 1.3),
        first_focus_um=first_um,
        focus_step_um=step_um,
    )
    times = float(np.exp(rng.uniform(np.log(0.1), np.log(10))))
    noise = rng.uniform(1, 3)
    exposed = replace(
        light,
        gain=light.gain * times,
        offset=rng.uniform(0, 500),
        electrons_per_count=light.electrons_per_count / times / noise**2,
        read_noise=light.read_noise * noise * min(times, 1),
    )
    return replace(
        home,
        optics=optics,
        exposures={**home.exposures, BRIGHTFIELD: exposed},
        bowl=rng.uniform(0.1, 0.5),
        slope=rng.uniform(-0.6, 0.6) * (rng.random() < 0.5),
        specks=int(rng.integers(0, 40)),
        tilt_um=rng.uniform(0, 6) * (rng.random() < 0.3),
    )


def other_conditions(rng: np.random.Generator) -> Conditions:
    """A culture, and a focus, that differ as much as in `benchmarks.shift`."""
    return Conditions(
        stains={target: float(np.exp(rng.uniform(np.log(0.5), np.log(2)))) for target in TARGETS},
        defocus_um=rng.uniform(-2, 2),
        density=rng.uniform(0.5, 1.2),
        ripeness=rng.uniform(0.7, 1.4),
    )


def scene(kind: str, number: int, magnification: int, seed: int) -> tuple[Instrument, Conditions]:
    """One of the two *kind*s, "other" and "laboratory", or the "challenge" itself."""
    if kind == "challenge":
        return INSTRUMENTS[magnification], Conditions()
    if kind == "laboratory":
        instrument = draw_instrument(magnification, (seed, number, magnification))
        return instrument, draw_any_conditions((seed, number, 1))
    rng = np.random.default_rng((seed, number, magnification, 5))
    return other_instrument(magnification, rng), other_conditions(rng)


# Training.


def with_pixels(instrument: Instrument, times: float) -> Instrument:
    """An *instrument* whose pixels are larger, by their side, and gather as many more electrons."""
    exposures = {
        channel: replace(
            one,
            electrons_per_count=one.electrons_per_count * times * times,
            read_noise=one.read_noise / times,
        )
        for channel, one in instrument.exposures.items()
    }
    optics = replace(instrument.optics, um_per_px=instrument.optics.um_per_px * times)
    return replace(instrument, optics=optics, exposures=exposures)


def reduced(image: NDArray[np.uint16], times: int) -> NDArray[np.uint16]:
    """Blocks of (times, times) pixels averaged."""
    if times == 1:
        return image
    size = (image.shape[1] // times, image.shape[0] // times)
    small = cv2.resize(image.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return np.rint(small).astype(np.uint16)


def training_field(number: int, seed: int = 0) -> RawField:
    """A field in pixels of 20x, by any of the objectives.

    That of 60x is simulated in pixels of 40x, which saves half of the time and changes nothing
    that pixels of 20x show.
    """
    magnification = MAGNIFICATIONS[number // 2 % 3]
    instrument, conditions = scene(
        "other" if number % 2 == 0 else "laboratory", number, magnification, seed
    )
    if magnification == 60:
        instrument = with_pixels(instrument, 1.5)
    times = 1 if magnification == SEEN else 2
    field = simulate_field(
        magnification,
        (SIDE_PX * times, SIDE_PX * times),
        seed=(seed, magnification, number, 1),
        conditions=conditions,
        instrument=instrument,
    )
    planes = np.stack([reduced(plane, times) for plane in field.planes])
    return RawField(planes, {one: reduced(image, times) for one, image in field.targets.items()})


def write(plate: Path, number: int) -> None:
    """Write a training field, unless it is there."""
    key = FieldKey(SEEN, WELLS[number], 1)
    folder = plate / magnification_folder(SEEN)
    if not (folder / str(brightfield_name(key, 7))).exists():
        field = training_field(number)
        write_field(plate, key, RawField(np.empty((0, 0, 0), np.uint16), field.targets))
        write_field(plate, key, RawField(field.planes, {}))  # the last file says it is whole


def make(out: Path) -> Path:
    """The bundle."""
    bundle = out / "bundle"
    if bundle.exists():
        return bundle
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        made = pool.map(partial(write, out / "plate"), range(len(WELLS)), chunksize=4)
        list(tqdm(made, total=len(WELLS), desc="simulate", unit="field"))
    settings = {
        "plate": out / "plate",
        "store": out / "store",
        "align": "none",
        "validation_wells": ",".join(VALIDATION),
        "test_wells": ",".join(TEST),
    }
    store = prepare(build(PreprocessConfig, settings))
    config = build(GeneratorConfig, SETTINGS)
    train_generator(store, config, None, out / "trained", Silent())
    network = out / "trained" / NETWORK_FOLDER
    ranges = measure_ranges(load_network(network)[1], some_fields(store))
    entry = NetworkEntry(TARGETS, sees_mask=False, ranges=ranges)
    manifest = replace(
        manifest_of(store),
        networks={entry.name: entry},
        any_planes=True,
        any_objective=True,
        caution=CAUTION,
        storage="bfloat16",
        licences={"code": "MIT", "A1-A2-A3": LICENCE},
    )
    return bundled(store, network, bundle, manifest)


def some_fields(store: Store) -> Iterator[NDArray[np.float32]]:
    """A few training fields as the network sees them, which ranges for int8 are measured on."""
    for key in store.keys("train")[::96]:
        yield store.field_scaling(key, BRIGHTFIELD).normalise(store.planes(key))


# Judging.


def judged_fields(kind: str, magnification: int) -> list[SimulatedField]:
    """Fields of microscopes of a *kind* that the network has not seen, in their own pixels."""
    side = JUDGED_PX[magnification]
    found = []
    for number in range(2 if kind == "challenge" else N_JUDGED):
        instrument, conditions = scene(kind, number, magnification, seed=1)
        found.append(
            simulate_field(
                magnification,
                (side, side),
                seed=(1, magnification, number, 1),
                conditions=conditions,
                instrument=instrument,
            )
        )
    return found


def judged(stainer: Stainer, kind: str, magnification: int, fields: list[SimulatedField]) -> Any:
    """Mean r by stack and target."""
    found: dict[str, list[float]] = {}
    for number, field in enumerate(fields):
        um_per_px = scene(kind, number, magnification, seed=1)[0].optics.um_per_px
        for name, planes in STACKS.items():
            painted = stainer.stain(
                field.planes[planes],
                magnification,
                um_per_px=um_per_px,
                intensities=Intensities.NONE,
            )
            for target in TARGETS:
                true, ours = field.targets[target], painted.images[target]
                r = correlation(true.astype(float), ours.astype(float))
                found.setdefault(f"{name} {target}", []).append(r)
    return {name: float(np.mean(values)) for name, values in found.items()}


def picture(
    stainer: Stainer, magnification: int, fields: list[SimulatedField]
) -> NDArray[np.uint8]:
    """A row for each field: its middle plane, then each stain, true and painted."""
    rows = []
    for field in fields:
        painted = stainer.stain(field.planes, magnification, intensities=Intensities.NONE).images
        pairs = [(field.targets[target], painted[target]) for target in TARGETS]
        images = [field.planes[3], *(image for pair in pairs for image in pair)]
        rows.append(np.hstack([to_grey(image, *display_range(image)) for image in images]))
    return np.vstack(rows)


def size_mb(bundle: Path) -> float:
    """Of all files of a bundle, in 10⁶ bytes."""
    return sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file()) / 1e6


def main() -> int:
    """Make the bundle where it is not there, judge it, print the figures."""
    arguments = parser(__doc__)
    arguments.add_argument("--out", type=Path, required=True)
    given = arguments.parse_args()
    bundle = make(given.out)
    stainer, figures = Stainer(bundle), {"bundle MB": size_mb(bundle)}
    for magnification in MAGNIFICATIONS:
        shown = []
        for kind in ("other", "laboratory", "challenge"):
            fields = judged_fields(kind, magnification)
            for name, r in judged(stainer, kind, magnification, fields).items():
                figures[f"{kind} {magnification}x {name}"] = r
            shown += fields[:2]
        cv2.imwrite(
            str(given.out / f"{magnification}x.png"), picture(stainer, magnification, shown)
        )
    floors = {
        f"other {magnification}x 7 planes {target}": r
        for magnification, (target, r) in product(MAGNIFICATIONS, AT_LEAST.items())
    }
    return report(figures, given.check, at_least=floors, at_most={"bundle MB": MOST_MB})


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    sys.exit(main())
