"""Quality of fields: each measure of a field whose answer is known."""

import json

import numpy as np
import pytest
from scipy import ndimage

from adipocyte.errors import ImageError
from adipocyte.imaging.quality import measure_quality
from tests.imaging.images import counts, grid, noisy


@pytest.mark.parametrize("shape", [(64, 100), (300, 250), (1100, 900)])
@pytest.mark.parametrize("light", [4000, 400])
def test_focus_is_the_fine_detail_whatever_the_light_and_the_noise(shape, light):
    # A Gaussian of sigma s passes exp(-2 π² s² f²) of a sine of frequency f. A sine's root mean
    # square is its amplitude divided by √2.
    frequency, amplitude = 0.125, 0.3
    sine = np.sin(2 * np.pi * frequency * np.arange(shape[1]))
    sine = 1 + amplitude * sine * np.ones((shape[0], 1))
    passed = [np.exp(-2 * (np.pi * sigma * frequency) ** 2) for sigma in (1, 2, 4)]
    measures = measure_quality(noisy(light * sine[None]))
    fine, coarse = passed[0] - passed[1], passed[1] - passed[2]
    # A block's borders and the noise of the smallest field cost up to a twentieth.
    focus = 100 * amplitude / np.sqrt(2) * fine
    assert measures["focus_z1_percent"] == pytest.approx(focus, rel=0.05)
    assert measures["sharpness"] == pytest.approx(fine / coarse, rel=0.1)
    assert measures["empty_percent"] == 0


def test_noise_alone_is_neither_detail_nor_structure():
    measures = measure_quality(noisy(np.full((3, 256, 256), 250.0)))
    assert measures["noise_percent"] == pytest.approx(100 / np.sqrt(250), rel=0.02)  # Poisson's law
    assert max(measures[f"focus_z{z}_percent"] for z in (1, 2, 3)) < 0.2
    assert measures["empty_percent"] == 100
    assert not {"sharpness", "focus_trend"} & measures.keys()  # there is no detail to measure


def test_the_sharpest_plane_and_the_trend_show_the_order_of_planes():
    detail = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(200, 200)), 1)
    blurred = [ndimage.gaussian_filter(detail, sigma) for sigma in (3, 0.5, 1, 2)]
    planes = counts(2000 + 3000 * np.stack(blurred))
    forwards, backwards = measure_quality(planes), measure_quality(planes[::-1])
    assert (forwards["sharpest_z"], backwards["sharpest_z"]) == (2, 3)
    assert forwards["focus_trend"] == pytest.approx(-backwards["focus_trend"])
    assert forwards["focus_trend"] > 0


def test_unevenness_is_the_range_of_the_light():
    y, x = grid((400, 400))
    measures = measure_quality(counts(3000 * (1.1 - 0.2 * x**2 - 0.1 * y))[None])
    # The outermost blocks' centres are at ±0.88. The mean of x² in a block, and a middle between
    # two blocks, cost less than a hundredth.
    expected = 100 * (0.2 * 0.88**2 + 0.2 * 0.88) / (1.1 - 0.2 / 3)
    assert measures["unevenness_percent"] == pytest.approx(expected, rel=0.02)
    assert measure_quality(noisy(np.full((1, 400, 400), 3000.0)))["unevenness_percent"] < 0.5


def test_the_range_of_the_planes_is_that_of_their_light():
    light = np.array([1.0, 1.1, 0.9])[:, None, None] * 1000
    measures = measure_quality(noisy(light * np.ones((3, 64, 64))))
    assert measures["planes_range_percent"] == pytest.approx(20, abs=1)


@pytest.mark.parametrize("limit", [255, 4095, 16383, 65535])
def test_saturated_pixels_are_found_wherever_the_camera_clips(limit):
    image = np.abs(np.random.default_rng(0).normal(0.6, 0.15, (2, 200, 200))) * limit
    image[1] *= 0.5
    clipped = counts(np.minimum(image, limit))
    expected = 100 * (clipped[0] == limit).mean()
    assert expected > 0.2
    assert measure_quality(clipped)["saturated_percent"] == pytest.approx(expected)
    # Eight bits reach their maximum more than once.
    assert measure_quality(counts(image * 0.5)[:, :64, :64])["saturated_percent"] < 0.5


@pytest.mark.parametrize(("count", "saturated"), [(0, 0), (2600, 0), (65535, 100)])
def test_a_stack_of_one_count_has_no_measures_of_an_image(count, saturated):
    measures = measure_quality(np.full((7, 64, 64), count, np.uint16))
    assert measures == {
        "brightfield_mean_counts": count,
        "saturated_percent": saturated,
        "constant_planes": 7,
    }


def test_a_plane_of_one_count_is_left_out_of_the_other_measures():
    planes = noisy(np.full((3, 96, 96), 500.0) * (1 + 0.2 * np.sin(np.arange(96))))
    broken = planes.copy()
    broken[1] = 0
    measures, whole = measure_quality(broken), measure_quality(planes[[0, 2]])
    assert measures["constant_planes"] == 1
    assert "focus_z2_percent" not in measures
    assert measures["focus_z3_percent"] == whole["focus_z2_percent"]
    assert measures["sharpness"] == whole["sharpness"]


def test_a_stain_has_its_own_measures():
    image = np.full((64, 64), 100, np.uint16)
    image[:8] = 1000
    measures = measure_quality(noisy(np.full((1, 64, 64), 500.0)), {"A1": image, "A3": image * 0})
    assert measures["A1_mean_counts"] == 212.5
    assert measures["A1_saturated_percent"] == 12.5
    assert measures["A1_contrast_counts"] == pytest.approx(image.std(), rel=1e-5)
    assert (measures["A1_constant"], measures["A3_constant"]) == (0, 1)


def test_measures_are_numbers_for_json_and_the_same_again():
    planes = noisy(np.full((2, 70, 65), 40.0))
    planes[0, 0, 0] = 65535
    measures = measure_quality(planes, {"A2": planes[0]})
    assert json.loads(json.dumps(measures, allow_nan=False)) == measures
    assert measure_quality(planes, {"A2": planes[0]}) == measures


@pytest.mark.parametrize(
    "planes", [np.ones((64, 64), np.uint16), np.ones((7, 64, 64)), np.ones((0, 64, 64), np.uint16)]
)
def test_anything_but_a_stack_of_counts_is_refused(planes):
    needed = r"quality is measured on uint16 counts of shape \(Z, Y, X\)"
    with pytest.raises(ImageError, match=needed):
        measure_quality(planes)


def test_a_field_too_small_is_refused():
    with pytest.raises(ImageError, match="sides of 64 pixels or more"):
        measure_quality(np.ones((7, 64, 63), np.uint16))
