"""The camera counts electrons with their noise, and has hot pixels."""

import numpy as np
import pytest

from adipocyte.simulation.camera import Exposure, add_hot_pixels, expose


def test_hot_pixels_are_few_single_and_the_same_in_every_image():
    images = [np.full((1500, 1500), counts, np.uint16) for counts in (300, 30000)]
    for image in images:
        add_hot_pixels(image)
    hot = images[0] > 300
    assert 3 <= hot.sum() <= 20
    np.testing.assert_array_equal(images[1] > 30000, hot)


def test_noise_of_a_flat_light_is_that_of_its_electrons():
    exposure = Exposure(gain=400, offset=50, electrons_per_count=4.0, read_noise=3)
    counts = expose(np.ones((300, 300), np.float32), exposure, np.random.default_rng(0))
    assert counts.mean() == pytest.approx(450, abs=0.2)
    assert counts.std() == pytest.approx(np.sqrt(400 / 4 + 9), rel=0.02)  # and 1/12 of rounding


def test_counts_never_wrap_around():
    exposure = Exposure(gain=400, offset=0, electrons_per_count=4.0, read_noise=3)
    counts = expose(np.array([[-1.0, 1000.0]], np.float32), exposure, np.random.default_rng(0))
    np.testing.assert_array_equal(counts, [[0, 65535]])
