"""Operations on label images: (Y, X) int32, 0 for the ground, objects from 1."""

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int32]


def consecutive(labels: Labels) -> Labels:
    """The same objects in the same order, numbered from 1 without gaps."""
    return kept(labels, np.bincount(labels.ravel()) > 0)


def kept(labels: Labels, keep: NDArray[np.bool_]) -> Labels:
    """The objects that *keep* has True for, renumbered from 1 without gaps.

    *keep* is indexed by number, and the ground, 0, stays the ground.
    """
    return renumbering(keep)[labels]


def renumbering(keep: NDArray[np.bool_]) -> Labels:
    """A table from old numbers to new ones, as `kept` gives them."""
    chosen = keep.copy()
    chosen[0] = False
    return np.where(chosen, np.cumsum(chosen), 0).astype(np.int32)


def on_frame(labels: Labels) -> NDArray[np.bool_]:
    """For each number from 0: whether the object has a pixel in an outermost row or column."""
    touching = np.zeros(labels.max() + 1, dtype=bool)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        touching[edge] = True
    return touching
