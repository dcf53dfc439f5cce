"""Quality of fields: each figure against a field whose answer is known, limits learned from good fields."""

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from adipocyte.errors import ImageError
from adipocyte.imaging.limits import Limits, distance, flag_words, flags, learn_limits
from adipocyte.imaging.quality import Measures, measure_quality
from adipocyte.simulation import SimulatedField, simulate_field

RNG = np.random.default_rng(0)


def grid(shape: tuple[int, int]) -> tuple[NDArray, NDArray]:
    """y and x from -1 to 1 over an image."""
    return np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")


def counts(light: NDArray) -> NDArray[np.uint16]:
    return np.clip(np.rint(light), 0, 65535).astype(np.uint16)


def noisy(light: NDArray, electrons_per_count: float = 1.0) -> NDArray[np.uint16]:
    return counts(
        np.random.default_rng(1).poisson(light * electrons_per_count) / electrons_per_count
    )


# Measures.


@pytest.mark.parametrize("shape", [(64, 100), (300, 250), (1100, 900)])
@pytest.mark.parametrize("light", [4000, 400])
def test_focus_is_the_fine_detail_whatever_the_light_and_the_noise(shape, light):
    # A Gaussian of sigma s passes exp(-2 π² s² f²) of a sine of frequency f; a sine's root mean square is its amplitude by √2.
    frequency, amplitude = 0.125, 0.3
    sine = 1 + amplitude * np.sin(2 * np.pi * frequency * np.arange(shape[1])) * np.ones(
        (shape[0], 1)
    )
    passed = [np.exp(-2 * (np.pi * sigma * frequency) ** 2) for sigma in (1, 2, 4)]
    figures = measure_quality(noisy(light * sine[None]))
    # A block's borders and the noise of the smallest field cost up to a twentieth.
    assert figures["focus_z1_percent"] == pytest.approx(
        100 * amplitude / np.sqrt(2) * (passed[0] - passed[1]), rel=0.05
    )
    assert figures["sharpness"] == pytest.approx(
        (passed[0] - passed[1]) / (passed[1] - passed[2]), rel=0.1
    )
    assert figures["empty_percent"] == 0


def test_noise_alone_is_neither_detail_nor_structure():
    figures = measure_quality(noisy(np.full((3, 256, 256), 250.0)))
    assert figures["noise_percent"] == pytest.approx(100 / np.sqrt(250), rel=0.02)  # Poisson's law
    assert max(figures[f"focus_z{z}_percent"] for z in (1, 2, 3)) < 0.2
    assert figures["empty_percent"] == 100
    assert (
        not {"sharpness", "focus_trend"} & figures.keys()
    )  # there is nothing to judge the focus by


def test_the_sharpest_plane_and_the_trend_show_the_order_of_planes():
    detail = ndimage.gaussian_filter(RNG.normal(size=(200, 200)), 1)
    planes = np.stack(
        [counts(2000 + 3000 * ndimage.gaussian_filter(detail, sigma)) for sigma in (3, 0.5, 1, 2)]
    )
    forwards, backwards = measure_quality(planes), measure_quality(planes[::-1])
    assert (forwards["sharpest_z"], backwards["sharpest_z"]) == (2, 3)
    assert forwards["focus_trend"] == pytest.approx(-backwards["focus_trend"])
    assert forwards["focus_trend"] > 0


def test_unevenness_is_the_range_of_the_light():
    y, x = grid((400, 400))
    figures = measure_quality(counts(3000 * (1.1 - 0.2 * x**2 - 0.1 * y))[None])
    # The outermost blocks' centres lie at ±0.88. A block's own mean of x² and a middle between two blocks cost less than a hundredth.
    assert figures["unevenness_percent"] == pytest.approx(
        100 * (0.2 * 0.88**2 + 0.2 * 0.88) / (1.1 - 0.2 / 3), rel=0.02
    )
    assert measure_quality(noisy(np.full((1, 400, 400), 3000.0)))["unevenness_percent"] < 0.5


def test_planes_of_unequal_light_are_told():
    light = np.array([1.0, 1.1, 0.9])[:, None, None] * 1000
    assert measure_quality(noisy(light * np.ones((3, 64, 64))))[
        "planes_range_percent"
    ] == pytest.approx(20, abs=1)


@pytest.mark.parametrize("limit", [255, 4095, 16383, 65535])
def test_saturated_pixels_are_found_wherever_the_camera_clips(limit):
    image = np.abs(RNG.normal(0.6, 0.15, (2, 200, 200))) * limit
    image[1] *= 0.5
    clipped = counts(np.minimum(image, limit))
    expected = 100 * (clipped[0] == limit).mean()
    assert expected > 0.2
    assert measure_quality(clipped)["saturated_percent"] == pytest.approx(expected)
    assert (
        measure_quality(counts(image * 0.5)[:, :64, :64])["saturated_percent"] < 0.5
    )  # eight bits reach their maximum more than once


@pytest.mark.parametrize(("count", "saturated"), [(0, 0), (2600, 0), (65535, 100)])
def test_a_stack_of_one_count_has_no_figures_of_an_image(count, saturated):
    figures = measure_quality(np.full((7, 64, 64), count, np.uint16))
    assert figures == {
        "brightfield_mean_counts": count,
        "saturated_percent": saturated,
        "constant_planes": 7,
    }


def test_a_plane_of_one_count_is_left_out_of_the_other_figures():
    planes = noisy(np.full((3, 96, 96), 500.0) * (1 + 0.2 * np.sin(np.arange(96))))
    broken = planes.copy()
    broken[1] = 0
    figures, whole = measure_quality(broken), measure_quality(planes[[0, 2]])
    assert figures["constant_planes"] == 1
    assert "focus_z2_percent" not in figures
    assert figures["focus_z3_percent"] == whole["focus_z2_percent"]
    assert figures["sharpness"] == whole["sharpness"]


def test_a_stain_has_its_own_figures():
    image = np.full((64, 64), 100, np.uint16)
    image[:8] = 1000
    figures = measure_quality(noisy(np.full((1, 64, 64), 500.0)), {"A1": image, "A3": image * 0})
    assert figures["A1_mean_counts"] == 212.5
    assert figures["A1_saturated_percent"] == 12.5
    assert figures["A1_contrast_counts"] == pytest.approx(image.std(), rel=1e-5)
    assert (figures["A1_constant"], figures["A3_constant"]) == (0, 1)


def test_figures_are_numbers_for_json_and_the_same_again():
    planes = noisy(np.full((2, 70, 65), 40.0))
    planes[0, 0, 0] = 65535
    figures = measure_quality(planes, {"A2": planes[0]})
    assert (
        json.loads(json.dumps(figures, allow_nan=False))
        == figures
        == measure_quality(planes, {"A2": planes[0]})
    )


@pytest.mark.parametrize(
    "planes", [np.ones((64, 64), np.uint16), np.ones((7, 64, 64)), np.ones((0, 64, 64), np.uint16)]
)
def test_anything_but_a_stack_of_counts_is_refused(planes):
    with pytest.raises(
        ImageError, match=r"quality is measured on uint16 counts of shape \(Z, Y, X\)"
    ):
        measure_quality(planes)


def test_a_field_too_small_is_refused():
    with pytest.raises(ImageError, match="sides of 64 pixels or more"):
        measure_quality(np.ones((7, 64, 63), np.uint16))


# Limits. Six good fields of simulated cells: five to learn from, one to judge.


@pytest.fixture(scope="module")
def fields() -> list[SimulatedField]:
    return [simulate_field(20, (256, 256), seed=(20, seed)) for seed in range(6)]


@pytest.fixture(scope="module")
def good(fields) -> list[Measures]:
    return [measure_quality(field.planes, field.targets) for field in fields]


@pytest.fixture(scope="module")
def limits(good) -> Limits:
    return learn_limits(good[:5])


@pytest.fixture(scope="module")
def planes(fields) -> NDArray[np.uint16]:
    return fields[5].planes


def test_a_good_field_is_not_flagged(good, limits):
    assert flags(good[5], limits) == ()
    assert distance(good[5], limits) < 1


def vignetted(planes: NDArray) -> NDArray:
    y, x = grid(planes.shape[1:])
    return counts(planes * (1 - 0.6 * (y**2 + x**2) / 2))


def without_plane_3(planes: NDArray) -> NDArray:
    return np.where(np.arange(7)[:, None, None] == 2, np.uint16(0), planes)


@pytest.mark.parametrize(
    ("damage", "beginning"),
    [
        (
            lambda planes: noisy(ndimage.gaussian_filter(planes.astype(float), (0, 2, 2))),
            "out of focus: sharpness 0.",
        ),
        (lambda planes: noisy(planes / 10), "too dark: brightfield mean 25"),
        (lambda planes: noisy(planes / 3), "too dark: brightfield mean 8"),
        (lambda planes: counts(planes * 3.0), "too bright: brightfield mean 7"),
        (lambda planes: noisy(planes * 1.0, 0.1), "grainy: noise"),
        (lambda planes: planes * 0, "no image in a plane: planes of one count 7"),
        (lambda planes: planes * 0 + np.uint16(65535), "saturated: pixels at the maximum 100.00 %"),
        (
            lambda planes: np.minimum(planes, np.uint16(np.median(planes))),
            "saturated: pixels at the maximum 5",
        ),
        (without_plane_3, "no image in a plane: planes of one count 1"),
        (vignetted, "unevenly lit: light varies over the field by"),
        (
            lambda planes: noisy(np.full(planes.shape, planes.mean())),
            "empty: blocks without structure 100 %",
        ),
        (lambda planes: planes[::-1], "focused too near the first planes: trend of focus -"),
        (
            lambda planes: counts(planes * np.linspace(0.8, 1.2, 7)[:, None, None]),
            "flickering: light varies between the planes by",
        ),
    ],
    ids=[
        "blurred",
        "a tenth of the light",
        "a third of the light",
        "three times the light",
        "noisy",
        "black",
        "white",
        "half saturated",
        "a plane missing",
        "vignetted",
        "no cells",
        "reversed",
        "unsteady lamp",
    ],
)
def test_a_bad_field_is_flagged_with_its_fault(planes, limits, damage, beginning):
    measures = measure_quality(damage(planes))
    sentences, words = flags(measures, limits), flag_words(measures, limits)
    assert any(sentence.startswith(beginning) for sentence in sentences), sentences
    assert [sentence.partition(":")[0] for sentence in sentences] == list(words)


def test_another_magnification_is_far_from_the_training_wells(limits):
    other = measure_quality(simulate_field(60, (256, 256), seed=(60, 0)).planes)
    assert flags(other, limits)
    assert distance(other, limits) > 2


def test_a_sentence_tells_what_was_found_what_is_allowed_and_what_to_do():
    [sentence] = flags(
        {"brightfield_mean_counts": 230.0}, {"brightfield_mean_counts": [2080, 3250]}
    )
    assert sentence == (
        "too dark: brightfield mean 230 counts, training wells allow 2080 to 3250; check the lamp, the exposure and the magnification"
    )
    [sentence] = flags({"A3_saturated_percent": 7.0}, {"A3_saturated_percent": [None, 0.5]})
    assert sentence.startswith(
        "A3 saturated: pixels at the maximum 7.00 %, training wells allow at most 0.50; "
    )


def test_a_stain_that_failed_is_flagged(fields, limits):
    field = fields[5]
    unstained = {**field.targets, "A2": noisy(np.full((256, 256), 60.0))}
    words = flag_words(measure_quality(field.planes, unstained), limits)
    assert words == ("A2 too dark", "A2 no stain")


def test_a_stack_without_stains_is_judged_by_its_brightfield(planes, limits):
    assert flags(measure_quality(planes), limits) == ()
    assert flags({}, limits) == ()


def test_a_minority_of_bad_training_fields_does_not_hide_others(planes, good, limits):
    dark, black = measure_quality(noisy(planes / 3)), measure_quality(planes * 0)
    learnt = learn_limits([*good[:5], dark, black])
    assert flags(good[5], learnt) == ()
    assert any("brightfield mean" in sentence for sentence in flags(dark, learnt))
    assert any("no image" in sentence for sentence in flags(black, learnt))


def test_two_training_fields_are_enough_to_begin_with(good):
    learnt = learn_limits(good[:2])
    assert [flags(figures, learnt) for figures in good[2:]] == [()] * 4


def test_limits_travel_as_json(planes, good, limits):
    read = json.loads(json.dumps(limits, allow_nan=False))
    dark = measure_quality(noisy(planes / 10))
    assert flags(dark, read) == flags(dark, limits)
    assert distance(good[5], read) == distance(good[5], limits)


def test_the_distance_is_0_in_the_middle_and_1_at_a_limit():
    limits = {
        "brightfield_mean_counts": [1000.0, 4000.0],
        "focus_trend": [-1.0, 1.0],
        "empty_percent": [None, 95.0],
    }
    assert distance(
        {"brightfield_mean_counts": 2000.0, "focus_trend": 0.0, "empty_percent": 99.0}, limits
    ) == pytest.approx(0)
    assert distance(
        {"brightfield_mean_counts": 4000.0, "focus_trend": 0.5}, limits
    ) == pytest.approx(1)
    assert distance({"brightfield_mean_counts": 0.0}, limits) == 99
