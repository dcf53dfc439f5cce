"""Cells, droplets and debris are as many, as large and as crowded as they should be."""

import numpy as np
import pytest

from adipocyte.simulation import culture
from adipocyte.simulation.canvas import Canvas
from adipocyte.simulation.cells import Cell, Outline, grow_cells
from adipocyte.simulation.conditions import Conditions
from adipocyte.simulation.culture import draw_culture
from adipocyte.simulation.debris import draw_debris
from adipocyte.simulation.droplets import OVERLAP, draw_radii, faces, pack
from adipocyte.simulation.specimen import LIPID_INDEX_STEP, draw_specimen


def test_cells_crowd_here_and_leave_gaps_there(monkeypatch):
    def unevenness() -> float:
        rng, variances = np.random.default_rng(0), []
        for _ in range(20):
            centres_um = draw_culture(Conditions(), rng).fat_centres((600.0, 600.0), rng)
            counts, _, _ = np.histogram2d(*centres_um.T, bins=4, range=((0, 600), (0, 600)))
            variances.append(counts.var())
        return np.mean(variances)

    crowded = unevenness()
    monkeypatch.setattr(culture, "CROWDING", 0.0)
    assert crowded > 2 * unevenness()


def test_a_few_cells_are_dead_with_small_bright_nuclei():
    rng = np.random.default_rng(0)
    cells = [
        cell
        for _ in range(2)
        for cell in grow_cells((500.0, 500.0), draw_culture(Conditions(), rng), rng)
    ]
    dead = [cell for cell in cells if cell.density > 1]
    assert 0.01 < len(dead) / len(cells) < 0.05
    assert max(nucleus.half_length_um for cell in dead for nucleus in cell.nuclei) < 4.0
    assert min(nucleus.stain for cell in dead for nucleus in cell.nuclei) > 1.7
    assert max(len(cell.droplets_um) for cell in dead) <= 3
    assert any(len(cell.nuclei) > 1 for cell in dead)


def test_debris_is_smaller_than_nuclei_and_only_some_of_it_glows():
    bits = draw_debris((1000.0, 1000.0), np.random.default_rng(0))
    assert len(bits) > 80
    assert max(bit.balls_um[:, 3].max() for bit in bits) < 1.2
    assert 0.2 < np.mean([max(bit.glow) > 0 for bit in bits]) < 0.6


def test_packed_droplets_press_on_each_other_no_more_than_allowed():
    rng = np.random.default_rng(0)
    sites_um = rng.uniform(0, 12, (3000, 3))
    room_um = np.minimum(sites_um, 12 - sites_um).min(axis=1)
    spheres = pack(sites_um, room_um, draw_radii(4.0, 80, rng))
    distance_um = np.linalg.norm(spheres[:, None, :3] - spheres[None, :, :3], axis=-1)
    touching_um = OVERLAP * (spheres[:, None, 3] + spheres[None, :, 3])
    off_diagonal = ~np.eye(len(spheres), dtype=bool)
    assert len(spheres) > 20
    assert np.all((distance_um - touching_um)[off_diagonal] > -1e-9)


def test_squeezed_droplets_are_nearer_to_each_other_and_end_at_flat_faces():
    rng = np.random.default_rng(0)
    sites_um = rng.uniform(0, 12, (3000, 3))
    room_um = np.minimum(sites_um, 12 - sites_um).min(axis=1)
    radii_um = draw_radii(4.0, 80, rng)
    round_um = pack(sites_um, room_um, radii_um)
    squeezed_um = pack(sites_um, room_um, radii_um, 0.3)
    assert len(squeezed_um) > len(round_um)
    assert sum(map(len, faces(squeezed_um))) > 1.3 * sum(map(len, faces(round_um)))


def test_a_face_lies_where_two_surfaces_cross():
    left, right = faces(np.array([[0.0, 0.0, 0.0, 5.0], [0.0, 0.0, 7.0, 5.0]]))
    np.testing.assert_allclose(left, [[0, 0, 7, 24.5]])  # x = 3.5, the middle
    np.testing.assert_allclose(right, [[0, 0, -7, 24.5]])
    (own,), _ = faces(np.array([[0.0, 0.0, 0.0, 5.0], [0.0, 0.0, 7.0, np.sqrt(18)]]))
    np.testing.assert_allclose(own[3] / own[2], 4.0)  # x² + 3² = 5² and (7 - x)² + 3² = 18
    assert [len(own) for own in faces(np.array([[0, 0, 0, 3.0], [0, 0, 7, 3.0]]))] == [0, 0]


@pytest.mark.parametrize("offset_um", [(0.0, 0.0, 6.1), (6.0, 0.0, 0.0), (3.0, -4.0, 3.0)])
def test_flattened_droplets_hold_the_lipid_of_their_union(offset_um):
    radius_um, canvas = 5.0, Canvas((400, 400), 0.1)
    centres_um = np.array([(6.0, 20.0, 20.0), np.add((6.0, 20.0, 20.0), offset_um)])
    droplets_um = np.column_stack([centres_um, [radius_um, radius_um]])
    flat = Outline(20.0, 20.0, 1.0, 1.0, 1e-6, 0.0, 0.0, 0.0, (0.0, 0.0, 0.0))
    cell = Cell(flat, (), droplets_um, np.empty((0, 4)), stain=0.0, squeezed=True)
    specimen = draw_specimen([cell], [], [], canvas, np.random.default_rng(0))
    volume_um3 = specimen.paths_um.sum() / LIPID_INDEX_STEP * canvas.um_per_px**2
    apart_um = np.linalg.norm(offset_um)
    ball_um3 = 4 / 3 * np.pi * radius_um**3
    lens_um3 = np.pi * (4 * radius_um + apart_um) * (2 * radius_um - apart_um) ** 2 / 12
    assert volume_um3 == pytest.approx(2 * ball_um3 - lens_um3, rel=2e-3)
