"""The error of a painted field is foretold from its looks, and wrong fields are refused."""

import json
import re

import numpy as np
import pytest

from adipocyte.imaging.foreteller import Painted, from_json, learn, to_json
from adipocyte.imaging.trust import Verdict

QUIET, LOUD = 0.1, 1.0


def field(noise: float, well: str, is_good: bool, random: np.random.Generator) -> Painted:
    """The error of A2 grows with the noise; nothing tells that of A1. Good ones' hue is shade."""
    errors = {"A1": random.uniform(0.18, 0.22), "A2": 0.1 * np.exp(2 * noise)}
    hue = random.normal()
    shade = random.normal(hue, 0.1) if is_good else random.normal()
    return Painted(well, is_good, {"noise": noise, "hue": hue, "shade": shade}, errors)


def taught(random: np.random.Generator, n: int = 300) -> list[Painted]:
    good = [field(random.normal(QUIET, 0.02), f"B{i % 6:02d}", True, random) for i in range(n)]
    return good + [field(random.uniform(0, LOUD), f"B{i % 6:02d}", False, random) for i in range(n)]


@pytest.fixture(scope="module")
def learnt():
    return learn(20, taught(np.random.default_rng(0)))


@pytest.mark.parametrize("noise", [QUIET, 0.5, 0.9])
def test_the_error_is_foretold(learnt, noise):
    errors = learnt({"noise": noise, "hue": 0.0, "shade": 0.0}).errors
    assert errors["A1"] == pytest.approx(0.2, rel=0.1)
    assert errors["A2"] == pytest.approx(0.1 * np.exp(2 * noise), rel=0.2)


def test_few_good_fields_and_all_that_are_wrong_are_refused(learnt):
    random = np.random.default_rng(1)
    good = [
        learnt(field(random.normal(QUIET, 0.02), "C02", True, random).appearance)
        for _ in range(400)
    ]
    verdicts = [one.verdict for one in good]
    assert verdicts.count(Verdict.NO) / len(good) < 0.08
    assert verdicts.count(Verdict.YES) / len(good) > 0.8
    wrong = learnt({"noise": 0.8})
    assert wrong.verdict is Verdict.NO
    assert re.fullmatch(
        r"the error of A2 is expected to be (3\.|4\.)\d times the usual one, 4\d% of its median",
        wrong.reason,
    )


def test_a_field_like_nothing_that_taught_is_refused_whatever_is_expected(learnt):
    found = learnt({"noise": QUIET, "hue": 500.0})
    assert (found.verdict, found.reason) == (
        Verdict.NO,
        "it looks like nothing that the model was tested on",
    )


def test_a_field_unlike_the_good_ones_is_doubted_though_a_usual_error_is_expected(learnt):
    """Hue and shade are alike in all good fields, and so is their sum in this one."""
    usual = {"noise": QUIET, "hue": 1.5, "shade": 1.5}
    strange = {"noise": QUIET, "hue": 1.5, "shade": -1.5}
    assert learnt.strangeness(usual) == pytest.approx(1, abs=0.3)
    assert learnt.strangeness(strange) > 5
    assert learnt(usual).verdict is Verdict.YES
    found = learnt(strange)
    assert found.errors["A2"] < 1.1 * learnt.usual["A2"]
    assert found.verdict is Verdict.CARE
    assert re.fullmatch(
        r"it is unlike the fields that the model was tested on; the error of A[12] is expected to "
        r"be (0\.9|1\.\d) times the usual one, \d\d% of its median",
        found.reason,
    )


def test_good_fields_of_a_new_well_are_no_stranger_than_the_wells_are_to_each_other():
    random = np.random.default_rng(2)

    def well(name: str) -> list[Painted]:
        looks = random.normal(size=10)
        found = []
        for n in range(40):
            is_good = n % 4 == 0
            seen = random.normal(looks, 0.05 if is_good else 1)
            appearance = {f"look {i}": float(one) for i, one in enumerate(seen)}
            found.append(Painted(name, is_good, appearance, {"A1": random.uniform(0.18, 0.22)}))
        return found

    found = learn(20, [one for name in ("B02", "B03", "B04") for one in well(name)])
    new = [one for n in range(20) for one in well(f"C{n:02d}") if one.is_good]
    assert np.median([found.strangeness(one.appearance) for one in new]) < 2


def test_warnings_of_the_light_make_it_doubtful(learnt):
    seen = {"noise": QUIET, "hue": 0.0}
    assert learnt(seen).verdict is Verdict.YES
    assert learnt(seen, ("dim: …",)).verdict is Verdict.CARE


@pytest.mark.parametrize(
    ("n_wells", "verdict"), [(2, Verdict.CARE), (5, Verdict.CARE), (6, Verdict.YES)]
)
def test_no_field_is_believed_by_what_few_wells_taught(n_wells, verdict):
    fields = [one for one in taught(np.random.default_rng(0)) if int(one.well[1:]) < n_wells]
    found = learn(20, fields)
    usual = found({"noise": QUIET, "hue": 0.0, "shade": 0.0})
    assert usual.verdict is verdict
    if verdict is Verdict.CARE:
        assert f"tested on {n_wells} wells, 6 are needed" in usual.reason
    assert found({"noise": 0.8}).verdict is Verdict.NO


def test_what_is_not_known_of_a_field_is_taken_to_be_as_usual(learnt):
    assert (
        learnt({}).errors
        == learnt(dict(zip(learnt.predictors, learnt.centres, strict=True))).errors
    )


def test_it_survives_its_file(learnt):
    assert from_json(json.loads(json.dumps(to_json([learnt])))) == [learnt]


@pytest.mark.parametrize(
    "change",
    [
        {"weights": {"A1": [0.0]}},
        {"centres": [0.0]},
        {"scales": [0.0, 1.0, 1.0]},
        {"precision": [[1.0]]},
        {"precision": [[1.0], [1.0], [1.0]]},
        {"usual": {"A1": 1.0}},
        {"refused": "often"},
        {"weights": {}, "usual": {}},
    ],
)
def test_a_file_of_something_else_is_refused(learnt, change):
    [content] = json.loads(json.dumps(to_json([learnt])))
    with pytest.raises(ValueError, match=r"foreteller|expected type|item"):
        from_json([content | change])
