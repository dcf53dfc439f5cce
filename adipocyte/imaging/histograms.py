"""Histograms over all 65,536 counts: exact statistics of any number of images, and histogram matching."""

import cv2
import numpy as np
from numpy.typing import NDArray

N_COUNTS = 65536
_EXACT = 2**24  # OpenCV gives histograms as float32, which holds all whole numbers to here


def counts_histogram(image: NDArray[np.uint16]) -> NDArray[np.int64]:
    """How many pixels of *image* (any shape) have each count. Returns (65536,); histograms of several images add up."""
    pixels, histogram = _row(image), np.zeros(N_COUNTS, dtype=np.int64)
    for start in range(0, image.size, _EXACT):
        part = cv2.calcHist(
            [pixels[:, start : start + _EXACT]], [0], None, [N_COUNTS], [0, N_COUNTS]
        )
        histogram += part.ravel().astype(np.int64)
    return histogram


def mean_and_std(histogram: NDArray[np.int64]) -> tuple[float, float]:
    """Mean and population standard deviation in counts of the pixels behind a (65536,) *histogram*."""
    counts, n = np.arange(N_COUNTS, dtype=np.float64), histogram.sum()
    mean = float(counts @ histogram / n)
    return mean, float(np.sqrt((counts - mean) ** 2 @ histogram / n))


def median(histogram: NDArray[np.int64]) -> float:
    """Median in counts of the pixels behind a (65536,) *histogram*; the mean of the two middle ones when they are two."""
    cumulative, n = np.cumsum(histogram), int(histogram.sum())
    middle = np.searchsorted(cumulative, [(n + 1) // 2, n // 2 + 1])
    return float(middle.mean())


def match_histogram(image: NDArray[np.uint16], reference: NDArray[np.int64]) -> NDArray[np.uint16]:
    """Give *image* the distribution of a *reference* histogram (65536,), each count mapped by its rank.

    image: any shape, in counts. The mapping is that of `skimage.exposure.match_histograms`, but the reference need not be held
    as an image and the result is rounded: one look-up table, whatever the image's size.
    """
    histogram = counts_histogram(image)
    own, present = np.flatnonzero(histogram), np.flatnonzero(reference)
    ranks = np.cumsum(histogram[own]) / image.size
    reference_ranks = np.cumsum(reference[present]) / reference.sum()
    table = np.zeros(N_COUNTS, dtype=np.uint16)
    table[own] = np.rint(np.interp(ranks, reference_ranks, present))
    return apply_table(table, image)


def apply_table(table: NDArray[np.uint16], image: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Give each pixel of *image* (any shape) the count that a (65536,) *table* has for its own."""
    return cv2.LUT(_row(image), table).reshape(image.shape)


def _row(image: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """All pixels of *image* as one row, (1, N), in this machine's byte order: what OpenCV is fastest at, five to seven times NumPy."""
    return np.ascontiguousarray(image, dtype=np.uint16).reshape(1, -1)
