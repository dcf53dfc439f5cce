"""Pixels: scaling and its inverse, statistics from histograms, padding, pictures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from skimage.exposure import match_histograms

from adipocyte.errors import ConfigError
from adipocyte.imaging.grey import comparison, to_grey
from adipocyte.imaging.histograms import counts_histogram, match_histogram, mean_and_std, median
from adipocyte.imaging.normalisation import REPORT_SCALINGS, Scaling
from adipocyte.imaging.padding import pad_to_multiple

COUNTS = arrays(np.uint16, array_shapes(min_dims=2, max_dims=3, max_side=12))


# Normalisation


@given(counts=COUNTS, mean=st.floats(0, 65535), std=st.floats(1, 20000))
def test_normalising_and_back_gives_the_counts_again(counts, mean, std):
    # float32 is off by some 1e-7 of the mean, at most a hundredth of a count: rounding takes it away.
    scaling = Scaling(mean, std)
    np.testing.assert_array_equal(scaling.denormalise(scaling.normalise(counts)), counts)


@given(counts=COUNTS, magnification=st.sampled_from([20, 40, 60]))
def test_normalising_is_equation_3_1(counts, magnification):
    mean, std = {20: (2594, 966), 40: (713, 282), 60: (524, 228)}[magnification]  # Table 3.1
    normalised = REPORT_SCALINGS[magnification].normalise(counts)
    assert normalised.dtype == np.float32
    np.testing.assert_allclose(
        normalised, (counts.astype(np.float64) - mean) / std, rtol=1e-6, atol=1e-4
    )


def test_what_no_camera_counts_is_clipped_not_wrapped():
    image = np.array([-1e9, -1.01, -1.0, 0.0, 1e9], dtype=np.float32)
    np.testing.assert_array_equal(Scaling(100, 100).denormalise(image), [0, 0, 0, 100, 65535])


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan")])
def test_constant_images_cannot_be_normalised(std):
    with pytest.raises(
        ConfigError, match=f"must be positive, got {std}: the images are constant; check the plate"
    ):
        Scaling(10, std)


# Histograms


@given(images=st.lists(COUNTS, min_size=1, max_size=4))
def test_statistics_of_added_histograms_are_those_of_all_pixels(images):
    histogram = sum(counts_histogram(image) for image in images)
    pixels = np.concatenate([image.ravel() for image in images]).astype(np.float64)
    assert histogram.sum() == pixels.size
    # Sums in another order: float64 keeps 1e-9 of them.
    np.testing.assert_allclose(
        mean_and_std(histogram), (pixels.mean(), pixels.std()), rtol=1e-9, atol=1e-6
    )
    assert median(histogram) == np.median(pixels)


@pytest.mark.parametrize(
    "view", [lambda image: image[:, ::2], lambda image: image.T, lambda image: image.astype(">u2")]
)
def test_a_histogram_is_that_of_the_pixels_however_they_lie_in_memory(view):
    image = view(np.random.default_rng(0).integers(0, 65536, (30, 40, 50), dtype=np.uint16))
    np.testing.assert_array_equal(
        counts_histogram(image), np.bincount(image.ravel(), minlength=65536)
    )


def test_a_histogram_counts_more_pixels_of_one_brightness_than_float32_can():
    assert counts_histogram(np.zeros(2**24 + 5, dtype=np.uint16))[0] == 2**24 + 5


@given(image=COUNTS, reference=COUNTS)
def test_matching_is_scikit_images_within_the_rounding(image, reference):
    expected = match_histograms(
        image.ravel().astype(np.float64), reference.ravel().astype(np.float64)
    )
    matched = match_histogram(image, counts_histogram(reference))
    assert (matched.dtype, matched.shape) == (np.uint16, image.shape)
    assert np.abs(matched.ravel() - expected).max() <= 1  # theirs interpolates, ours rounds


def test_matching_a_field_is_scikit_images_within_the_rounding():
    random = np.random.default_rng(0)
    image, reference = (
        random.gamma(2, scale, (600, 400)).astype(np.uint16) for scale in (300, 2000)
    )
    error = match_histogram(image, counts_histogram(reference)) - match_histograms(image, reference)
    assert np.abs(error).max() <= 0.5 + 1e-9  # the rounding to whole counts


@given(image=COUNTS)
def test_matching_an_image_to_itself_changes_nothing(image):
    np.testing.assert_array_equal(match_histogram(image, counts_histogram(image)), image)


# Padding and pictures


@given(shape=array_shapes(min_dims=2, max_dims=4, max_side=9), multiple=st.integers(1, 32))
def test_padding_reaches_the_next_multiple_and_mirrors(shape, multiple):
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    padded = pad_to_multiple(image, multiple)
    assert padded.shape[:-2] == shape[:-2]
    assert [side % multiple for side in padded.shape[-2:]] == [0, 0]
    assert all(
        0 <= new - old < multiple for new, old in zip(padded.shape[-2:], shape[-2:], strict=True)
    )
    # Mirroring walks 0 1 … n-1 n-1 … 1 0 0 1 …
    y, x = (
        np.arange(new) % (2 * old) for new, old in zip(padded.shape[-2:], shape[-2:], strict=True)
    )
    y, x = np.minimum(y, 2 * shape[-2] - 1 - y), np.minimum(x, 2 * shape[-1] - 1 - x)
    np.testing.assert_array_equal(padded, image[..., y[:, None], x])


def test_a_comparison_shows_the_error_on_the_scale_of_the_truth():
    truth = np.tile(np.arange(100, dtype=np.uint16) * 10, (20, 1))
    panels = comparison(truth, truth, truth)
    assert (panels.dtype, panels.shape) == (np.uint8, (20, 4 * 100 + 3 * 4))
    np.testing.assert_array_equal(panels[:, 104:204], panels[:, 208:308])
    assert not panels[:, 312:].any()
    assert comparison(truth, truth, truth + np.uint16(2000))[:, 312:].min() == 255


def test_grey_runs_from_black_to_white_and_a_flat_image_is_no_error():
    np.testing.assert_array_equal(
        to_grey(np.array([[-5, 0, 5, 10, 20]]), 0, 10), [[0, 0, 128, 255, 255]]
    )
    assert to_grey(np.zeros((2, 2)), 0, 0).max() == 0
