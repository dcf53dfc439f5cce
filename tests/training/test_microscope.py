"""Planes as another microscope takes them: each change does what it says, and nothing else."""

import numpy as np
import pytest

from adipocyte.training.microscope import CHANGES, as_other_microscope, changes_of, fewer_planes

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


def test_each_change_happens_to_half_of_the_patches(planes):
    calls = []
    changes = [
        lambda planes, ground, random, name=name: calls.append((name, ground)) or planes + 1
        for name in ("a", "b")
    ]
    sums = [
        as_other_microscope(planes, GROUND, np.random.default_rng(seed), changes)[0, 0, 0]
        - planes[0, 0, 0]
        for seed in range(400)
    ]
    assert {ground for _, ground in calls} == {GROUND}
    for name in ("a", "b"):
        assert 0.4 < np.mean([called == name for called, _ in calls]) < 0.6
    assert 0.4 < len(calls) / 800 < 0.6
    assert sum(sums) == pytest.approx(len(calls), rel=1e-4)


def test_the_ways_of_augmentation_have_their_changes():
    assert changes_of("report") == ()
    assert changes_of("microscope") == tuple(CHANGES.values())
    assert changes_of("any_planes") == (fewer_planes, *CHANGES.values())


def test_with_fewer_planes_the_others_lie_between_them():
    flat = np.broadcast_to(np.arange(7, dtype=np.float32)[:, None, None], (7, 4, 4)).copy()
    seen = set()
    for seed in range(200):
        levels = fewer_planes(flat, GROUND, np.random.default_rng(seed))[:, 0, 0]
        assert levels.shape == (7,)
        steps = np.diff(levels)
        assert steps.min() >= 0
        assert 0 <= levels[0] <= levels[-1] <= 6
        seen.add(len(np.unique(levels)))
    assert {1, 7} <= seen  # a single plane, and all
