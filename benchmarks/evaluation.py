"""How long the 99 features of a full field take, and how close they are to CellProfiler's own.

OMP_NUM_THREADS=1 python -m benchmarks.evaluation [--check]

Every field is measured in a process of its own on one core. "field_s" counts that core's seconds,
"field_clock_s" the clock's, which other guests of the machine lengthen. The agreement is measured
where the larger set of golden data exists (ADIPOCYTE_SHARED).
"""

import os
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray

from adipocyte.domain import MAGNIFICATIONS
from adipocyte.evaluation.cellprofiler import COLUMNS, measure
from adipocyte.simulation import simulate_field
from benchmarks.report import parser, report
from tests.support.golden import (
    KINDS,
    LARGER,
    PLACES,
    features,
    official_metric,
    read_images,
    read_labels,
)

AT_MOST = {f"{magnification}x.field_s": 30 for magnification in MAGNIFICATIONS} | {
    f"{magnification}x.combined_difference": 0.005 for magnification in MAGNIFICATIONS
}
AT_LEAST = {f"{magnification}x.worst_label_agreement": 0.999 for magnification in MAGNIFICATIONS}
SHAPE_PX = (2154, 2554)
SIDE_PX = {20: 512, 40: 768, 60: 1024}
WORKERS = 2


def full_field(magnification: int) -> dict[str, NDArray[np.uint16]]:
    """The stains of a field of the real size: a simulated one, mirrored, with new noise."""
    side_px, random = SIDE_PX[magnification], np.random.default_rng(0)
    field = simulate_field(magnification, (side_px, side_px), seed=0)
    images = {}
    for target, image in field.targets.items():
        mirrored = np.pad(image, [(0, side - side_px) for side in SHAPE_PX], mode="symmetric")
        images[target] = np.clip(mirrored + random.normal(0, 8, SHAPE_PX), 0, 65535).astype(
            np.uint16
        )
    return images


def keep_to_one_core(core: int) -> None:
    """Let this process use one core alone."""
    os.sched_setaffinity(0, {core})


def time_field(magnification: int) -> dict[str, float]:
    """Seconds and the most memory, in MB, of one field in this process."""
    images = full_field(magnification)
    clock, core = time.perf_counter(), time.process_time()
    found = measure(images, magnification)
    return {
        "field_s": time.process_time() - core,
        "field_clock_s": time.perf_counter() - clock,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "n_nuclei": found.features["Count_nuclei"],
        "n_droplets": found.features["Count_Lipids_no_edge"],
    }


def time_fields(magnification: int, images: dict[str, NDArray[np.uint16]], n_workers: int) -> float:
    """Fields per second of the clock with *n_workers*, each on a core of its own."""
    cores = sorted(os.sched_getaffinity(0))
    pools = [
        ProcessPoolExecutor(
            1,
            mp_context=get_context("spawn"),
            initializer=keep_to_one_core,
            initargs=(cores[worker % len(cores)],),
        )
        for worker in range(n_workers)
    ]
    for pool in pools:
        pool.submit(abs, 0).result()  # started
    start = time.perf_counter()
    tasks = [
        pools[field % n_workers].submit(measure, images, magnification) for field in range(WORKERS)
    ]
    for task in tasks:
        task.result()
    took_s = time.perf_counter() - start
    for pool in pools:
        pool.shutdown()
    return WORKERS / took_s


def agreement(magnification: int) -> dict[str, float]:
    """How far features, labels and score are from CellProfiler's, on the golden fields."""
    tables, differences, labels = {}, [], []
    for kind in KINDS:
        expected = np.array(
            [list(features(magnification, kind, place).values()) for place in PLACES]
        )
        measured = [
            measure(read_images(LARGER, magnification, kind, place), magnification)
            for place in PLACES
        ]
        tables[kind] = np.array([[one.features[column] for column in COLUMNS] for one in measured])
        differences.append(np.abs(tables[kind] - expected) / np.maximum(np.abs(expected), 1e-12))
        labels.append(measured[0].labels)
    apart = np.max(differences, axis=(0, 1))
    official = official_metric()[f"{magnification}x"]
    feature_error = np.mean(
        np.abs(tables["prediction"] - tables["target"]) / np.median(tables["target"], axis=0)
    )
    pairs = [(image, labels[0][step]) for step, image in read_labels(LARGER, magnification).items()]
    return {
        "worst_feature_difference": apart.max(),
        **{
            f"n_features_within_{limit:g}": int(np.sum(apart <= limit))
            for limit in (1e-5, 1e-3, 1e-2)
        },
        "worst_label_agreement": min(np.mean(expected == found) for expected, found in pairs),
        "combined_difference": abs(
            (feature_error + official["mae_pixel"]) / 2 - official["combined"]
        ),
    }


def measure_all() -> dict[str, float]:
    """Every figure, by magnification."""
    figures = {}
    core = min(os.sched_getaffinity(0))
    for magnification in MAGNIFICATIONS:
        with ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=keep_to_one_core, initargs=(core,)
        ) as process:
            found = process.submit(time_field, magnification).result()
        if LARGER.is_dir():
            found |= agreement(magnification)
        figures |= {f"{magnification}x.{name}": float(value) for name, value in found.items()}
    images = full_field(20)
    alone, together = (time_fields(20, images, n_workers) for n_workers in (1, WORKERS))
    return figures | {
        "20x.fields_per_s_1_worker": alone,
        f"20x.fields_per_s_{WORKERS}_workers": together,
        "workers_gain": together / alone,
    }


def main() -> int:
    """Print the figures; with --check, compare them with what is required."""
    check = parser(__doc__).parse_args().check
    return report(measure_all(), check, at_most=AT_MOST, at_least=AT_LEAST, shape_px=SHAPE_PX)


if __name__ == "__main__":
    sys.exit(main())
