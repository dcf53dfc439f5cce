"""Granularity: how much of an image's light lies in grains of each size (CellProfiler's MeasureGranularity)."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import dilation, disk, erosion

from adipocyte.evaluation.cellprofiler.reconstruction import CROSS, reconstruct

N_SIZES = 16
ZOOM = 0.25
BACKGROUND_RADIUS_PX = 10


def granularity(image: NDArray[np.float32]) -> list[float]:
    """The part of the light, in percent, that is lost when grains of 1, 2, … N_SIZES steps are taken away.

    image: (Y, X). It is first made four times smaller, and its background, opened at a sixteenth of the size, subtracted.
    """
    shape = (
        np.array(image.shape) * ZOOM
    )  # not rounded, nor below: CellProfiler's own places hang on the fractions
    pixels = _sampled(image, shape, 1 / ZOOM)
    background_shape = shape * ZOOM
    background = _sampled(pixels, background_shape, 1 / ZOOM)
    background = dilation(
        erosion(background, disk(BACKGROUND_RADIUS_PX)), disk(BACKGROUND_RADIUS_PX)
    )
    pixels = np.maximum(
        pixels - _sampled(background, shape, (background_shape - 1) / (shape - 1)), 0
    )

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
    """An *image* read *step* apart, between its pixels too, on a grid of *shape*, rounded up."""
    places = np.mgrid[0 : shape[0], 0 : shape[1]] * np.reshape(np.broadcast_to(step, 2), (2, 1, 1))
    return ndimage.map_coordinates(image, places, order=1)
