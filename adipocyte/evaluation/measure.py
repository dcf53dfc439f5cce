"""Measuring a field: its painted images, in every way, against the true stains."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from adipocyte.domain import TARGETS, FieldKey, as_in_challenge
from adipocyte.evaluation.cellprofiler.features import Measured, measure, smallest_px
from adipocyte.evaluation.cellprofiler.objects import tables_of
from adipocyte.evaluation.cellprofiler.wells import field_row
from adipocyte.evaluation.fields import FieldPaths, spread
from adipocyte.evaluation.objects import ObjectPairs, match_objects
from adipocyte.evaluation.pixels import measure_pixels
from adipocyte.evaluation.reality import Candidates, candidates
from adipocyte.imaging.histograms import N_COUNTS, counts_histogram
from adipocyte.plate.planes import read_image
from adipocyte.system.processes import each

# The kinds of objects, with CellProfiler's names for them.
OBJECTS = {"nuclei": "nuclei_no_edge", "droplets": "Lipids_no_edge"}

Images = dict[str, NDArray[np.uint16]]
Histogram = NDArray[np.integer]  # of counts, cut behind the last count that occurs


@dataclass(frozen=True)
class FieldMeasurement:
    """All that judging needs of a field once its images are closed.

    `pixels` by way and target: mae (counts), psnr, ssim, pearson. `truth_counts` by target and
    `painted_counts` by way and target: how many pixels have each count, (up to 65536,).
    `truth_features` and, by way, `painted_features`: CellProfiler's 99, nan where it gives no
    number; empty when not measured. `truth_row` and, by way, `painted_rows`: the field as a row of
    the table of wells (see `cellprofiler.wells`), empty likewise. `objects` by way and kind
    ("nuclei", "droplets"): which objects of the truth were found; `candidates` by way and table:
    which painted ones are real. Objects' areas are in pixels of `objects_um_per_px`.
    """

    key: FieldKey
    pixels: dict[str, dict[str, dict[str, float]]]
    truth_counts: dict[str, Histogram]
    painted_counts: dict[str, dict[str, Histogram]]
    truth_features: dict[str, float]
    painted_features: dict[str, dict[str, float]]
    objects: dict[str, dict[str, ObjectPairs]]
    truth_row: dict[str, float] = dataclass_field(default_factory=dict)
    painted_rows: dict[str, dict[str, float]] = dataclass_field(default_factory=dict)
    candidates: dict[str, dict[str, Candidates]] = dataclass_field(default_factory=dict)
    objects_um_per_px: float = math.nan


def measure_fields(
    fields: Sequence[FieldPaths], *, n_measured: int, workers: int
) -> list[FieldMeasurement]:
    """Measure all *fields* in so many *workers* (0: this process).

    At most *n_measured* of each magnification that have all stains are measured by features.

    Raises ImageError when an image cannot be used, WorkerError when a worker is killed.
    """
    whole = [field.key for field in fields if set(field.truth) == set(TARGETS)]
    chosen = spread(whole, n_measured)
    tasks = [(field, field.key in chosen) for field in fields]
    done = tqdm(each(_measure_task, tasks, workers), total=len(tasks), desc="measure", unit="field")
    return sorted(done, key=lambda measured: measured.key)


def measure_field(field: FieldPaths, *, with_features: bool) -> FieldMeasurement:
    """Compare the painted images of a field with the true ones.

    *with_features* also measures CellProfiler's features and objects, if the truth has all three
    stains and is large enough (see `cellprofiler.features.measure`); a target that was not painted
    is then taken from the truth. Raises ImageError when an image cannot be used.
    """
    truth = _read(field.truth)
    painted = {way: _read(paths) for way, paths in field.painted.items()}
    has_stains = set(truth) == set(TARGETS)
    measured = _Features()
    _, zoom = as_in_challenge(field.key.magnification, field.um_per_px)
    if with_features and has_stains and min(truth["A1"].shape) >= smallest_px(zoom):
        measured = _measure_features(truth, painted, field)
    pixels = {
        way: {target: measure_pixels(truth[target], image) for target, image in images.items()}
        for way, images in painted.items()
    }
    return FieldMeasurement(
        key=field.key,
        pixels=pixels,
        truth_counts=_histograms(truth),
        painted_counts={way: _histograms(images) for way, images in painted.items()},
        **vars(measured),
    )


@dataclass
class _Features:
    """The parts of a FieldMeasurement that CellProfiler's pipelines give."""

    truth_features: dict[str, float] = dataclass_field(default_factory=dict)
    painted_features: dict[str, dict[str, float]] = dataclass_field(default_factory=dict)
    objects: dict[str, dict[str, ObjectPairs]] = dataclass_field(default_factory=dict)
    truth_row: dict[str, float] = dataclass_field(default_factory=dict)
    painted_rows: dict[str, dict[str, float]] = dataclass_field(default_factory=dict)
    candidates: dict[str, dict[str, Candidates]] = dataclass_field(default_factory=dict)
    objects_um_per_px: float = math.nan


def _measure_features(truth: Images, painted: dict[str, Images], field: FieldPaths) -> _Features:
    objective = field.key.magnification, field.um_per_px
    true = measure(truth, *objective)
    found = _Features(
        true.features, truth_row=field_row(tables_of(true)), objects_um_per_px=true.um_per_px
    )
    for way, images in painted.items():
        one = measure(truth | images, *objective)
        tables = tables_of(one)
        found.painted_features[way] = one.features
        found.objects[way] = _objects(true, one)
        found.painted_rows[way] = field_row(tables)
        found.candidates[way] = candidates(true, one, images)
    return found


def total(histograms: Iterable[Histogram]) -> NDArray[np.int64]:
    """The sum of *histograms* of any lengths, as one over all counts: (65536,)."""
    found = np.zeros(N_COUNTS, dtype=np.int64)
    for histogram in histograms:
        found[: len(histogram)] += histogram
    return found


def having(
    measurements: Sequence[FieldMeasurement], target: str, magnification: int
) -> list[FieldMeasurement]:
    """The fields of a magnification that have a true stain *target*."""
    return [
        field
        for field in measurements
        if field.key.magnification == magnification and target in field.truth_counts
    ]


def _measure_task(task: tuple[FieldPaths, bool]) -> FieldMeasurement:
    field, with_features = task
    return measure_field(field, with_features=with_features)


def _read(paths: dict[str, Path]) -> Images:
    return {target: read_image(path) for target, path in paths.items()}


def _histograms(images: Images) -> dict[str, Histogram]:
    """How often each count occurs, by target."""
    found = {}
    # Short and in few bytes, because the measurements of thousands of fields are held at once.
    for target, image in images.items():
        histogram = counts_histogram(image)[: int(image.max()) + 1]
        found[target] = histogram.astype(np.min_scalar_type(histogram.max()))
    return found


def _objects(truth: Measured, painted: Measured) -> dict[str, ObjectPairs]:
    return {
        kind: match_objects(truth.labels[name], painted.labels[name])
        for kind, name in OBJECTS.items()
    }
