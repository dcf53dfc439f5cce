"""What is measured of a field: its painted images, in every way they are offered, against the true stains."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from adipocyte.domain import TARGETS, FieldKey
from adipocyte.evaluation.cellprofiler.features import SMALLEST_PX, Measured, measure
from adipocyte.evaluation.fields import FieldPaths, spread
from adipocyte.evaluation.objects import ObjectPairs, match_objects
from adipocyte.evaluation.pixels import measure_pixels
from adipocyte.imaging.histograms import counts_histogram
from adipocyte.plate.tiff import read_image
from adipocyte.system.processes import each

OBJECTS = {
    "nuclei": "nuclei_no_edge",
    "droplets": "Lipids_no_edge",
}  # kinds of objects, and CellProfiler's names for them

Images = dict[str, NDArray[np.uint16]]


@dataclass(frozen=True)
class FieldMeasurement:
    """All that judging needs of a field once its images are closed.

    `pixels` by way and target: mae (counts), psnr, ssim, pearson. `truth_counts` by target and `painted_counts` by way and target: how
    many pixels have each count, (65536,). `truth_features` and, by way, `painted_features`: CellProfiler's 99, nan where it gives none;
    empty when not measured. `objects` by way and kind ("nuclei", "droplets"): which objects of the truth were found.
    """

    key: FieldKey
    pixels: dict[str, dict[str, dict[str, float]]]
    truth_counts: dict[str, NDArray[np.int64]]
    painted_counts: dict[str, dict[str, NDArray[np.int64]]]
    truth_features: dict[str, float]
    painted_features: dict[str, dict[str, float]]
    objects: dict[str, dict[str, ObjectPairs]]


def measure_fields(
    fields: Sequence[FieldPaths], *, n_measured: int, workers: int
) -> list[FieldMeasurement]:
    """Measure all *fields*, side by side in *workers* processes (0: this one); at most *n_measured* of each magnification by features.

    Raises ImageError for an image that cannot be used, StoreError when a worker is killed.
    """
    chosen = spread([field.key for field in fields], n_measured)
    tasks = [(field, field.key in chosen) for field in fields]
    done = tqdm(each(_measure_task, tasks, workers), total=len(tasks), desc="measure", unit="field")
    return sorted(done, key=lambda figures: figures.key)


def measure_field(field: FieldPaths, *, with_features: bool) -> FieldMeasurement:
    """Compare the painted images of a field with the true ones.

    *with_features* also measures CellProfiler's features and objects, where all three stains are true images of 370 pixels or more a
    side; a target that was not painted is then taken from the truth. Raises ImageError for an image that cannot be used.
    """
    truth = _read(field.truth)
    painted = {way: _read(paths) for way, paths in field.painted.items()}
    measurable = (
        with_features and set(truth) == set(TARGETS) and min(truth["A1"].shape) >= SMALLEST_PX
    )
    true = measure(truth, field.key.magnification) if measurable else None
    found = (
        {way: measure(truth | images, field.key.magnification) for way, images in painted.items()}
        if measurable
        else {}
    )
    return FieldMeasurement(
        key=field.key,
        pixels={
            way: {target: measure_pixels(truth[target], image) for target, image in images.items()}
            for way, images in painted.items()
        },
        truth_counts={target: counts_histogram(image) for target, image in truth.items()},
        painted_counts={
            way: {target: counts_histogram(image) for target, image in images.items()}
            for way, images in painted.items()
        },
        truth_features=true.features if true else {},
        painted_features={way: one.features for way, one in found.items()},
        objects={way: _objects(true, one) for way, one in found.items()} if true else {},
    )


def _measure_task(task: tuple[FieldPaths, bool]) -> FieldMeasurement:
    field, with_features = task
    return measure_field(field, with_features=with_features)


def _read(paths: dict[str, Path]) -> Images:
    return {target: read_image(path) for target, path in paths.items()}


def _objects(truth: Measured, painted: Measured) -> dict[str, ObjectPairs]:
    return {
        kind: match_objects(truth.labels[name], painted.labels[name])
        for kind, name in OBJECTS.items()
    }
