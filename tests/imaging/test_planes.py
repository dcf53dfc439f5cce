"""Planes between planes are their mixture, and planes that are there stay as they are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adipocyte.imaging.planes import as_many, between

LEVELS = np.broadcast_to(np.arange(5, dtype=np.float32)[:, None, None], (5, 3, 4))


@given(places=st.lists(st.floats(-3, 8), min_size=1, max_size=9))
def test_a_plane_lies_between_its_nearest_two_and_none_beyond_the_ends(places):
    found = between(LEVELS, np.array(places))
    assert found.shape == (len(places), 3, 4)
    np.testing.assert_allclose(found[:, 1, 2], np.clip(places, 0, 4), atol=1e-5)


@pytest.mark.parametrize("n_old", [1, 2, 3, 7, 9])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_a_stack_of_another_number_of_planes_reaches_from_the_first_to_the_last(n_old, n):
    stack = np.random.default_rng(0).integers(0, 65536, (n_old, 5, 6), dtype=np.uint16)
    found = as_many(stack, n)
    assert found.shape == (n, 5, 6)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found[0], stack[0])
    if n > 1:
        np.testing.assert_array_equal(found[-1], stack[-1])
    expected = between(stack.astype(np.float64), np.linspace(0, n_old - 1, n))
    assert np.abs(found - expected).max() <= 0.51


def test_as_many_planes_as_there_are_is_the_stack_itself():
    stack = np.zeros((7, 4, 4), dtype=np.uint16)
    assert as_many(stack, 7) is stack
