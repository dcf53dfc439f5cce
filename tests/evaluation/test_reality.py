"""A painted object's probability of being real can be taken at its word."""

import json

import numpy as np
import pytest
from scipy.special import expit

from adipocyte.domain import TARGETS, UM_PER_PX
from adipocyte.evaluation.cellprofiler.features import measure
from adipocyte.evaluation.cellprofiler.objects import AREA, tables_of
from adipocyte.evaluation.reality import (
    N_PREDICTORS,
    Candidates,
    Reality,
    best_overlaps,
    from_json,
    learn,
    predictors_of,
    reliability,
    to_json,
)
from adipocyte.simulation import SimulatedField, simulate_field

WELLS = ["B03", "B03", "C04", "C04", "D05", "D05"]


def field(random: np.random.Generator, n: int = 600) -> Candidates:
    """Large bright objects are real, and odd ones among them are not."""
    predictors = random.normal(size=(n, N_PREDICTORS)).astype(np.float32)
    score = 2 * predictors[:, 2] + predictors[:, 3] - predictors[:, 0] ** 2 + 1
    return Candidates(predictors, random.random(n) < expit(score))


@pytest.fixture(scope="module")
def simulated() -> SimulatedField:
    return simulate_field(20, (384, 384), seed=(7,))


@pytest.fixture(scope="module")
def learnt() -> Reality:
    random = np.random.default_rng(1)
    return learn(20, "LipidDroplets", [field(random) for _ in WELLS], WELLS)


def test_probabilities_hold_on_fields_that_were_not_seen(learnt):
    fresh = field(np.random.default_rng(2), 20_000)
    told = reliability(learnt(fresh.predictors), fresh.is_real)
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
        predictors = random.normal(size=(600, N_PREDICTORS)).astype(np.float32)
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


def test_what_is_known_of_an_object_is_of_the_images_that_were_measured(simulated):
    images = simulated.targets
    found = measure(images, 20)
    known = predictors_of(found, images)
    droplets = tables_of(found)["LipidDroplets"]
    assert known["LipidDroplets"].shape == (len(droplets[AREA]), N_PREDICTORS)
    np.testing.assert_allclose(
        known["LipidDroplets"][:, 0] * UM_PER_PX[20] ** 2, droplets[AREA], rtol=1e-6
    )
    labels = found.labels["Lipids_no_edge"]
    for at, target in enumerate(TARGETS):
        inside = images[target][labels == 1].astype(float)
        told = known["LipidDroplets"][0, 3 + 2 * at : 5 + 2 * at]
        np.testing.assert_allclose(told, [inside.mean(), inside.std()], rtol=1e-5)
    without = predictors_of(found, {"A2": images["A2"]})["LipidDroplets"]
    assert (without[:, [3, 4, 7, 8]] == 0).all()
    np.testing.assert_array_equal(
        np.delete(without, [3, 4, 7, 8], axis=1),
        np.delete(known["LipidDroplets"], [3, 4, 7, 8], axis=1),
    )
    for target, tables in (("A1", ["Nuclei"]), ("A2", ["LipidDroplets"]), ("A3", [])):
        alone = {target: images[target]}
        assert list(predictors_of(measure(alone, 20), alone)) == tables


def test_each_object_has_a_probability_however_odd_it_is(learnt):
    """A droplet that is a line has an infinite form factor."""
    dark = {target: np.zeros((384, 384), np.uint16) for target in TARGETS}
    nothing = predictors_of(measure(dark, 20), dark)["LipidDroplets"]
    assert learnt(nothing).shape == (0,)
    found = learnt(np.array([[1e6], [-1e6], [0]]) * np.ones(N_PREDICTORS))
    assert ((found >= 0.01) & (found <= 0.99)).all()


def test_it_goes_through_json(learnt):
    content = json.loads(json.dumps(to_json([learnt])))
    assert from_json(content) == [learnt]
    for name, value in (("table", "Cells"), ("scores", []), ("trees", {})):
        with pytest.raises(ValueError, match=r"not as expected|is not there"):
            from_json([content[0] | {name: value}])
    with pytest.raises(ValueError, match="expected type"):
        from_json([content[0] | {"magnification": "20"}])
