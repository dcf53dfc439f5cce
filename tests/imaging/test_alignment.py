"""An alignment brings fluorescence into brightfield's frame."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from adipocyte.domain import WHOLE
from adipocyte.errors import ConfigError, ImageError
from adipocyte.imaging.alignment import IDENTITY, Alignment
from adipocyte.simulation.misalignment import Misalignment, misalignment_at
from tests.imaging.images import smooth_noise


def smooth_image(shape_px: tuple[int, int], seed: int = 0) -> NDArray[np.uint16]:
    return (20_000 + 4_000 * smooth_noise(shape_px, seed, grain_px=3.0)).astype(np.uint16)


def aligned(alignment: Alignment, image: NDArray, window=WHOLE) -> NDArray:
    return alignment.resample(image[alignment.source(window, image.shape)], window, image.shape)


def undo(misalignment: Misalignment) -> Alignment:
    return Alignment(misalignment.dy_px, misalignment.dx_px, misalignment.scale)


@pytest.mark.parametrize(("magnification", "site"), [(20, 2), (40, 5), (60, 9)])
def test_what_the_simulator_moves_comes_back(magnification, site):
    misalignment = misalignment_at(magnification, site, n_sites=12)
    image = smooth_image((200, 240))
    back = aligned(undo(misalignment), misalignment.apply(image, order=3))
    inner = np.s_[12:-12, 12:-12]  # the simulator, too, shows nothing beyond its border
    # 1 % of the image's standard deviation.
    np.testing.assert_allclose(back[inner], image[inner], atol=40)


@given(
    st.floats(-6, 6),
    st.floats(-6, 6),
    st.floats(0.99, 1.01),
    st.integers(0, 149),
    st.integers(0, 129),
    st.integers(1, 60),
    st.integers(1, 60),
)
def test_a_window_is_that_window_of_the_whole_aligned_field(
    dy_px, dx_px, scale, top, left, height, width
):
    image = np.random.default_rng(0).integers(0, 65536, (150, 130), dtype=np.uint16)
    alignment = Alignment(dy_px, dx_px, scale)
    window = np.s_[top : min(top + height, 150), left : min(left + width, 130)]
    part, whole = aligned(alignment, image, window), aligned(alignment, image)
    np.testing.assert_allclose(part.astype(int), whole[window].astype(int), atol=1)  # rounding


def test_a_patch_needs_little_more_than_itself():
    source = Alignment(4.0, -5.0, 0.9988).source(np.s_[900:1060, 1000:1160], (2154, 2554))
    assert all(side.stop - side.start < 160 + 32 for side in source)


def test_a_mask_moves_with_its_stain_and_stays_a_mask():
    misalignment = Misalignment(3.3, -4.6, 0.9988)
    mask = smooth_noise((200, 240), seed=1, grain_px=6.0) > 0.5
    moved = misalignment.apply(mask.astype(np.uint8), order=0).astype(bool)
    back = aligned(undo(misalignment), moved)
    assert back.dtype == bool
    inner = np.s_[12:-12, 12:-12]
    # The nearest pixel is taken twice, so a border may move by two pixels.
    edge_px = ndimage.distance_transform_edt(mask) + ndimage.distance_transform_edt(~mask)
    sure = edge_px > 2
    np.testing.assert_array_equal(back[inner][sure[inner]], mask[inner][sure[inner]])


def test_the_identity_reads_and_gives_back_the_very_pixels():
    image = np.random.default_rng(0).integers(0, 65536, (70, 90), dtype=np.uint16)
    window = np.s_[3:40, 5:90]
    assert IDENTITY.is_identity
    assert IDENTITY.source(window, image.shape) == window
    np.testing.assert_array_equal(aligned(IDENTITY, image, window), image[window])


def test_counts_at_both_ends_of_the_range_never_wrap_around():
    image = np.zeros((60, 60), dtype=np.uint16)
    image[:, 30:] = 65535
    moved = aligned(Alignment(0.0, 0.5, 1.0), image)
    assert moved[:, :27].max() < 10_000  # a cubic spline swings over a step by a tenth of it
    assert moved[:, 32:].min() > 55_000


@given(st.floats(-20, 20), st.floats(-20, 20), st.floats(0.9, 1.1))
def test_the_valid_rectangle_holds_exactly_the_pixels_that_fluorescence_has_seen(
    dy_px, dx_px, scale
):
    shape_px = (90, 111)
    valid = Alignment(dy_px, dx_px, scale).valid(shape_px)
    for side, size, shift_px in zip(valid, shape_px, (dy_px, dx_px), strict=True):
        seen_at = (np.arange(size) - (size - 1) / 2) * scale + shift_px + (size - 1) / 2
        seen = np.flatnonzero((seen_at >= -1e-6) & (seen_at <= size - 1 + 1e-6))
        assert (side.start, side.stop) == (seen[0], seen[-1] + 1)


def test_the_identity_is_valid_everywhere():
    assert IDENTITY.valid((70, 90)) == np.s_[0:70, 0:90]


def test_a_shift_larger_than_the_field_leaves_nothing_and_says_so():
    with pytest.raises(ImageError, match="leaves nothing of a field of 64 x 80 pixels"):
        Alignment(70.0, 0.0, 1.0).valid((64, 80))


@pytest.mark.parametrize("part", [np.zeros((30, 30), np.uint16), np.zeros((64, 80), np.float32)])
def test_a_part_of_the_wrong_size_or_dtype_is_refused(part):
    with pytest.raises(ImageError, match="cannot align"):
        Alignment(1.0, 0.0, 1.0).resample(part, WHOLE, (64, 80))


@pytest.mark.parametrize("numbers", [(0.0, 0.0, 0.0), (float("nan"), 0.0, 1.0)])
def test_numbers_that_move_no_image_are_refused(numbers):
    with pytest.raises(ConfigError, match="finite shifts and a positive scale"):
        Alignment(*numbers)
