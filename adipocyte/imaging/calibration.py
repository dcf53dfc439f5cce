"""Calibration: a map from painted to true count that never falls, fitted to pairs of images.

Unlike histogram matching, the map does not depend on the image that it is applied to, so a bright
field stays bright.
"""

import numpy as np
from numpy.typing import NDArray

from adipocyte.errors import ImageError
from adipocyte.imaging.histograms import N_COUNTS, apply_table, counts_histogram

# Bins between a count and its double: at most 0.8 % wide, and one count each below 256.
_PER_OCTAVE = 128
_N_KNOTS = 256


class Calibrator:
    """Counts the pixels of pairs of images, in any order. It takes 15 MB for any number of them."""

    def __init__(self) -> None:
        # How many pixels have each bin of painted and each bin of true count.
        self._pairs = np.zeros((_N_BINS, _N_BINS), dtype=np.int64)
        self._painted = np.zeros(N_COUNTS, dtype=np.int64)
        self._truth = np.zeros(N_COUNTS, dtype=np.int64)

    def note(self, painted: NDArray[np.uint16], truth: NDArray[np.uint16]) -> None:
        """Add the pixels of a *painted* image and its *truth*, both in counts and of any shape.

        Raises ImageError if the shapes differ.
        """
        if painted.shape != truth.shape:
            raise ImageError(
                f"the painted image has shape {painted.shape}, the truth {truth.shape}",
                "give the same part of the field",
            )
        bins = apply_table(_BINS, painted).astype(np.intp) * _N_BINS + apply_table(_BINS, truth)
        pairs = np.bincount(bins.ravel(), minlength=_N_BINS * _N_BINS)
        self._pairs += pairs.reshape(_N_BINS, _N_BINS)
        self._painted += counts_histogram(painted)
        self._truth += counts_histogram(truth)

    def fit(self) -> NDArray[np.uint16]:
        """The table (65536,) of the calibrated count of each painted count.

        The table never falls; `histograms.apply_table` applies it. It is the isotonic regression of
        the median: apart from bins, no other map that never falls has a lower mean absolute error
        over the noted pixels (Robertson & Waltman 1968; Barlow et al. 1972, section 1.2). The
        pixels are divided into at most 256 groups of painted count, as equal in size as possible,
        and the map is linear between the groups' medians. Beyond the outermost groups, where there
        are hardly any pixels, its slope is 1, which keeps the differences between the brightest
        pixels and adds none.

        Raises ImageError if no pixel has been noted.
        """
        if not self._painted.any():
            raise ImageError(
                "there are no pixels to calibrate on",
                "note a painted field and its truth first (is a validation well empty?)",
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
        table = np.clip(np.interp(counts, knots, values) + beyond, 0, N_COUNTS - 1)
        return np.rint(table).astype(np.uint16)


def _rising_medians(rows: NDArray[np.int64]) -> NDArray[np.intp]:
    """The sequence (N,) that never falls and has the least absolute differences to *rows*.

    rows: (N, V), how often value v occurs at place n; every row has a value. Neighbours that fall
    are pooled until none does (pool adjacent violators: Barlow et al. 1972, section 1.2), with the
    lower median in place of the mean (Robertson & Waltman 1968).
    """
    # The median of each block, how often each value occurs in it, and its number of rows.
    blocks: list[tuple[int, NDArray[np.int64], int]] = []
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
    """The first bins of at most 256 groups, each with about the same number of *pixels* (by bin).

    Every group has at least one pixel.
    """
    seen = np.flatnonzero(pixels)
    before = np.cumsum(pixels[seen]) - pixels[seen]
    _, firsts = np.unique(before * _N_KNOTS // pixels.sum(), return_index=True)
    return seen[firsts]


def _bin_means(histogram: NDArray[np.int64]) -> NDArray[np.float64]:
    """The mean count of the pixels of a (65536,) *histogram* in each bin; 0 in empty bins."""
    n = np.add.reduceat(histogram, _FIRST_COUNTS)
    return np.add.reduceat(histogram * np.arange(N_COUNTS), _FIRST_COUNTS) / np.maximum(n, 1)


def _first_counts() -> NDArray[np.intp]:
    """The first count of each bin: 0, 1, 2, … 255, 256, 258, … 510, 512, 516, …"""
    octaves = [np.arange(_PER_OCTAVE, 2 * _PER_OCTAVE) << shift for shift in range(9)]
    return np.concatenate([np.arange(_PER_OCTAVE), *octaves])


_FIRST_COUNTS = _first_counts()
_N_BINS = len(_FIRST_COUNTS)
_BIN_OF_COUNT = np.searchsorted(_FIRST_COUNTS, np.arange(N_COUNTS), side="right") - 1
_BINS = _BIN_OF_COUNT.astype(np.uint16)  # (65536,), a table for `apply_table`
