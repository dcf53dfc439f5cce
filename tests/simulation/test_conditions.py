"""Conditions change lamp, stains and focus as they say, and nothing else."""

import numpy as np
import pytest

from adipocyte.domain import N_Z_PLANES
from adipocyte.errors import ConfigError
from adipocyte.simulation import Conditions, draw_conditions, simulate_field
from adipocyte.simulation.cells import float_cells, grow_cells
from adipocyte.simulation.culture import draw_culture
from adipocyte.simulation.optics import OBJECTIVES


def test_defocus_displaces_the_focus_series_and_leaves_fluorescence():
    step_um = OBJECTIVES[20].focus_step_um
    nominal, displaced = (
        simulate_field(20, (128, 128), seed=4, conditions=Conditions(defocus_um=by))
        for by in (0.0, step_um)
    )
    for target, image in nominal.targets.items():
        np.testing.assert_array_equal(displaced.targets[target], image)
    # One z-step further up, plane z shows what plane z + 1 showed. Lamp and noise differ by a few
    # per cent.
    for z in range(N_Z_PLANES - 1):
        assert np.corrcoef(displaced.planes[z].ravel(), nominal.planes[z + 1].ravel())[0, 1] > 0.98


def test_a_tenth_of_the_light_gives_a_tenth_of_the_counts_and_more_relative_noise():
    nominal, dim = (
        simulate_field(20, (128, 128), seed=4, conditions=Conditions(light=light))
        for light in (1.0, 0.1)
    )
    assert dim.planes.mean() == pytest.approx(0.1 * nominal.planes.mean(), rel=0.02)
    np.testing.assert_array_equal(dim.nuclei, nominal.nuclei)
    # Both have the same random draws, so the law of shot and read noise (one electron for each
    # count, 8 counts) gives their difference.
    counts = nominal.planes.astype(float)
    expected = 10 * np.sqrt(0.1 * counts + 8**2) - np.sqrt(counts + 8**2)
    difference = 10.0 * dim.planes - nominal.planes
    assert difference.std() == pytest.approx(np.sqrt(np.mean(expected**2)), rel=0.05)


def test_staining_scales_one_stain_above_its_dark_counts_and_no_other():
    nominal, pale = (
        simulate_field(20, (128, 128), seed=4, conditions=Conditions(stains=stains))
        for stains in ({}, {"A2": 0.5})
    )
    spread = {
        target: pale.targets[target].std() / nominal.targets[target].std()
        for target in nominal.targets
    }
    assert spread == pytest.approx({"A1": 1.0, "A2": 0.5, "A3": 1.0}, rel=0.05)
    np.testing.assert_array_equal(pale.planes, nominal.planes)


def test_conditions_of_wells_repeat_with_the_seed_and_stay_within_their_ranges():
    wells = [draw_conditions((0, well)) for well in range(50)]
    assert wells[3] == draw_conditions((0, 3))
    assert wells[3] != wells[4]
    assert all(0.9 <= well.light <= 1.1 and abs(well.defocus_um) <= 0.6 for well in wells)
    assert all(0.75 <= factor <= 1.25 for well in wells for factor in well.stains.values())


def test_conditions_that_no_plate_can_have_are_refused():
    with pytest.raises(ConfigError, match="light, density and ripeness must be above 0, got 0"):
        Conditions(light=0)
    with pytest.raises(ConfigError, match=r"stains names \['A4'\]"):
        Conditions(stains={"A4": 1.0})
    with pytest.raises(ConfigError, match="0 or above"):
        Conditions(stains={"A1": -1.0})
    with pytest.raises(ConfigError, match="droplets must be a share"):
        Conditions(droplets=1.5)


def test_a_unilocular_cell_is_full_of_one_droplet_with_its_nucleus_at_the_rim():
    rng = np.random.default_rng(2)
    culture = draw_culture(Conditions(unilocular=1.0, density=0.7), rng)
    cells = [
        cell
        for cell in grow_cells((300.0, 300.0), culture, rng)
        if len(cell.droplets_um) and cell.droplets_um[0, 3] > 4
    ]
    assert len(cells) > 5
    for cell in cells:
        huge, *tiny = cell.droplets_um
        [nucleus] = cell.nuclei
        assert 2 * huge[3] > 0.9 * cell.outline.height_um
        assert max(droplet[3] for droplet in tiny) < 2
        apart_um = np.hypot(nucleus.y_um - huge[1], nucleus.x_um - huge[2])
        assert huge[3] < apart_um < huge[3] + 2
        across = nucleus.radius(np.array(huge[1] - nucleus.y_um), np.array(huge[2] - nucleus.x_um))
        assert across > 4  # its flat side faces the droplet


@pytest.mark.slow
def test_fewer_droplets_are_of_the_same_sizes_in_cells_of_the_same_height():
    full, half = (
        grow_cells((400.0, 400.0), draw_culture(Conditions(droplets=share), rng), rng)
        for share, rng in ((share, np.random.default_rng(5)) for share in (1.0, 0.5))
    )
    assert [cell.outline for cell in half] == [cell.outline for cell in full]
    radii_um = [
        np.concatenate([cell.droplets_um[:, 3] for cell in cells if cell.density == 1])
        for cells in (full, half)
    ]
    assert len(radii_um[1]) / len(radii_um[0]) == pytest.approx(0.5, abs=0.02)
    for percent in (25, 50, 75, 95):
        assert np.percentile(radii_um[1], percent) == pytest.approx(
            np.percentile(radii_um[0], percent), rel=0.05
        )


def test_cells_above_the_glass_make_a_thick_layer():
    few, many = (
        len(float_cells((500.0, 500.0), np.random.default_rng(1), times)) for times in (1, 20)
    )
    assert 8 * few < many < 60 * few


def test_a_rough_ground_is_seen_in_brightfield_and_not_in_the_stains():
    smooth, rough = (
        simulate_field(20, (96, 96), seed=8, conditions=Conditions(density=0.05, ground_um=by))
        for by in (0.0, 0.03)
    )
    spread = [  # of the ground, which cells do not reach
        np.median(np.abs(field.planes[6] - np.median(field.planes[6]))) for field in (smooth, rough)
    ]
    assert spread[1] > 1.5 * spread[0]
    for target, image in smooth.targets.items():
        difference = rough.targets[target].astype(float) - image
        assert difference.std() < 4 * np.sqrt(image.mean() * 2 + 64)


@pytest.mark.parametrize("bad", [{"unilocular": 1.1}, {"floating": -1}, {"ground_um": -0.1}])
def test_shares_and_amounts_have_limits(bad):
    with pytest.raises(ConfigError, match="unilocular must be a share"):
        Conditions(**bad)
