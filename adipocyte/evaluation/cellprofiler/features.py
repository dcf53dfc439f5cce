"""The 99 features that the challenge compares, of one field."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

from adipocyte.domain import TARGETS, UM_PER_PX, as_in_challenge
from adipocyte.errors import ImageError
from adipocyte.evaluation.cellprofiler import cells, defects, droplets
from adipocyte.evaluation.cellprofiler.granularity import N_SIZES, granularity
from adipocyte.evaluation.cellprofiler.labelling import Labels, kept, on_frame
from adipocyte.evaluation.cellprofiler.measurements import BRIGHTNESS, SHAPES, brightness, shapes
from adipocyte.evaluation.cellprofiler.parameters import PARAMETERS, Parameters
from adipocyte.imaging.resizing import resized, shape_at
from adipocyte.plate.tiff import MAX_SIDE_PX

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

    A feature is nan where there is no object to measure, or a stain is missing. `objects` are the
    values behind the means: by kind of object and CellProfiler's name, one for each label, (N,).
    The labels' pixels are of `um_per_px`, and `zoom` times as fine as the image's of `shape_px`,
    (Y, X): 1 at the challenge's objectives.
    """

    features: dict[str, float]
    labels: dict[str, Labels]
    objects: dict[str, dict[str, NDArray[np.float64]]]
    um_per_px: float
    shape_px: tuple[int, int]
    zoom: float = 1.0

    def drawn(self, kind: str) -> Labels:
        """The labels of a *kind* upon the image's own pixels, (Y, X)."""
        labels = self.labels[kind]
        if labels.shape == self.shape_px:
            return labels
        drawn = cv2.resize(labels, self.shape_px[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        return drawn.astype(labels.dtype, copy=False)


def measure(
    images: Mapping[str, NDArray[np.uint16]], magnification: int, um_per_px: float | None = None
) -> Measured:
    """Find nuclei, cells and lipid droplets in one field and measure them.

    The result is that of the challenge's CellProfiler 4.0 pipelines.

    images: by target, "A1" nuclei, "A2" lipid droplets and "A3" cytoplasm, each (Y, X) uint16 in
    counts, of one shape, with sides of at least SMALLEST_PX. Without one of them what can be found
    without it is measured: droplets need A2, nuclei A1, cells all three; nuclei alone are those
    that do not touch the frame themselves. Two calls give the same bits on every
    processor and with any number of threads; `filters.ranks` has the rule for ties, which
    CellProfiler leaves to the processor.

    *um_per_px* is the size of pixels; None: as is usual at the magnification. At an objective that
    the challenge has not, the images are first brought to the pixels of the nearest that it has,
    whose pipeline measures them: all sizes and features are in its pixels, and the smallest side is
    SMALLEST_PX of them.

    Features are nan where there is no object to measure: 54 of them without nuclei, 78 in a field
    that is black.

    Raises ImageError for other dtypes, shapes that differ, a smaller side, no target at all or a
    magnification of which nobody knows the size of pixels.
    """
    um_per_px = um_per_px or _usual_um(magnification)
    alike, zoom = as_in_challenge(magnification, um_per_px)
    shape_px = _check(images, zoom)
    images = {target: resized(image, shape_at(shape_px, zoom)) for target, image in images.items()}
    parameters = PARAMETERS[alike]
    # In float32, as CellProfiler reads 16 bits. In float64 a quarter of the features would change,
    # some by more than their own size.
    stains = {
        STAINS[target]: images[target].astype(np.float32) / np.float32(65535)
        for target in TARGETS
        if target in images
    }
    labels, measured_in = _find(stains, parameters), dict(stains)
    if "Bodipy" in stains:
        measured_in[DEFECTS] = defects.defect_image(stains["Bodipy"], parameters.defect_floor)
    objects = _measure_objects(labels, measured_in)
    if "Bodipy" in stains:
        defect = objects["Lipids_no_edge"][f"Intensity_IntegratedIntensity_{DEFECTS}"]
        keep = np.concatenate([[False], defect >= parameters.defective_from])
        labels["Defective_lipid_droplets"] = kept(labels["Lipids_no_edge"], keep)
    features = dict.fromkeys(COLUMNS, float("nan"))
    features |= {f"Count_{name}": float(labels[name].max()) for name in COUNTED if name in labels}
    if "Bodipy" in stains:
        for size, lost in enumerate(granularity(stains["Bodipy"]), start=1):
            features[f"Granularity_{size}_Bodipy"] = lost
    for kind, (name, columns) in product(AGGREGATES, objects.items()):
        for column, values in columns.items():
            features[f"{kind}_{name}_{column}"] = aggregate(values, kind)
    return Measured(features, labels, objects, um_per_px / zoom, shape_px, zoom)


def aggregate(values: NDArray[np.float64], kind: str) -> float:
    """Mean ("Mean") or standard deviation ("StDev") of the finite values; nan if there are none.

    A droplet that is a point or a line has an infinite FormFactor; only that column leaves it out.
    """
    finite = values[np.isfinite(values)]
    return float(AGGREGATES[kind](finite)) if finite.size else float("nan")


def _usual_um(magnification: int) -> float:
    if magnification not in UM_PER_PX:
        raise ImageError(
            f"the size of pixels is unknown at magnification {magnification!r}",
            f"give it in µm (um_per_px), or one of {', '.join(map(str, UM_PER_PX))}",
        )
    return UM_PER_PX[magnification]


def _check(images: Mapping[str, NDArray[np.uint16]], zoom: float) -> tuple[int, int]:
    """The shape of all *images*, (Y, X), which are to be taken *zoom* times as fine."""
    given = [target for target in TARGETS if target in images]
    if not given:
        raise ImageError("the field has no stain", f"give some of {', '.join(TARGETS)}")
    first_shape = images[given[0]].shape
    for target in given:
        image = images[target]
        if image.dtype != np.uint16 or image.ndim != 2:
            raise ImageError(
                f"{target} is {image.dtype} of shape {image.shape}",
                "it must be (Y, X) counts as uint16; round, clip to 0 to 65535 and cast",
            )
        if image.shape != first_shape:
            raise ImageError(
                f"{given[0]} is of shape {first_shape} and {target} of {image.shape}",
                "all must be of one field and of one size",
            )
        if max(shape_at(first_shape, zoom)) > MAX_SIDE_PX:
            height, width = shape_at(first_shape, zoom)
            raise ImageError(
                f"{target} has {height} x {width} pixels of the size that is measured",
                f"a side may have at most {MAX_SIDE_PX}: see that the size of its own pixels is "
                "right (um_per_px), or cut it in parts",
            )
        if min(shape_at(first_shape, zoom)) < SMALLEST_PX:
            raise ImageError(
                f"{target} is {image.shape[0]} x {image.shape[1]} pixels",
                f"CellProfiler needs at least {smallest_px(zoom)} a side, two windows of its "
                "threshold; crop less",
            )
    return first_shape


def smallest_px(zoom: float) -> int:
    """The smallest side of images whose pixels are to be taken *zoom* times as fine."""
    return math.ceil(SMALLEST_PX / zoom)


def _find(stains: Mapping[str, NDArray[np.float32]], parameters: Parameters) -> dict[str, Labels]:
    """The labels of every step but the defective droplets, by CellProfiler's names.

    Steps that need a stain which is missing are left out.
    """
    labels: dict[str, Labels] = {}
    if "Hoechst" in stains:
        labels |= _find_nuclei(stains, parameters)
    if "Bodipy" in stains:
        small, big = droplets.find_droplets(stains["Bodipy"], parameters)
        joined = droplets.merge(big, small)
        labels |= {
            "lipid_droplets": small,
            "big_droplets": big,
            "Lipid_droplets_final_segmentation": joined,
            "Lipids_no_edge": kept(joined, ~on_frame(joined)),
        }
    return labels


def _find_nuclei(
    stains: Mapping[str, NDArray[np.float32]], parameters: Parameters
) -> dict[str, Labels]:
    """The labels of nuclei, and of the cells around them where all stains are there."""
    hoechst = stains["Hoechst"]
    nuclei, unedited = cells.find_nuclei(hoechst, parameters)
    living = cells.living(nuclei, hoechst)
    found = {"nuclei": nuclei, "nuclei__unedited": unedited, "Nuclei_filtered": living}
    if len(stains) < len(STAINS):
        return found | {"nuclei_no_edge": kept(living, ~on_frame(living))}
    bodies = cells.find_cells(
        stains["Bodipy"], stains["CellTrackerRed"], living, unedited, parameters
    )
    whole_cells, their_nuclei = cells.inside(bodies, living)
    return found | {
        "cell_bodies": bodies,
        "cells_no_edge": whole_cells,
        "nuclei_no_edge": their_nuclei,
    }


def _measure_objects(
    labels: Mapping[str, Labels], images: Mapping[str, NDArray[np.floating]]
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """The values of each kind of object, by the columns' names without "Mean_nuclei_no_edge_"."""
    found = {}
    for name in MEASURED_IN.keys() & labels.keys():
        columns = {f"AreaShape_{shape}": one for shape, one in shapes(labels[name]).items()}
        for image in MEASURED_IN[name]:
            if image in images:
                of_image = brightness(labels[name], images[image])
                columns |= {f"Intensity_{kind}_{image}": one for kind, one in of_image.items()}
        found[name] = columns
    return found
