"""Granularity: how much of an image's light lies in grains of each size.

This is CellProfiler's MeasureGranularity.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import dilation, disk, erosion

from adipocyte.evaluation.cellprofiler.reconstruction import CROSS, reconstruct

N_SIZES = 16
ZOOM = 0.25
BACKGROUND_RADIUS_PX = 10


def granularity(image: NDArray[np.float32]) -> list[float]:
    """The light, in percent, that is lost when grains of 1, 2, … N_SIZES steps are removed.

    image: (Y, X). It is first made four times smaller. Then its background is subtracted, which is
    its opening at a sixteenth of the size.
    """
    # Shapes are not rounded, because CellProfiler samples at places that depend on the fractions.
    shape = np.array(image.shape) * ZOOM
    pixels = _sampled(image, shape, 1 / ZOOM)
    background_shape = shape * ZOOM
    background = _sampled(pixels, background_shape, 1 / ZOOM)
    grain = disk(BACKGROUND_RADIUS_PX)
    background = dilation(erosion(background, grain), grain)
    background = _sampled(background, shape, (background_shape - 1) / (shape - 1))
    pixels = np.maximum(pixels - background, 0)

    start = mean = float(pixels.mean())
    start = max(start, np.finfo(float).eps)
    eroded, lost = pixels, []
    for _ in range(N_SIZES):
        eroded = erosion(eroded, CROSS)
        left = float(reconstruct(eroded, pixels).mean(dtype=np.float64))
        lost.append((mean - left) * 100 / start)
        mean = left
    return lost


def _sampled(
    image: NDArray[np.float32], shape: NDArray[np.float64], step: float | NDArray[np.float64]
) -> NDArray[np.float32]:
    """Sample an *image* at places *step* apart, on a grid of *shape* (rounded up).

    Between pixels it is interpolated linearly.
    """
    places = np.mgrid[0 : shape[0], 0 : shape[1]] * np.reshape(np.broadcast_to(step, 2), (2, 1, 1))
    return ndimage.map_coordinates(image, places, order=1)
