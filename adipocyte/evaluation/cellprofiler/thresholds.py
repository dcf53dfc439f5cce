"""Li's threshold, for a whole image and from place to place, as CellProfiler's Threshold applies it."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import RectBivariateSpline

LOCAL_BOUNDS = (0.7, 1.5)  # a local threshold, in global ones


def li_threshold(image: NDArray[np.floating]) -> float:
    """Minimum cross-entropy threshold of an image of any shape; a constant image's is its value.

    Li and Tam 1998, "An iterative algorithm for minimum cross entropy thresholding", equation 9, from the mean, until a step is at most
    half the smallest difference between two values, as `skimage.filters.threshold_li` goes; on the distinct values and how often they
    occur, in float64, so that neither the size of the image nor the processor matters.
    """
    values, counts = np.unique(image, return_counts=True)
    if len(values) == 1:
        return float(values[0])
    heights = (values - values[0]).astype(np.float64)
    n_below, sum_below = np.cumsum(counts), np.cumsum(counts * heights)
    tolerance = np.diff(heights).min() / 2
    threshold, last = sum_below[-1] / n_below[-1], -math.inf
    while abs(threshold - last) > tolerance:
        last = threshold
        top = (
            np.searchsorted(heights, threshold, side="right") - 1
        )  # the last value that is not above
        if sum_below[top] == 0:
            break
        back = sum_below[top] / n_below[top]
        fore = (sum_below[-1] - sum_below[top]) / (n_below[-1] - n_below[top])
        threshold = (back - fore) / (math.log(back) - math.log(fore))
    return threshold + float(values[0])


def global_threshold(image: NDArray[np.floating], factor: float, at_least: float) -> float:
    """Li's threshold of a (Y, X) image times *factor*, held between *at_least* and 1."""
    return min(max(li_threshold(image) * factor, at_least), 1.0)


def local_thresholds(
    image: NDArray[np.floating], window_px: int, factor: float, at_least: float
) -> NDArray[np.float64]:
    """A threshold for every pixel of a (Y, X) image: Li's of blocks about *window_px* wide times *factor*, with a spline between them.

    They are held between *at_least* and 1 and within LOCAL_BOUNDS of the whole image's. Both sides are at least two windows.
    """
    everywhere = global_threshold(image, factor, at_least)
    n_blocks = np.array(image.shape) // window_px
    steps = np.array(image.shape) / n_blocks
    rows, columns = (
        [slice(int(i * step), int((i + 1) * step)) for i in range(n)]
        for n, step in zip(n_blocks, steps, strict=True)
    )
    blocks = np.array([[li_threshold(image[row, column]) for column in columns] for row in rows])

    centres = [
        np.linspace(int(step / 2), int((n - 0.5) * step), n)
        for n, step in zip(n_blocks, steps, strict=True)
    ]
    pixels = [
        np.linspace(0.5, int(n * step) - 0.5, side)
        for n, step, side in zip(n_blocks, steps, image.shape, strict=True)
    ]
    frame = [edge for side in image.shape for edge in (0.5, side - 0.5)]
    degree = min(3, n_blocks.min() - 1)
    spline = RectBivariateSpline(*centres, blocks, bbox=frame, kx=degree, ky=degree)
    low, high = LOCAL_BOUNDS
    return np.clip(
        spline(*pixels) * factor, max(at_least, low * everywhere), min(1.0, high * everywhere)
    )


def above(
    image: NDArray[np.floating], threshold: float | NDArray[np.float64], smoothing: float
) -> NDArray[np.bool_]:
    """Where a (Y, X) image, smoothed, reaches its threshold. *smoothing* is CellProfiler's scale: twice the radius that half a Gaussian's
    weight lies within, along one axis."""
    sigma_px = smoothing / 0.6744 / 2
    weights = ndimage.gaussian_filter(np.ones(image.shape), sigma_px, mode="constant")
    return (
        ndimage.gaussian_filter(image, sigma_px, mode="constant") / (weights + np.finfo(float).eps)
        >= threshold
    )
