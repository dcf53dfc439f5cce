"""Nuclei masks: true nuclei are covered; hot pixels, debris and noise stay out."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.segmentation import slic

from adipocyte.config import PreprocessConfig
from adipocyte.imaging.masks import nuclei_mask, superpixels
from adipocyte.simulation import simulate_field

SHIPPED = PreprocessConfig(plate="")
MASKING = {
    "threshold": SHIPPED.mask_threshold,
    "superpixel_px": SHIPPED.mask_superpixel_px,
    "smallest_px": SHIPPED.mask_smallest_px,
}
SIDE_PX = {20: 320, 40: 448, 60: 576}


def shipped_mask(image, magnification):
    """The mask that `preprocess` makes by default.

    Lengths are proportional to the magnification, areas to its square.
    """
    zoom = magnification / 20
    return nuclei_mask(
        image,
        threshold=MASKING["threshold"],
        superpixel_px=MASKING["superpixel_px"] * zoom,
        smallest_px=round(MASKING["smallest_px"] * zoom**2),
    )


def soiled(image, magnification, seed):
    """A copy of *image*, (Y, X), with hot pixels and debris, both four times as dense as usual.

    The debris is 2 to 6 pixels wide at 20x.
    """
    random, zoom = np.random.default_rng(seed), magnification / 20
    y, x = np.indices(image.shape)
    light = np.zeros(image.shape)
    for _ in range(round(image.size * 120e-6)):
        centre_y, centre_x = random.uniform(0, image.shape)
        distance = np.hypot(y - centre_y, x - centre_x)
        brightness, radius = random.uniform(1000, 5000), random.uniform(1, 3) * zoom
        light += brightness * np.clip(radius + 0.5 - distance, 0, 1)
    hot = random.choice(image.size, round(image.size * 80e-6), replace=False)
    light.flat[hot] = random.uniform(2000, 20000, hot.size)
    return np.clip(image + light, 0, 65535).astype(np.uint16)


def pieces_outside(mask, nuclei):
    """How many connected pieces of a *mask* touch no true nucleus."""
    pieces, n = ndimage.label(mask, np.ones((3, 3)))
    return n - np.count_nonzero(np.unique(pieces[nuclei > 0]))


def iou(mask, nuclei):
    return (mask & (nuclei > 0)).sum() / (mask | (nuclei > 0)).sum()


@pytest.mark.parametrize("magnification", [20, 40, 60])
def test_debris_and_hot_pixels_are_cleaned_from_the_mask_and_nuclei_are_not(magnification):
    side_px = SIDE_PX[magnification]
    field = simulate_field(magnification, (side_px, side_px), seed=0)
    image = soiled(field.targets["A1"], magnification, seed=0)
    mask = shipped_mask(image, magnification)
    assert mask.dtype == bool
    assert pieces_outside(image > 2 * image.mean(), field.nuclei) >= 10
    assert pieces_outside(mask, field.nuclei) == 0
    assert iou(mask, field.nuclei) > 0.8


@pytest.mark.parametrize("shape_px", [(200, 160), (160, 300)])
def test_masks_cover_the_true_nuclei(shape_px):
    fields = [simulate_field(20, shape_px, seed=seed) for seed in range(4)]
    found = [iou(shipped_mask(field.targets["A1"], 20), field.nuclei) for field in fields]
    assert np.mean(found) > 0.8


def test_hot_pixels_stay_out_of_the_mask_and_in_a_plain_threshold():
    field = simulate_field(20, (128, 128), seed=0)
    image = field.targets["A1"].copy()
    dark = (image < np.median(image)) & (field.nuclei == 0)
    hot = tuple(np.random.default_rng(0).permutation(np.argwhere(dark))[:40].T)
    image[hot] = 20000
    masking = {**MASKING, "smallest_px": 0}  # no help from the removal of small pieces
    assert (image > 2 * image.mean())[hot].all()
    assert not nuclei_mask(image, **masking)[hot].any()


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3])
def test_a_grainy_nucleus_is_found_by_its_superpixels_not_by_its_grains(share):
    image = np.full((120, 120), 100, dtype=np.uint16)
    y, x = np.indices(image.shape)
    disc = (y - 60) ** 2 + (x - 60) ** 2 < 18**2
    dark = disc & (np.random.default_rng(0).random(image.shape) < share)
    image[disc], image[dark] = 1500, 250  # the threshold is about 370
    by_grains = ndimage.binary_opening(image > 2 * image.mean(), iterations=2)
    assert iou(by_grains, disc) < 0.8
    assert iou(nuclei_mask(image, **MASKING), disc) > 0.85


def test_the_same_image_has_the_same_mask():
    image = simulate_field(20, (128, 200), seed=1).targets["A1"]
    np.testing.assert_array_equal(nuclei_mask(image, **MASKING), nuclei_mask(image, **MASKING))


@settings(max_examples=25)
@given(
    height=st.sampled_from([1, 2, 37, 95, 97, 255]),
    width=st.sampled_from([1, 3, 50, 96, 258]),
    smallest_px=st.sampled_from([0, 1, 30]),
)
def test_an_image_of_any_size_has_a_mask_of_its_size(height, width, smallest_px):
    random = np.random.default_rng([height, width])
    image = random.integers(0, 600, (height, width), dtype=np.uint16)
    mask = nuclei_mask(image, threshold=1.3, superpixel_px=8, smallest_px=smallest_px)
    assert (mask.shape, mask.dtype) == ((height, width), np.bool_)


@pytest.mark.parametrize("centre_px", [110, 120, 130, 240])
def test_a_nucleus_on_the_seam_of_two_blocks_stays_in_one_piece(centre_px):
    image = np.full((64, 512), 100, dtype=np.uint16)
    y, x = np.indices(image.shape)
    disc = (y - 32) ** 2 + (x - centre_px) ** 2 < 20**2
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


def test_a_seed_of_slic_without_pixels_gives_no_warning():
    brightness = np.zeros((20, 20), np.float32)
    region = np.random.default_rng(17).random((20, 20)) < 0.2
    n = round(region.sum() / 2.0**2)
    # `superpixels` hides this warning by its text, because it has no category of its own.
    with pytest.warns(UserWarning, match="^One of the clusters is empty"):
        slic(brightness, n, mask=region, channel_axis=None, enforce_connectivity=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        superpixels(brightness, region, 2.0)


@pytest.mark.parametrize("count", [0, 300, 65535])
def test_an_even_image_has_no_nuclei(count):
    assert not nuclei_mask(np.full((70, 90), count, dtype=np.uint16), **MASKING).any()
