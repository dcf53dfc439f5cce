r"""Networks that one microscope has trained, judged on others that they have not seen.

    OMP_NUM_THREADS=1 python -m benchmarks.shift --out shift [--check]

The home plate is simulated at 20x, eight wells that differ as wells do. Each way of training makes
the same number of steps on it, then paints the same simulated scenes as other instruments see
them: one thing is different at a time, then several at once. Figures are of what is painted, before
intensities are set, means over targets and fields:

- loss: MAE in counts, over that at home;
- r: Pearson's correlation with the true stain;
- spectral r: the correlation in each shell of spatial frequencies (Harauz and van Heel 1986, "Exact
  filters for general geometry three dimensional reconstruction"), over the truth's power without
  its noise, which is that of the highest shells; the mean over the shells that hold signal;
- F1: nuclei by the challenge's pipeline in both images.

Of the microscope's changes one at a time may be left out: --ways "without noise".

Each way is also judged adapted: its normalisation layers measure their statistics anew, on the
brightfield of the shift's scenes alone (Li et al. 2018, "Adaptive batch normalization for
practical domain adaptation", section 3).

What a stain's level is cannot be seen in brightfield; those shifts stand in the table, and are not
in the mean. Each training leaves <out>/<way>-<seed>.json, each scene a file in <out>/fields; those
that exist are not repeated.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch.optim.swa_utils import update_bn
from tqdm import tqdm

import adipocyte
from adipocyte.config import GeneratorConfig, PreprocessConfig, build
from adipocyte.domain import BRIGHTFIELD, TARGETS, FieldKey, Intensities, table_key
from adipocyte.evaluation.cellprofiler.cells import find_nuclei
from adipocyte.evaluation.cellprofiler.parameters import PARAMETERS
from adipocyte.evaluation.objects import f1, joined, match_objects
from adipocyte.networks.files import load_network
from adipocyte.networks.tiles import predict_field
from adipocyte.plate.fields import RawField, write_field
from adipocyte.preparation.prepare import prepare
from adipocyte.simulation import (
    INSTRUMENTS,
    Conditions,
    Instrument,
    SimulatedField,
    draw_conditions,
    simulate_field,
)
from adipocyte.staining.bundle import (
    BundleManifest,
    NetworkEntry,
    read_manifest,
    write_bundle,
)
from adipocyte.staining.stainer import Stainer
from adipocyte.store.reader import Store
from adipocyte.system.files import replacing, write_json
from adipocyte.training.generator import train_generator
from adipocyte.training.loop import NETWORK_FOLDER
from adipocyte.training.microscope import CHANGES, as_other_microscope, changes_of
from adipocyte.training.tracker import Silent
from benchmarks.peers import ours
from benchmarks.report import parser, report

MAGNIFICATION, SIDE_PX = 20, 512
WELLS = ("B03", "B04", "C02", "C03", "C04", "D02", "D03", "D04")
N_FIELDS = 3  # of each shift
HOME = INSTRUMENTS[MAGNIFICATION]
N_STEPS = 10  # to measure the time of one
AT_MOST = {"loss_to_plate": 1 / 3, "worst_loss": 1.5, "microscope_share": 0.15}


@dataclass(frozen=True)
class Shift:
    """What is different from home: the instrument, the culture, or the order of planes."""

    instrument: Instrument = HOME
    conditions: Conditions = field(default_factory=Conditions)
    planes: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)


def optics(**changes: float) -> Instrument:
    """Home with some of its optics multiplied."""
    of_home = HOME.optics
    return replace(
        HOME,
        optics=replace(of_home, **{n: getattr(of_home, n) * by for n, by in changes.items()}),
    )


def camera(**changes: float) -> Instrument:
    """Home with another exposure of brightfield."""
    exposures = {**HOME.exposures, BRIGHTFIELD: replace(HOME.exposures[BRIGHTFIELD], **changes)}
    return replace(HOME, exposures=exposures)


def _exposed(times: float) -> Shift:
    return Shift(camera(gain=HOME.exposures[BRIGHTFIELD].gain * times))


def _mixed() -> Shift:
    """Another objective, condenser, camera and culture at once."""
    instrument = replace(
        optics(aperture=0.9, condenser_aperture=1.2, um_per_px=1.08, focus_step_um=0.85),
        exposures={
            **HOME.exposures,
            BRIGHTFIELD: replace(
                HOME.exposures[BRIGHTFIELD], gain=1100, offset=300, electrons_per_count=0.6
            ),
        },
        bowl=0.3,
        slope=0.2,
        specks=20,
        tilt_um=2.0,
    )
    return Shift(instrument, Conditions(defocus_um=1.0, density=0.85, ripeness=1.15))


UNSEEN = ("stains x.5", "stains x2")  # in brightfield; and so not in the mean
SHIFTS = {
    "home": Shift(),
    "NA -15 %": Shift(optics(aperture=0.85)),
    "NA +15 %": Shift(optics(aperture=1.15)),
    "condenser -30 %": Shift(optics(condenser_aperture=0.7)),
    "condenser +30 %": Shift(optics(condenser_aperture=1.3)),
    "µm per pixel -15 %": Shift(optics(um_per_px=0.85)),
    "µm per pixel +15 %": Shift(optics(um_per_px=1.15)),
    "z-step -25 %": Shift(optics(focus_step_um=0.75, first_focus_um=0.75)),
    "z-step +25 %": Shift(optics(focus_step_um=1.25, first_focus_um=1.25)),
    "z-offset -2 µm": Shift(conditions=Conditions(defocus_um=-2.0)),
    "z-offset +2 µm": Shift(conditions=Conditions(defocus_um=2.0)),
    "a plane missing": Shift(planes=(0, 1, 2, 4, 4, 5, 6)),
    "a plane doubled": Shift(planes=(0, 1, 2, 2, 3, 4, 5)),
    "exposure x.1": _exposed(0.1),
    "exposure x.3": _exposed(0.3),
    "exposure x3": _exposed(3),
    "exposure x10": _exposed(10),
    "dark level +500": Shift(camera(offset=500)),
    "noise x3": Shift(camera(electrons_per_count=1 / 9, read_noise=24)),
    "uneven light": Shift(replace(HOME, slope=0.6)),
    "vignetting": Shift(replace(HOME, bowl=0.5)),
    "tilt 6 µm": Shift(replace(HOME, tilt_um=6.0)),
    "dust": Shift(replace(HOME, specks=40)),
    "half the cells": Shift(conditions=Conditions(density=0.5)),
    "cells +20 %": Shift(conditions=Conditions(density=1.2)),
    "droplets -30 %": Shift(conditions=Conditions(ripeness=0.7)),
    "droplets +40 %": Shift(conditions=Conditions(ripeness=1.4)),
    "mixed": _mixed(),
    "stains x.5": Shift(conditions=Conditions(stains=dict.fromkeys(TARGETS, 0.5))),
    "stains x2": Shift(conditions=Conditions(stains=dict.fromkeys(TARGETS, 2.0))),
}

WAYS: dict[str, dict[str, str]] = {
    "plate": {"normalisation": "plate", "augmentations": "report"},
    "field": {"normalisation": "field", "augmentations": "report"},
    "field, microscope": {"normalisation": "field", "augmentations": "microscope"},
    **{
        f"without {change}": {
            "normalisation": "field",
            "augmentations": "microscope",
            "without": change,
        }
        for change in CHANGES
    },
}
ROBUST = "field, microscope"


# What is painted.


def home_plate(folder: Path) -> Path:
    """The plate that networks are trained on, two fields in each well."""
    for (number, well), fov in tqdm([*product(enumerate(WELLS), (1, 2))], desc="home plate"):
        if (folder / "done").exists():
            break
        made = simulate_field(
            MAGNIFICATION,
            (SIDE_PX, SIDE_PX),
            seed=(0, MAGNIFICATION, number, fov),
            conditions=draw_conditions((0, number)),
        )
        write_field(
            folder / "plate",
            FieldKey(MAGNIFICATION, well, fov),
            RawField(made.planes, made.targets),
        )
    (folder / "done").touch()
    return folder / "plate"


def shifted(name: str, number: int, folder: Path) -> None:
    """One scene as the instrument of the shift *name* sees it, into *folder*."""
    write_scene(folder / f"{name}-{number}.safetensors", SHIFTS[name], (7, number))


def write_scene(path: Path, shift: Shift, seed: tuple[int, ...]) -> None:
    """The scene of a *seed* as it is with a *shift*, into a file, unless that exists."""
    if path.exists():
        return
    made: SimulatedField = simulate_field(
        MAGNIFICATION,
        (SIDE_PX, SIDE_PX),
        seed=seed,
        conditions=shift.conditions,
        instrument=shift.instrument,
    )
    planes = np.ascontiguousarray(made.planes[list(shift.planes)])
    with replacing(path) as partial_:
        save_file({"planes": planes, **made.targets}, partial_)


def read(name: str, number: int, folder: Path) -> tuple[NDArray, dict[str, NDArray]]:
    """(Z, Y, X) and the true stains of a scene."""
    images = load_file(folder / f"{name}-{number}.safetensors")
    return images.pop("planes"), images


# Training and judging.


def train(way: str, seed: int, epochs: int, out: Path) -> Path:
    """A bundle of the network that a *way* trains."""
    settings = dict(WAYS[way])
    store = Store(out / f"store-{settings.pop('normalisation')}")
    without = settings.pop("without", "")
    config = build(
        GeneratorConfig,
        {"target": "all", "recipe": "shared", "epochs": epochs, "seed": seed, **settings},
    )
    folder = out / "trained" / f"{way}-{seed}"
    with patch.dict(CHANGES):
        CHANGES.pop(without, None)
        train_generator(store, config, None, folder, Silent())
    bundle = folder / "bundle"
    if bundle.exists():
        return bundle
    return bundled(store, folder / NETWORK_FOLDER, bundle, manifest_of(store))


def manifest_of(store: Store) -> BundleManifest:
    """What a bundle of one network for all stains says that was trained on *store*."""
    entry = NetworkEntry(TARGETS, sees_mask=False)
    return BundleManifest(
        targets=TARGETS,
        networks={entry.name: entry},
        n_z_planes=store.manifest.n_z_planes,
        scalings=store.manifest.scalings,
        limits=store.manifest.limits,
        runs={},
        store_digest=store.digest,
        commit="none",
        version=adipocyte.__version__,
        licences={},
        intensities=Intensities.NONE,
        normalisation=store.manifest.origin.settings["normalisation"],
    )


def bundled(store: Store, network: Path, folder: Path, manifest: BundleManifest) -> Path:
    """Write a bundle of one network for all stains into *folder*, and return it."""
    histograms = {
        table_key(magnification, target): store.histogram(magnification, target)
        for magnification, target in product(store.magnifications, TARGETS)
    }
    write_bundle(folder, manifest, dict.fromkeys(manifest.networks, network), histograms)
    return folder


Painter = Callable[[NDArray[np.uint16]], dict[str, NDArray[np.uint16]]]


def painter(stainer: Stainer) -> Painter:
    """Paints as the product does, before intensities are set."""

    def paint(planes: NDArray[np.uint16]) -> dict[str, NDArray[np.uint16]]:
        return stainer.stain(planes, MAGNIFICATION, intensities=Intensities.NONE).images

    return paint


def adapted(bundle: Path, name: str, fields: Path) -> Painter:
    """Paints by the network of a bundle that knows the light of the shift *name*."""
    manifest = read_manifest(bundle)
    network = load_network(bundle / manifest.names(TARGETS)[0])[1]

    def source(planes: NDArray[np.uint16]) -> NDArray[np.float32]:
        return manifest.light_scaling(MAGNIFICATION, planes).normalise(planes)

    scenes = [torch.from_numpy(source(read(name, i, fields)[0])) for i in range(N_FIELDS)]
    update_bn([torch.stack(scenes)], network)
    network.eval()

    def paint(planes: NDArray[np.uint16]) -> dict[str, NDArray[np.uint16]]:
        outputs = predict_field(network, source(planes))
        return {
            target: manifest.scaling(MAGNIFICATION, target).denormalise(output)
            for target, output in zip(TARGETS, outputs, strict=True)
        }

    return paint


def judged(paint: Painter, name: str, fields: Path, *, counts_objects: bool) -> dict[str, Any]:
    """The figures of one shift: MAE, MAE / median, r and spectral r by target; F1 of nuclei."""
    found: dict[str, dict[str, list[float]]] = {
        figure: {target: [] for target in TARGETS}
        for figure in ("mae", "mae_over_median", "r", "spectral_r")
    }
    pairs = []
    for number in range(N_FIELDS):
        planes, truth = read(name, number, fields)
        painted = paint(planes)
        for target in TARGETS:
            true, ours = truth[target].astype(float), painted[target].astype(float)
            mae = float(np.abs(true - ours).mean())
            found["mae"][target].append(mae)
            found["mae_over_median"][target].append(mae / float(np.median(true)))
            found["r"][target].append(correlation(true, ours))
            found["spectral_r"][target].append(spectral_correlation(true, ours))
        if counts_objects:
            pairs.append(match_objects(*(nuclei(one["A1"]) for one in (truth, painted))))
    means = {
        figure: {target: float(np.mean(values)) for target, values in by_target.items()}
        for figure, by_target in found.items()
    }
    return {**means, "f1": f1(joined(pairs))}


def nuclei(stain: NDArray[np.uint16]) -> NDArray[np.int32]:
    """Labels of the nuclei that the challenge's pipeline finds."""
    return find_nuclei(stain.astype(np.float32) / np.float32(65535), PARAMETERS[MAGNIFICATION])[0]


def correlation(true: NDArray[np.float64], painted: NDArray[np.float64]) -> float:
    """Pearson's; 0 where nothing is painted."""
    return float(np.nan_to_num(np.corrcoef(true.ravel(), painted.ravel())[0, 1]))


def spectral_correlation(true: NDArray[np.float64], painted: NDArray[np.float64]) -> float:
    """The mean correlation over the shells of spatial frequencies in which *true* is not noise."""
    height, width = true.shape
    window = np.hanning(height)[:, None] * np.hanning(width)[None, :]
    spectra = [np.fft.fft2((image - image.mean()) * window) for image in (true, painted)]
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]
    shell = np.rint(np.hypot(fy, fx) * min(height, width)).astype(int).ravel()
    n_shells = min(height, width) // 2
    sizes = np.bincount(shell)[1:n_shells]

    def power(product_: NDArray[np.complex128]) -> NDArray[np.float64]:
        return np.bincount(shell, product_.real.ravel())[1:n_shells] / sizes

    true_, painted_ = spectra
    noise = np.median(power(np.abs(true_) ** 2)[-n_shells // 8 :])
    signal = power(np.abs(true_) ** 2) - noise
    together, own = power(true_ * painted_.conj()), power(np.abs(painted_) ** 2)
    holds = signal > noise
    with np.errstate(invalid="ignore", divide="ignore"):
        shells = together[holds] / np.sqrt(signal[holds] * own[holds])
    return float(np.nan_to_num(shells).mean()) if holds.any() else 0.0


def run(way: str, seed: int, epochs: int, out: Path) -> None:
    """Train one way and judge it on every shift."""
    torch.set_num_threads(1)
    bundle, fields = train(way, seed, epochs, out), out / "fields"
    paint = painter(Stainer(bundle))
    found = {name: judged(paint, name, fields, counts_objects=True) for name in SHIFTS}
    after = {
        name: judged(adapted(bundle, name, fields), name, fields, counts_objects=False)
        for name in SHIFTS
        if "without" not in WAYS[way]
    }
    write_json(out / f"{way}-{seed}.json", {"trained": found, "adapted": after})


def share_of_step(store: Store) -> float:
    """The processor time that the microscope's changes add to a step of `recipe=shared`."""
    _, [learner] = next(ours(store, 0, Path()))
    for _ in range(N_STEPS + 1):
        learner.step(0.5)
    random = np.random.default_rng(0)
    planes = random.standard_normal((7, 128, 128), dtype=np.float32)
    n, start = 50 * N_STEPS, time.process_time()
    for _ in range(n):
        as_other_microscope(planes, 2.5, random, changes_of("microscope"))
    of_patch_s = (time.process_time() - start) / n
    return 8 * of_patch_s / (learner.used_s / learner.n_steps)  # eight patches make a batch


# The table.


def losses(found: dict[str, Any]) -> dict[str, float]:
    """MAE over that at home, means over targets."""
    home = found["home"]["mae"]
    return {
        name: statistics.mean(one["mae"][target] / home[target] for target in TARGETS)
        for name, one in found.items()
    }


def table(ways: list[str], results: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: a line for each shift; for each way the loss, r by target, spectral r and F1."""
    lines = ["| shift | " + " | ".join(ways) + " |", "|---|" + "---|" * len(ways)]
    for name in SHIFTS:
        cells = []
        for way in ways:
            runs = [found["trained"] for found in results[way]]
            loss = statistics.mean(losses(found)[name] for found in runs)
            r = "/".join(
                f"{statistics.mean(found[name]['r'][t] for found in runs):.2f}" for t in TARGETS
            )
            spectral = statistics.mean(
                found[name]["spectral_r"][t] for found in runs for t in TARGETS
            )
            objects = statistics.mean(found[name]["f1"] for found in runs)
            cells.append(f"{loss:.2f} · {r} · {spectral:.2f} · {objects:.2f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def figures(way: str, runs: list[dict[str, Any]]) -> dict[str, float]:
    """Home's MAE / median, and how much more is lost on average and at worst, with its r."""
    seen = [name for name in SHIFTS if name not in ("home", "mixed", *UNSEEN)]
    by_run = [losses(found["trained"]) for found in runs]
    mean = {name: statistics.mean(loss[name] for loss in by_run) for name in seen}
    return {
        f"{way}.home": statistics.mean(
            found["trained"]["home"]["mae_over_median"][target]
            for found in runs
            for target in TARGETS
        ),
        f"{way}.loss": statistics.mean(mean.values()) - 1,
        f"{way}.worst": max(mean.values()),
        f"{way}.mixed": statistics.mean(loss["mixed"] for loss in by_run),
        f"{way}.r": _mean_r(runs, "trained", seen),
        f"{way}.r_home": _mean_r(runs, "trained", ["home"]),
        **(
            {f"{way}.r_adapted": _mean_r(runs, "adapted", seen)}
            if all(found["adapted"] for found in runs)
            else {}
        ),
    }


def _mean_r(runs: list[dict[str, Any]], state: str, names: list[str]) -> float:
    return statistics.mean(
        found[state][name]["r"][target] for found in runs for name in names for target in TARGETS
    )


def main() -> int:
    """Make what is missing, then print table and figures."""
    line = parser(__doc__)
    line.add_argument("--out", type=Path, required=True)
    line.add_argument("--epochs", type=int, default=16, help="of 50 steps")
    line.add_argument("--seeds", default="0")
    line.add_argument("--workers", type=int, default=os.cpu_count())
    line.add_argument("--ways", default="plate;field;field, microscope")
    given = line.parse_args()
    ways, seeds = given.ways.split(";"), [int(seed) for seed in given.seeds.split(",")]
    out = given.out
    (out / "fields").mkdir(parents=True, exist_ok=True)
    plate = home_plate(out)
    for normalisation in {WAYS[way]["normalisation"] for way in ways}:
        settings = {"plate": plate, "store": out / f"store-{normalisation}", "align": "none"}
        prepare(build(PreprocessConfig, {**settings, "normalisation": normalisation}))
    with ProcessPoolExecutor(given.workers, get_context("spawn")) as pool:
        scenes = [*product(SHIFTS, range(N_FIELDS))]
        all_of(pool, partial(shifted, folder=out / "fields"), scenes, "scene")
        missing = [
            (way, seed, given.epochs, out)
            for seed, way in product(seeds, ways)
            if not (out / f"{way}-{seed}.json").exists()
        ]
        all_of(pool, run, missing, "training")
    results = {
        way: [json.loads((out / f"{way}-{seed}.json").read_text()) for seed in seeds]
        for way in ways
    }
    print(table(ways, results))
    measured = {name: value for way in ways for name, value in figures(way, results[way]).items()}
    if "plate" in ways and ROBUST in ways:
        measured["loss_to_plate"] = measured[f"{ROBUST}.loss"] / measured["plate.loss"]
        measured["worst_loss"] = measured[f"{ROBUST}.worst"]
    torch.set_num_threads(1)
    measured["microscope_share"] = share_of_step(
        Store(out / f"store-{WAYS[ways[0]]['normalisation']}")
    )
    return report(measured, given.check, at_most=AT_MOST, epochs=given.epochs, seeds=seeds)


def all_of(
    pool: ProcessPoolExecutor, task: Callable[..., None], given: list[Any], unit: str
) -> None:
    """Run *task* with each of what is *given*."""
    running = [pool.submit(task, *one) for one in given]
    for done in tqdm(as_completed(running), total=len(running), unit=unit):
        done.result()


if __name__ == "__main__":
    sys.exit(main())
