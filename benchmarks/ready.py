r"""The ready weights: made from simulation alone, and judged on microscopes they have not seen.

    OMP_NUM_THREADS=1 python -m benchmarks.ready --out ready [--check]

Makes what lies in adipocyte/pretrained. 96 wells are simulated at 20x, 40x and 60x, each as if
another laboratory had grown and photographed it (`simulate -P batch_effect=laboratories`); one
compact network learns all stains and magnifications from them, with stacks of any number of planes.
The bundle is written to <out>/bundle. Continues where it was stopped: run it again.

It is judged on other laboratories, six for each magnification, with all seven planes, with three
and with one: r, Pearson's correlation with the true stain, mean over the fields. The instrument
that the plates of the challenge were taken with stands beside them. Pictures: <out>/<20>x.png.
"""

import os
import sys
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
from adipocyte.domain import MAGNIFICATIONS, TARGETS, FieldKey, Intensities
from adipocyte.imaging.grey import display_range, to_grey
from adipocyte.plate.fields import RawField, write_field
from adipocyte.plate.names import brightfield_name, magnification_folder
from adipocyte.preparation.prepare import prepare
from adipocyte.simulation import (
    Conditions,
    SimulatedField,
    draw_any_conditions,
    draw_instrument,
    simulate_field,
)
from adipocyte.staining.stainer import Stainer
from adipocyte.training.generator import train_generator
from adipocyte.training.loop import NETWORK_FOLDER
from adipocyte.training.tracker import Silent
from benchmarks.report import parser, report
from benchmarks.shift import bundled, correlation, manifest_of

SIDE_PX = 512
WELLS = tuple(f"{row}{column:02d}" for row in "ABCDEFGH" for column in range(1, 13))
HELD_OUT = {"validation_wells": "A03,C11,E07,G02", "test_wells": "B05,D09,F12,H04"}
SETTINGS: dict[str, Any] = {
    "target": "all",
    "recipe": "shared",
    "augmentations": "any_planes",
    "epochs": 14,
    "select": "units",
    "epoch_steps": 300,
}
LICENCE = "trained from random weights on simulated cells alone"
N_JUDGED = 6  # laboratories for each magnification
STACKS = {"7 planes": slice(None), "3 planes": slice(1, 6, 2), "1 plane": slice(3, 4)}
AT_LEAST = {"A1": 0.6, "A2": 0.9, "A3": 0.8}  # r with seven planes, at each magnification
MOST_MB = 12.0


def simulated(number: int, magnification: int, seed: int) -> SimulatedField:
    """One field of the laboratory *number*; `entrypoints.simulate` makes the same."""
    return simulate_field(
        magnification,
        (SIDE_PX, SIDE_PX),
        seed=(seed, magnification, number, 1),
        conditions=draw_any_conditions((seed, number, 1)),
        instrument=draw_instrument(magnification, (seed, number, magnification)),
    )


def write(plate: Path, wanted: tuple[int, int]) -> None:
    """Write the field of a laboratory at a magnification, unless it is there."""
    number, magnification = wanted
    folder = plate / magnification_folder(magnification)
    if not (folder / str(brightfield_name(FieldKey(20, WELLS[number], 1), 7))).exists():
        field = simulated(number, magnification, seed=0)
        key = FieldKey(magnification, WELLS[number], 1)
        write_field(plate, key, RawField(np.empty((0, 0, 0), np.uint16), field.targets))
        write_field(plate, key, RawField(field.planes, {}))  # the last file says it is whole


def make(out: Path) -> Path:
    """The bundle."""
    bundle = out / "bundle"
    if bundle.exists():
        return bundle
    wanted = [*product(range(len(WELLS)), MAGNIFICATIONS)]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        made = pool.map(partial(write, out / "plate"), wanted)
        list(tqdm(made, total=len(wanted), desc="simulate", unit="field"))
    settings = {"plate": out / "plate", "store": out / "store", "align": "none", **HELD_OUT}
    store = prepare(build(PreprocessConfig, settings))
    config = build(GeneratorConfig, SETTINGS)
    train_generator(store, config, None, out / "trained", Silent())
    manifest = replace(
        manifest_of(store),
        any_planes=True,
        storage="bfloat16",
        licences={"code": "MIT", "A1-A2-A3": LICENCE},
    )
    return bundled(store, out / "trained" / NETWORK_FOLDER, bundle, manifest)


# Judging.


def judged(stainer: Stainer, magnification: int, fields: list[SimulatedField]) -> dict[str, float]:
    """Mean r by stack and target."""
    found: dict[str, list[float]] = {}
    for field, (name, planes) in product(fields, STACKS.items()):
        painted = stainer.stain(field.planes[planes], magnification, intensities=Intensities.NONE)
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
    """Make the weights where they are not there, judge them, print the figures."""
    arguments = parser(__doc__)
    arguments.add_argument("--out", type=Path, required=True)
    given = arguments.parse_args()
    bundle = make(given.out)
    stainer, figures = Stainer(bundle), {"bundle MB": size_mb(bundle)}
    for magnification in MAGNIFICATIONS:
        unseen = [simulated(number, magnification, seed=1) for number in range(N_JUDGED)]
        home = [
            simulate_field(magnification, (SIDE_PX, SIDE_PX), seed=(2, n), conditions=Conditions())
            for n in range(2)
        ]
        for where, fields in (("unseen", unseen), ("challenge", home)):
            for name, r in judged(stainer, magnification, fields).items():
                figures[f"{where} {magnification}x {name}"] = r
        shown = picture(stainer, magnification, [*unseen[:3], home[0]])
        cv2.imwrite(str(given.out / f"{magnification}x.png"), shown)
    floors = {
        f"unseen {magnification}x 7 planes {target}": r
        for magnification, (target, r) in product(MAGNIFICATIONS, AT_LEAST.items())
    }
    return report(figures, given.check, at_least=floors, at_most={"bundle MB": MOST_MB})


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    sys.exit(main())
