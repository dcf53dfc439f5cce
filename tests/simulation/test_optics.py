"""Brightfield obeys the physics of waves, lenses and focus."""

import numpy as np
import pytest

from adipocyte.domain import MAGNIFICATIONS, N_Z_PLANES
from adipocyte.simulation.optics import OBJECTIVES, Optics, focus_series


def ball_path_um(radius_um: float, index_step: float, optics: Optics, size_px: int) -> np.ndarray:
    """Optical path through one ball in the middle of a single layer, (1, Y, X)."""
    y, x = (np.indices((size_px, size_px)) - size_px / 2) * optics.um_per_px
    chord_um = 2 * np.sqrt(np.clip(radius_um**2 - y**2 - x**2, 0, None))
    return (index_step * chord_um)[None].astype(np.float32)


@pytest.mark.parametrize("magnification", MAGNIFICATIONS)
def test_an_empty_scene_is_flat_at_every_focus(magnification):
    light = focus_series(np.zeros((3, 96, 80), dtype=np.float32), OBJECTIVES[magnification])
    assert light.shape == (N_Z_PLANES, 96, 80)
    np.testing.assert_allclose(light, 1.0, atol=1e-4)  # float32 sums of nine sources


def test_light_that_the_pupil_passes_is_only_moved_about_by_defocus():
    optics = OBJECTIVES[20]
    light = focus_series(ball_path_um(3.0, 0.05, optics, 128), optics)
    np.testing.assert_allclose(light.mean(axis=(1, 2)), light.mean(), rtol=1e-4)
    assert 0.9 < light.mean() <= 1.0


def test_a_transparent_ball_shows_little_in_focus_and_much_out_of_it():
    # Plane 3 is in focus, planes 0 and 6 are 9 µm off. The ball is so smooth that the pupil passes
    # nearly all of its light.
    optics = Optics(
        um_per_px=0.163,
        aperture=0.95,
        condenser_aperture=0.2,
        first_focus_um=-9.0,
        focus_step_um=3.0,
    )
    y, x = (np.indices((160, 160)) - 80) * optics.um_per_px
    bump_um = 0.3 * np.exp(-(y**2 + x**2) / (2 * 1.5**2))
    contrast = focus_series(bump_um[None].astype(np.float32), optics).std(axis=(1, 2))
    assert contrast[3] < 0.15 * min(contrast[0], contrast[6])


def test_a_ball_denser_than_its_medium_gathers_light_behind_it():
    optics = OBJECTIVES[40]
    light = focus_series(ball_path_um(3.0, 0.085, optics, 160), optics)
    behind = light[4]  # 7 µm below the ball, on the far side from the lamp
    assert behind[80, 80] > 2.0
    assert behind[80, 80 + round(3.0 / optics.um_per_px)] < 0.8  # the dark rim


@pytest.mark.parametrize("magnification", MAGNIFICATIONS)
def test_defocus_moves_nothing_sideways(magnification):
    optics, size_px = OBJECTIVES[magnification], 256
    y, x = (np.indices((size_px, size_px)) - size_px / 2) * optics.um_per_px
    bump_um = 0.05 * np.exp(-(y**2 + x**2) / (2 * 2.0**2))
    planes = focus_series(bump_um[None].astype(np.float32), optics)
    for plane in np.abs(planes - 1):
        centre_um = np.array([(plane * y).sum(), (plane * x).sum()]) / plane.sum()
        centre_px = centre_um / optics.um_per_px
        np.testing.assert_allclose(centre_px, 0, atol=0.02)  # alignment is estimated to 0.1 px
