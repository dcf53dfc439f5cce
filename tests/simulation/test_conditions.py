"""Conditions change lamp, stains and focus as they say, and nothing else."""

import numpy as np
import pytest

from adipocyte.domain import N_Z_PLANES
from adipocyte.errors import ConfigError
from adipocyte.simulation import Conditions, draw_conditions, simulate_field
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
    with pytest.raises(ConfigError, match="light and density must be above 0, got 0"):
        Conditions(light=0)
    with pytest.raises(ConfigError, match=r"stains names \['A4'\]"):
        Conditions(stains={"A4": 1.0})
    with pytest.raises(ConfigError, match="0 or above"):
        Conditions(stains={"A1": -1.0})
