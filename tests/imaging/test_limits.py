"""Limits of quality are learned from good fields, and a bad field is flagged with its fault.

Six good fields of simulated cells: five to learn from, one to compare.
"""

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from adipocyte.imaging.limits import Limits, distance, flag_words, flags, learn_limits
from adipocyte.imaging.quality import Measures, measure_quality
from adipocyte.simulation import SimulatedField, simulate_field
from tests.imaging.images import counts, grid, noisy


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


def blurred(planes: NDArray) -> NDArray:
    return noisy(ndimage.gaussian_filter(planes.astype(float), (0, 2, 2)))


def half_saturated(planes: NDArray) -> NDArray:
    return np.minimum(planes, np.uint16(np.median(planes)))


def without_cells(planes: NDArray) -> NDArray:
    return noisy(np.full(planes.shape, planes.mean()))


def with_unsteady_lamp(planes: NDArray) -> NDArray:
    return counts(planes * np.linspace(0.8, 1.2, 7)[:, None, None])


DAMAGES = {
    "blurred": (blurred, "out of focus: sharpness 0."),
    "a tenth of the light": (lambda p: noisy(p / 10), "too dark: brightfield mean 25"),
    "a third of the light": (lambda p: noisy(p / 3), "too dark: brightfield mean 8"),
    "three times the light": (lambda p: counts(p * 3.0), "too bright: brightfield mean 7"),
    "noisy": (lambda p: noisy(p * 1.0, 0.1), "grainy: noise"),
    "black": (lambda p: p * 0, "no image in a plane: planes of one count 7"),
    "white": (lambda p: p * 0 + np.uint16(65535), "saturated: pixels at the maximum 100.00 %"),
    "half saturated": (half_saturated, "saturated: pixels at the maximum 5"),
    "a plane missing": (without_plane_3, "no image in a plane: planes of one count 1"),
    "vignetted": (vignetted, "unevenly lit: light varies over the field by"),
    "no cells": (without_cells, "empty: blocks without structure 100 %"),
    "reversed": (lambda p: p[::-1], "focused too near the first planes: trend of focus -"),
    "unsteady lamp": (with_unsteady_lamp, "flickering: light varies between the planes by"),
}


@pytest.mark.parametrize(("damage", "beginning"), DAMAGES.values(), ids=DAMAGES.keys())
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
        "too dark: brightfield mean 230 counts, training wells allow 2080 to 3250; check the lamp, "
        "the exposure and the magnification"
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


def test_a_stack_without_stains_is_compared_by_its_brightfield(planes, limits):
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
    assert [flags(measures, learnt) for measures in good[2:]] == [()] * 4


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
    middle = {"brightfield_mean_counts": 2000.0, "focus_trend": 0.0, "empty_percent": 99.0}
    at_limit = {"brightfield_mean_counts": 4000.0, "focus_trend": 0.5}
    assert distance(middle, limits) == pytest.approx(0)
    assert distance(at_limit, limits) == pytest.approx(1)
    assert distance({"brightfield_mean_counts": 0.0}, limits) == 99
