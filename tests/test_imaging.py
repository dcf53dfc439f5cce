"""Pixels: scaling and its inverse, statistics from histograms, nuclei masks, padding, pictures."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from skimage.exposure import match_histograms

from adipocyte.errors import ConfigError
from adipocyte.imaging.histograms import counts_histogram, match_histogram, mean_and_std, median
from adipocyte.imaging.masks import nuclei_mask
from adipocyte.imaging.normalisation import REPORT_SCALINGS, Scaling
from adipocyte.imaging.padding import pad_to_multiple
from adipocyte.imaging.pictures import comparison, to_grey
from adipocyte.simulation import simulate_field

COUNTS = arrays(np.uint16, array_shapes(min_dims=2, max_dims=3, max_side=12))
MASKING = {"threshold": 2.0, "superpixel_px": 10, "smallest_px": 50}


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
    np.testing.assert_allclose(normalised, (counts.astype(np.float64) - mean) / std, rtol=1e-6, atol=1e-4)


def test_what_no_camera_counts_is_clipped_not_wrapped():
    image = np.array([-1e9, -1.01, -1.0, 0.0, 1e9], dtype=np.float32)
    np.testing.assert_array_equal(Scaling(100, 100).denormalise(image), [0, 0, 0, 100, 65535])


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan")])
def test_constant_images_cannot_be_normalised(std):
    with pytest.raises(ConfigError, match=f"must be positive, got {std}: the images are constant; check the plate"):
        Scaling(10, std)


# Histograms


@given(images=st.lists(COUNTS, min_size=1, max_size=4))
def test_statistics_of_added_histograms_are_those_of_all_pixels(images):
    histogram = sum(counts_histogram(image) for image in images)
    pixels = np.concatenate([image.ravel() for image in images]).astype(np.float64)
    assert histogram.sum() == pixels.size
    # Sums in another order: float64 keeps 1e-9 of them.
    np.testing.assert_allclose(mean_and_std(histogram), (pixels.mean(), pixels.std()), rtol=1e-9, atol=1e-6)
    assert median(histogram) == np.median(pixels)


@given(image=COUNTS, reference=COUNTS)
def test_matching_is_scikit_images_within_the_rounding(image, reference):
    expected = match_histograms(image.ravel().astype(np.float64), reference.ravel().astype(np.float64))
    matched = match_histogram(image, counts_histogram(reference))
    assert (matched.dtype, matched.shape) == (np.uint16, image.shape)
    assert np.abs(matched.ravel() - expected).max() <= 1  # theirs interpolates, ours rounds


@given(image=COUNTS)
def test_matching_an_image_to_itself_changes_nothing(image):
    np.testing.assert_array_equal(match_histogram(image, counts_histogram(image)), image)


# Masks


@pytest.mark.parametrize("shape_px", [(200, 160), (160, 300)])
@pytest.mark.parametrize("seed", range(3))
def test_the_mask_covers_the_true_nuclei(seed, shape_px):
    field = simulate_field(20, shape_px, seed=seed)
    mask, truth = nuclei_mask(field.targets["A1"], **MASKING), field.nuclei > 0
    assert mask.dtype == bool
    assert (mask & truth).sum() / (mask | truth).sum() > 0.85  # at least .886 when this was written


def test_hot_pixels_stay_out_of_the_mask_and_in_a_plain_threshold():
    field = simulate_field(20, (128, 128), seed=0)
    image, dark = field.targets["A1"].copy(), field.targets["A1"] < np.median(field.targets["A1"])
    dark[field.nuclei > 0] = False
    hot = tuple(np.random.default_rng(0).permutation(np.argwhere(dark))[:40].T)
    image[hot] = 2500
    masking = {**MASKING, "smallest_px": 0}  # no help from the removal of small pieces
    assert (image > 2 * image.mean())[hot].all()
    assert not nuclei_mask(image, **masking)[hot].any()


@settings(max_examples=25)
@given(
    height=st.sampled_from([1, 2, 37, 255, 257]),
    width=st.sampled_from([1, 3, 50, 256, 258]),
    smallest_px=st.sampled_from([0, 1, 30]),
)
def test_an_image_of_any_size_has_a_mask_of_its_size(height, width, smallest_px):
    image = np.random.default_rng([height, width]).integers(0, 600, (height, width), dtype=np.uint16)
    mask = nuclei_mask(image, threshold=1.3, superpixel_px=8, smallest_px=smallest_px)
    assert (mask.shape, mask.dtype) == ((height, width), np.bool_)


def test_a_nucleus_on_the_seam_of_two_blocks_stays_in_one_piece():
    image = np.full((64, 512), 100, dtype=np.uint16)
    y, x = np.indices(image.shape)
    disc = (y - 32) ** 2 + (x - 256) ** 2 < 20**2
    image[disc] = 3000
    mask = nuclei_mask(image, **MASKING)
    assert (mask & disc).sum() / (mask | disc).sum() > 0.95


def test_small_pieces_and_small_holes_go():
    image = np.full((120, 120), 100, dtype=np.uint16)
    image[10:60, 10:60] = 3000
    image[30:36, 30:36] = 100  # a hole of 36 px
    image[90:96, 90:96] = 3000  # a piece of 36 px, 92 with all its rim
    mask = nuclei_mask(image, threshold=2.0, superpixel_px=5, smallest_px=100)
    assert mask[12:58, 12:58].all()
    assert not mask[80:, 80:].any()


@pytest.mark.parametrize("count", [0, 300, 65535])
def test_an_even_image_has_no_nuclei(count):
    assert not nuclei_mask(np.full((70, 90), count, dtype=np.uint16), **MASKING).any()


# Padding and pictures


@given(shape=array_shapes(min_dims=2, max_dims=4, max_side=9), multiple=st.integers(1, 32))
def test_padding_reaches_the_next_multiple_and_mirrors(shape, multiple):
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    padded = pad_to_multiple(image, multiple)
    assert padded.shape[:-2] == shape[:-2]
    assert [side % multiple for side in padded.shape[-2:]] == [0, 0]
    assert all(0 <= new - old < multiple for new, old in zip(padded.shape[-2:], shape[-2:], strict=True))
    # Mirroring walks 0 1 … n-1 n-1 … 1 0 0 1 …
    y, x = (np.arange(new) % (2 * old) for new, old in zip(padded.shape[-2:], shape[-2:], strict=True))
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
    np.testing.assert_array_equal(to_grey(np.array([[-5, 0, 5, 10, 20]]), 0, 10), [[0, 0, 128, 255, 255]])
    assert to_grey(np.zeros((2, 2)), 0, 0).max() == 0
