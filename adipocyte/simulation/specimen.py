"""Cells drawn as maps: what slows the light down, and what fluoresces in and out of the focal section."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from adipocyte.simulation.canvas import Canvas, Footprint
from adipocyte.simulation.cells import Cell, Nucleus
from adipocyte.simulation.debris import Bit
from adipocyte.simulation.optics import LAYER_HEIGHTS_UM

# Differences of refractive index: to the medium for cytoplasm, to cytoplasm for what lies in it.
CYTOPLASM_INDEX_STEP = 0.02
LIPID_INDEX_STEP = 0.085
NUCLEUS_INDEX_STEP = 0.025

N_LAYERS = 3  # of cells on the glass; the layer above them holds what floats
FLOATING_BLUR_UM = 1.8  # a patch of the condenser smears what floats far from focus, and its droplets sit at many heights
FLECKS_PER_UM2 = 1 / 4000
SECTION_UM = (1.5, 5.5)  # heights between which fluorescence is collected sharply


@dataclass
class Specimen:
    """Maps of one scene, (Y, X) where nothing else is said. Densities are near 1 where the focal section is full of the substance."""

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
    """Draw cells, floating cells and debris on a canvas. The random part is texture only: chromatin and grain."""
    cytoplasm_um, cytoplasm = _draw_cytoplasm(cells, canvas)
    lipid_um, lipids = _draw_lipid(cells, canvas)
    nucleus_um, nuclei, labels = _draw_nuclei(cells, canvas, rng)
    grain = _grain(canvas, 0.3, rng) * (
        1.0 - np.minimum(nuclei, 1.0)
    )  # organelles: the nucleus is smooth

    lipid_haze = np.maximum(lipid_um.sum(axis=0) / (SECTION_UM[1] - SECTION_UM[0]) - lipids, 0)
    # Droplets and nuclei take the place of cytoplasm; the nucleus itself takes up some of the dye.
    cytoplasm *= np.clip(1.0 - lipids, 0.0, 1.0)
    cytoplasm *= 1.0 - 0.25 * np.minimum(nuclei, 1.0)
    cytoplasm *= 1.0 + 0.12 * grain
    _add_flecks(cytoplasm, canvas, rng)

    paths_um = LIPID_INDEX_STEP * lipid_um
    paths_um[0] += CYTOPLASM_INDEX_STEP * (
        cytoplasm_um + 0.15 * grain * np.maximum(cytoplasm_um - lipid_um.sum(axis=0), 0)
    )
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


def _in_section(bottom_um: NDArray, top_um: NDArray) -> NDArray[np.float32]:
    """Share of the focal section that something reaching from *bottom_um* to *top_um* fills."""
    filled_um = np.minimum(top_um, SECTION_UM[1]) - np.maximum(bottom_um, SECTION_UM[0])
    return np.maximum(filled_um, 0) / (SECTION_UM[1] - SECTION_UM[0])


def _draw_cytoplasm(
    cells: list[Cell], canvas: Canvas
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Height of the cell layer in µm of living cytoplasm, and stained cytoplasm in the section; where cells meet, the higher one wins."""
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
        for spheres_um, sign in ((cell.droplets_um, 1), (cell.holes_um, -1)):
            for z_um, y_um, x_um, radius_um in spheres_um.tolist():
                window = canvas.window(y_um, x_um, radius_um)
                if window is None:
                    continue
                half_um = _half_chord(window, radius_um)
                layer = _layer(z_um)
                lipid_um[layer][window.slices] += (2 * sign) * half_um
                lipids[window.slices] += sign * _in_section(z_um - half_um, z_um + half_um)
    # Droplets that press on each other are flattened, not doubled: no place holds more than lipid alone.
    return np.maximum(lipid_um, 0), np.clip(lipids, 0, 1)


def _layer(z_um: float) -> int:
    """The layer of cells on the glass that holds what lies at a height."""
    return int(np.clip(np.searchsorted(LAYER_HEIGHTS_UM, z_um, side="right") - 1, 0, N_LAYERS - 1))


def _half_chord(window: Footprint, radius_um: float) -> NDArray[np.float32]:
    """Half the length of a vertical line inside a sphere, in µm."""
    return np.sqrt(np.maximum(np.float32(radius_um**2) - window.dy_um**2 - window.dx_um**2, 0))


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
        # A square root over a square would be an ellipsoid; real nuclei are flatter on top.
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
    """Pixels of a nucleus's window that droplets take at the nucleus's own height."""
    dented = np.zeros((window.dy_um.size, window.dx_um.size), dtype=bool)
    for z_um, y_um, x_um, radius_um in cell.droplets_um.tolist():
        cut2_um2 = radius_um**2 - (z_um - nucleus.z_um) ** 2
        if cut2_um2 > 1.0:
            distance2 = (window.dy_um - (y_um - nucleus.y_um)) ** 2 + (
                window.dx_um - (x_um - nucleus.x_um)
            ) ** 2
            dented |= distance2 < cut2_um2
    return dented


def _draw_floating(
    floaters: list[Cell], canvas: Canvas, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Optical path of the floating cells, (Y, X), and their nuclei, lipids and cytoplasm, (C, Y, X), in section thicknesses."""
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
    return path_um, np.stack([nucleus_um, lipid_um, cytoplasm_um]) / np.float32(
        SECTION_UM[1] - SECTION_UM[0]
    )


def _draw_debris(
    bits: list[Bit], paths_um: NDArray[np.float32], canvas: Canvas
) -> NDArray[np.float32]:
    """Add the debris's optical path to the layers, in place; return its light in the three stains, (C, Y, X)."""
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
    size_um = np.array(canvas.shape_px) * canvas.um_per_px
    for y_um, x_um in rng.uniform(
        0, size_um, (rng.poisson(size_um.prod() * FLECKS_PER_UM2), 2)
    ).tolist():
        radius_um = rng.uniform(0.3, 0.7)
        window = canvas.window(y_um, x_um, 3 * radius_um)
        if window is not None:
            cytoplasm[window.slices] += rng.uniform(2, 6) * np.exp(
                -(window.dy_um**2 + window.dx_um**2) / (2 * radius_um**2)
            )


def _grain(canvas: Canvas, size_um: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Smooth noise of mean 0 and standard deviation 1 with grains of about *size_um*."""
    grain = rng.standard_normal(canvas.shape_px, dtype=np.float32)
    sigma_px = size_um / canvas.um_per_px
    # White noise blurred by a Gaussian keeps 1 / (2 sqrt(pi) sigma) of its standard deviation: a law, not a measurement of this image.
    return ndimage.gaussian_filter(grain, sigma_px, mode="wrap") * np.float32(
        2 * np.sqrt(np.pi) * sigma_px
    )
