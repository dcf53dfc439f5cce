"""Cells: their places, heights and contents. All lengths are in µm, heights above the glass."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from adipocyte.simulation.culture import REACH_UM, Culture
from adipocyte.simulation.droplets import draw_holes, draw_radii, pack

SITES_PER_UM3 = 0.35
DEAD_SHARE = 0.03
FLOATING_PER_UM2 = 1 / 50000  # about one for every fifty cells on the glass


@dataclass(frozen=True)
class Nucleus:
    """A flattened ellipsoid: centre, half axes in the plane and in height, long axis's angle."""

    z_um: float
    y_um: float
    x_um: float
    half_length_um: float
    half_width_um: float
    half_height_um: float
    angle: float
    stain: float

    def radius(self, dy_um: NDArray, dx_um: NDArray, dz_um: NDArray | float = 0.0) -> NDArray:
        """Distance from the centre in units of the half axes: 1 on the surface."""
        along = (dy_um * np.sin(self.angle) + dx_um * np.cos(self.angle)) / self.half_length_um
        across = (dy_um * np.cos(self.angle) - dx_um * np.sin(self.angle)) / self.half_width_um
        return np.sqrt(along**2 + across**2 + (dz_um / self.half_height_um) ** 2)


@dataclass(frozen=True)
class Outline:
    """A bent ellipse with a wavy edge; it is a dome, highest in the middle."""

    y_um: float
    x_um: float
    half_length_um: float
    half_width_um: float
    height_um: float
    angle: float
    bend_per_um: float
    waviness: float
    waves: tuple[float, float, float]  # phases of the edge's second, third and fifth harmonic

    @property
    def reach_um(self) -> float:
        return min(1.35 * self.half_length_um + 3.0, REACH_UM)

    def height_at(self, dy_um: NDArray, dx_um: NDArray) -> NDArray:
        """Height of the cell in µm above points given from its centre; 0 outside."""
        along = dy_um * np.sin(self.angle) + dx_um * np.cos(self.angle)
        across = dy_um * np.cos(self.angle) - dx_um * np.sin(self.angle)
        across = across - self.bend_per_um * along**2
        turn = np.arctan2(across, along)
        second, third, fifth = self.waves
        waves = np.cos(2 * turn + second) + np.cos(3 * turn + third) + np.cos(5 * turn + fifth)
        edge = 1.0 + self.waviness * waves
        ellipse2 = (along / self.half_length_um) ** 2 + (across / self.half_width_um) ** 2
        radius2 = ellipse2 / edge**2
        return self.height_um * np.sqrt(np.clip(1.0 - radius2**1.5, 0.0, 1.0))


@dataclass(frozen=True)
class Cell:
    """One cell. Droplets and holes are (N, 4): z, y, x, radius."""

    outline: Outline
    nuclei: tuple[Nucleus, ...]  # one, or the fragments of a dead cell's
    droplets_um: NDArray[np.float64]
    holes_um: NDArray[np.float64]
    stain: float  # of the cytoplasm
    density: float = 1.0  # relative to a living cell's cytoplasm
    squeezed: bool = False  # whether droplets have flat faces where they touch


_NO_SPHERES = np.empty((0, 4))


def grow_cells(
    size_um: tuple[float, float], culture: Culture, rng: np.random.Generator
) -> list[Cell]:
    """Fill a rectangle (height, width in µm) and its surroundings: cells cross its border."""
    fat_centres_um = culture.fat_centres(size_um, rng)
    fat_tree = KDTree(fat_centres_um)
    thin_centres_um = culture.thin_centres(size_um, rng)
    cells = []
    # Each cell has its own stream of random numbers, so that leaving out a cell beyond the border
    # changes no other cell.
    for centre_um, own in zip(fat_centres_um, rng.spawn(len(fat_centres_um)), strict=True):
        is_dead = own.random() < DEAD_SHARE
        if is_dead:
            outline, fill = _round_outline(centre_um, 1.0, own), _dead_cell
        elif culture.unilocular and own.random() < culture.unilocular:
            outline, fill = _unilocular_outline(centre_um, culture, own), _unilocular_cell
        else:
            outline = _fat_outline(centre_um, culture, own)
            squeezed, share = culture.squeezed, culture.droplets
            fill = partial(_fat_cell, fat_tree, squeezed=squeezed, share=share)
        if _touches(outline, size_um):
            cells.append(fill(outline, own))
    for centre_um, own in zip(thin_centres_um, rng.spawn(len(thin_centres_um)), strict=True):
        is_dead = own.random() < DEAD_SHARE
        outline = _round_outline(centre_um, 1.0, own) if is_dead else _thin_outline(centre_um, own)
        if _touches(outline, size_um):
            cells.append(_dead_cell(outline, own) if is_dead else _thin_cell(outline, own))
    return cells


def float_cells(
    size_um: tuple[float, float], rng: np.random.Generator, times: float = 1.0
) -> list[Cell]:
    """Round cells that came off the glass, drawn as if they stood on it (see `draw_specimen`).

    There are *times* as many as usual.
    """
    n = rng.poisson(times * size_um[0] * size_um[1] * FLOATING_PER_UM2)
    centres_um = rng.uniform(0, size_um, (n, 2))
    streams = rng.spawn(len(centres_um))
    alone = KDTree(np.empty((0, 2)))
    return [
        _fat_cell(alone, _round_outline(centre_um, 1.6, own), own)
        for centre_um, own in zip(centres_um, streams, strict=True)
    ]


def _touches(outline: Outline, size_um: tuple[float, float]) -> bool:
    inside_y = -outline.reach_um < outline.y_um < size_um[0] + outline.reach_um
    return inside_y and -outline.reach_um < outline.x_um < size_um[1] + outline.reach_um


def _fat_outline(centre_um: NDArray, culture: Culture, rng: np.random.Generator) -> Outline:
    half_width_um = 0.5 * culture.pitch_um * rng.uniform(0.95, 1.3)
    half_length_um = half_width_um * rng.uniform(1.0, 1.5)
    height_um = np.clip(culture.droplet_scale * rng.lognormal(np.log(11.5), 0.25), 7, 18)
    return Outline(
        *map(float, centre_um),
        half_length_um=half_length_um,
        half_width_um=half_width_um,
        height_um=float(culture.ripeness * height_um),
        angle=rng.uniform(0, np.pi),
        bend_per_um=0.0,
        waviness=0.06,
        waves=tuple(rng.uniform(0, 2 * np.pi, 3)),
    )


def _unilocular_outline(centre_um: NDArray, culture: Culture, rng: np.random.Generator) -> Outline:
    half_width_um = 0.5 * culture.pitch_um * rng.uniform(0.5, 1.1)
    return Outline(
        *map(float, centre_um),
        half_length_um=half_width_um * rng.uniform(1.0, 1.1),
        half_width_um=half_width_um,
        height_um=1.8 * half_width_um,
        angle=rng.uniform(0, np.pi),
        bend_per_um=0.0,
        waviness=0.03,
        waves=tuple(rng.uniform(0, 2 * np.pi, 3)),
    )


def _thin_outline(centre_um: NDArray, rng: np.random.Generator) -> Outline:
    return Outline(
        *map(float, centre_um),
        half_length_um=rng.uniform(32, 58),
        half_width_um=rng.uniform(12, 25),
        height_um=rng.uniform(4.0, 5.5),
        angle=rng.uniform(0, np.pi),
        bend_per_um=rng.uniform(-0.006, 0.006),
        waviness=0.13,
        waves=tuple(rng.uniform(0, 2 * np.pi, 3)),
    )


def _round_outline(centre_um: NDArray, scale: float, rng: np.random.Generator) -> Outline:
    half_width_um = scale * rng.uniform(6, 8.5)
    return Outline(
        *map(float, centre_um),
        half_length_um=half_width_um * rng.uniform(1.0, 1.15),
        half_width_um=half_width_um,
        height_um=half_width_um * rng.uniform(1.1, 1.4),
        angle=rng.uniform(0, np.pi),
        bend_per_um=0.0,
        waviness=0.05,
        waves=tuple(rng.uniform(0, 2 * np.pi, 3)),
    )


def _draw_nucleus(
    outline: Outline, off_centre: float, angle: float, rng: np.random.Generator
) -> Nucleus:
    turn = rng.uniform(0, 2 * np.pi)
    half_length_um = rng.uniform(4.8, 7.8)
    half_height_um = float(np.clip(rng.uniform(0.28, 0.36) * outline.height_um, 2.2, 4.0))
    return Nucleus(
        z_um=half_height_um + 0.3,
        y_um=outline.y_um + off_centre * outline.half_width_um * np.sin(turn),
        x_um=outline.x_um + off_centre * outline.half_width_um * np.cos(turn),
        half_length_um=half_length_um,
        half_width_um=half_length_um * rng.uniform(0.62, 0.9),
        half_height_um=half_height_um,
        angle=angle,
        stain=float(np.clip(rng.lognormal(0.0, 0.2), 0.5, 1.8)),
    )


def _thin_cell(outline: Outline, rng: np.random.Generator) -> Cell:
    nucleus = _draw_nucleus(outline, 0.1, outline.angle + rng.normal(0, 0.15), rng)
    return Cell(outline, (nucleus,), _NO_SPHERES, _NO_SPHERES, stain=rng.uniform(0.85, 1.15))


def _dead_cell(outline: Outline, rng: np.random.Generator) -> Cell:
    """A shrunken and dense cell with hardly a droplet.

    Its nucleus is bright, and condensed (pyknosis) or in fragments (karyorrhexis).
    """
    n_droplets = rng.integers(0, 4)
    turn, radius_um = rng.uniform(0, 2 * np.pi, n_droplets), rng.uniform(0.5, 1.2, n_droplets)
    off_centre_um = 0.7 * outline.half_width_um
    y_um = outline.y_um + off_centre_um * np.sin(turn)
    x_um = outline.x_um + off_centre_um * np.cos(turn)
    droplets_um = np.column_stack([rng.uniform(2, 4, n_droplets), y_um, x_um, radius_um])
    nuclei = _condensed_nucleus(outline, rng)
    return Cell(outline, nuclei, droplets_um, _NO_SPHERES, stain=0.3, density=2.0)


def _condensed_nucleus(outline: Outline, rng: np.random.Generator) -> tuple[Nucleus, ...]:
    n_pieces = rng.choice((1, 1, 2, 3, 4))
    radius_um = rng.uniform(2.4, 3.4) / np.sqrt(n_pieces)
    apart_um = 0.0 if n_pieces == 1 else 1.15 * radius_um
    turns = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(n_pieces) / n_pieces
    stain = rng.uniform(1.8, 2.6)
    return tuple(
        Nucleus(
            z_um=3.5,
            y_um=outline.y_um + apart_um * np.sin(turn),
            x_um=outline.x_um + apart_um * np.cos(turn),
            half_length_um=radius_um * rng.uniform(0.85, 1.15),
            half_width_um=radius_um * rng.uniform(0.8, 1.0),
            half_height_um=min(radius_um, 2.5),
            angle=rng.uniform(0, np.pi),
            stain=stain,
        )
        for turn in turns
    )


def _fat_cell(
    fat_tree: KDTree,
    outline: Outline,
    rng: np.random.Generator,
    squeezed: float = 0.0,
    share: float = 1.0,
) -> Cell:
    """A cell full of droplets, or with a *share* of those that fill it."""
    nucleus = _draw_nucleus(outline, rng.uniform(0.2, 0.6), rng.uniform(0, np.pi), rng)
    sites_um, room_um = _room(outline, nucleus, fat_tree, rng)
    largest_um = 0.5 * outline.height_um * rng.uniform(0.6, 1.0)
    n = int(1.3 * outline.half_length_um * outline.half_width_um / largest_um)
    droplets_um = pack(sites_um, room_um, draw_radii(largest_um, n, rng), squeezed)
    if share < 1:  # of a full cell's, because fewer to pack would be larger ones
        droplets_um = droplets_um[rng.random(len(droplets_um)) < share]
    holes_um = draw_holes(droplets_um, rng)
    stain = rng.uniform(0.85, 1.15)
    return Cell(outline, (nucleus,), droplets_um, holes_um, stain, squeezed=squeezed > 0)


def _unilocular_cell(outline: Outline, rng: np.random.Generator) -> Cell:
    """A huge droplet, tiny ones around it, and a nucleus that lies flat against it at the rim."""
    radius_um = 0.46 * outline.height_um
    turn = rng.uniform(0, 2 * np.pi)
    half_width_um = rng.uniform(1.4, 2.2)
    apart_um = radius_um + 0.8 * half_width_um
    nucleus = Nucleus(
        z_um=min(radius_um, rng.uniform(3.0, 6.0)),
        y_um=outline.y_um + apart_um * np.sin(turn),
        x_um=outline.x_um + apart_um * np.cos(turn),
        half_length_um=rng.uniform(4.8, 7.0),
        half_width_um=half_width_um,
        half_height_um=rng.uniform(2.2, 3.5),
        angle=turn + np.pi / 2,  # along the rim
        stain=float(np.clip(rng.lognormal(0.0, 0.2), 0.5, 1.8)),
    )
    n = rng.integers(2, 10)
    turns, radii_um = rng.uniform(0, 2 * np.pi, n), rng.uniform(0.5, 1.6, n)
    around_um = radius_um * rng.uniform(0.8, 1.0, n)
    tiny_um = np.column_stack(
        [
            radii_um + rng.uniform(0, 3, n),
            outline.y_um + around_um * np.sin(turns),
            outline.x_um + around_um * np.cos(turns),
            radii_um,
        ]
    )
    huge_um = [[0.5 * outline.height_um, outline.y_um, outline.x_um, radius_um]]
    droplets_um = np.concatenate([huge_um, tiny_um])
    return Cell(outline, (nucleus,), droplets_um, _NO_SPHERES, stain=rng.uniform(0.85, 1.15))


def _room(
    outline: Outline, nucleus: Nucleus, fat_tree: KDTree, rng: np.random.Generator
) -> tuple[NDArray, NDArray]:
    """Random points inside a cell, (N, 3), and the room around each, (N,).

    The room ends at the membrane, at the neighbours and at the nucleus.
    """
    reach_um = 1.2 * outline.half_length_um
    n = int(SITES_PER_UM3 * 4 * reach_um**2 * outline.height_um)
    lowest_um, highest_um = (0, -reach_um, -reach_um), (outline.height_um, reach_um, reach_um)
    sites_um = rng.uniform(lowest_um, highest_um, (n, 3))
    height_um = outline.height_at(sites_um[:, 1], sites_um[:, 2])
    inside = sites_um[:, 0] < height_um
    sites_um, height_um = sites_um[inside], height_um[inside]
    sites_um[:, 1:] += (outline.y_um, outline.x_um)

    # The membrane yields a little, and a droplet may press a dent into the nucleus.
    room_um = np.minimum(sites_um[:, 0], height_um - sites_um[:, 0]) + 0.3
    offset_um = sites_um - (nucleus.z_um, nucleus.y_um, nucleus.x_um)
    radius = nucleus.radius(offset_um[:, 1], offset_um[:, 2], offset_um[:, 0]) + 1e-9
    np.minimum(room_um, (1.0 - 1.0 / radius) * np.linalg.norm(offset_um, axis=1) + 1.0, out=room_um)
    np.minimum(room_um, _neighbour_distance(outline, sites_um[:, 1:], fat_tree) + 0.3, out=room_um)
    return sites_um, room_um


def _neighbour_distance(outline: Outline, points_um: NDArray, fat_tree: KDTree) -> NDArray:
    """Distance from points, (N, 2), to the line half way to the nearest other fat cell.

    It is negative beyond that line, and infinite if there is no other fat cell.
    """
    if fat_tree.n < 2:
        return np.full(len(points_um), np.inf)
    centre_um = np.array([outline.y_um, outline.x_um])
    _, nearest = fat_tree.query(points_um, k=2)
    nearest_um = fat_tree.data[nearest]  # (N, 2, 2)
    is_own = np.all(np.isclose(nearest_um, centre_um), axis=-1)
    other_um = np.where(is_own[:, :1], nearest_um[:, 1], nearest_um[:, 0])
    to_other2 = np.sum((points_um - other_um) ** 2, axis=1)
    to_own2 = np.sum((points_um - centre_um) ** 2, axis=1)
    return (to_other2 - to_own2) / (2 * np.linalg.norm(other_um - centre_um, axis=1))
