"""Intervals that hold the true count of a pixel, at a level that is reached over wells.

What is known at a pixel is the count that is painted there, and the brightest painted count nearby,
because an edge that is painted here may lie there. Pixels that are alike in both make a group; how
far its interval reaches is learnt from the truths of its pixels.

The pixels of a well are not independent, so wells are counted, and not pixels. They are taken to be
exchangeable, and one more, that is worse than any that was seen, is counted with them.
"""

from dataclasses import dataclass, fields
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from adipocyte.domain import UM_PER_PX
from adipocyte.errors import ConfigError, ImageError
from adipocyte.imaging.histograms import N_COUNTS

LEVEL = 0.9
FEWEST_WELLS = 2  # because what judges a well is learnt from others
WORST = 0.25  # the share of its pixels that a well is taken to have outside at most
_REACH_UM = 3.25  # how far "nearby" reaches, up, down and to each side
_RAREST = 1 / 256  # the least share of all pixels that have a group's range of painted counts
_N_NEARBY = 8  # groups that such a range is divided into, as equal in pixels as bins allow
# The shares of a group's pixels that may lie below its interval, and above it.
TAILS = np.geomspace(0.4, 0.0002, 96)
_BLOCK_PX = 2**20  # pixels that are looked up at once


@dataclass(frozen=True, eq=False)
class Widths:
    """How far intervals reach below and above what is painted, for one magnification and target.

    `groups` (painted bins, nearby bins) uint16 says which group a pixel belongs to. `below` and
    `above` (tails, groups) uint16 are in counts, the narrowest first. `risk` (tails,) float64 is
    the share of a new well's pixels that is to be expected outside; `n_wells` (1,) int64 says how
    many wells taught that.

    Raises ValueError when they do not fit each other, as in a file that was made by other code.
    """

    groups: NDArray[np.uint16]
    below: NDArray[np.uint16]
    above: NDArray[np.uint16]
    risk: NDArray[np.float64]
    n_wells: NDArray[np.int64]

    def __post_init__(self) -> None:
        n_groups = self.below.shape[-1]
        forms = {
            "groups": (np.uint16, _SHAPE[:2]),
            "below": (np.uint16, (len(TAILS), n_groups)),
            "above": (np.uint16, (len(TAILS), n_groups)),
            "risk": (np.float64, (len(TAILS),)),
            "n_wells": (np.int64, (1,)),
        }
        for name, (dtype, shape) in forms.items():
            table = getattr(self, name)
            if (table.dtype, table.shape) != (dtype, shape):
                raise ValueError(
                    f"{name} is {table.dtype} of shape {table.shape}, "
                    f"not {np.dtype(dtype)} of {shape}"
                )
        if self.groups.max() >= n_groups:
            raise ValueError(f"a pixel may belong to group {self.groups.max()} of {n_groups}")

    @property
    def tables(self) -> dict[str, NDArray]:
        """By name what it is made of: `Widths(**tables)` is the same again."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def highest_level(self) -> float:
        """The highest level that the wells support: with k of them at most 1 - WORST / (k + 1)."""
        return 1 - float(self.risk.min())

    def tail(self, level: float) -> int:
        """Which of TAILS reaches *level*: the narrowest intervals with a risk of at most 1 - level.

        Raises ConfigError when *level* does not lie between 0 and 1, or the wells do not support
        it.
        """
        if not 0 < level < 1:
            raise ConfigError(
                f"the level of intervals is {level:g}",
                "it must lie between 0 and 1; 0.9 is 90 % of the pixels",
            )
        reaching = np.flatnonzero(self.risk <= 1 - level)
        if not len(reaching):
            highest = np.floor(1000 * self.highest_level) / 1000
            raise ConfigError(
                f"{self.n_wells[0]} validation wells support intervals up to a level of "
                f"{highest:g}, not of {level:g}",
                f"ask for {highest:g} or less, or prepare the plate with more of them (preprocess "
                "-P validation_wells=…), train and register again",
            )
        return int(reaching[0])

    def interval(
        self, painted: NDArray[np.uint16], magnification: int, level: float = LEVEL
    ) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        """The lowest and the highest true count to be expected at each pixel of *painted*.

        painted: (Y, X) in counts. Returns two (Y, X) in counts; low <= painted <= high.

        The share of a new well's pixels whose truth lies inside is *level* or more on average, if
        it is exchangeable with the k wells that this was learnt from, and if no well has more than
        WORST outside: the risk is (the sum of the k wells' shares outside + WORST) / (k + 1)
        (Angelopoulos et al. 2024, "Conformal risk control", equation 4, with wells as samples and B
        = WORST; with B = 1 it is HCP of Lee, Barber & Willett 2023, "Distribution-free inference
        with hierarchical data"). If one of the k has more outside, its share takes the place of
        WORST. The theorem asks for widths that were learnt from other wells than the k; here each
        well is judged by what the others teach, and what all teach is used (cross-conformal: Vovk
        2015).

        Raises ConfigError as `tail` does.
        """
        tail, nearby = self.tail(level), _nearby(painted, magnification)
        low, high = np.empty_like(painted), np.empty_like(painted)
        n_rows = max(_BLOCK_PX // painted.shape[1], 1)
        for start in range(0, len(painted), n_rows):
            rows = slice(start, start + n_rows)
            groups = self.groups[_PAINTED_BIN[painted[rows]], _NEARBY_BIN[nearby[rows]]]
            # These stop at 0 and at 65535.
            low[rows] = cv2.subtract(painted[rows], self.below[tail][groups])
            high[rows] = cv2.add(painted[rows], self.above[tail][groups])
        return low, high


class Residuals:
    """Counts by how much truths differ from painted images of one magnification, well by well.

    It takes about a MB for each well, however many pixels are noted.
    """

    def __init__(self, magnification: int) -> None:
        self._magnification = magnification
        self._wells: dict[str, _Cells] = {}

    @property
    def n_wells(self) -> int:
        return len(self._wells)

    def note(self, well: str, painted: NDArray[np.uint16], truth: NDArray[np.uint16]) -> None:
        """Add a *painted* image of a *well* and its *truth*, both (Y, X) in counts.

        Raises ImageError if the shapes differ.
        """
        if painted.shape != truth.shape:
            raise ImageError(
                f"the painted image has shape {painted.shape}, the truth {truth.shape}",
                "give the same part of the field",
            )
        n = np.zeros(_N_CELLS, dtype=np.int64)
        if well in self._wells:
            n[self._wells[well].cells] = self._wells[well].n
        residuals = truth.astype(np.int32) - painted + (N_COUNTS - 1)
        bins = _PAINTED_BIN[painted], _NEARBY_BIN[_nearby(painted, self._magnification)]
        cells = np.ravel_multi_index((*bins, _RESIDUAL_BIN[residuals]), _SHAPE)
        n += np.bincount(cells.ravel(), minlength=_N_CELLS)
        seen = np.flatnonzero(n)
        self._wells[well] = _Cells(seen, n[seen])

    def fit(self) -> Widths:
        """What the noted wells teach; their order does not matter, and each counts as much.

        Raises ImageError if fewer than FEWEST_WELLS have been noted.
        """
        if self.n_wells < FEWEST_WELLS:
            raise ImageError(
                f"intervals are to be learnt from {self.n_wells} wells",
                f"note at least {FEWEST_WELLS}, because each is judged by what the others teach",
            )
        wells = [self._wells[name] for name in sorted(self._wells)]
        groups = _grouped(np.sum([well.known() for well in wells], axis=0))
        spread = [well.by_group(groups) for well in wells]
        total = np.sum(spread, axis=0)
        outside = np.stack([_outside(own, _ranks(total - own)) for own in spread])
        risk = (outside.sum(axis=0) + outside.max(axis=0).clip(WORST)) / (len(wells) + 1)
        return Widths(groups, *_reaches(total), risk, np.array([len(wells)]))


class _Cells(NamedTuple):
    """How many pixels of a well, `n`, have each combination of bins, `cells`, in _SHAPE."""

    cells: NDArray[np.int64]
    n: NDArray[np.int64]

    def known(self) -> NDArray[np.float64]:
        """The share of the pixels by painted and nearby bin."""
        known = np.bincount(self.cells // _SHAPE[2], self.n, minlength=_SHAPE[0] * _SHAPE[1])
        return known.reshape(_SHAPE[:2]) / self.n.sum()

    def by_group(self, groups: NDArray[np.uint16]) -> NDArray[np.float64]:
        """The share of the pixels by group and bin of residual."""
        known, residual = np.divmod(self.cells, _SHAPE[2])
        places = groups.ravel()[known].astype(np.int64) * _SHAPE[2] + residual
        n_groups = int(groups.max()) + 1
        spread = np.bincount(places, self.n, minlength=n_groups * _SHAPE[2])
        return spread.reshape(n_groups, -1) / self.n.sum()


def _grouped(known: NDArray[np.float64]) -> NDArray[np.uint16]:
    """The groups of pixels by painted and nearby bin, where *known* says how many pixels are there.

    Neighbouring bins are joined until a group has pixels enough.
    """
    groups, first = np.zeros(known.shape, dtype=np.uint16), 0
    ranges = _joined(known.sum(axis=1), _RAREST * known.sum())
    for index in range(ranges.max() + 1):
        here = ranges == index
        nearby = known[here].sum(axis=0)
        parts = _joined(nearby, nearby.sum() / _N_NEARBY)
        groups[here] = first + parts
        first += int(parts.max()) + 1
    return groups


def _joined(pixels: NDArray[np.float64], least: float) -> NDArray[np.intp]:
    """Which group each bin belongs to, 0, 0, 1, …, so that each has *least* *pixels* or more."""
    groups, group, gathered = np.zeros(len(pixels), dtype=np.intp), 0, 0.0
    for place, n in enumerate(pixels):
        if gathered >= least:
            group, gathered = group + 1, 0.0
        groups[place], gathered = group, gathered + n
    return groups if gathered >= least else np.minimum(groups, max(group - 1, 0))


def _ranks(spread: NDArray[np.float64]) -> NDArray[np.float64]:
    """The tail at which each (groups, residuals) of *spread* is no longer inside its interval.

    That is the share of the group's pixels that differ as much or more on the same side.
    """
    n = np.maximum(spread.sum(axis=1, keepdims=True), np.finfo(float).tiny)
    below, above = np.cumsum(spread, axis=1), np.cumsum(spread[:, ::-1], axis=1)[:, ::-1]
    return np.where(_LOWEST > 0, above, np.where(_HIGHEST < 0, below, n)) / n


def _outside(own: NDArray[np.float64], ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of a well's pixels outside at each tail.

    *own* (groups, residuals) is where all its pixels are.
    """
    rising = TAILS[::-1]
    first = np.searchsorted(rising, ranks.ravel())  # of the tails that leave them outside
    outside = np.bincount(first, own.ravel(), len(rising) + 1).astype(np.float64)
    return np.cumsum(outside)[: len(rising)][::-1]


def _reaches(spread: NDArray[np.float64]) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """How far below and above the groups' intervals reach, (tails, groups) in counts."""
    ranks = _ranks(spread)
    below, above = np.empty((2, len(TAILS), len(spread)), dtype=np.uint16)
    for place, tail in enumerate(TAILS):
        below[place] = -np.where(ranks > tail, _LOWEST, 0).min(axis=1, initial=0)
        above[place] = np.where(ranks > tail, _HIGHEST, 0).max(axis=1, initial=0)
    return below, above


def _nearby(painted: NDArray[np.uint16], magnification: int) -> NDArray[np.uint16]:
    """The brightest count around each pixel."""
    reach_px = round(_REACH_UM / UM_PER_PX[magnification])
    around = np.ones((2 * reach_px + 1,) * 2, dtype=np.uint8)
    return np.asarray(cv2.dilate(painted, around), np.uint16)


def _first_counts(per_octave: int) -> NDArray[np.intp]:
    """The first count of each bin: one count each below *per_octave*, then so many bins to double.

    *per_octave* is a power of two.
    """
    n_octaves = 16 - (per_octave - 1).bit_length()
    octaves = [np.arange(per_octave, 2 * per_octave) << shift for shift in range(n_octaves)]
    return np.concatenate([np.arange(per_octave), *octaves])


def _bin_of_count(firsts: NDArray[np.intp]) -> NDArray[np.uint16]:
    """The bin of each of the 65,536 counts."""
    bins = np.searchsorted(firsts, np.arange(N_COUNTS), side="right") - 1
    return bins.astype(np.uint16)


def _residual_bounds() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The lowest and the highest residual of each bin: -65535 … -1, 0, 1 … 65535, in counts."""
    firsts = _first_counts(32)[1:]
    lasts = np.append(firsts[1:], N_COUNTS) - 1
    return np.concatenate([-lasts[::-1], [0], firsts]), np.concatenate([-firsts[::-1], [0], lasts])


_PAINTED_BIN, _NEARBY_BIN = _bin_of_count(_first_counts(8)), _bin_of_count(_first_counts(4))
_LOWEST, _HIGHEST = _residual_bounds()
_RESIDUAL_BIN = np.repeat(np.arange(len(_LOWEST)), _HIGHEST - _LOWEST + 1)
_SHAPE = (int(_PAINTED_BIN[-1]) + 1, int(_NEARBY_BIN[-1]) + 1, len(_LOWEST))
_N_CELLS = int(np.prod(_SHAPE))
