"""The picture of defects: dark holes and fine grains inside bright lipid."""

import cv2
import numpy as np
from numpy.typing import NDArray

from adipocyte.evaluation.cellprofiler.filters import speckles, stretch
from adipocyte.evaluation.cellprofiler.reconstruction import CROSS, reconstruct

WIDEST_HOLE_PX = 10


def defect_image(bodipy: NDArray[np.float32], floor: float) -> NDArray[np.float64]:
    """How defective lipid looks, in [0, 1]; what is at most *floor* counts as sound."""
    lipid = stretch(bodipy)
    grainy = stretch(np.clip((lipid + 2 * stretch(speckles(lipid))) / 3, 0, 1))
    holes = stretch(dark_holes(grainy))
    defects = stretch(np.clip(5 * lipid * holes, 0, 1))
    return stretch(np.clip(defects - floor, 0, 1))


def dark_holes(image: NDArray[np.float64]) -> NDArray[np.float32]:
    """How much darker than its rim is each hole of 3 to WIDEST_HOLE_PX pixels, (Y, X)."""
    inverted = image.max() - image
    eroded = last = inverted
    deepest = np.zeros(image.shape)
    for radius_px in range(WIDEST_HOLE_PX // 2 + 1):
        eroded = cv2.erode(eroded, CROSS)
        rebuilt = reconstruct(
            eroded, last
        )  # as under `inverted`, for it can only have less; but flatter, so sooner
        if radius_px >= 1:
            deepest = np.maximum(deepest, last - rebuilt)
        last = rebuilt
    return deepest.astype(np.float32)
