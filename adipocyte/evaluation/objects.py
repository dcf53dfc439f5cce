"""Objects of the true stain found again in the painted one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adipocyte.errors import ImageError


@dataclass(frozen=True)
class ObjectPairs:
    """Areas in pixels of the objects in both images, `truth_px` and `painted_px`, (N,) each.

    `n_missed` are in the truth alone, `n_spurious` in the painting alone.
    """

    truth_px: NDArray[np.int64]
    painted_px: NDArray[np.int64]
    n_missed: int
    n_spurious: int


@dataclass(frozen=True)
class Agreement:
    """How well `n` pairs of values agree; nan where there are too few, or nothing varies.

    `pearson` is the correlation; `concordance` is Lin's coefficient (1989), which also asks for the
    same values; `bias` is the mean of painted - true, and 95 % of these differences should lie
    between `low` and `high` (Bland & Altman 1986), all three in the values' unit.
    """

    n: int
    pearson: float
    concordance: float
    bias: float
    low: float
    high: float


def match_objects(truth: NDArray[np.int32], painted: NDArray[np.int32]) -> ObjectPairs:
    """Pair the objects of two label images, (Y, X), 0 for background, in order of the true labels.

    An object is found when a painted one overlaps it with an intersection over union of more than
    1/2. At most one painted object can do so (Kirillov et al. 2019, "Panoptic segmentation",
    theorem 1), so there is no choice to make.

    Raises ImageError when the images differ in shape.
    """
    if truth.shape != painted.shape:
        raise ImageError(
            f"label images of {truth.shape} and {painted.shape} pixels",
            "objects are matched within one field; give both images of it",
        )
    truth_px, painted_px = np.bincount(truth.ravel()), np.bincount(painted.ravel())
    shared = (truth > 0) & (painted > 0)
    codes, overlap_px = np.unique(
        truth[shared].astype(np.int64) * len(painted_px) + painted[shared], return_counts=True
    )
    true_label, painted_label = np.divmod(codes, len(painted_px))
    pairs_px = np.stack([truth_px[true_label], painted_px[painted_label]])
    # i / (a + b - i) > 1/2, in whole numbers
    truth_found_px, painted_found_px = pairs_px[:, 3 * overlap_px > pairs_px.sum(axis=0)]
    return ObjectPairs(
        truth_found_px,
        painted_found_px,
        n_missed=int(np.count_nonzero(truth_px[1:])) - len(truth_found_px),
        n_spurious=int(np.count_nonzero(painted_px[1:])) - len(painted_found_px),
    )


def joined(pairs: Sequence[ObjectPairs]) -> ObjectPairs:
    """The objects of several fields as if of one."""
    none = np.empty(0, dtype=np.int64)
    return ObjectPairs(
        np.concatenate([none, *(found.truth_px for found in pairs)]),
        np.concatenate([none, *(found.painted_px for found in pairs)]),
        n_missed=sum(found.n_missed for found in pairs),
        n_spurious=sum(found.n_spurious for found in pairs),
    )


def f1(pairs: ObjectPairs) -> float:
    """The harmonic mean of precision and recall; nan where there are no objects at all."""
    n_found = len(pairs.truth_px)
    n_all = 2 * n_found + pairs.n_missed + pairs.n_spurious
    return 2 * n_found / n_all if n_all else float("nan")


def agreement(truth: ArrayLike, painted: ArrayLike) -> Agreement:
    """Compare paired values, (N,) each, in any unit, without pairs that have nan or infinity."""
    values = np.stack([np.asarray(truth, dtype=np.float64), np.asarray(painted, dtype=np.float64)])
    true, found = values = values[:, np.isfinite(values).all(axis=0)]
    n, differences = len(true), found - true
    if n == 0:
        return Agreement(0, *[float("nan")] * 5)
    bias = float(differences.mean())
    spread = float(differences.std(ddof=1)) if n > 1 else float("nan")
    (var_true, covariance), (_, var_found) = np.cov(values, ddof=0)
    scale, reach = np.sqrt(var_true * var_found), var_true + var_found + bias**2
    return Agreement(
        n,
        pearson=float(covariance / scale) if scale > 0 else float("nan"),
        concordance=float(2 * covariance / reach) if n > 1 and reach > 0 else float("nan"),
        bias=bias,
        low=bias - 1.96 * spread,
        high=bias + 1.96 * spread,
    )
