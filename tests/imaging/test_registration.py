"""Registration measures from the fields how far fluorescence lies off brightfield."""

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import numpy as np
import pytest
from scipy import ndimage

from adipocyte.imaging.alignment import IDENTITY, Alignment
from adipocyte.imaging.registration import Field, register
from adipocyte.simulation import simulate_field
from adipocyte.simulation.misalignment import Misalignment, misalignment_at
from tests.imaging.images import smooth_noise

AT_REST = Misalignment(0.0, 0.0)


def look_alike(
    misalignment: Misalignment, seed: int, shape_px: tuple[int, int] = (256, 256)
) -> Field:
    """Planes of a texture at three sharpnesses, and a misaligned stain.

    The stain is dark where the texture is extreme.
    """
    texture = smooth_noise(shape_px, seed)
    planes = np.stack(
        [1_000 + 150 * ndimage.gaussian_filter(texture, sigma_px) for sigma_px in (0, 1, 2)]
    )
    noise = np.random.default_rng((seed, 1)).standard_normal(shape_px)
    stain = 800 + 300 * np.exp(-(texture**2)) + 20 * noise
    return planes.astype(np.uint16), {"A2": misalignment.apply(stain, order=3).astype(np.uint16)}


def loaders(misalignment: Misalignment, seeds: range, **settings) -> list[Callable[[], Field]]:
    return [partial(look_alike, misalignment, seed, **settings) for seed in seeds]


def simulated(misalignment: Misalignment | None, seed: int) -> Field:
    field = simulate_field(20, (256, 256), seed=(20, seed), misalignment=misalignment)
    return field.planes, field.targets


def worst_error_px(found: Alignment, true: Misalignment, shape_px: tuple[int, int]) -> float:
    """The displacement's error, over the corners of a field."""
    corners = np.array([[y, x] for y in (-1, 1) for x in (-1, 1)]) * (np.array(shape_px) - 1) / 2
    shift_error_px = (found.dy_px - true.dy_px, found.dx_px - true.dx_px)
    error_px = (found.scale - true.scale) * corners + shift_error_px
    return float(np.hypot(*error_px.T).max())


def test_each_site_gets_its_own_shift_and_all_the_same_scale():
    shape_px = (512, 400)
    true = {1: Misalignment(-3.34, -1.15, 0.998), 4: Misalignment(4.85, -1.29, 0.998)}
    seeds = {site: range(10 * site, 10 * site + 2) for site in true}
    found = register({site: loaders(true[site], seeds[site], shape_px=shape_px) for site in true})
    assert len({registration.alignment.scale for registration in found.values()}) == 1
    assert found[1].alignment.scale == pytest.approx(0.998, abs=2e-4)
    for site, registration in found.items():
        assert registration.verdict == "aligned"
        assert worst_error_px(registration.alignment, true[site], shape_px) < 0.1


def test_simulated_fields_of_256_pixels_are_aligned_within_a_third_of_a_pixel():
    true = {site: misalignment_at(20, site, n_sites=6) for site in (2, 5)}
    fields = {
        site: [partial(simulated, misalignment, 10 * site + n) for n in range(3)]
        for site, misalignment in true.items()
    }
    found = register(fields)
    for site, registration in found.items():
        assert registration.verdict == "aligned"
        assert worst_error_px(registration.alignment, true[site], (256, 256)) < 0.35
        assert registration.error_px < 0.15
        assert registration.correlation > 0.6


def test_simulated_fields_at_rest_are_left_at_rest_and_it_is_said():
    found = register({1: [partial(simulated, None, n) for n in range(2)]})[1]
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
    assert [registration.n_fields for registration in found.values()] == [1, 0, 1]
    assert [registration.n_tiles for registration in found.values()] == [0, 0, 4]
    for registration in found.values():
        assert "too little to see" in registration.verdict
        assert registration.error_px is None


def test_a_field_that_is_too_small_beside_a_large_one_does_no_harm():
    """All tiles of the site then come from one field."""
    true = Misalignment(2.4, -1.2)
    fields = [
        partial(look_alike, true, 1, shape_px=(512, 400)),
        partial(look_alike, true, 2, shape_px=(120, 120)),
    ]
    found = register({1: fields})[1]
    assert found.verdict == "aligned"
    assert worst_error_px(found.alignment, true, (512, 400)) < 0.2


def test_stains_of_other_fields_give_no_alignment():
    strangers = [
        lambda n=n: (look_alike(AT_REST, n)[0], look_alike(AT_REST, n + 50)[1]) for n in range(3)
    ]
    found = register({1: strangers})[1]
    assert found.alignment == IDENTITY
    assert "do not follow brightfield" in found.verdict


def test_fields_of_one_site_that_disagree_give_no_alignment():
    moved_down = loaders(Misalignment(3.0, 0.0), range(1))
    moved_right = loaders(Misalignment(0.0, 3.0), range(1, 2))
    found = register({1: moved_down + moved_right})[1]
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

    def load(n: int) -> Field:
        loaded.append(n)
        return look_alike(Misalignment(1.5, -2.5), n)

    fields = [partial(load, n) for n in range(3)]
    first = register({7: fields})
    assert loaded == [0, 1, 2]
    assert register({7: fields}) == first


def test_a_registration_can_be_written_as_json():
    found = register({1: loaders(Misalignment(1.5, -2.5), range(2)), 2: []})
    text = json.dumps([asdict(registration) for registration in found.values()], allow_nan=False)
    assert json.loads(text)[1]["alignment"] == {"dy_px": 0.0, "dx_px": 0.0, "scale": 1.0}
