"""What the real CellProfiler measured: the set in tests/data, and the larger one that no clone has.

Both folders are laid out alike; the README in tests/data/cellprofiler says how they were made.
"""

import csv
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from adipocyte.domain import MAGNIFICATIONS, TARGETS
from adipocyte.evaluation.cellprofiler import COLUMNS, measure
from adipocyte.evaluation.cellprofiler.features import Measured
from tests.support import ROOT, SHARED

Place = tuple[str, int]  # well and field of view
Images = dict[str, NDArray[np.uint16]]  # (Y, X) counts by target

SHIPPED = ROOT / "tests" / "data" / "cellprofiler"
LARGER = SHARED / "data" / "cellprofiler_golden"
needs_larger = pytest.mark.skipif(not LARGER.is_dir(), reason=f"no {LARGER}")

PLACES: tuple[Place, ...] = (("B03", 1), ("D04", 5))
KINDS = ("target", "prediction")
FIELDS = [(one, kind, place) for one in MAGNIFICATIONS for kind in KINDS for place in PLACES]
SHIPPED_FIELDS = [
    (20, "target", PLACES[0]),
    (40, "prediction", PLACES[0]),
    (60, "target", PLACES[0]),
]
SHIPPED_LABELS = (20, 60)  # magnifications

_NORMAL = np.s_[100:476, 150:534]  # where the edge case lies in the 20x target


def read_images(folder: Path, magnification: int, kind: str, place: Place) -> Images:
    """The three stains of a field in *folder*, SHIPPED or LARGER."""
    well, fov = place
    images = folder / "images" / f"{magnification}x" / kind
    paths = {
        target: images / f"AssayPlate_Greiner_#655090_{well}_T0001F{fov:03d}L01A01Z01C0{n}.tif"
        for n, target in enumerate(TARGETS, start=1)
    }
    return {target: tifffile.imread(path) for target, path in paths.items()}


def read_edge_case(name: str) -> Images:
    """The stains of "e1_normal", "e2_no_nuclei", "e6_all_zero" or "e7_crop_364px"."""
    whole = read_images(SHIPPED, 20, "target", PLACES[0])
    images = {target: image[_NORMAL] for target, image in whole.items()}
    if name == "e2_no_nuclei":
        [path] = (SHIPPED / "edge_cases" / "images" / name).iterdir()
        return images | {"A1": tifffile.imread(path)}
    if name == "e6_all_zero":
        return {target: np.zeros_like(image) for target, image in images.items()}
    if name == "e7_crop_364px":
        return {target: image[:364, :364] for target, image in images.items()}
    return images


def read_labels(folder: Path, magnification: int) -> dict[str, NDArray[np.uint16]]:
    """The labels (Y, X) of every segmentation step of the first place's target, by step."""
    files = (folder / "labels" / f"{magnification}x").glob("*.tif")
    return {file.stem: tifffile.imread(file) for file in files}


def features(magnification: int, kind: str, place: Place) -> dict[str, float]:
    """CellProfiler's 99 features of a field. The set in tests/data has those of all FIELDS."""
    return _table(SHIPPED / "csv" / f"{magnification}x" / f"{kind}_Image.csv")[place]


def edge_case_features(name: str) -> dict[str, float]:
    """CellProfiler's 99 features of an edge case."""
    return _table(SHIPPED / "edge_cases" / "csv" / f"{name}.csv")[PLACES[0]]


def official_metric() -> dict[str, Any]:
    """The official metric of all FIELDS, by "20x", "40x", "60x" and "total"."""
    return json.loads((SHIPPED / "expected.json").read_text())


@cache
def _table(path: Path) -> dict[Place, dict[str, float]]:
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return {
        (row["Metadata_Well"], int(row["Metadata_FoV"].removeprefix("F"))): {
            column: float(row[column]) for column in COLUMNS
        }
        for row in rows
    }


@cache
def measured(magnification: int, kind: str, place: Place) -> Measured:
    """A field that CellProfiler measured, measured once by us."""
    folder = SHIPPED if (magnification, kind, place) in SHIPPED_FIELDS else LARGER
    return measure(read_images(folder, magnification, kind, place), magnification)


def assert_same_features(found: dict[str, float], expected: dict[str, float]) -> None:
    """To 1e-4 in granularity, because libraries add float32 up in other orders; else to 1e-6."""
    for column in COLUMNS:
        rtol, atol = (1e-4, 1e-5) if column.startswith("Granularity") else (1e-6, 0)
        np.testing.assert_allclose(found[column], expected[column], rtol, atol, err_msg=column)


def assert_same_labels(folder: Path, magnification: int) -> None:
    labels = measured(magnification, "target", PLACES[0]).labels
    expected = read_labels(folder, magnification)
    assert expected.keys() == labels.keys()
    for step, image in expected.items():
        assert np.mean(image == labels[step]) >= 0.999, step


def assert_score_is_the_organisers(
    magnification: int, feature: Callable[[int, str, Place], dict[str, float]]
) -> None:
    true, predicted = (
        np.array([list(feature(magnification, kind, place).values()) for place in PLACES])
        for kind in KINDS
    )
    expected = official_metric()[f"{magnification}x"]
    feature_error = np.mean(np.abs(predicted - true) / np.median(true, axis=0))
    combined = (feature_error + expected["mae_pixel"]) / 2
    assert combined == pytest.approx(expected["combined"], abs=0.005)
