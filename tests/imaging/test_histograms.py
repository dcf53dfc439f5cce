"""Histograms give exact statistics of all pixels, and matching goes by rank."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from scipy.stats import rankdata
from skimage.exposure import match_histograms

from adipocyte.imaging.histograms import (
    apply_table,
    counts_histogram,
    match_highlights,
    match_histogram,
    mean_and_std,
    median,
)

COUNTS = arrays(np.uint16, array_shapes(min_dims=2, max_dims=3, max_side=12))
VIEWS = {
    "strided": lambda image: image[:, ::2],
    "transposed": lambda image: image.T,
    "big-endian": lambda image: image.astype(">u2"),
}


@given(images=st.lists(COUNTS, min_size=1, max_size=4))
def test_statistics_of_added_histograms_are_those_of_all_pixels(images):
    histogram = sum(counts_histogram(image) for image in images)
    pixels = np.concatenate([image.ravel() for image in images]).astype(np.float64)
    assert histogram.sum() == pixels.size
    # The sums are added in another order: float64 keeps 1e-9 of them.
    expected = pixels.mean(), pixels.std()
    np.testing.assert_allclose(mean_and_std(histogram), expected, rtol=1e-9, atol=1e-6)
    assert median(histogram) == np.median(pixels)


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_a_table_is_looked_up_however_the_pixels_lie_in_memory(view):
    random = np.random.default_rng(0)
    image = view(random.integers(0, 65536, (30, 40), dtype=np.uint16))
    table = random.integers(0, 65536, 65536, dtype=np.uint16)
    np.testing.assert_array_equal(apply_table(table, image), table[image])


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_a_histogram_is_that_of_the_pixels_however_they_lie_in_memory(view):
    image = view(np.random.default_rng(0).integers(0, 65536, (30, 40, 50), dtype=np.uint16))
    expected = np.bincount(image.ravel(), minlength=65536)
    np.testing.assert_array_equal(counts_histogram(image), expected)


def test_a_histogram_counts_more_pixels_of_one_brightness_than_float32_can():
    assert counts_histogram(np.zeros(2**24 + 5, dtype=np.uint16))[0] == 2**24 + 5


def mid_ranks(image: NDArray[np.uint16]) -> NDArray[np.float64]:
    return (rankdata(image, method="average").ravel() - 0.5) / image.size


@given(image=COUNTS, reference=COUNTS)
def test_matching_gives_each_pixel_the_references_count_of_its_rank(image, reference):
    order = np.argsort(reference, axis=None)
    expected = np.interp(
        mid_ranks(image), mid_ranks(reference)[order], reference.ravel()[order].astype(float)
    )
    matched = match_histogram(image, counts_histogram(reference))
    assert (matched.dtype, matched.shape) == (np.uint16, image.shape)
    np.testing.assert_allclose(matched.ravel(), expected, atol=0.5 + 1e-6)


def test_matching_a_field_with_few_ties_is_scikit_images():
    random = np.random.default_rng(0)
    image, reference = (
        random.gamma(2, scale, (600, 400)).clip(0, 65535).astype(np.uint16)
        for scale in (3000, 2000)
    )
    error = match_histogram(image, counts_histogram(reference)) - match_histograms(image, reference)
    assert np.quantile(np.abs(error), 0.99) <= 1
    assert np.abs(error).mean() < 0.3


@pytest.fixture
def nuclei() -> NDArray[np.int64]:
    """Nine tenths ground at 300 counts, a tenth nuclei at 3000."""
    random = np.random.default_rng(0)
    pixels = np.concatenate([random.normal(300, 20, 90_000), random.normal(3000, 400, 10_000)])
    return counts_histogram(pixels.clip(0, 65535).astype(np.uint16))


def test_a_flat_painting_becomes_the_references_median(nuclei):
    flat = match_histogram(np.full((100, 100), 412, np.uint16), nuclei)
    assert np.unique(flat).tolist() == [round(median(nuclei))]


@pytest.mark.parametrize("n_rows", [3, 20, 60])
def test_ground_that_is_clipped_to_nothing_stays_ground(nuclei, n_rows):
    painted = np.zeros((100, 100), np.uint16)
    painted[:n_rows] = np.random.default_rng(1).integers(1, 500, (n_rows, 100))
    matched = match_histogram(painted, nuclei)
    assert matched[n_rows:].max() < 330
    assert matched[:n_rows].min() >= matched[n_rows:].max()


@given(image=COUNTS)
def test_matching_an_image_to_itself_changes_nothing(image):
    np.testing.assert_array_equal(match_histogram(image, counts_histogram(image)), image)


# Highlights.


@pytest.fixture
def droplets() -> NDArray[np.uint16]:
    """Half a million pixels whose counts are all different where they are bright."""
    counts = np.concatenate([np.full(430_000, 100), np.arange(1000, 61_000).repeat(2)[:94_288]])
    return np.random.default_rng(0).permutation(counts).astype(np.uint16).reshape(512, 1024)


@pytest.fixture
def specked(droplets) -> NDArray[np.int64]:
    """The histogram of the droplets with specks."""
    return counts_histogram(np.where(droplets > 47_000, droplets + 9000, droplets))


def test_the_brightest_pixels_get_the_counts_of_their_rank_and_no_others_change(droplets, specked):
    raised = match_highlights(droplets, specked)
    changed = raised != droplets
    assert 0 < changed.sum() <= 1e-4 * droplets.size
    assert droplets[changed].min() > droplets[~changed].max()
    # Two pixels have each count: the higher of their ranks is a count from the mean of the two.
    matched = match_histogram(droplets, specked).astype(np.int32)
    assert set(raised[changed] - matched[changed]) <= {0, 1}
    assert raised.max() == np.flatnonzero(specked)[-1]


def test_the_brightest_pixel_gets_the_brightest_count_however_many_share_it(droplets, specked):
    few = np.argsort(droplets, axis=None)[-40:]
    droplets.ravel()[few] = droplets.max()
    assert match_highlights(droplets, specked).max() == np.flatnonzero(specked)[-1]


def test_a_dim_image_of_bright_objects_gets_highlights_too(droplets, specked):
    assert match_highlights(droplets // 4 * 3, specked).max() == np.flatnonzero(specked)[-1]


def test_highlights_are_never_lowered(droplets):
    np.testing.assert_array_equal(
        match_highlights(droplets, counts_histogram(droplets // 2)), droplets
    )


def test_an_image_without_bright_objects_gets_none(droplets):
    ground = np.random.default_rng(0).integers(80, 120, (512, 1024)).astype(np.uint16)
    ground[0, 0] = 7000  # less than half of a bright droplet
    np.testing.assert_array_equal(match_highlights(ground, counts_histogram(droplets)), ground)
