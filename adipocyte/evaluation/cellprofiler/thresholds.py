"""Li's threshold, of a whole image or local, as CellProfiler's Threshold applies it."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import RectBivariateSpline

LOCAL_BOUNDS = (0.7, 1.5)  # a local threshold, in global ones


def li_threshold(image: NDArray[np.floating]) -> float:
    """Minimum cross-entropy threshold of an image of any shape; a constant image's is its value.

    Li and Tam 1998, "An iterative algorithm for minimum cross entropy thresholding", equation 9. As
    in `skimage.filters.threshold_li`, it starts from the mean and ends when a step is at most half
    the smallest difference between two values. It is computed in float64 on the distinct values and
    their counts, so that the result does not depend on the image's size or the processor.
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
        top = np.searchsorted(heights, threshold, side="right") - 1  # the last one not above
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
    """A threshold for every pixel of a (Y, X) image, whose sides are at least two windows.

    It is Li's threshold of blocks about *window_px* wide, times *factor*, with a spline between the
    blocks, held between *at_least* and 1 and within LOCAL_BOUNDS of the whole image's.
    """
    everywhere = global_threshold(image, factor, at_least)
    n_blocks = np.array(image.shape) // window_px
    steps = np.array(image.shape) / n_blocks
    rows, columns = (_parts(n, step) for n, step in zip(n_blocks, steps, strict=True))
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
    lowest, highest = max(at_least, low * everywhere), min(1.0, high * everywhere)
    return np.clip(spline(*pixels) * factor, lowest, highest)


def _parts(n: int, step: float) -> list[slice]:
    """*n* parts of a side, each *step* pixels long, at whole pixels."""
    return [slice(int(i * step), int((i + 1) * step)) for i in range(n)]


def above(
    image: NDArray[np.floating], threshold: float | NDArray[np.float64], smoothing: float
) -> NDArray[np.bool_]:
    """Where a (Y, X) image, smoothed, reaches its threshold.

    *smoothing* is CellProfiler's scale: twice the radius that half of a Gaussian's weight lies
    within, along one axis.
    """
    sigma_px = smoothing / 0.6744 / 2
    weights = ndimage.gaussian_filter(np.ones(image.shape), sigma_px, mode="constant")
    smoothed = ndimage.gaussian_filter(image, sigma_px, mode="constant")
    return smoothed / (weights + np.finfo(float).eps) >= threshold
