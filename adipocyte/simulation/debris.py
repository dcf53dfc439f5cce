"""Debris: bits of dead cells and dust on the culture, smaller than nuclei. Lengths are in µm."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BITS_PER_UM2 = 1 / 7000
GLOWING_SHARE = 0.4


@dataclass(frozen=True)
class Bit:
    """One bit of debris: a clump of balls."""

    balls_um: NDArray[np.float64]  # (N, 4): z, y, x, radius
    index_step: float  # difference of refractive index to its surroundings
    glow: tuple[float, float, float]  # autofluorescence in A1, A2 and A3


def draw_debris(size_um: tuple[float, float], rng: np.random.Generator) -> list[Bit]:
    """Scatter debris over a rectangle (height, width)."""
    n = rng.poisson(size_um[0] * size_um[1] * BITS_PER_UM2)
    return [_draw_bit(rng.uniform(0, size_um), rng) for _ in range(n)]


def _draw_bit(centre_um: NDArray, rng: np.random.Generator) -> Bit:
    radius_um = rng.uniform(0.35, 1.1)
    n = rng.integers(1, 5)
    z_um = rng.uniform(1, 11)
    offset_um = rng.normal(0, radius_um, (n, 2))
    radii_um = radius_um * rng.uniform(0.5, 1.0, n)
    balls_um = np.column_stack([np.full(n, z_um), centre_um + offset_um, radii_um])
    # Autofluorescence is broad, so one bit is visible in all three stains, but not equally.
    brightness = rng.lognormal(0, 0.6) if rng.random() < GLOWING_SHARE else 0.0
    index_step = float(rng.choice((-1, 1)) * rng.uniform(0.08, 0.16))
    a1, a2, a3 = brightness * rng.uniform(0.2, 1.0, 3)
    return Bit(balls_um, index_step, glow=(a1, a2, a3))
