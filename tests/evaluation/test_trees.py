"""Boosted trees are scikit-learn's, as numbers."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier

from adipocyte.evaluation.trees import from_json, grow


@pytest.fixture(scope="module")
def cases() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(3000, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def is_true(cases) -> np.ndarray:
    """Inside a ring: no product of predictors tells, and trees end at different depths."""
    return np.abs(np.hypot(cases[:, 0], cases[:, 1]) - 1) < 0.4


def test_a_score_is_that_of_scikit_learn(cases, is_true):
    theirs = GradientBoostingClassifier(
        n_estimators=100,
        max_depth=4,
        learning_rate=0.1,
        min_samples_leaf=40,
        subsample=0.5,
        random_state=0,
    ).fit(cases, is_true)
    fresh = np.random.default_rng(2).normal(size=(5000, 4)).astype(np.float32)
    at_splits = np.float32(fresh[:100])
    at_splits[:, 0] = np.float32(theirs.estimators_[0, 0].tree_.threshold[0])
    ours = grow(cases, is_true)
    for some in (fresh, at_splits):
        np.testing.assert_allclose(ours(some), theirs.decision_function(some), rtol=1e-9, atol=1e-9)


def test_cases_of_one_kind_grow_no_tree(cases):
    always, never = (grow(cases, np.full(len(cases), kind)) for kind in (True, False))
    assert always(cases[:3]).tolist() == [always.start] * 3
    assert always.start > 10
    assert never.start < -10


def test_trees_go_through_json_and_others_are_refused(cases, is_true):
    grown = grow(cases[:400], is_true[:400])
    content = json.loads(json.dumps(asdict(grown)))
    assert from_json(content, 4) == grown
    for wrong in (
        {"predictors": [[4] * 15] * 100},
        {"predictors": [[-1] * 15] * 100},
        {"predictors": content["predictors"][:-1]},
        {"thresholds": [[0.0] * 14] * 100},
        {"leaves": [[0.0] * 15] * 100},
    ):
        with pytest.raises(ValueError, match=r"(a list|not) as expected"):
            from_json(content | wrong, 4)
    with pytest.raises(ValueError, match="expected type"):
        from_json(content | {"start": "0"}, 4)
