"""The 99 features that the challenge compares, of one field."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adipocyte.domain import TARGETS
from adipocyte.errors import ImageError
from adipocyte.evaluation.cellprofiler import cells, defects, droplets
from adipocyte.evaluation.cellprofiler.granularity import N_SIZES, granularity
from adipocyte.evaluation.cellprofiler.labelling import Labels, kept, on_frame
from adipocyte.evaluation.cellprofiler.measurements import BRIGHTNESS, SHAPES, brightness, shapes
from adipocyte.evaluation.cellprofiler.parameters import PARAMETERS, Parameters

SMALLEST_PX = 370
STAINS = dict(zip(TARGETS, ("Hoechst", "Bodipy", "CellTrackerRed"), strict=True))
DEFECTS = "Defect_image_rescaled"
COUNTED = (
    "Defective_lipid_droplets",
    "Lipids_no_edge",
    "cells_no_edge",
    "nuclei",
    "nuclei_no_edge",
)
MEASURED_IN = {
    "Lipids_no_edge": ("Bodipy", DEFECTS),
    "cells_no_edge": ("Bodipy", "CellTrackerRed"),
    "nuclei_no_edge": ("Bodipy", "CellTrackerRed", "Hoechst"),
}
AGGREGATES = {"Mean": np.mean, "StDev": np.std}


def _columns() -> tuple[str, ...]:
    of_objects = [f"{name}_AreaShape_{shape}" for name in MEASURED_IN for shape in SHAPES]
    for name, images in MEASURED_IN.items():
        of_objects += [f"{name}_Intensity_{one}_{image}" for one in BRIGHTNESS for image in images]
    columns = [f"Count_{name}" for name in COUNTED]
    columns += [f"Granularity_{size}_Bodipy" for size in range(1, N_SIZES + 1)]
    columns += [f"{aggregate}_{name}" for aggregate in AGGREGATES for name in of_objects]
    return tuple(sorted(columns))


COLUMNS = _columns()


@dataclass(frozen=True)
class Measured:
    """The `features` of one field by COLUMNS, and the `labels` (Y, X) of every step.

    A feature is nan where there is no object to measure.
    """

    features: dict[str, float]
    labels: dict[str, Labels]


def measure(images: Mapping[str, NDArray[np.uint16]], magnification: int) -> Measured:
    """Find nuclei, cells and lipid droplets in one field and measure them.

    The result is that of the challenge's CellProfiler 4.0 pipelines.

    images: by target, "A1" nuclei, "A2" lipid droplets and "A3" cytoplasm, each (Y, X) uint16 in
    counts, of one shape, with sides of at least SMALLEST_PX. Two calls give the same bits on every
    processor and with any number of threads; `filters.ranks` has the rule for ties, which
    CellProfiler leaves to the processor.

    Features are nan where there is no object to measure: 54 of them without nuclei, 78 in a field
    that is black.

    Raises ImageError for other dtypes, shapes that differ, a smaller side, a missing target or an
    unknown magnification.
    """
    _check(images, magnification)
    parameters = PARAMETERS[magnification]
    # In float32, as CellProfiler reads 16 bits. In float64 a quarter of the features would change,
    # some by more than their own size.
    stains = {
        name: images[target].astype(np.float32) / np.float32(65535)
        for target, name in STAINS.items()
    }
    labels = _find(stains, parameters)
    defect_image = defects.defect_image(stains["Bodipy"], parameters.defect_floor)
    objects = _measure_objects(labels, {**stains, DEFECTS: defect_image})
    defect = objects[f"Lipids_no_edge_Intensity_IntegratedIntensity_{DEFECTS}"]
    keep = np.concatenate([[False], defect >= parameters.defective_from])
    labels["Defective_lipid_droplets"] = kept(labels["Lipids_no_edge"], keep)
    features = {f"Count_{name}": float(labels[name].max()) for name in COUNTED}
    for size, lost in enumerate(granularity(stains["Bodipy"]), start=1):
        features[f"Granularity_{size}_Bodipy"] = lost
    for kind in AGGREGATES:
        features |= {f"{kind}_{name}": aggregate(objects[name], kind) for name in objects}
    return Measured({column: features[column] for column in COLUMNS}, labels)


def aggregate(values: NDArray[np.float64], kind: str) -> float:
    """Mean ("Mean") or standard deviation ("StDev") of the finite values; nan if there are none.

    A droplet that is a point or a line has an infinite FormFactor; only that column leaves it out.
    """
    finite = values[np.isfinite(values)]
    return float(AGGREGATES[kind](finite)) if finite.size else float("nan")


def _check(images: Mapping[str, NDArray[np.uint16]], magnification: int) -> None:
    if magnification not in PARAMETERS:
        raise ImageError(
            f"there is no CellProfiler pipeline for magnification {magnification!r}",
            f"give one of {', '.join(map(str, PARAMETERS))}",
        )
    if missing := [target for target in TARGETS if target not in images]:
        raise ImageError(
            f"the field lacks {' and '.join(missing)}",
            f"its features need all of {', '.join(TARGETS)}",
        )
    first_shape = images[TARGETS[0]].shape
    for target in TARGETS:
        image = images[target]
        if image.dtype != np.uint16 or image.ndim != 2:
            raise ImageError(
                f"{target} is {image.dtype} of shape {image.shape}",
                "it must be (Y, X) counts as uint16; round, clip to 0 to 65535 and cast",
            )
        if image.shape != first_shape:
            raise ImageError(
                f"{TARGETS[0]} is of shape {first_shape} and {target} of {image.shape}",
                "all must be of one field and of one size",
            )
        if min(image.shape) < SMALLEST_PX:
            raise ImageError(
                f"{target} is {image.shape[0]} x {image.shape[1]} pixels",
                f"CellProfiler needs at least {SMALLEST_PX} a side, two windows of its threshold; "
                "crop less",
            )


def _find(stains: Mapping[str, NDArray[np.float32]], parameters: Parameters) -> dict[str, Labels]:
    """The labels of every step but the defective droplets, by CellProfiler's names."""
    hoechst, bodipy, red = (stains[name] for name in STAINS.values())
    nuclei, unedited = cells.find_nuclei(hoechst, parameters)
    living = cells.living(nuclei, hoechst)
    bodies = cells.find_cells(bodipy, red, living, unedited, parameters)
    whole_cells, their_nuclei = cells.inside(bodies, living)
    small, big = droplets.find_droplets(bodipy, parameters)
    joined = droplets.merge(big, small)
    return {
        "nuclei": nuclei,
        "nuclei__unedited": unedited,
        "Nuclei_filtered": living,
        "cell_bodies": bodies,
        "cells_no_edge": whole_cells,
        "nuclei_no_edge": their_nuclei,
        "lipid_droplets": small,
        "big_droplets": big,
        "Lipid_droplets_final_segmentation": joined,
        "Lipids_no_edge": kept(joined, ~on_frame(joined)),
    }


def _measure_objects(
    labels: Mapping[str, Labels], images: Mapping[str, NDArray[np.floating]]
) -> dict[str, NDArray[np.float64]]:
    """One value for each object, by the columns' names without "Mean_" or "StDev_"."""
    found = {}
    for name, measured_in in MEASURED_IN.items():
        for shape, values in shapes(labels[name]).items():
            found[f"{name}_AreaShape_{shape}"] = values
        for image in measured_in:
            for measure, values in brightness(labels[name], images[image]).items():
                found[f"{name}_Intensity_{measure}_{image}"] = values
    return found
