"""Augmentations that make one microscope's planes look like another's."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from adipocyte.imaging.planes import between

Planes = NDArray[np.float32]  # (Z, Y, X)
Change = Callable[[Planes, float, np.random.Generator], Planes]

_P = 0.5  # probability of each change
_STEP = (0.7, 1.3)  # of the z-step, as a factor
_OFFSET = 1.2  # of the z-window, in planes, either way
_NOISE = 0.4  # most noise (standard deviation), in network units


def changes_of(augmentations: str) -> tuple[Change, ...]:
    """The changes of a way of *augmentations*.

    "report" has none. "microscope" has CHANGES: another z-step and z-offset; and noise, a part of
    which grows with the light. "any_planes" has fewer planes before these, as few as one.
    """
    if augmentations == "report":
        return ()
    return (*[fewer_planes] * (augmentations == "any_planes"), *CHANGES.values())


def as_other_microscope(
    planes: Planes, ground: float, random: np.random.Generator, changes: Sequence[Change]
) -> Planes:
    """*planes* as another microscope might have taken them: each of *changes* or not, at random.

    planes: (Z, Y, X) in network units, in which the dark is at -*ground*. Returns (Z, Y, X).
    """
    for change in changes:
        if random.random() < _P:
            planes = change(planes, ground, random)
    return planes


def fewer_planes(planes: Planes, _: float, random: np.random.Generator) -> Planes:
    """As many planes, but between fewer, which lie at equal distances in a part of the stack."""
    n = len(planes)
    first, last = np.sort(random.integers(0, n, 2))
    taken = np.unique(np.linspace(first, last, random.integers(1, n + 1)).round().astype(int))
    return between(planes[taken], np.linspace(0, len(taken) - 1, n))


def _z_window(planes: Planes, _: float, random: np.random.Generator) -> Planes:
    n = len(planes)
    middle = (n - 1) / 2
    places = middle + random.uniform(*_STEP) * (np.arange(n) - middle)
    return between(planes, places + random.uniform(-_OFFSET, _OFFSET))


def _noise(planes: Planes, ground: float, random: np.random.Generator) -> Planes:
    sigma = np.float32(random.uniform(0, _NOISE))
    noise = random.standard_normal(planes.shape, dtype=np.float32)
    if ground > 0 and random.random() < 0.5:  # shot noise, and else read noise
        noise *= np.sqrt(np.maximum(planes / np.float32(ground) + 1, 0))
    return planes + sigma * noise


# Those that earned their place, docs/measurements/shift.md.
CHANGES: dict[str, Change] = {"z-window": _z_window, "noise": _noise}
