"""Histograms over all 65,536 counts: exact statistics of any number of images, and histogram matching."""

import numpy as np
from numpy.typing import NDArray

N_COUNTS = 65536


def counts_histogram(image: NDArray[np.uint16]) -> NDArray[np.int64]:
    """How many pixels of *image* (any shape) have each count. Returns (65536,); histograms of several images add up."""
    return np.bincount(image.ravel(), minlength=N_COUNTS).astype(np.int64)


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
    present = np.flatnonzero(reference)
    ranks = np.cumsum(histogram) / image.size
    reference_ranks = np.cumsum(reference[present]) / reference.sum()
    table = np.rint(np.interp(ranks, reference_ranks, present)).astype(np.uint16)
    return table[image]
