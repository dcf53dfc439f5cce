"""Microscopes: an objective, the light through it, and the cameras' counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from adipocyte.domain import as_in_challenge
from adipocyte.simulation.camera import EXPOSURES, Exposure
from adipocyte.simulation.optics import CELLS_MIDDLE_UM, OBJECTIVES, Optics

_LARGEST_APERTURE = 1.2  # beyond, light would leave the medium at more than a right angle
_SPECK_RADIUS_PX = (3.0, 14.0)
_SPECK_DARKNESS = (0.05, 0.4)  # the share of the light that a speck takes


@dataclass(frozen=True)
class Instrument:
    """A microscope with one objective.

    optics: how the objective and its focus series image, see `optics.Optics`.
    exposures: counts of "brightfield", "A1", "A2" and "A3", see `camera.Exposure`.
    bowl: how much light falls towards the corners, as a share (see `camera.draw_illumination`).
    slope: by what share the light of brightfield differs between the left and the right border.
    specks: of dust near the camera, as many, the same in every plane.
    tilt_um: by how much the focus differs between the left and the right border.
    coarseness: brightfield was taken with pixels larger by this factor, and its files were resized.
    is_eight_bit: brightfield's files hold 0 to 255, stretched (see `camera.in_eight_bits`).
    """

    optics: Optics
    exposures: Mapping[str, Exposure]
    bowl: float = 0.1
    slope: float = 0.0
    specks: int = 0
    tilt_um: float = 0.0
    coarseness: float = 1.0
    is_eight_bit: bool = False


INSTRUMENTS = {
    magnification: Instrument(
        optics, EXPOSURES[as_in_challenge(magnification, optics.um_per_px)[0]]
    )
    for magnification, optics in OBJECTIVES.items()
}


def draw_instrument(magnification: int, seed: int | Sequence[int]) -> Instrument:
    """Another microscope with an objective of this *magnification*; the same seed gives the same.

    The ranges are plausible, not measured: what objectives, condensers and cameras of that kind
    differ by. In a sixth of them the focus series is so short that it shows hardly more than one
    plane, which lies near the cells; half of the others focus on the cells, too, and a third go the
    other way through them.
    """
    rng, home = np.random.default_rng(seed), INSTRUMENTS[magnification]
    of_home = home.optics
    is_short = rng.random() < 1 / 6
    step_um = of_home.focus_step_um * (
        rng.uniform(0.05, 0.3) if is_short else rng.uniform(0.6, 1.3)
    )
    middle_um = of_home.first_focus_um + 3 * of_home.focus_step_um
    if is_short or rng.random() < 1 / 2:
        middle_um = CELLS_MIDDLE_UM
    middle_um += rng.uniform(-2.5, 2.5)
    if rng.random() < 1 / 3:
        step_um = -step_um
    optics = replace(
        of_home,
        um_per_px=of_home.um_per_px * rng.uniform(0.8, 1.25),
        aperture=min(of_home.aperture * rng.uniform(0.75, 1.2), _LARGEST_APERTURE),
        condenser_aperture=rng.uniform(0.15, 0.5),
        first_focus_um=middle_um - 3 * step_um,
        focus_step_um=step_um,
    )
    exposures = {channel: _another(one, rng) for channel, one in home.exposures.items()}
    return Instrument(
        optics,
        exposures,
        bowl=rng.uniform(0, 0.3),
        slope=rng.uniform(-0.25, 0.25),
        specks=int(rng.integers(0, 12)),
        tilt_um=rng.uniform(0, 2) if rng.random() < 0.3 else 0.0,
        coarseness=rng.uniform(1.2, 1.6) if rng.random() < 0.15 else 1.0,
        is_eight_bit=bool(rng.random() < 0.2),
    )


def _another(exposure: Exposure, rng: np.random.Generator) -> Exposure:
    """Another camera behind the same light: its gain, dark level and noise."""
    times = np.exp(rng.uniform(np.log(0.3), np.log(4)))
    return Exposure(
        gain=exposure.gain * times,
        offset=rng.uniform(0, 300),
        electrons_per_count=exposure.electrons_per_count / times * rng.uniform(0.5, 2),
        read_noise=exposure.read_noise * min(times, 1) * rng.uniform(0.5, 2),
    )


def across(shape_px: tuple[int, int]) -> NDArray[np.float32]:
    """From -1/2 at the left border to 1/2 at the right, (1, X)."""
    return np.linspace(-0.5, 0.5, shape_px[1], dtype=np.float32)[None, :]


def draw_specks(shape_px: tuple[int, int], n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """The share of light that *n* specks of dust leave, (Y, X); they are out of focus, so soft."""
    taken = np.zeros(shape_px, dtype=np.float32)
    y, x = (np.arange(side, dtype=np.float32) for side in shape_px)
    for _ in range(n):
        centre_y, centre_x = rng.uniform(0, shape_px)
        radius_px = rng.uniform(*_SPECK_RADIUS_PX)
        distance2 = (y[:, None] - centre_y) ** 2 + (x[None, :] - centre_x) ** 2
        taken[distance2 < radius_px**2] += rng.uniform(*_SPECK_DARKNESS)
    return 1 - np.clip(ndimage.gaussian_filter(taken, 1.5), 0, 0.9)
