"""Small things done to label images: (Y, X) int32, 0 for the ground, from 1 for objects."""

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int32]


def consecutive(labels: Labels) -> Labels:
    """The same objects in the same order, numbered from 1 without gaps."""
    return kept(labels, np.bincount(labels.ravel()) > 0)


def kept(labels: Labels, keep: NDArray[np.bool_]) -> Labels:
    """The objects whose numbers *keep* is true at, numbered anew from 1 without gaps. *keep* has a place for 0, which stays the ground."""
    return renumbering(keep)[labels]


def renumbering(keep: NDArray[np.bool_]) -> Labels:
    """A table from old numbers to new ones, as `kept` gives them."""
    chosen = keep.copy()
    chosen[0] = False
    return np.where(chosen, np.cumsum(chosen), 0).astype(np.int32)


def on_frame(labels: Labels) -> NDArray[np.bool_]:
    """For each number from 0 whether the object has a pixel on the image's outermost rows and columns."""
    touching = np.zeros(labels.max() + 1, dtype=bool)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        touching[edge] = True
    return touching
