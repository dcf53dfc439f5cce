"""An instrument changes the images of a scene as it says."""

from dataclasses import replace

import numpy as np
import pytest

from adipocyte.simulation import (
    INSTRUMENTS,
    draw_any_conditions,
    draw_instrument,
    simulate_field,
)
from adipocyte.simulation.instruments import Instrument, draw_specks
from adipocyte.simulation.optics import focus_series

HOME = INSTRUMENTS[20]


def planes(instrument: Instrument) -> np.ndarray:
    return simulate_field(20, (128, 128), seed=4, instrument=instrument).planes


def test_the_challenges_instrument_is_the_default():
    np.testing.assert_array_equal(planes(HOME), simulate_field(20, (128, 128), seed=4).planes)


def test_light_falls_from_the_left_border_to_the_right():
    ratio = planes(replace(HOME, slope=0.6)).astype(float) / planes(HOME)
    columns = np.median(ratio, axis=(0, 1))
    np.testing.assert_allclose(columns, np.linspace(0.7, 1.3, 128), rtol=0.03)


def test_vignetting_darkens_the_corners():
    ratio = planes(replace(HOME, bowl=0.5)).astype(float) / planes(HOME)
    corners = [ratio[:, :16, :16], ratio[:, -16:, -16:], ratio[:, :16, -16:], ratio[:, -16:, :16]]
    assert np.median(corners) < 0.85 < 1.05 < np.median(ratio[:, 56:72, 56:72])


def test_specks_take_light_in_the_same_places_of_every_plane():
    ratio = planes(replace(HOME, specks=12)) / planes(HOME).astype(float)
    shadow = np.median(ratio, axis=0) < 0.95
    assert 0.01 < shadow.mean() < 0.5
    left = draw_specks((128, 128), 12, np.random.default_rng(0))
    assert 0.1 <= left.min() < 0.95
    assert left.max() == pytest.approx(1)


def test_a_tilted_stage_is_flat_in_the_middle_and_out_of_focus_at_the_borders():
    paths_um = np.random.default_rng(1).normal(0, 0.05, (3, 96, 96)).astype(np.float32)
    tilted = planes(replace(HOME, tilt_um=6.0)).astype(float)
    flat = planes(HOME).astype(float)
    difference = np.abs(tilted / flat - 1).mean(axis=(0, 1))
    assert difference[60:68].mean() < 0.5 * min(difference[:8].mean(), difference[-8:].mean())
    one = focus_series(paths_um, replace(HOME.optics, n_planes=3))
    np.testing.assert_allclose(one, focus_series(paths_um, HOME.optics)[:3], rtol=1e-5)


def test_files_of_eight_bits_are_stretched_and_saturate_a_little():
    counts, eight = planes(HOME).astype(float), planes(replace(HOME, is_eight_bit=True))
    assert (eight.min(), eight.max()) == (0, 255)
    assert 0.0015 < np.mean(eight == 0) < 0.01
    between = (eight > 0) & (eight < 255)
    slope, intercept = np.polyfit(counts[between], eight[between], 1)
    np.testing.assert_allclose(eight[between], slope * counts[between] + intercept, atol=0.51)


def test_resized_files_hold_no_more_than_their_coarse_pixels():
    def finest(images: np.ndarray) -> float:
        """Power of the finest frequencies over that of coarse ones."""
        power = np.abs(np.fft.rfft2(images - images.mean(axis=(1, 2), keepdims=True))) ** 2
        return power[:, 52:76, 52:].mean() / power[:, 2:12, 2:12].mean()

    sharp, coarse = planes(HOME), planes(replace(HOME, coarseness=2.0))
    assert coarse.dtype == np.uint16
    assert finest(coarse) < finest(sharp) / 20
    assert np.corrcoef(sharp.ravel(), coarse.ravel())[0, 1] > 0.9
    np.testing.assert_allclose(coarse.mean(), sharp.mean(), rtol=0.01)


def test_other_microscopes_repeat_with_the_seed_and_can_photograph():
    drawn = [draw_instrument(40, (0, well)) for well in range(60)]
    assert drawn[3] == draw_instrument(40, (0, 3))
    home = INSTRUMENTS[40].optics
    scales = [one.optics.um_per_px / home.um_per_px for one in drawn]
    assert 0.8 <= min(scales) < 0.87
    assert 1.18 < max(scales) <= 1.25
    steps = np.array([one.optics.focus_step_um / home.focus_step_um for one in drawn])
    assert 0.05 < np.mean(np.abs(steps) < 0.31) < 0.35  # hardly more than one plane
    assert 0.15 < np.mean(steps < 0) < 0.5  # the other way through the cells
    for well in range(4):
        field = simulate_field(
            40,
            (96, 96),
            seed=well,
            conditions=draw_any_conditions(well),
            instrument=drawn[well],
        )
        assert field.planes.shape == (7, 96, 96)
        for counts in (field.planes, *field.targets.values()):
            assert counts.std() > 1
            assert np.mean(counts == 65535) < 0.01
