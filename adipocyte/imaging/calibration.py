"""Calibration of painted counts: a rising map from painted to true count, fitted to pairs of images and then fixed.

Unlike histogram matching it never looks at the image that it is applied to as a whole, so a bright field stays a bright field.
"""

import numpy as np
from numpy.typing import NDArray

from adipocyte.errors import ImageError
from adipocyte.imaging.histograms import N_COUNTS, apply_table, counts_histogram

_PER_OCTAVE = (
    128  # bins between a count and its double: at most 0.8 % wide, and one count each below 256
)
_N_KNOTS = 256


class Calibrator:
    """Sums up pairs of images, one by one and in any order; its size, 15 MB, does not grow with them."""

    def __init__(self) -> None:
        self._pairs = np.zeros(
            (_N_BINS, _N_BINS), dtype=np.int64
        )  # pixels by bin of painted and bin of true count
        self._painted = np.zeros(N_COUNTS, dtype=np.int64)
        self._truth = np.zeros(N_COUNTS, dtype=np.int64)

    def note(self, painted: NDArray[np.uint16], truth: NDArray[np.uint16]) -> None:
        """Take a *painted* image and its *truth* into account, in counts, of any one shape. Raises ImageError when the shapes differ."""
        if painted.shape != truth.shape:
            raise ImageError(
                f"the painted image has shape {painted.shape}, the truth {truth.shape}: give the same part of the field"
            )
        bins = apply_table(_BINS, painted).astype(np.intp) * _N_BINS + apply_table(_BINS, truth)
        self._pairs += np.bincount(bins.ravel(), minlength=self._pairs.size).reshape(
            self._pairs.shape
        )
        self._painted += counts_histogram(painted)
        self._truth += counts_histogram(truth)

    def fit(self) -> NDArray[np.uint16]:
        """The table (65536,) of the calibrated count of each painted count, never falling; for `histograms.apply_table`.

        It is the isotonic regression of the median: of all rising maps, the one with the lowest mean absolute error over the pixels
        noted (Robertson & Waltman 1968; Barlow et al. 1972, section 1.2), but for bins. The pixels are put into at most 256 groups of
        painted count, as equal as can be, and the map runs straight between the groups' medians. Beyond the outermost, where hardly
        anything has been seen, it goes on with slope 1: differences between the brightest pixels remain, and none are made up.

        Raises ImageError when no pixel has been noted.
        """
        if not self._painted.any():
            raise ImageError(
                "there are no pixels to calibrate on: note a painted field and its truth first (is a validation well empty?)"
            )
        by_bin = self._pairs.sum(axis=1)
        starts = _groups(by_bin)
        middles = [
            start + _lower_median(group)
            for start, group in zip(starts, np.split(by_bin, starts)[1:], strict=True)
        ]
        knots = _bin_means(self._painted)[middles]
        values = _bin_means(self._truth)[_rising_medians(np.add.reduceat(self._pairs, starts))]
        counts = np.arange(N_COUNTS, dtype=np.float64)
        beyond = counts - np.clip(counts, knots[0], knots[-1])
        return np.rint(np.clip(np.interp(counts, knots, values) + beyond, 0, N_COUNTS - 1)).astype(
            np.uint16
        )


def _rising_medians(rows: NDArray[np.int64]) -> NDArray[np.intp]:
    """The sequence (N,) that never falls and is nearest, in sum of absolute differences, to the values that *rows* count.

    rows: (N, V), how often value v occurs at place n; none is empty. Neighbours that fall are pooled until none does (pool adjacent
    violators: Barlow et al. 1972, section 1.2), here with the lower median in place of the mean (Robertson & Waltman 1968).
    """
    blocks: list[
        tuple[int, NDArray[np.int64], int]
    ] = []  # the median, how often each value occurs, over how many rows
    for row in rows:
        block = (_lower_median(row), row, 1)
        while blocks and blocks[-1][0] >= block[0]:
            _, before, n_before = blocks.pop()
            pooled = before + block[1]
            block = (_lower_median(pooled), pooled, n_before + block[2])
        blocks.append(block)
    return np.repeat([median for median, _, _ in blocks], [n for _, _, n in blocks])


def _lower_median(row: NDArray[np.int64]) -> int:
    cumulative = np.cumsum(row)
    return int(np.searchsorted(cumulative, (cumulative[-1] + 1) // 2))


def _groups(pixels: NDArray[np.int64]) -> NDArray[np.intp]:
    """The first bins of at most 256 groups that hold about the same number of *pixels* (by bin), each at least one."""
    seen = np.flatnonzero(pixels)
    before = np.cumsum(pixels[seen]) - pixels[seen]
    _, firsts = np.unique(before * _N_KNOTS // pixels.sum(), return_index=True)
    return seen[firsts]


def _bin_means(histogram: NDArray[np.int64]) -> NDArray[np.float64]:
    """The mean count of the pixels of a (65536,) *histogram* in each bin; 0 where there are none."""
    n = np.add.reduceat(histogram, _FIRST_COUNTS)
    return np.add.reduceat(histogram * np.arange(N_COUNTS), _FIRST_COUNTS) / np.maximum(n, 1)


def _first_counts() -> NDArray[np.intp]:
    """The first count of each bin: 0, 1, 2, … 255, 256, 258, … 510, 512, 516, …"""
    octaves = [np.arange(_PER_OCTAVE, 2 * _PER_OCTAVE) << shift for shift in range(9)]
    return np.concatenate([np.arange(_PER_OCTAVE), *octaves])


_FIRST_COUNTS = _first_counts()
_N_BINS = len(_FIRST_COUNTS)
_BINS = (np.searchsorted(_FIRST_COUNTS, np.arange(N_COUNTS), side="right") - 1).astype(
    np.uint16
)  # the bin of each count
