"""Augmentations that make one microscope's planes look like another's."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from adipocyte.imaging.planes import between

Planes = NDArray[np.float32]  # (Z, Y, X)
Change = Callable[[Planes, float, np.random.Generator], Planes]

_P = 0.5  # probability of each change
_STEP = (0.7, 1.3)  # of the z-step, as a factor
_OFFSET = 1.2  # of the z-window, in planes, either way
_BLUR_PX = 0.5  # most blur (a Gaussian's sigma) for each plane of distance from the sharpest
_LIGHT = 0.35  # most that the light rises or falls over a patch, as a share
_GAMMA = (0.8, 1.25)
_CONTRAST = 0.25  # standard deviation of the logarithm of a factor on what varies
_LEVEL = 0.25  # standard deviation of what is added, in network units
_NOISE = 0.4  # most noise (standard deviation), in network units


def changes_of(augmentations: str) -> tuple[Change, ...]:
    """The changes of a way of *augmentations*.

    "report" has none. "microscope" has CHANGES: another z-step and z-offset; planes that are
    missing, their neighbours in their place; blur that grows with the distance from one plane;
    light that is uneven; gamma; contrast and level; noise, a part of which grows with the light.
    "any_planes" has fewer planes before these, as few as one.
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


def _missing(planes: Planes, _: float, random: np.random.Generator) -> Planes:
    if len(planes) == 1:
        return planes
    source = np.arange(len(planes))
    n_missing = random.integers(1, max(len(planes) // 2, 2))
    for gone in random.choice(len(planes), n_missing, replace=False):
        neighbours = [z for z in (gone - 1, gone + 1) if 0 <= z < len(planes)]
        source[gone] = random.choice(neighbours)
    return planes[source]


def _defocus(planes: Planes, _: float, random: np.random.Generator) -> Planes:
    sharpest, growth_px = random.uniform(-1, len(planes)), random.uniform(0, _BLUR_PX)
    sigmas_px = growth_px * np.abs(np.arange(len(planes)) - sharpest)
    return np.stack(
        [
            cv2.GaussianBlur(plane, (0, 0), sigma) if sigma > 0.2 else plane
            for plane, sigma in zip(planes, sigmas_px, strict=True)
        ]
    )


def _uneven_light(planes: Planes, ground: float, random: np.random.Generator) -> Planes:
    height, width = planes.shape[1:]
    y, x = (np.linspace(-0.5, 0.5, n, dtype=np.float32) for n in (height, width))
    turn, rise = random.uniform(0, 2 * np.pi), np.float32(random.uniform(0, _LIGHT))
    slope = rise * (np.float32(np.sin(turn)) * y[:, None] + np.float32(np.cos(turn)) * x)
    bowl = np.float32(random.uniform(-_LIGHT, _LIGHT)) * (y[:, None] ** 2 + x**2 - 1 / 6)
    return planes + (planes + np.float32(ground)) * (slope + bowl)


def _gamma(planes: Planes, ground: float, random: np.random.Generator) -> Planes:
    """Light to a power; the light of an empty place stays as it is, and so does its slope."""
    if ground <= 0:
        return planes  # there is no dark to measure from
    power, light = np.float32(random.uniform(*_GAMMA)), np.maximum(planes / ground + 1, 0)
    return (light**power - 1) * np.float32(ground / power)


def _contrast(planes: Planes, _: float, random: np.random.Generator) -> Planes:
    factor = np.float32(np.exp(_CONTRAST * random.standard_normal()))
    return planes * factor + np.float32(_LEVEL * random.standard_normal())


def _noise(planes: Planes, ground: float, random: np.random.Generator) -> Planes:
    sigma = np.float32(random.uniform(0, _NOISE))
    noise = random.standard_normal(planes.shape, dtype=np.float32)
    if ground > 0 and random.random() < 0.5:  # shot noise, and else read noise
        noise *= np.sqrt(np.maximum(planes / np.float32(ground) + 1, 0))
    return planes + sigma * noise


CHANGES: dict[str, Change] = {
    "z-window": _z_window,
    "missing planes": _missing,
    "defocus": _defocus,
    "uneven light": _uneven_light,
    "gamma": _gamma,
    "contrast": _contrast,
    "noise": _noise,
}
