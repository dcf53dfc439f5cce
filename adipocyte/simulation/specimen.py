"""Cells drawn as maps: optical paths, and what fluoresces in and outside the focal section."""

from dataclasses import dataclass
from itertools import chain, repeat

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from adipocyte.simulation.canvas import Canvas, Footprint
from adipocyte.simulation.cells import Cell, Nucleus
from adipocyte.simulation.debris import Bit
from adipocyte.simulation.droplets import faces
from adipocyte.simulation.optics import LAYER_HEIGHTS_UM

# Differences of refractive index: cytoplasm to the medium, lipid and nucleus to cytoplasm.
CYTOPLASM_INDEX_STEP = 0.02
LIPID_INDEX_STEP = 0.085
NUCLEUS_INDEX_STEP = 0.025

N_LAYERS = 3  # of cells on the glass; floating cells are in the layer above
# Floating cells are far from focus, so a patch of the condenser blurs them; and their droplets are
# at many heights.
FLOATING_BLUR_UM = 1.8
FLECKS_PER_UM2 = 1 / 4000
_NO_FACES = np.empty((0, 4))
_LEVEL_UM = 1e-3  # droplets whose heights differ by less have an upright face between them
_ROUGHNESS_UM = 1.2  # size of the grains of a rough ground
SECTION_UM = (1.5, 5.5)  # heights between which fluorescence is collected sharply


@dataclass
class Specimen:
    """Maps of one scene, (Y, X) if there is no other shape.

    Densities are near 1 where the substance fills the focal section.
    """

    paths_um: NDArray[np.float32]  # (L, Y, X) optical path difference per layer, lowest first
    nuclei: NDArray[np.float32]
    lipids: NDArray[np.float32]
    lipid_haze: NDArray[np.float32]  # lipid above and below the section, in section thicknesses
    cytoplasm: NDArray[np.float32]
    labels: NDArray[np.int32]
    floating: NDArray[np.float32]  # (C, Y, X) nuclei, lipids and cytoplasm far above the section
    debris: NDArray[np.float32]  # (C, Y, X) light of autofluorescent debris in A1, A2 and A3


def draw_specimen(
    cells: list[Cell],
    floaters: list[Cell],
    bits: list[Bit],
    canvas: Canvas,
    rng: np.random.Generator,
) -> Specimen:
    """Draw cells, floating cells and debris on a canvas. Only their texture is random."""
    cytoplasm_um, cytoplasm = _draw_cytoplasm(cells, canvas)
    lipid_um, lipids = _draw_lipid(cells, canvas)
    nucleus_um, nuclei, labels = _draw_nuclei(cells, canvas, rng)
    # Grain stands for organelles; the nucleus is smooth.
    grain = _grain(canvas, 0.3, rng) * (1.0 - np.minimum(nuclei, 1.0))

    lipid_haze = np.maximum(lipid_um.sum(axis=0) / (SECTION_UM[1] - SECTION_UM[0]) - lipids, 0)
    # Droplets and nuclei displace cytoplasm; the nucleus takes up some of the dye.
    cytoplasm *= np.clip(1.0 - lipids, 0.0, 1.0)
    cytoplasm *= 1.0 - 0.25 * np.minimum(nuclei, 1.0)
    cytoplasm *= 1.0 + 0.12 * grain
    _add_flecks(cytoplasm, canvas, rng)

    paths_um = LIPID_INDEX_STEP * lipid_um
    without_lipid_um = np.maximum(cytoplasm_um - lipid_um.sum(axis=0), 0)
    paths_um[0] += CYTOPLASM_INDEX_STEP * (cytoplasm_um + 0.15 * grain * without_lipid_um)
    paths_um[0] += NUCLEUS_INDEX_STEP * nucleus_um
    debris = _draw_debris(bits, paths_um, canvas)
    floating = np.zeros_like(debris)
    if floaters:
        floating_um, floating = _draw_floating(floaters, canvas, rng)
        paths_um = np.concatenate([paths_um, floating_um[None]])
    soft_px = max(0.4, 0.08 / canvas.um_per_px)  # a sphere's rim is steeper than pixels can hold
    for path_um in paths_um:
        ndimage.gaussian_filter(path_um, soft_px, output=path_um)
    return Specimen(paths_um, nuclei, lipids, lipid_haze, cytoplasm, labels, floating, debris)


def roughen(
    paths_um: NDArray[np.float32], ground_um: float, canvas: Canvas, rng: np.random.Generator
) -> None:
    """Add the optical path of a rough ground to the lowest layer, (L, Y, X), in place."""
    paths_um[0] += np.float32(ground_um) * _grain(canvas, _ROUGHNESS_UM, rng)


def _in_section(bottom_um: NDArray | np.float32, top_um: NDArray) -> NDArray[np.float32]:
    """Share of the focal section between *bottom_um* and *top_um*."""
    filled_um = np.minimum(top_um, SECTION_UM[1]) - np.maximum(bottom_um, SECTION_UM[0])
    return np.maximum(filled_um, 0) / (SECTION_UM[1] - SECTION_UM[0])


def _draw_cytoplasm(
    cells: list[Cell], canvas: Canvas
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Height of the cells in µm of living cytoplasm, and stained cytoplasm in the section.

    Where cells meet, the higher one wins.
    """
    height_um = np.zeros(canvas.shape_px, dtype=np.float32)
    stained = np.zeros(canvas.shape_px, dtype=np.float32)
    for cell in cells:
        outline = cell.outline
        window = canvas.window(outline.y_um, outline.x_um, outline.reach_um)
        if window is None:
            continue
        own_um = outline.height_at(window.dy_um, window.dx_um).astype(np.float32)
        np.maximum(height_um[window.slices], cell.density * own_um, out=height_um[window.slices])
        own = cell.stain * _in_section(np.float32(0), own_um)
        np.maximum(stained[window.slices], own, out=stained[window.slices])
    return height_um, stained


def _draw_lipid(
    cells: list[Cell], canvas: Canvas
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Lipid thickness per layer in µm, (L, Y, X), and lipid in the section, (Y, X)."""
    lipid_um = np.zeros((N_LAYERS, *canvas.shape_px), dtype=np.float32)
    lipids = np.zeros(canvas.shape_px, dtype=np.float32)
    for cell in cells:
        pressing = faces(cell.droplets_um) if cell.squeezed else repeat(_NO_FACES)
        droplets = zip(cell.droplets_um.tolist(), pressing, repeat(1))
        holes = zip(cell.holes_um.tolist(), repeat(_NO_FACES), repeat(-1))
        for (z_um, y_um, x_um, radius_um), own, sign in chain(droplets, holes):
            window = canvas.window(y_um, x_um, radius_um)
            if window is None:
                continue
            below_um, above_um = _chord(window, radius_um, own)
            lipid_um[_layer(z_um)][window.slices] += sign * (above_um + below_um)
            lipids[window.slices] += sign * _in_section(z_um - below_um, z_um + above_um)
    # Droplets that press on each other are flattened, not doubled: lipid fills a place only once.
    return np.maximum(lipid_um, 0), np.clip(lipids, 0, 1)


def _layer(z_um: float) -> int:
    """The number of the layer, among those of cells on the glass, at a height."""
    return int(np.clip(np.searchsorted(LAYER_HEIGHTS_UM, z_um, side="right") - 1, 0, N_LAYERS - 1))


def _half_chord(window: Footprint, radius_um: float) -> NDArray[np.float32]:
    """Half the length of a vertical line inside a sphere, in µm."""
    return np.sqrt(np.maximum(np.float32(radius_um**2) - window.dy_um**2 - window.dx_um**2, 0))


def _chord(
    window: Footprint, radius_um: float, pressing: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """How far a vertical line inside a droplet goes below and above its centre's height, in µm.

    pressing: its flat faces, see `droplets.faces`. Where a line misses it the two add to 0.
    """
    half_um = _half_chord(window, radius_um)
    if not len(pressing):
        return half_um, half_um
    lowest_um, highest_um = -half_um, half_um
    for up, y, x, number in pressing.astype(np.float32):
        left = number - y * window.dy_um - x * window.dx_um
        if up > _LEVEL_UM:
            np.minimum(highest_um, left / up, out=highest_um)
        elif up < -_LEVEL_UM:
            np.maximum(lowest_um, left / up, out=lowest_um)
        else:  # the face stands upright
            highest_um[left < 0] = lowest_um[left < 0]
    return -lowest_um, np.maximum(highest_um, lowest_um)


def _draw_nuclei(
    cells: list[Cell], canvas: Canvas, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
    """Thickness of the nuclei in µm, stained chromatin in the section, and labels, all (Y, X)."""
    thickness_um = np.zeros(canvas.shape_px, dtype=np.float32)
    stained = np.zeros(canvas.shape_px, dtype=np.float32)
    labels = np.zeros(canvas.shape_px, dtype=np.int32)
    chromatin = 1.0 + 0.18 * _grain(canvas, 0.55, rng)
    pieces = [
        (label, cell, nucleus)
        for label, cell in enumerate(cells, start=1)
        for nucleus in cell.nuclei
    ]
    for label, cell, nucleus in pieces:
        window = canvas.window(nucleus.y_um, nucleus.x_um, nucleus.half_length_um)
        if window is None:
            continue
        # (1 - r²)^½ would be an ellipsoid; real nuclei are flatter on top.
        fill = np.maximum(1.0 - nucleus.radius(window.dy_um, window.dx_um) ** 3, 0) ** 0.4
        fill[_dents(nucleus, cell, window)] = 0
        fill = ndimage.gaussian_filter(fill, 0.4 / canvas.um_per_px).astype(np.float32)
        texture = fill * chromatin[window.slices]
        own = nucleus.stain * texture
        labels[window.slices][(fill > 0.4) & (own > stained[window.slices])] = label
        np.maximum(stained[window.slices], own, out=stained[window.slices])
        np.maximum(
            thickness_um[window.slices],
            2 * nucleus.half_height_um * texture,
            out=thickness_um[window.slices],
        )
    return thickness_um, stained, labels


def _dents(nucleus: Nucleus, cell: Cell, window: Footprint) -> NDArray[np.bool_]:
    """Pixels of a nucleus's window that droplets fill at the nucleus's height."""
    dented = np.zeros((window.dy_um.size, window.dx_um.size), dtype=bool)
    for z_um, y_um, x_um, radius_um in cell.droplets_um.tolist():
        cut2_um2 = radius_um**2 - (z_um - nucleus.z_um) ** 2
        if cut2_um2 > 1.0:
            dy_um = window.dy_um - (y_um - nucleus.y_um)
            dx_um = window.dx_um - (x_um - nucleus.x_um)
            dented |= dy_um**2 + dx_um**2 < cut2_um2
    return dented


def _draw_floating(
    floaters: list[Cell], canvas: Canvas, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Optical path of the floating cells, (Y, X), and their substances, (C, Y, X).

    The substances are nuclei, lipids and cytoplasm, in section thicknesses.
    """
    height_um, _ = _draw_cytoplasm(floaters, canvas)
    lipid_um, _ = _draw_lipid(floaters, canvas)
    nucleus_um, _, _ = _draw_nuclei(floaters, canvas, rng)
    lipid_um = lipid_um.sum(axis=0)
    path_um = (
        LIPID_INDEX_STEP * lipid_um
        + CYTOPLASM_INDEX_STEP * height_um
        + NUCLEUS_INDEX_STEP * nucleus_um
    )
    path_um = ndimage.gaussian_filter(path_um, FLOATING_BLUR_UM / canvas.um_per_px)
    cytoplasm_um = np.maximum(height_um - lipid_um - nucleus_um, 0)
    substances_um = np.stack([nucleus_um, lipid_um, cytoplasm_um])
    return path_um, substances_um / np.float32(SECTION_UM[1] - SECTION_UM[0])


def _draw_debris(
    bits: list[Bit], paths_um: NDArray[np.float32], canvas: Canvas
) -> NDArray[np.float32]:
    """Add the optical path of debris to the layers, in place.

    Returns its light in the three stains, (C, Y, X).
    """
    glow = np.zeros((3, *canvas.shape_px), dtype=np.float32)
    for bit in bits:
        for z_um, y_um, x_um, radius_um in bit.balls_um.tolist():
            window = canvas.window(y_um, x_um, radius_um)
            if window is None:
                continue
            half_um = _half_chord(window, radius_um)
            paths_um[_layer(z_um)][window.slices] += 2 * bit.index_step * half_um
            for shine, strength in zip(glow, bit.glow, strict=True):
                shine[window.slices] += strength * half_um
    return glow


def _add_flecks(cytoplasm: NDArray[np.float32], canvas: Canvas, rng: np.random.Generator) -> None:
    """Add small clumps of dye, many times brighter than cytoplasm, in place."""
    height_um, width_um = canvas.size_um
    n = rng.poisson(height_um * width_um * FLECKS_PER_UM2)
    for y_um, x_um in rng.uniform(0, canvas.size_um, (n, 2)).tolist():
        radius_um = rng.uniform(0.3, 0.7)
        window = canvas.window(y_um, x_um, 3 * radius_um)
        if window is not None:
            distance2 = window.dy_um**2 + window.dx_um**2
            cytoplasm[window.slices] += rng.uniform(2, 6) * np.exp(-distance2 / (2 * radius_um**2))


def _grain(canvas: Canvas, size_um: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Smooth noise of mean 0 and standard deviation 1 with grains of about *size_um*."""
    grain = rng.standard_normal(canvas.shape_px, dtype=np.float32)
    sigma_px = size_um / canvas.um_per_px
    # A Gaussian blur leaves 1 / (2 sqrt(pi) sigma) of the standard deviation of white noise.
    smooth = ndimage.gaussian_filter(grain, sigma_px, mode="wrap")
    return smooth * np.float32(2 * np.sqrt(np.pi) * sigma_px)
