"""The comparison of two versions of a model on the same fields."""

import numpy as np
import pytest

from adipocyte.evaluation.comparison import compare
from adipocyte.evaluation.metric import Part, Score


def a_score(pixels, features, left_out=()):
    """A score of ten fields at 20x."""
    pixel = float(np.mean(list(pixels.values())))
    feature = float(np.mean(list(features.values()))) if features else None
    combined = None if feature is None else (pixel + feature) / 2
    part = Part(
        10, pixels, features, dict.fromkeys(left_out, "no number"), pixel, feature, combined
    )
    return Score({20: part}, pixel, feature, combined, {})


HELD = a_score({"A1": 0.4, "A2": 0.2}, {"count": 0.2, "area": 0.3})


def test_a_version_wins_by_a_lower_combined_metric():
    verdict = compare(a_score({"A1": 0.4, "A2": 0.2}, {"count": 0.1, "area": 0.3}), HELD, 0.05)
    assert verdict.wins
    assert verdict.reason == "better: combined_metric 0.2500 against 0.2750"
    assert ("pixel_metric_A1", 0.4, 0.4) in verdict.table


def test_an_equal_version_does_not_win():
    assert not compare(HELD, HELD, 0.05).wins


@pytest.mark.parametrize(("a1", "wins"), [(0.419, True), (0.421, False)])
def test_no_target_may_be_worse_by_more_than_the_tolerance(a1, wins):
    verdict = compare(a_score({"A1": a1, "A2": 0.05}, {"count": 0.1, "area": 0.1}), HELD, 0.05)
    assert verdict.wins == wins
    assert wins or verdict.reason.startswith("A1 is 5% worse, more than the 5% allowed")


def test_a_version_that_loses_features_does_not_win_by_it():
    verdict = compare(
        a_score({"A1": 0.4, "A2": 0.2}, {"area": 0.01}, left_out=("count",)), HELD, 0.05
    )
    assert not verdict.wins
    assert "lack 1 features that the other's give (first: count at 20x)" in verdict.reason


def test_a_version_that_gives_more_features_is_compared_on_those_of_both():
    held = a_score({"A1": 0.4, "A2": 0.2}, {"area": 0.3}, left_out=("count",))
    assert compare(a_score({"A1": 0.4, "A2": 0.2}, {"area": 0.29, "count": 5.0}), held, 0.05).wins


def test_without_features_pixels_decide():
    verdict = compare(a_score({"A1": 0.3}, {}), a_score({"A1": 0.4}, {}), 0.05)
    assert verdict.reason == "better: pixel_metric 0.3000 against 0.4000"
