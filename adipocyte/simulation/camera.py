"""From light to counts: gain and offset, uneven illumination, shot and read noise."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage import transform


@dataclass(frozen=True)
class Exposure:
    """Counts per unit of light, counts in the dark, and noise.

    The noise depends on the electrons per count, and on the read noise in counts.
    """

    gain: float
    offset: float
    electrons_per_count: float
    read_noise: float


SENSOR = 6  # the seed of the one camera that takes every image
_SATURATED = 0.0035
HOT_PIXEL_SHARE = 4e-6  # two dozen in a full field

# Set on many fields, none of them chosen, so that mean and standard deviation over many fields are
# those of the challenge's plates.
EXPOSURES = {
    20: {
        "brightfield": Exposure(gain=2668, offset=0, electrons_per_count=1.0, read_noise=8),
        "A1": Exposure(gain=1950, offset=226, electrons_per_count=0.5, read_noise=8),
        "A2": Exposure(gain=1110, offset=56, electrons_per_count=1.0, read_noise=8),
        "A3": Exposure(gain=588, offset=301, electrons_per_count=1.0, read_noise=8),
    },
    40: {
        "brightfield": Exposure(gain=723, offset=0, electrons_per_count=3.0, read_noise=3),
        "A1": Exposure(gain=1690, offset=187, electrons_per_count=0.5, read_noise=8),
        "A2": Exposure(gain=1035, offset=31, electrons_per_count=1.0, read_noise=8),
        "A3": Exposure(gain=340, offset=172, electrons_per_count=1.5, read_noise=5),
    },
    60: {
        "brightfield": Exposure(gain=531, offset=0, electrons_per_count=4.0, read_noise=3),
        "A1": Exposure(gain=1445, offset=151, electrons_per_count=0.5, read_noise=8),
        "A2": Exposure(gain=2040, offset=120, electrons_per_count=0.8, read_noise=8),
        "A3": Exposure(gain=292, offset=140, electrons_per_count=2.0, read_noise=4),
    },
}


def draw_illumination(
    shape_px: tuple[int, int], depth: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Light over an image, (Y, X), with a mean of about 1.

    It is a bowl *depth* deep; its middle is near the image's.
    """
    y, x = (
        np.linspace(-1, 1, n, dtype=np.float32) - np.float32(rng.normal(0, 0.2)) for n in shape_px
    )
    bowl = y[:, None] ** 2 + x[None, :] ** 2
    return 1.0 - np.float32(depth) * (0.5 * bowl - np.float32(1 / 3))


def add_hot_pixels(image: NDArray[np.uint16]) -> None:
    """Brighten the sensor's hot pixels, in place.

    They are the same in every image of a size, at any light.
    """
    rng = np.random.default_rng(SENSOR)
    n = rng.poisson(image.size * HOT_PIXEL_SHARE)
    y, x = rng.integers(0, image.shape[0], n), rng.integers(0, image.shape[1], n)
    charge = np.minimum(rng.lognormal(np.log(4000), 0.6, n), 24000)
    image[y, x] = np.minimum(image[y, x] + charge, 65535).astype(np.uint16)


def expose(
    light: NDArray[np.float32], exposure: Exposure, rng: np.random.Generator
) -> NDArray[np.uint16]:
    """Counts of an image of light.

    Shot noise is Gaussian with the variance of Poisson's law, because there are always many
    electrons.
    """
    counts = np.float32(exposure.gain) * light
    shot_variance = np.maximum(counts, 0) / exposure.electrons_per_count
    variance = shot_variance + np.float32(exposure.read_noise**2)
    counts += np.float32(exposure.offset)
    noise = rng.standard_normal(light.shape, dtype=np.float32)
    counts += np.sqrt(variance, dtype=np.float32) * noise
    return np.clip(np.rint(counts), 0, 65535).astype(np.uint16)


def resized(planes: NDArray[np.uint16], coarseness: float) -> NDArray[np.uint16]:
    """Planes, (Z, Y, X), as if of pixels *coarseness* times as large, and enlarged again."""
    coarse_px = [max(round(side / coarseness), 1) for side in planes.shape[1:]]
    enlarged = np.empty(planes.shape, dtype=np.uint16)
    for plane, new in zip(planes.astype(np.float32), enlarged, strict=True):
        coarse = transform.resize(plane, coarse_px, order=1, anti_aliasing=True)
        new[...] = np.rint(transform.resize(coarse, plane.shape, order=1, mode="edge"))
    return enlarged


def in_eight_bits(planes: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Planes, (Z, Y, X), as viewers save them: 0 to 255 over all but the outermost counts.

    These saturate, .35 % of all pixels, as by default in ImageJ.
    """
    lowest, highest = np.quantile(planes, (_SATURATED / 2, 1 - _SATURATED / 2))
    share = (planes - lowest) / max(highest - lowest, 1.0)
    return np.rint(255 * np.clip(share, 0, 1)).astype(np.uint16)
