"""Misalignment moves fluorescence, not brightfield, and turns with the site."""

import numpy as np
import pytest
from skimage.registration import phase_cross_correlation

from adipocyte.errors import ConfigError
from adipocyte.simulation import Misalignment, misalignment_at, simulate_field


def test_misalignment_moves_fluorescence_and_nuclei_by_the_stated_pixels_and_leaves_brightfield():
    shift = Misalignment(dy_px=4.5, dx_px=-3.0)
    straight = simulate_field(20, (160, 190), seed=3)
    moved = simulate_field(20, (160, 190), seed=3, misalignment=shift)
    np.testing.assert_array_equal(straight.planes, moved.planes)
    # Without a taper, the border, which does not move, would pull the estimate towards zero.
    taper = np.outer(np.hanning(160), np.hanning(190))
    for target in straight.targets:
        images = (field.targets[target] for field in (straight, moved))
        before, after = (taper * (image - image.mean()) for image in images)
        # The shift that registers `moved` onto `straight` is the way back.
        back, _, _ = phase_cross_correlation(before, after, upsample_factor=10, normalization=None)
        np.testing.assert_allclose(back, (-4.5, 3.0), atol=0.3)
    bright, still_bright = (
        field.targets["A1"][field.nuclei > 0].mean() for field in (straight, moved)
    )
    assert still_bright == pytest.approx(bright, rel=0.05)


def test_a_smaller_scale_draws_fluorescence_towards_the_centre():
    image = np.zeros((101, 101), np.float32)
    image[50, 90] = 1.0
    moved = Misalignment(0.0, 0.0, scale=0.5).apply(image, order=1)
    assert np.unravel_index(np.argmax(moved), moved.shape) == (50, 70)


def test_misalignment_turns_once_around_the_sites_of_a_well():
    shifts = [misalignment_at(20, site, 6) for site in range(1, 7)]
    assert shifts[0].dx_px == pytest.approx(0.067 - 1.22)
    assert shifts[0].dy_px == pytest.approx(-4.09 + 0.76)
    assert np.mean([shift.dx_px for shift in shifts]) == pytest.approx(-1.22)
    assert np.mean([shift.dy_px for shift in shifts]) == pytest.approx(0.76)
    with pytest.raises(ConfigError, match="site 7"):
        misalignment_at(20, 7, 6)
    with pytest.raises(ConfigError, match=r"magnification 25: choose one of \[10, 20, 40, 60, 63"):
        misalignment_at(25, 1, 6)
    assert misalignment_at(10, 1, 6).dx_px == pytest.approx((0.067 - 1.22) / 2)
