r"""Few stained fields of a new microscope: is a trained network a better start than none?

    OMP_NUM_THREADS=1 python -m benchmarks.shift --out shift        # makes the trained network
    OMP_NUM_THREADS=1 python -m benchmarks.finetuning --out shift [--check]

The new microscope is the mixed one of benchmarks/shift.py. On 1, 2, 4 and 8 of its fields, and one
more that chooses the epoch, networks are trained for the same number of steps: from nothing, from
the network of home, and from the pretrained network. Each then paints new scenes, whose true stains
judge it. The networks of home and the pretrained one are judged alike.

Each training leaves <out>/finetuned/<start>-<number of fields>-<seed>.json; those that exist are
not repeated.
"""

import json
import os
import statistics
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from adipocyte.config import GeneratorConfig, PreprocessConfig, build
from adipocyte.domain import TARGETS, FieldKey
from adipocyte.networks.start import Start
from adipocyte.plate.fields import RawField, write_field
from adipocyte.preparation.prepare import prepare
from adipocyte.pretrained import BUNDLE
from adipocyte.simulation import simulate_field
from adipocyte.staining.bundle import read_manifest
from adipocyte.staining.stainer import Stainer
from adipocyte.store.reader import Store
from adipocyte.system.files import write_json
from adipocyte.training.generator import train_generator
from adipocyte.training.loop import NETWORK_FOLDER
from adipocyte.training.tracker import Silent
from benchmarks.report import parser, report
from benchmarks.shift import (
    MAGNIFICATION,
    ROBUST,
    SHIFTS,
    SIDE_PX,
    WAYS,
    all_of,
    bundled,
    judged,
    manifest_of,
    painter,
)

NEW = "mixed"
NUMBERS = (1, 2, 4, 8)
STARTS = ("anew", "home", "pretrained")
VALIDATES, TESTS = "G01", "H01"
AT_MOST = {"two_to_eight_anew": 1.0}


def new_plate(number: int, folder: Path) -> None:
    """A plate of the new microscope in *folder*, with so many fields to train on, one in each well.

    One more validates. Another is there because a store must have one that tests.
    """
    shift = SHIFTS[NEW]
    wells = {f"{row}02": seed for seed, row in enumerate("ABCDEFGH"[:number])}
    for well, seed in {**wells, VALIDATES: 99, TESTS: 98}.items():
        made = simulate_field(
            MAGNIFICATION,
            (SIDE_PX, SIDE_PX),
            seed=(11, seed),
            conditions=shift.conditions,
            instrument=shift.instrument,
        )
        write_field(folder, FieldKey(MAGNIFICATION, well, 1), RawField(made.planes, made.targets))


def store_of(number: int, out: Path) -> Path:
    """Its store."""
    plate, store = out / "finetuned" / f"plate-{number}", out / "finetuned" / f"store-{number}"
    if not store.exists():
        new_plate(number, plate)
        settings = {
            "plate": plate,
            "store": store,
            "align": "none",
            "normalisation": WAYS[ROBUST]["normalisation"],
            "validation_wells": VALIDATES,
            "test_wells": TESTS,
        }
        prepare(build(PreprocessConfig, settings))
    return store


def run(start: str, number: int, seed: int, *, epochs: int, out: Path) -> None:
    """Train and judge one network."""
    torch.set_num_threads(1)
    path, home = out / "finetuned" / f"{start}-{number}-{seed}", out / "trained" / f"{ROBUST}-0"
    if path.with_suffix(".json").exists():
        return
    store = Store(store_of(number, out))
    settings = {name: value for name, value in WAYS[ROBUST].items() if name != "normalisation"}
    given = {"target": "all", "recipe": "shared", "epochs": epochs, "seed": seed, **settings}
    bundles, trained = {"home": home / "bundle", "pretrained": BUNDLE}, None
    if start in bundles:
        given["start"], bundle = start, bundles[start]
        network = bundle / read_manifest(bundle).names(TARGETS)[0]
        trained = Start(network, TARGETS, sees_mask=False, source=start)
    train_generator(store, build(GeneratorConfig, given), None, path, Silent(), start=trained)
    bundle = bundled(store, path / NETWORK_FOLDER, path / "bundle", manifest_of(store))
    write_json(path.with_suffix(".json"), judge(bundle, out))


def judge(bundle: Path, out: Path) -> dict[str, Any]:
    """The figures of a bundle on scenes of the new microscope."""
    return judged(painter(Stainer(bundle)), NEW, out / "fields", counts_objects=True)


def main() -> int:
    """Train what is missing, then print table and figures."""
    line = parser(__doc__)
    line.add_argument("--out", type=Path, required=True)
    line.add_argument("--epochs", type=int, default=8, help="of 50 steps")
    line.add_argument("--seeds", default="0")
    line.add_argument("--workers", type=int, default=os.cpu_count())
    given = line.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    for number in NUMBERS:
        store_of(number, given.out)
    with ProcessPoolExecutor(given.workers, get_context("spawn")) as pool:
        task = partial(run, epochs=given.epochs, out=given.out)
        all_of(pool, task, [*product(STARTS, NUMBERS, seeds)], "training")
    results: dict[str, list[dict[str, Any]]] = {
        "home as it is": [judge(given.out / "trained" / f"{ROBUST}-0" / "bundle", given.out)],
        "pretrained as it is": [judge(BUNDLE, given.out)],
    }
    for start, number in product(STARTS, NUMBERS):
        paths = [given.out / "finetuned" / f"{start}-{number}-{seed}.json" for seed in seeds]
        results[f"{start}, {number} fields"] = [json.loads(path.read_text()) for path in paths]
    print("| start | MAE / median | r, A1 / A2 / A3 | F1 of nuclei |\n|---|---|---|---|")
    measured = {}
    for name, runs in results.items():
        maes = [statistics.mean(found["mae_over_median"].values()) for found in runs]
        measured[f"mae.{name}"] = statistics.mean(maes)
        r = " / ".join(f"{statistics.mean(found['r'][t] for found in runs):.3f}" for t in TARGETS)
        objects = statistics.mean(found["f1"] for found in runs)
        print(f"| {name} | {measured[f'mae.{name}']:.3f} | {r} | {objects:.2f} |")
    measured["two_to_eight_anew"] = measured["mae.home, 2 fields"] / measured["mae.anew, 8 fields"]
    return report(measured, given.check, at_most=AT_MOST, epochs=given.epochs, seeds=seeds)


if __name__ == "__main__":
    sys.exit(main())
