"""Intervals that hold the true count of a pixel, at a level that is reached over wells.

Pixels that are painted alike make a group. How far the interval of a group reaches is learnt from
the truths of its pixels: it ends where they become rare.

The pixels of a well are not independent, so wells are counted, and not pixels. They are taken to be
exchangeable, and one more, that is worse than any that was seen, is counted with them.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from adipocyte.errors import ConfigError, ImageError
from adipocyte.imaging.histograms import N_COUNTS, apply_table

LEVEL = 0.9
FEWEST_WELLS = 2  # because what judges a well is learnt from others
WORST = 0.25  # the share of its pixels that a well is taken to have outside at most
_SMALLEST = 1 / 256  # the least share of all pixels that make a group
# How rare truths are where an interval ends: the share of a group's pixels in a stretch as long as
# that in which its middle eight tenths lie.
RARITIES = np.geomspace(2, 1e-5, 160)
# Bins to double a painted count, and to double a residual.
_PAINTED_PER_OCTAVE, _RESIDUALS_PER_OCTAVE = 8, 32


@dataclass(frozen=True, eq=False)
class Widths:
    """How far intervals reach below and above what is painted, for one magnification and target.

    `starts` (groups,) uint16 are the lowest painted counts of the groups, rising from 0. `below`
    and `above` (rarities, groups) uint16 are in counts, the shortest first. `risk` (rarities,)
    float64 is the share of a new well's pixels that is to be expected outside; `n_wells` (1,) int64
    says how many wells taught that.

    Raises ValueError when they do not fit each other, as in a file that was made by other code.
    """

    starts: NDArray[np.uint16]
    below: NDArray[np.uint16]
    above: NDArray[np.uint16]
    risk: NDArray[np.float64]
    n_wells: NDArray[np.int64]

    def __post_init__(self) -> None:
        n_groups = self.starts.size
        forms = {
            "starts": (np.uint16, (n_groups,)),
            "below": (np.uint16, (len(RARITIES), n_groups)),
            "above": (np.uint16, (len(RARITIES), n_groups)),
            "risk": (np.float64, (len(RARITIES),)),
            "n_wells": (np.int64, (1,)),
        }
        for name, (dtype, shape) in forms.items():
            table = getattr(self, name)
            if (table.dtype, table.shape) != (dtype, shape):
                raise ValueError(
                    f"{name} is {table.dtype} of shape {table.shape}, "
                    f"not {np.dtype(dtype)} of {shape}"
                )
        if not n_groups or self.starts[0] or (self.starts[1:] <= self.starts[:-1]).any():
            raise ValueError("starts do not rise from 0")

    @property
    def tables(self) -> dict[str, NDArray]:
        """By name what it is made of: `Widths(**tables)` is the same again."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def highest_level(self) -> float:
        """The highest level that the wells support: with k of them at most 1 - WORST / (k + 1)."""
        return 1 - float(self.risk.min())

    def rarity(self, level: float) -> int:
        """Which of RARITIES reaches *level*: the first whose risk is at most 1 - level.

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
        self, painted: NDArray[np.uint16], level: float = LEVEL
    ) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        """The lowest and the highest true count to be expected at each pixel of *painted*.

        painted: any shape, in counts. Returns two of its shape, in counts; low <= painted <= high.

        The share of a new well's pixels whose truth lies inside is *level* or more on average, if
        it is exchangeable with the k wells that this was learnt from, and if no well has more than
        WORST outside: the risk is (the sum of the k wells' shares outside + WORST) / (k + 1)
        (Angelopoulos et al. 2024, "Conformal risk control", equation 4, with wells as samples and B
        = WORST; with B = 1 it is HCP of Lee, Barber & Willett 2023, "Distribution-free inference
        with hierarchical data"). If one of the k has more outside, its share takes the place of
        WORST. The theorem asks for widths that were learnt from other wells than the k; here each
        well is judged by what the others teach, and what all teach is used (cross-conformal: Vovk
        2015).

        Raises ConfigError as `rarity` does.
        """
        rarity, counts = self.rarity(level), np.arange(N_COUNTS)
        groups = np.searchsorted(self.starts, counts, side="right") - 1
        low = np.maximum(counts - self.below[rarity][groups], 0)
        high = np.minimum(counts + self.above[rarity][groups], N_COUNTS - 1)
        return (
            apply_table(low.astype(np.uint16), painted),
            apply_table(high.astype(np.uint16), painted),
        )


class Residuals:
    """Counts by how much truths differ from painted images, well by well.

    It takes less than a MB for each well, however many pixels are noted.
    """

    def __init__(self) -> None:
        # How many pixels of a well have each bin of painted count and each bin of residual.
        self._wells: dict[str, NDArray[np.int64]] = {}

    @property
    def n_wells(self) -> int:
        return len(self._wells)

    def note(self, well: str, painted: NDArray[np.uint16], truth: NDArray[np.uint16]) -> None:
        """Add a *painted* image of a *well* and its *truth*, both in counts and of any shape.

        Raises ImageError if the shapes differ.
        """
        if painted.shape != truth.shape:
            raise ImageError(
                f"the painted image has shape {painted.shape}, the truth {truth.shape}",
                "give the same part of the field",
            )
        n_painted, n_residuals = len(_PAINTED_FIRSTS), len(_LOWEST)
        residuals = truth.astype(np.int32) - painted + (N_COUNTS - 1)
        bins = _PAINTED_BIN[painted] * n_residuals + _RESIDUAL_BIN[residuals]
        pixels = np.bincount(bins.ravel(), minlength=n_painted * n_residuals)
        before = self._wells.get(well, 0)
        self._wells[well] = before + pixels.reshape(n_painted, n_residuals)

    def fit(self) -> Widths:
        """What the noted wells teach; their order does not matter, and each counts as much.

        Raises ImageError if fewer than FEWEST_WELLS have been noted.
        """
        if self.n_wells < FEWEST_WELLS:
            raise ImageError(
                f"intervals are to be learnt from {self.n_wells} wells",
                f"note at least {FEWEST_WELLS}, because each is judged by what the others teach",
            )
        wells = np.stack([n / n.sum() for _, n in sorted(self._wells.items())])
        firsts = _groups(wells.mean(axis=0).sum(axis=1))
        spread = np.add.reduceat(wells, firsts, axis=1)  # (wells, groups, residuals)
        total = spread.sum(axis=0)
        outside = np.stack([_outside(own, _ends(total - own)) for own in spread])
        risk = (outside.sum(axis=0) + outside.max(axis=0).clip(WORST)) / (len(wells) + 1)
        below, above = _REACHES[_ends(total)].astype(np.uint16)
        starts = _PAINTED_FIRSTS[firsts].astype(np.uint16)
        return Widths(starts, below, above, risk, np.array([len(wells)]))


def _groups(shares: NDArray[np.float64]) -> list[int]:
    """The first bins of groups of neighbours that have _SMALLEST of the pixels each, or more.

    *shares* are those of the bins.
    """
    firsts, gathered = [0], 0.0
    for place, share in enumerate(shares):
        if gathered >= _SMALLEST:
            firsts.append(place)
            gathered = 0.0
        gathered += share
    return firsts if gathered >= _SMALLEST or len(firsts) == 1 else firsts[:-1]


def _ends(spread: NDArray[np.float64]) -> NDArray[np.intp]:
    """After how many bins of residuals intervals end, (below and above, rarities, groups).

    *spread* (groups, residuals) says where the pixels are. An interval ends where a longer one
    would hold fewer pixels for its length than the rarity says. That makes it the shortest for what
    it holds (Lei & Wasserman 2014, "Distribution-free prediction bands for non-parametric
    regression", section 2), but that each group measures length by its own: with one length for
    all, intervals would hold nearly all of the ground, and little of what is bright.
    """
    n, below = spread.sum(axis=1), np.cumsum(spread, axis=1)
    first, last = (np.argmax(below > share * n[:, None], axis=1) for share in (0.1, 0.9))
    density = n / (_HIGHEST[last] - _LOWEST[first] + 1)
    beyond = _beyond(spread)
    ends = [
        np.argmin(_REACHES * (rarity * density[:, None]) + beyond, axis=2) for rarity in RARITIES
    ]
    return np.maximum.accumulate(np.stack(ends, axis=1), axis=1)


def _beyond(spread: NDArray[np.float64]) -> NDArray[np.float64]:
    """How many pixels lie beyond so many bins, (below and above, groups, bins from 0 on)."""
    below, above = spread[:, :_ZERO], spread[:, :_ZERO:-1]
    beyond = [np.cumsum(side, axis=1)[:, ::-1] for side in (below, above)]
    return np.pad(np.stack(beyond), ((0, 0), (0, 0), (0, 1)))


def _outside(own: NDArray[np.float64], ends: NDArray[np.intp]) -> NDArray[np.float64]:
    """The share of a well's pixels that lie beyond *ends*, by rarity.

    *own* (groups, residuals) is where all its pixels are.
    """
    beyond = np.take_along_axis(_beyond(own), ends.transpose(0, 2, 1), axis=2)
    return np.asarray(beyond.sum(axis=(0, 1)), np.float64)


def _first_counts(per_octave: int) -> NDArray[np.intp]:
    """The first count of each bin: one count each below *per_octave*, then so many bins to double.

    *per_octave* is a power of two.
    """
    n_octaves = 17 - per_octave.bit_length()
    octaves = [np.arange(per_octave, 2 * per_octave) << shift for shift in range(n_octaves)]
    return np.concatenate([np.arange(per_octave), *octaves])


def _residual_bounds() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The lowest and the highest residual of each bin: -65535 … -1, 0, 1 … 65535, in counts."""
    firsts = _first_counts(_RESIDUALS_PER_OCTAVE)[1:]
    lasts = np.append(firsts[1:], N_COUNTS) - 1
    return np.concatenate([-lasts[::-1], [0], firsts]), np.concatenate([-firsts[::-1], [0], lasts])


_PAINTED_FIRSTS = _first_counts(_PAINTED_PER_OCTAVE)
_PAINTED_BIN = np.searchsorted(_PAINTED_FIRSTS, np.arange(N_COUNTS), side="right") - 1
_LOWEST, _HIGHEST = _residual_bounds()
_RESIDUAL_BIN = np.repeat(np.arange(len(_LOWEST)), _HIGHEST - _LOWEST + 1)
_ZERO = len(_LOWEST) // 2  # the bin of the residual 0
_REACHES = _HIGHEST[_ZERO:]  # of so many bins, below 0 as above it
