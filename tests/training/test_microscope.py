"""Planes as another microscope takes them: each change does what it says, and nothing else."""

import numpy as np
import pytest

from adipocyte.training.microscope import CHANGES, as_other_microscope

GROUND = 2.5  # network units from the dark to the mean of the light


@pytest.fixture
def planes() -> np.ndarray:
    """Seven planes, each a little brighter than the one below it."""
    random = np.random.default_rng(0)
    levels = np.arange(7, dtype=np.float32)[:, None, None] / 10
    return levels + random.standard_normal((7, 64, 48), dtype=np.float32)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_keeps_shape_and_type_repeats_itself_and_leaves_its_input(planes, name):
    before = planes.copy()
    first, again, other = (
        CHANGES[name](planes, GROUND, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert first.shape == planes.shape
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(planes, before)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_takes_a_single_plane(planes, name):
    changed = CHANGES[name](planes[:1], GROUND, np.random.default_rng(1))
    assert changed.shape == (1, 64, 48)
    assert np.isfinite(changed).all()


def test_planes_between_two_are_their_mixture_and_none_lies_beyond_the_last(planes):
    flat = np.broadcast_to(np.arange(7, dtype=np.float32)[:, None, None], (7, 4, 4)).copy()
    places = [
        CHANGES["z-window"](flat, GROUND, np.random.default_rng(seed))[:, 0, 0]
        for seed in range(50)
    ]
    assert np.min(places) >= 0
    assert np.max(places) <= 6
    steps = np.concatenate([np.diff(one)[(one[:-1] > 0) & (one[1:] < 6)] for one in places])
    assert 0.7 <= steps.min() < 0.8
    assert 1.2 < steps.max() <= 1.3001


def test_a_missing_plane_is_replaced_by_a_neighbour(planes):
    for seed in range(20):
        changed = CHANGES["missing planes"](planes, GROUND, np.random.default_rng(seed))
        sources = [
            next(z for z in range(7) if np.array_equal(plane, planes[z])) for plane in changed
        ]
        assert max(abs(np.array(sources) - np.arange(7))) == 1


def test_uneven_light_is_a_share_of_the_light_and_none_of_the_dark():
    dark = np.full((3, 64, 64), -GROUND, dtype=np.float32)
    changed = CHANGES["uneven light"](dark, GROUND, np.random.default_rng(3))
    np.testing.assert_allclose(changed, dark, atol=1e-6)
    empty = np.zeros((3, 64, 64), dtype=np.float32)
    light = CHANGES["uneven light"](empty, GROUND, np.random.default_rng(3)) / GROUND + 1
    assert 0.05 < light.max() - light.min() < 0.8


def test_gamma_leaves_the_light_of_an_empty_place_and_its_slope():
    near = np.array([[[0.0, 1e-3]]], dtype=np.float32)
    changed = CHANGES["gamma"](near, GROUND, np.random.default_rng(3))
    assert changed[0, 0, 0] == pytest.approx(0, abs=1e-6)
    assert changed[0, 0, 1] == pytest.approx(1e-3, rel=0.01)


def test_each_change_happens_to_half_of_the_patches_and_can_be_left_out(planes):
    nothing = [
        np.array_equal(as_other_microscope(planes, GROUND, np.random.default_rng(seed)), planes)
        for seed in range(400)
    ]
    assert np.mean(nothing) < 0.04  # one in 128
    level = np.full((7, 64, 64), 1.0, dtype=np.float32)
    is_noisy = [
        np.diff(
            as_other_microscope(level, GROUND, np.random.default_rng(seed), without=left_out)[0]
        ).std()
        > 0.05
        for left_out in ("", "noise")
        for seed in range(200)
    ]
    assert 0.25 < np.mean(is_noisy[:200]) < 0.6
    assert not any(is_noisy[200:])
