"""Cells, droplets and debris are as many, as large and as crowded as they should be."""

import numpy as np

from adipocyte.simulation import culture
from adipocyte.simulation.cells import grow_cells
from adipocyte.simulation.conditions import Conditions
from adipocyte.simulation.culture import draw_culture
from adipocyte.simulation.debris import draw_debris
from adipocyte.simulation.droplets import OVERLAP, draw_radii, pack


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
