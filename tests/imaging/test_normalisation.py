"""Normalisation is the report's equation, and its inverse gives the counts again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from adipocyte.errors import ConfigError
from adipocyte.imaging.normalisation import REPORT_SCALINGS, Scaling, field_scaling, stain_level

COUNTS = arrays(np.uint16, array_shapes(min_dims=2, max_dims=3, max_side=12))


@given(counts=COUNTS, mean=st.floats(0, 65535), std=st.floats(1, 20000))
def test_normalising_and_back_gives_the_counts_again(counts, mean, std):
    # The error of float32 is some 1e-7 of the mean, at most a hundredth of a count: rounding
    # removes it.
    scaling = Scaling(mean, std)
    np.testing.assert_array_equal(scaling.denormalise(scaling.normalise(counts)), counts)


@given(counts=COUNTS, magnification=st.sampled_from([20, 40, 60]))
def test_normalising_is_equation_3_1(counts, magnification):
    mean, std = {20: (2594, 966), 40: (713, 282), 60: (524, 228)}[magnification]  # Table 3.1
    normalised = REPORT_SCALINGS[magnification].normalise(counts)
    expected = (counts.astype(np.float64) - mean) / std
    assert normalised.dtype == np.float32
    np.testing.assert_allclose(normalised, expected, rtol=1e-6, atol=1e-4)


def test_what_no_camera_counts_is_clipped_not_wrapped():
    image = np.array([-1e9, -1.01, -1.0, 0.0, 1e9], dtype=np.float32)
    np.testing.assert_array_equal(Scaling(100, 100).denormalise(image), [0, 0, 0, 100, 65535])


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan")])
def test_constant_images_cannot_be_normalised(std):
    with pytest.raises(ConfigError, match=f"must be positive, got {std}: the images are constant"):
        Scaling(10, std)


@given(counts=arrays(np.uint16, (40, 50), elements=st.integers(0, 6000)), factor=st.integers(2, 10))
def test_a_field_by_itself_looks_the_same_at_another_exposure(counts, factor):
    histogram, brighter = (
        np.bincount(c.ravel(), minlength=65536) for c in (counts, factor * counts)
    )
    if len(np.unique(counts)) == 1:
        with pytest.raises(ConfigError, match="must be positive"):
            field_scaling(histogram)
        return
    try:
        scaling = field_scaling(histogram)
    except ConfigError:  # all but a thousandth of it is constant
        assert np.count_nonzero(counts != np.median(counts)) <= 4
        return
    other = field_scaling(brighter)
    assert other.mean == pytest.approx(factor * scaling.mean)
    assert other.std == pytest.approx(factor * scaling.std)


def test_the_scaling_of_a_field_is_its_mean_and_deviation_without_the_extremes():
    counts = np.random.default_rng(0).normal(2000, 100, 100_000).round().astype(np.uint16)
    clean = field_scaling(np.bincount(counts, minlength=65536))
    assert (clean.mean, clean.std) == pytest.approx((2000, 100), rel=0.01)
    counts[:50] = 65535  # hot pixels, which would double the deviation and more
    hot = field_scaling(np.bincount(counts, minlength=65536))
    assert counts.std() > 1400
    assert (hot.mean, hot.std) == pytest.approx((clean.mean, clean.std), rel=0.01)


def test_the_level_of_a_stain_does_not_depend_on_how_much_of_it_there_is():
    random = np.random.default_rng(0)

    def histogram(share: float, strength: float) -> np.ndarray:
        is_bright = random.random(200_000) < share
        counts = 200 + strength * is_bright * random.uniform(500, 1000, 200_000)
        return np.bincount((counts + random.normal(0, 5, 200_000)).astype(int), minlength=65536)

    full, sparse, strong = (stain_level(histogram(*one)) for one in ((0.3, 1), (0.05, 1), (0.3, 4)))
    assert sparse.above == pytest.approx(full.above, rel=0.05)
    assert strong.above == pytest.approx(4 * full.above, rel=0.05)
    assert full.dark == pytest.approx(sparse.dark, abs=3) == pytest.approx(strong.dark, abs=3)
    shape = Scaling(0.2, 0.3)
    assert full.scaling(shape).mean == pytest.approx(full.dark + 0.2 * full.above)
    assert full.scaling(shape).std == pytest.approx(0.3 * full.above)


def test_a_stain_without_a_range_has_no_level():
    with pytest.raises(ConfigError, match="must have a range, got 0 counts"):
        stain_level(np.bincount(np.full(1000, 300), minlength=65536))
