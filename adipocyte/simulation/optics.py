"""From optical path to brightfield intensity: a wave through thin layers and an objective's pupil.

The method is that of the angular spectrum. The condenser consists of mutually incoherent source
points, so their intensities add up (partial coherence).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from adipocyte.domain import N_Z_PLANES, UM_PER_PX

WAVELENGTH_UM = 0.6
MEDIUM_INDEX = 1.36
# Three layers of cells on the glass, and one of floating cells above them.
LAYER_HEIGHTS_UM = (0.0, 4.0, 8.0, 20.0)
CELLS_MIDDLE_UM = 4.0


@dataclass(frozen=True)
class Optics:
    """One objective and its focus series. Focal positions are in µm above the lowest layer."""

    um_per_px: float
    aperture: float
    condenser_aperture: float
    first_focus_um: float
    focus_step_um: float
    n_planes: int = N_Z_PLANES


# Chosen so that contrast varies over the planes as on the challenge's plates. At 20x it is highest
# in the fourth plane; at 40x and 60x it falls from the first plane, because the series starts just
# below the droplets and moves away from them. The other objectives are typical ones, and focus as
# the nearest of the challenge's.
OBJECTIVES = {
    10: Optics(
        UM_PER_PX[10],
        aperture=0.4,
        condenser_aperture=0.25,
        first_focus_um=-14.0,
        focus_step_um=4.0,
    ),
    20: Optics(
        UM_PER_PX[20],
        aperture=0.75,
        condenser_aperture=0.332,
        first_focus_um=-10.0,
        focus_step_um=2.7,
    ),
    40: Optics(
        UM_PER_PX[40],
        aperture=0.95,
        condenser_aperture=0.32,
        first_focus_um=-1.7,
        focus_step_um=-1.3,
    ),
    60: Optics(
        UM_PER_PX[60],
        aperture=1.0,
        condenser_aperture=0.32,
        first_focus_um=-1.7,
        focus_step_um=-1.1,
    ),
    63: Optics(
        UM_PER_PX[63],
        aperture=1.1,
        condenser_aperture=0.32,
        first_focus_um=-1.7,
        focus_step_um=-1.1,
    ),
    100: Optics(
        UM_PER_PX[100],
        aperture=1.25,
        condenser_aperture=0.4,
        first_focus_um=-1.7,
        focus_step_um=-0.8,
    ),
}


def focus_series(
    paths_um: NDArray[np.float32], optics: Optics, defocus_um: float = 0.0
) -> NDArray[np.float32]:
    """Brightfield intensity at each focal position, (Z, Y, X); 1.0 if nothing is in the light.

    paths_um: (L, Y, X), optical path difference in µm of the L lowest layers at LAYER_HEIGHTS_UM.
    The light comes from above. *defocus_um* displaces all focal positions, positive upwards.
    """
    steps = np.arange(optics.n_planes, dtype=np.float64)
    focus_um = optics.first_focus_um + defocus_um + optics.focus_step_um * steps
    phases = [
        np.exp((2j * np.pi / WAVELENGTH_UM) * path_um).astype(np.complex64) for path_um in paths_um
    ]
    intensity = np.zeros((optics.n_planes, *paths_um.shape[1:]), dtype=np.float32)
    sources = _condenser(optics.condenser_aperture)
    for source in sources:
        waves = _focus_waves(phases, source, optics, focus_um)
        for plane, wave in zip(intensity, waves, strict=True):
            plane += wave.real**2 + wave.imag**2
    intensity /= len(sources)
    blurs_px = _source_blur(optics, focus_um, len(sources)) / optics.um_per_px
    for plane, blur_px in zip(intensity, blurs_px, strict=True):
        ndimage.gaussian_filter(plane, blur_px, output=plane, mode="wrap", truncate=3)
    return intensity


def _focus_waves(
    phases: list[NDArray[np.complex64]],
    source: tuple[float, float],
    optics: Optics,
    focus_um: NDArray[np.float64],
) -> Iterator[NDArray[np.complex64]]:
    """The wave at each focal position, lit from one *source*.

    The propagator includes the tilt of the light; the wave itself does not.
    """
    frequencies2 = _frequencies(phases[0].shape, optics.um_per_px, source)
    axial = _axial_frequency(frequencies2)
    wave = phases[-1]
    for layer in range(len(phases) - 2, -1, -1):
        down_um = LAYER_HEIGHTS_UM[layer + 1] - LAYER_HEIGHTS_UM[layer]
        wave = fft.ifft2(fft.fft2(wave) * _advance(axial, down_um)) * phases[layer]
    # To focus above the lowest layer, the light goes part of its way back.
    spectrum = fft.fft2(wave) * (frequencies2 <= (optics.aperture / WAVELENGTH_UM) ** 2)
    spectrum *= _advance(axial, -focus_um[0])
    step = _advance(axial, -optics.focus_step_um)
    for _ in focus_um:
        yield fft.ifft2(spectrum)
        spectrum *= step


def _condenser(aperture: float) -> list[tuple[float, float]]:
    """Source points as spatial frequencies (y, x), each for a ninth of the condenser's disc.

    They are the disc's centre and four antipodal pairs, because points without antipodes would
    shift defocused planes sideways. The pairs lie on a spiral, because points on rings form a
    lattice that is visible in droplets. Its turn of 1.34 rad keeps the points apart, but fills the
    disc less evenly along one diameter than along another.
    """
    order = np.arange(1, 5)
    turn = 1.34 * order
    radius = 0.9 * aperture / WAVELENGTH_UM * np.sqrt(2 * order / 9)
    y, x = radius * np.sin(turn), radius * np.cos(turn)
    pairs = list(zip(y.tolist(), x.tolist(), strict=True))
    return [(0.0, 0.0), *pairs, *((-y, -x) for y, x in pairs)]


def _source_blur(
    optics: Optics, focus_um: NDArray[np.float64], n_sources: int
) -> NDArray[np.float64]:
    """Blur of each plane in µm (a Gaussian's sigma), because each source point stands for a patch.

    Light tilted by an angle moves a defocused image sideways by angle times defocus, so a patch of
    the condenser blurs it in proportion. The patches overlap, because the points would otherwise be
    visible as dots in droplets: the sigma is three quarters of their spacing; a disc needs a half.
    """
    patch_angle = optics.condenser_aperture / MEDIUM_INDEX / np.sqrt(n_sources)
    return 0.75 * patch_angle * np.abs(focus_um - CELLS_MIDDLE_UM)


def _frequencies(
    shape_px: tuple[int, ...], um_per_px: float, source: tuple[float, float]
) -> NDArray[np.float32]:
    """Squared spatial frequency, (Y, X), of a wave tilted by *source*."""
    fy, fx = (fft.fftfreq(n, um_per_px) + shift for n, shift in zip(shape_px, source, strict=True))
    return (fy[:, None] ** 2 + fx[None, :] ** 2).astype(np.float32)


def _axial_frequency(frequencies2: NDArray[np.float32]) -> NDArray[np.float32]:
    """Frequency along the axis minus the straight wave's; NaN for waves too steep to travel."""
    straight = MEDIUM_INDEX / WAVELENGTH_UM
    with np.errstate(invalid="ignore"):
        return np.sqrt(np.float32(straight**2) - frequencies2) - np.float32(straight)


def _advance(axial: NDArray[np.float32], distance_um: float) -> NDArray[np.complex64]:
    return np.nan_to_num(np.exp((2j * np.pi * distance_um) * axial).astype(np.complex64))
