"""Bringing fluorescence into brightfield's frame, and measuring from the fields how far it lies off."""

import json
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from adipocyte.errors import ConfigError, ImageError
from adipocyte.imaging.alignment import IDENTITY, Alignment
from adipocyte.imaging.registration import Field, register
from adipocyte.simulation import simulate_field
from adipocyte.simulation.misalignment import Misalignment, misalignment_at

WHOLE = np.s_[:, :]
AT_REST = Misalignment(0.0, 0.0)


def smooth_noise(
    shape_px: tuple[int, int], seed: int, grain_px: float = 2.0
) -> NDArray[np.float64]:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape_px), grain_px)
    return noise / noise.std()


def smooth_image(shape_px: tuple[int, int], seed: int = 0) -> NDArray[np.uint16]:
    return (20_000 + 4_000 * smooth_noise(shape_px, seed, grain_px=3.0)).astype(np.uint16)


def aligned(alignment: Alignment, image: NDArray, window=WHOLE) -> NDArray:
    return alignment.resample(image[alignment.source(window, image.shape)], window, image.shape)


def undo(misalignment: Misalignment) -> Alignment:
    return Alignment(misalignment.dy_px, misalignment.dx_px, misalignment.scale)


# --- the transform


@pytest.mark.parametrize(("magnification", "site"), [(20, 2), (40, 5), (60, 9)])
def test_what_the_simulator_moves_comes_back(magnification, site):
    misalignment = misalignment_at(magnification, site, n_sites=12)
    image = smooth_image((200, 240))
    back = aligned(undo(misalignment), misalignment.apply(image, order=3))
    inner = np.s_[12:-12, 12:-12]  # the simulator, too, has nothing to show beyond its border
    np.testing.assert_allclose(
        back[inner], image[inner], atol=40
    )  # 1 % of the image's standard deviation


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
    part = aligned(alignment, image, window).astype(int)
    np.testing.assert_allclose(
        part, aligned(alignment, image)[window].astype(int), atol=1
    )  # a rounding apart


def test_a_patch_needs_little_more_than_itself():
    source = Alignment(4.0, -5.0, 0.9988).source(np.s_[900:1060, 1000:1160], (2154, 2554))
    assert all(side.stop - side.start < 160 + 32 for side in source)


def test_a_mask_moves_with_its_stain_and_stays_a_mask():
    misalignment = Misalignment(3.3, -4.6, 0.9988)
    mask = smooth_noise((200, 240), seed=1, grain_px=6.0) > 0.5
    back = aligned(
        undo(misalignment), misalignment.apply(mask.astype(np.uint8), order=0).astype(bool)
    )
    assert back.dtype == bool
    inner = np.s_[12:-12, 12:-12]
    sure = (
        ndimage.distance_transform_edt(mask) + ndimage.distance_transform_edt(~mask) > 2
    )  # the nearest pixel, taken twice
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


# --- the estimate


def look_alike(
    misalignment: Misalignment, seed: int, shape_px: tuple[int, int] = (256, 256)
) -> Field:
    """Planes of a texture at three sharpnesses, and a stain that is dark where the texture is extreme, moved off."""
    texture = smooth_noise(shape_px, seed)
    planes = np.stack(
        [1_000 + 150 * ndimage.gaussian_filter(texture, sigma_px) for sigma_px in (0, 1, 2)]
    )
    stain = (
        800
        + 300 * np.exp(-(texture**2))
        + 20 * np.random.default_rng((seed, 1)).standard_normal(shape_px)
    )
    return planes.astype(np.uint16), {"A2": misalignment.apply(stain, order=3).astype(np.uint16)}


def loaders(misalignment: Misalignment, seeds: range, **settings) -> list[Callable[[], Field]]:
    return [lambda seed=seed: look_alike(misalignment, seed, **settings) for seed in seeds]


def simulated(misalignment: Misalignment | None, seed: int) -> Field:
    field = simulate_field(20, (256, 256), seed=(20, seed), misalignment=misalignment)
    return field.planes, field.targets


def worst_error_px(found: Alignment, true: Misalignment, shape_px: tuple[int, int]) -> float:
    """The displacement's error, over the corners of a field."""
    corners = np.array([[y, x] for y in (-1, 1) for x in (-1, 1)]) * (np.array(shape_px) - 1) / 2
    moved = (found.scale - true.scale) * corners + (
        found.dy_px - true.dy_px,
        found.dx_px - true.dx_px,
    )
    return float(np.hypot(*moved.T).max())


def test_each_site_gets_its_own_shift_and_all_the_same_scale():
    shape_px, true = (
        (512, 400),
        {1: Misalignment(-3.34, -1.15, 0.998), 4: Misalignment(4.85, -1.29, 0.998)},
    )
    found = register(
        {
            site: loaders(true[site], range(10 * site, 10 * site + 2), shape_px=shape_px)
            for site in true
        }
    )
    assert len({registration.alignment.scale for registration in found.values()}) == 1
    assert found[1].alignment.scale == pytest.approx(0.998, abs=2e-4)
    for site, registration in found.items():
        assert registration.verdict == "aligned"
        assert worst_error_px(registration.alignment, true[site], shape_px) < 0.1


def test_simulated_fields_of_256_pixels_are_aligned_within_a_third_of_a_pixel():
    true = {site: misalignment_at(20, site, n_sites=6) for site in (2, 5)}
    found = register(
        {
            site: [lambda s=site, n=n: simulated(true[s], 10 * s + n) for n in range(3)]
            for site in true
        }
    )
    for site, registration in found.items():
        assert registration.verdict == "aligned"
        assert worst_error_px(registration.alignment, true[site], (256, 256)) < 0.35
        assert registration.error_px < 0.15
        assert registration.correlation > 0.6


def test_simulated_fields_at_rest_are_left_at_rest_and_it_is_said():
    found = register({1: [lambda n=n: simulated(None, n) for n in range(2)]})[1]
    assert found.alignment == IDENTITY
    assert "no displacement" in found.verdict
    assert found.n_tiles == 8


def test_small_fields_and_missing_ones_are_left_as_they_are_and_it_is_said():
    found = register(
        {
            1: loaders(Misalignment(3.0, 2.0), range(1), shape_px=(96, 80)),
            2: [],
            3: loaders(AT_REST, range(1)),
        }
    )
    assert [registration.alignment for registration in found.values()] == [IDENTITY] * 3
    assert [(registration.n_fields, registration.n_tiles) for registration in found.values()] == [
        (1, 0),
        (0, 0),
        (1, 4),
    ]
    assert all(
        "too little to see" in registration.verdict and registration.error_px is None
        for registration in found.values()
    )


def test_stains_of_other_fields_give_no_alignment():
    strangers = [
        lambda n=n: (look_alike(AT_REST, n)[0], look_alike(AT_REST, n + 50)[1]) for n in range(3)
    ]
    found = register({1: strangers})[1]
    assert found.alignment == IDENTITY
    assert "do not follow brightfield" in found.verdict


def test_fields_of_one_site_that_disagree_give_no_alignment():
    found = register(
        {
            1: loaders(Misalignment(3.0, 0.0), range(1))
            + loaders(Misalignment(0.0, 3.0), range(1, 2))
        }
    )[1]
    assert found.alignment == IDENTITY
    assert "disagree" in found.verdict


@pytest.mark.parametrize("noise", [0, 10])
def test_an_empty_site_is_left_as_it_is_and_spoils_no_other(noise):
    def empty() -> Field:
        images = 500 + noise * np.random.default_rng(0).standard_normal((4, 256, 256))
        return images[:3].astype(np.uint16), {"A2": images[3].astype(np.uint16)}

    true = Misalignment(-2.2, 3.4)
    found = register({1: loaders(true, range(2)), 2: [empty, empty]})
    assert worst_error_px(found[1].alignment, true, (256, 256)) < 0.1
    assert found[2].alignment == IDENTITY
    assert found[2].verdict.startswith("left as it is")


def test_each_field_is_loaded_once_and_the_same_fields_give_the_same_answer():
    loaded = []
    fields = [
        lambda n=n: (loaded.append(n), look_alike(Misalignment(1.5, -2.5), n))[1] for n in range(3)
    ]
    first = register({7: fields})
    assert loaded == [0, 1, 2]
    assert register({7: fields}) == first


def test_a_registration_can_be_written_as_json():
    found = register({1: loaders(Misalignment(1.5, -2.5), range(2)), 2: []})
    text = json.dumps([asdict(registration) for registration in found.values()], allow_nan=False)
    assert json.loads(text)[1]["alignment"] == {"dy_px": 0.0, "dx_px": 0.0, "scale": 1.0}
