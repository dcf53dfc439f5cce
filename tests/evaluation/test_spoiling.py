"""Fields are spoilt as microscopes and cameras spoil them, and always in the same way."""

import numpy as np
import pytest

from adipocyte.evaluation.spoiling import CHANGES, Field, spoil
from tests.support.plates import planes

PLANES = planes(0, (64, 72))
STAINS = np.stack([PLANES[3], PLANES[5]])


def changed(change, strength: float) -> Field:
    field = Field(PLANES.astype(np.float32), STAINS.astype(np.float32))
    return change(field, strength, np.random.default_rng(0))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_each_changes_the_planes_and_only_another_scale_the_stains(change):
    found = changed(change, 1.0)
    assert found.planes.shape == PLANES.shape
    assert found.planes.dtype == found.stains.dtype == np.float32
    assert not np.allclose(found.planes, PLANES)
    assert np.array_equal(found.stains, STAINS) == (change.__name__ != "_scale")


@pytest.mark.parametrize("change", [one for one in CHANGES if one.__name__ != "_repeated"])
def test_without_strength_nothing_changes(change):
    np.testing.assert_allclose(changed(change, 0.0).planes, PLANES, atol=1e-3)


def test_stains_keep_their_places_in_an_image_of_another_scale():
    """A bright square around the middle lies where it lies in the planes."""
    square = np.zeros((1, 65, 65), np.float32)
    square[:, 22:43, 22:43] = 1000
    change = next(one for one in CHANGES if one.__name__ == "_scale")
    found = change(Field(square, square), 1.0, np.random.default_rng(0))
    np.testing.assert_array_equal(found.planes, found.stains)
    assert not np.array_equal(found.planes, square)


def test_the_same_random_numbers_spoil_in_the_same_way():
    one, other = (spoil(PLANES, STAINS, np.random.default_rng(3)) for _ in range(2))
    for first, second in zip(one, other, strict=True):
        assert first.dtype == np.uint16
        np.testing.assert_array_equal(first, second)
    assert one[0].shape == PLANES.shape
    assert one[1].shape == STAINS.shape
