"""Planes between planes: a focus series at other places along z."""

import numpy as np
from numpy.typing import NDArray


def between(planes: NDArray[np.float32], places: NDArray) -> NDArray[np.float32]:
    """The planes of a stack (Z, Y, X) at *places*, (N,), in planes from the first: (N, Y, X).

    Each is between its nearest two, linearly; beyond the ends it is the plane at the end.
    """
    places = np.clip(places, 0, len(planes) - 1)
    below = np.minimum(places.astype(int), max(len(planes) - 2, 0))
    above = np.minimum(below + 1, len(planes) - 1)
    part = (places - below).astype(np.float32)[:, None, None]
    return planes[below] + part * (planes[above] - planes[below])


def as_many(planes: NDArray[np.uint16], n: int) -> NDArray[np.uint16]:
    """A stack (Z, Y, X) in counts as *n* planes at equal distances, from its first to its last."""
    if len(planes) == n:
        return planes
    stack = np.empty((n, *planes.shape[1:]), dtype=np.uint16)
    for plane, place in zip(stack, np.linspace(0, len(planes) - 1, n), strict=True):
        # Of two planes at a time, because a whole stack in float32 takes twice the memory.
        first = int(place)
        pair = planes[first : first + 2].astype(np.float32)
        np.rint(between(pair, np.array([place - first]))[0], out=plane, casting="unsafe")
    return stack
