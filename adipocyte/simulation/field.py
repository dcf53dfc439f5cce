"""One simulated field of view: a scene in brightfield and in fluorescence."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from skimage.segmentation import relabel_sequential

from adipocyte.domain import BRIGHTFIELD, SMALLEST_PX
from adipocyte.errors import ConfigError
from adipocyte.simulation.camera import (
    SENSOR,
    add_hot_pixels,
    draw_illumination,
    expose,
    in_eight_bits,
    resized,
)
from adipocyte.simulation.canvas import Canvas
from adipocyte.simulation.cells import Cell, float_cells, grow_cells
from adipocyte.simulation.conditions import Conditions
from adipocyte.simulation.culture import draw_culture
from adipocyte.simulation.debris import draw_debris
from adipocyte.simulation.instruments import INSTRUMENTS, Instrument, across, draw_specks
from adipocyte.simulation.misalignment import Misalignment
from adipocyte.simulation.optics import focus_series
from adipocyte.simulation.specimen import Specimen, draw_specimen, roughen

PADDING_UM = 10.0  # around a field, because defocused light spreads, and wraps around, this far

NOMINAL = Conditions()


@dataclass(frozen=True)
class SimulatedField:
    """What a microscope would save of one field of view, and the truth about its cells.

    `nuclei` are true labels in the frame of the targets, 0 for background: living and dead nuclei,
    without those of floating cells. `radii_um` are those of the lipid droplets whose centres lie in
    the frame of the planes, floating cells' apart.
    """

    planes: NDArray[np.uint16]  # (Z, Y, X) brightfield counts
    targets: dict[str, NDArray[np.uint16]]  # "A1", "A2", "A3" -> (Y, X) counts
    nuclei: NDArray[np.int32]  # (Y, X)
    radii_um: NDArray[np.float64]  # (N,)


def simulate_field(
    magnification: int,
    shape_px: tuple[int, int],
    *,
    seed: int | Sequence[int],
    misalignment: Misalignment | None = None,
    conditions: Conditions = NOMINAL,
    instrument: Instrument | None = None,
) -> SimulatedField:
    """Simulate a field of view; the same arguments give the same field bit for bit.

    shape_px: (Y, X). *misalignment* moves the targets and the nuclei's labels, not the brightfield
    planes; None moves nothing. Of the *conditions*, light, stains and defocus change the images
    only, the others the scene. *instrument* photographs; None: the challenge's, with the objective
    of *magnification*.

    Raises ConfigError for an unknown magnification or an image smaller than 64 pixels.
    """
    if magnification not in INSTRUMENTS:
        raise ConfigError(
            f"cannot simulate magnification {magnification}",
            f"choose one of {sorted(INSTRUMENTS)}",
        )
    if min(shape_px) < SMALLEST_PX:
        raise ConfigError(
            f"cannot simulate {shape_px[0]} x {shape_px[1]} pixels",
            f"both sides must be at least {SMALLEST_PX}",
        )
    instrument = instrument or INSTRUMENTS[magnification]
    exposures = instrument.exposures
    rng = np.random.default_rng(seed)

    canvas = _padded(shape_px, instrument.optics.um_per_px)
    cells = grow_cells(canvas.size_um, draw_culture(conditions, rng), rng)
    floaters = float_cells(canvas.size_um, rng, conditions.floating)
    debris = draw_debris(canvas.size_um, rng)
    specimen = draw_specimen(cells, floaters, debris, canvas, rng)
    if conditions.ground_um:
        roughen(specimen.paths_um, conditions.ground_um, canvas, rng)

    light = _crop(_transmitted(specimen, instrument, conditions.defocus_um), shape_px)
    illumination = np.float32(conditions.light) * draw_illumination(shape_px, instrument.bowl, rng)
    illumination = illumination * (1 + np.float32(instrument.slope) * across(shape_px))
    if instrument.specks:  # on the same glass in every field
        dust = np.random.default_rng(SENSOR)
        illumination = illumination * draw_specks(shape_px, instrument.specks, dust)
    lamp = rng.normal(1, 0.01, len(light))
    planes = np.stack(
        [
            expose(plane * illumination * np.float32(power), exposures[BRIGHTFIELD], rng)
            for plane, power in zip(light, lamp, strict=True)
        ]
    )
    if instrument.coarseness > 1:
        planes = resized(planes, instrument.coarseness)
    if instrument.is_eight_bit:
        planes = in_eight_bits(planes)

    labels = specimen.labels
    targets = {}
    for target, density in _fluorescence(specimen, conditions, canvas).items():
        if misalignment is not None:
            density = misalignment.apply(density, order=3)
        glow = np.float32(conditions.light) * _crop(density, shape_px)
        glow = glow * draw_illumination(shape_px, instrument.bowl, rng)
        targets[target] = expose(glow, exposures[target], rng)
        add_hot_pixels(targets[target])
    if misalignment is not None:
        labels = misalignment.apply(labels, order=0)
    labels, _, _ = relabel_sequential(_crop(labels, shape_px))
    radii_um = _radii_inside(cells, canvas, shape_px)
    return SimulatedField(planes, targets, labels.astype(np.int32), radii_um)


def _radii_inside(
    cells: Sequence[Cell], canvas: Canvas, shape_px: tuple[int, int]
) -> NDArray[np.float64]:
    """The radii of the droplets whose centres lie in the middle of a *canvas*, (N,) in µm."""
    droplets_um = np.concatenate([np.empty((0, 4)), *(cell.droplets_um for cell in cells)])
    first_px = (np.array(canvas.shape_px) - shape_px) // 2 - 0.5
    places_px = droplets_um[:, 1:3] / canvas.um_per_px - first_px
    inside = np.all((places_px >= 0) & (places_px < shape_px), axis=1)
    return droplets_um[inside, 3]


def _transmitted(
    specimen: Specimen, instrument: Instrument, defocus_um: float
) -> NDArray[np.float32]:
    """Brightfield light of each plane, (Z, Y, X), on a stage that may be tilted.

    A tilted field lies between those of a flat stage at the borders' heights and the middle's.
    """
    optics, tilt_um = instrument.optics, instrument.tilt_um
    if not tilt_um:
        return focus_series(specimen.paths_um, optics, defocus_um)
    left, middle, right = (
        focus_series(specimen.paths_um, optics, defocus_um + part * tilt_um)
        for part in (-0.5, 0.0, 0.5)
    )
    place = 2 * across(middle.shape[1:])
    towards = np.where(place < 0, left, right)
    return middle + np.abs(place) * (towards - middle)


def _padded(shape_px: tuple[int, int], um_per_px: float) -> Canvas:
    """A canvas larger than the image, because objects and waves cross the image's border.

    Its sides are fast to transform.
    """
    padding_px = int(np.ceil(PADDING_UM / um_per_px))
    height_px, width_px = (fft.next_fast_len(side + 2 * padding_px) for side in shape_px)
    return Canvas((height_px, width_px), um_per_px)


def _crop(image: NDArray, shape_px: tuple[int, int]) -> NDArray:
    """The middle of an image, (..., Y, X)."""
    top, left = (
        (side - wanted) // 2 for side, wanted in zip(image.shape[-2:], shape_px, strict=True)
    )
    return image[..., top : top + shape_px[0], left : left + shape_px[1]]


def _fluorescence(
    specimen: Specimen, conditions: Conditions, canvas: Canvas
) -> dict[str, NDArray[np.float32]]:
    """Light of the three stains, (Y, X) each.

    It comes from a sharp section, from a glow above and below it, and from debris, which glows
    without a stain.
    """

    def blur(density: NDArray[np.float32], sigma_um: float) -> NDArray[np.float32]:
        return ndimage.gaussian_filter(density, max(sigma_um / canvas.um_per_px, 0.5), truncate=3)

    mesh = blur(specimen.cytoplasm, 0.18)
    floating_nuclei, floating_lipids, floating_cytoplasm = specimen.floating
    nuclei_glow = blur(specimen.nuclei + floating_nuclei, 3.5)
    nuclei = blur(specimen.nuclei, 0.2) + 0.25 * nuclei_glow + 0.03 * mesh
    lipids = blur(specimen.lipids, 0.18) + 0.25 * blur(specimen.lipid_haze, 1.0)
    if floating_lipids.any():
        lipids += 0.08 * blur(floating_lipids, 3.5)
    cytoplasm = mesh + 0.6 * blur(specimen.cytoplasm + 0.3 * floating_cytoplasm, 3.0)
    stained = {"A1": nuclei, "A2": lipids, "A3": cytoplasm}
    return {
        target: np.float32(conditions.stains.get(target, 1.0)) * light + blur(debris, 0.25)
        for (target, light), debris in zip(stained.items(), specimen.debris, strict=True)
    }
