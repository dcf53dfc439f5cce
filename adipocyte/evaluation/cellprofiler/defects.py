"""The image of defects: dark holes and fine grains inside bright lipid."""

import cv2
import numpy as np
from numpy.typing import NDArray

from adipocyte.evaluation.cellprofiler.filters import speckles, stretch
from adipocyte.evaluation.cellprofiler.reconstruction import CROSS, reconstruct

WIDEST_HOLE_PX = 10


def defect_image(bodipy: NDArray[np.float32], floor: float) -> NDArray[np.float64]:
    """How defective lipid looks, in [0, 1]. Defects of at most *floor* count as none."""
    lipid = stretch(bodipy)
    grainy = stretch(np.clip((lipid + 2 * stretch(speckles(lipid))) / 3, 0, 1))
    holes = stretch(dark_holes(grainy))
    defects = stretch(np.clip(5 * lipid * holes, 0, 1))
    return stretch(np.clip(defects - floor, 0, 1))


def dark_holes(image: NDArray[np.float64]) -> NDArray[np.float32]:
    """How much darker than its rim each hole of 3 to WIDEST_HOLE_PX pixels is, (Y, X)."""
    inverted = image.max() - image
    eroded = last = inverted
    deepest = np.zeros(image.shape)
    for radius_px in range(WIDEST_HOLE_PX // 2 + 1):
        eroded = cv2.erode(eroded, CROSS)
        # Under `inverted` the result is the same, but `last` is flatter, so that this is faster.
        rebuilt = reconstruct(eroded, last)
        if radius_px >= 1:
            deepest = np.maximum(deepest, last - rebuilt)
        last = rebuilt
    return deepest.astype(np.float32)
