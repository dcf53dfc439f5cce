"""Fields as they might have come: another lamp, noise, focus, or objective."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from adipocyte.imaging.planes import between

_MOST_CHANGES = 2  # of one field
_EXPOSURE = 10.0  # most of it, as a factor up or down
_DARK_LEVEL = 0.5  # most that is added to all counts, in parts of the mean; half of it is taken off
_NOISE = 1.0  # most (standard deviation), in standard deviations of the planes
_BLUR_PX = 4.0  # widest sigma
_Z_STEP, _Z_OFFSET = (-1.0, 0.5), 3.0  # natural logarithm of the factor; most in planes, either way
_REPEATED = 4  # most planes in whose place the one before comes again
_CORNERS = 0.9  # most light that is missing in the corners
_SCALE = 1.5  # of the image, as a factor up or down


class Field(NamedTuple):
    """The `planes` (Z, Y, X) and `stains` (T, Y, X) of a field, float32, in counts."""

    planes: NDArray[np.float32]
    stains: NDArray[np.float32]


# What changes a field, by a strength from 0 to 1.
Change = Callable[[Field, float, np.random.Generator], Field]


def spoil(
    planes: NDArray[np.uint16], stains: NDArray[np.uint16], random: np.random.Generator
) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """A field as it might have come: one or two of CHANGES, each of any strength.

    planes: (Z, Y, X); stains: (T, Y, X), sharp and in the same frame; both in counts. Returns two
    of the same shapes. Stains change only with the scale of the image.
    """
    field = Field(planes.astype(np.float32), stains.astype(np.float32))
    for at in random.choice(len(CHANGES), random.integers(1, _MOST_CHANGES + 1), replace=False):
        field = CHANGES[at](field, random.uniform(), random)
    of_planes, of_stains = (np.clip(np.rint(one), 0, 65535).astype(np.uint16) for one in field)
    return of_planes, of_stains


def _exposure(field: Field, strength: float, random: np.random.Generator) -> Field:
    sign = random.choice([-1, 1])
    return field._replace(planes=field.planes * np.float32(_EXPOSURE ** (sign * strength)))


def _dark_level(field: Field, strength: float, random: np.random.Generator) -> Field:
    share = random.choice([-0.5, 1]) * strength * _DARK_LEVEL
    return field._replace(planes=field.planes + np.float32(share) * field.planes.mean())


def _noise(field: Field, strength: float, random: np.random.Generator) -> Field:
    noise = random.standard_normal(field.planes.shape, dtype=np.float32)
    return field._replace(
        planes=field.planes + np.float32(strength * _NOISE) * field.planes.std() * noise
    )


def _blur(field: Field, strength: float, _: np.random.Generator) -> Field:
    sigma_px = strength * _BLUR_PX
    return field._replace(planes=ndimage.gaussian_filter(field.planes, sigma_px, axes=(1, 2)))


def _z_window(field: Field, strength: float, random: np.random.Generator) -> Field:
    n = len(field.planes)
    middle, step = (n - 1) / 2, np.exp(strength * random.uniform(*_Z_STEP))
    offset = strength * random.uniform(-_Z_OFFSET, _Z_OFFSET)
    places = middle + step * (np.arange(n) - middle) + offset
    return field._replace(planes=between(field.planes, places))


def _repeated(field: Field, strength: float, random: np.random.Generator) -> Field:
    taken = np.arange(len(field.planes))
    for _ in range(1 + int(strength * (_REPEATED - 1))):
        at = random.integers(len(taken))
        taken[at] = taken[max(at - 1, 0)]
    return field._replace(planes=field.planes[taken])


def _slope(field: Field, strength: float, _: np.random.Generator) -> Field:
    across = np.linspace(-0.5, 0.5, field.planes.shape[2], dtype=np.float32)
    return field._replace(planes=field.planes * (1 + np.float32(strength) * across))


def _bowl(field: Field, strength: float, _: np.random.Generator) -> Field:
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in field.planes.shape[1:])
    missing = np.float32(strength * _CORNERS / 2) * (y[:, None] ** 2 + x[None, :] ** 2)
    return field._replace(planes=field.planes * (1 - missing))


def _scale(field: Field, strength: float, random: np.random.Generator) -> Field:
    """Larger or smaller around the middle; beyond its border the image is mirrored."""
    factor = _SCALE ** (random.choice([-1, 1]) * strength)
    middle = (np.array(field.planes.shape[1:]) - 1) / 2

    def scaled(image: NDArray[np.float32]) -> NDArray[np.float32]:
        offset = middle - middle / factor
        return ndimage.affine_transform(image, [1 / factor] * 2, offset, order=1, mode="mirror")

    return Field(*(np.stack([scaled(image) for image in images]) for images in field))


CHANGES: tuple[Change, ...] = (
    _exposure,
    _dark_level,
    _noise,
    _blur,
    _z_window,
    _repeated,
    _slope,
    _bowl,
    _scale,
)
