"""A painted object's probability of being real can be taken at its word."""

import json

import numpy as np
import pytest
from scipy.special import expit

from adipocyte.evaluation.cellprofiler.objects import columns_of
from adipocyte.evaluation.reality import (
    PREDICTORS,
    Candidates,
    Reality,
    best_overlaps,
    from_json,
    learn,
    reliability,
    to_json,
)

WELLS = ["B03", "B03", "C04", "C04", "D05", "D05"]


def field(random: np.random.Generator, n: int = 600) -> Candidates:
    """Large bright objects are real, and odd ones among them are not."""
    predictors = random.normal(size=(n, len(PREDICTORS["LipidDroplets"]))).astype(np.float32)
    score = 2 * predictors[:, 2] + predictors[:, 3] - predictors[:, 0] ** 2 + 1
    return Candidates(predictors, random.random(n) < expit(score))


@pytest.fixture(scope="module")
def learnt() -> Reality:
    random = np.random.default_rng(1)
    return learn(20, "LipidDroplets", [field(random) for _ in WELLS], WELLS)


def test_probabilities_hold_on_fields_that_were_not_seen(learnt):
    fresh = field(np.random.default_rng(2), 20_000)
    told = reliability(learnt.probabilities_of(fresh.predictors), fresh.is_real)
    assert told.n == 20_000
    assert told.ece < 0.03
    assert told.auc > 0.85


def test_the_same_fields_teach_the_same(learnt):
    random = np.random.default_rng(1)
    assert learn(20, "LipidDroplets", [field(random) for _ in WELLS], WELLS) == learnt


def test_a_well_that_says_nothing_of_others_lowers_what_is_promised():
    """In each well another size is real: what one well teaches is wrong in the next."""
    random = np.random.default_rng(3)
    found = []
    for sign in (1, -1, 1, -1, 1, -1):
        predictors = random.normal(size=(600, len(PREDICTORS["Nuclei"])))
        found.append(Candidates(predictors, sign * predictors[:, 2] > 0))
    learnt = learn(20, "Nuclei", found, [f"B{at:02d}" for at in range(6)])
    assert np.ptp(learnt.probabilities) < 0.3
    of_one_well = learn(20, "Nuclei", found[::2], ["B03"] * 3)
    assert np.ptp(of_one_well.probabilities) > 0.9


def test_too_few_objects_teach_nothing():
    random = np.random.default_rng(4)
    fields = [field(random) for _ in WELLS]
    all_real = [Candidates(one.predictors, np.ones(len(one.is_real), bool)) for one in fields]
    assert learn(20, "LipidDroplets", all_real, WELLS) is None
    assert learn(20, "LipidDroplets", fields[:1], WELLS[:1]) is None


def test_the_best_overlap_is_that_of_each_pair_of_objects():
    random = np.random.default_rng(5)
    objects, others = (
        np.kron(random.integers(0, 7, (5, 5)), np.ones((3, 4), int)) for _ in range(2)
    )
    others = np.roll(others, 1, axis=0)
    expected = [
        max(
            ((objects == one) & (others == other)).sum()
            / ((objects == one) | (others == other)).sum()
            for other in range(1, 7)
        )
        for one in range(1, 7)
    ]
    np.testing.assert_allclose(best_overlaps(objects, others), expected)
    assert best_overlaps(objects, np.zeros_like(others)).tolist() == [0] * 6
    assert best_overlaps(np.zeros_like(others), others).size == 0


def test_reliability_is_counted_by_class():
    probabilities = np.array([0.15, 0.15, 0.95, 0.95, 1.0])
    is_real = np.array([False, True, True, True, False])
    told = reliability(probabilities, is_real)
    assert [count for *_, count in told.bins] == [2, 3]
    assert told.ece == pytest.approx((2 * 0.35 + 3 * (2.9 / 3 - 2 / 3)) / 5)
    # Of six pairs of a real and an invented one: two in order, one even, three not.
    assert told.auc == pytest.approx(2.5 / 6)
    assert np.isnan(reliability(probabilities, np.ones(5, bool)).auc)


def test_a_table_has_a_probability_for_each_object_whatever_its_shape(learnt):
    """A droplet that is a line has an infinite form factor, one without light no logarithm."""
    table = {column: np.ones(3) for column in columns_of("LipidDroplets")}
    table["AreaShape_FormFactor"] = np.array([0.5, np.inf, np.nan])
    table["Intensity_StdIntensity_Bodipy"] = np.zeros(3)
    found = learnt(table)
    assert found.shape == (3,)
    assert ((found >= 0.01) & (found <= 0.99)).all()
    assert learnt({column: np.ones(0) for column in table}).shape == (0,)


def test_it_goes_through_json(learnt):
    content = json.loads(json.dumps(to_json([learnt])))
    assert from_json(content) == [learnt]
    for name, value in (
        ("means", [1.0]),
        ("table", "Cells"),
        ("scores", []),
        ("scales", [0.0] * 5),
    ):
        with pytest.raises(ValueError, match="not as expected"):
            from_json([content[0] | {name: value}])
    with pytest.raises(ValueError, match="expected type"):
        from_json([content[0] | {"magnification": "20"}])
