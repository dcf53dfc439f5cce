"""Images that tests of several modules make."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def counts(light: NDArray) -> NDArray[np.uint16]:
    """*light* as a camera without noise counts it."""
    return np.clip(np.rint(light), 0, 65535).astype(np.uint16)


def noisy(light: NDArray, electrons_per_count: float = 1.0) -> NDArray[np.uint16]:
    """*light* in counts, with Poisson noise."""
    electrons = np.random.default_rng(1).poisson(light * electrons_per_count)
    return counts(electrons / electrons_per_count)


def grid(shape: tuple[int, ...]) -> list[NDArray]:
    """y and x from -1 to 1 over an image."""
    return np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")


def smooth_noise(
    shape_px: tuple[int, int], seed: int, grain_px: float = 2.0
) -> NDArray[np.float64]:
    """Noise with grains of about *grain_px*, of standard deviation 1."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape_px), grain_px)
    return noise / noise.std()
