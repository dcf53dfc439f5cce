"""Grades say of each measurement how it follows the truth, and how sure that is."""

import dataclasses
import json

import numpy as np
import pytest

from adipocyte.domain import UM_PER_PX, FieldKey
from adipocyte.evaluation.cellprofiler.objects import DIAMETER, IMAGE
from adipocyte.evaluation.grades import (
    DETECTION,
    WELLS,
    Earned,
    Grade,
    Worth,
    from_json,
    grade_metrics,
    grades_of,
    summary,
    to_json,
)
from adipocyte.evaluation.measure import FieldMeasurement
from adipocyte.evaluation.objects import ObjectPairs

N_FIELDS, N_WELLS = 24, 6
STAINS = ("A1", "A2", "A3")
RANDOM = np.random.default_rng(5)
TRUTH = RANDOM.normal(10, 2, N_FIELDS)
NOISE = RANDOM.normal(0, 1, N_FIELDS)
FOUND = ObjectPairs(np.array([100, 200, 400, 900]), np.array([110, 190, 420, 880]), 0, 0)


def field(at: int, truth: dict, painted: dict, pairs=FOUND, stains=STAINS) -> FieldMeasurement:
    objects = {kind: pairs for kind in ("nuclei", "droplets")}
    return FieldMeasurement(
        key=FieldKey(20, f"B{at % N_WELLS + 1:02d}", at + 1),
        pixels={"none": {stain: {} for stain in stains}},
        truth_counts={},
        painted_counts={},
        truth_features={"Count_nuclei": 5.0},
        painted_features={"none": {"Count_nuclei": 5.0}},
        objects={"none": objects},
        truth_row=truth,
        painted_rows={"none": painted},
        objects_um_per_px=UM_PER_PX[20],
    )


def graded(truth, painted, name="Cells_Mean_X", **given) -> Grade:
    """The grade of one feature with these values."""
    pairs = zip(truth, painted, strict=True)
    fields = [field(at, {name: t}, {name: p}, **given) for at, (t, p) in enumerate(pairs)]
    [grade] = [grade for grade in grades_of(fields, "none") if grade.table == WELLS]
    return grade


def test_r_and_error_are_what_numpy_says():
    painted = TRUTH + NOISE
    grade = graded(TRUTH, painted)
    assert grade.r == pytest.approx(np.corrcoef(TRUTH, painted)[0, 1])
    assert grade.error == pytest.approx(np.abs(NOISE).mean() / np.median(TRUTH))
    of_wells = [
        [values[at::N_WELLS].mean() for at in range(N_WELLS)] for values in (TRUTH, painted)
    ]
    assert grade.r_wells == pytest.approx(np.corrcoef(of_wells)[0, 1])
    assert (grade.n_fields, grade.n_wells) == (N_FIELDS, N_WELLS)
    assert grade.r_low < grade.r < grade.r_high
    assert grade.error_low < grade.error < grade.error_high
    assert graded(TRUTH, painted) == grade


@pytest.mark.parametrize(
    ("painted", "worth", "reason"),
    [
        (TRUTH, Worth.USE, ""),
        (TRUTH + NOISE, Worth.USE, ""),
        (3 * TRUTH, Worth.CARE, "its level is off by 2"),
        (TRUTH + 2.6 * NOISE, Worth.CARE, "it follows the truth in part (r 0.5"),
        (10 + 5 * NOISE, Worth.NOT, "it does not follow the truth (r -0"),
        (0 * TRUTH + 10, Worth.CARE, "measured on 24 fields: it does not vary among them"),
        (0 * TRUTH + 40, Worth.NOT, "measured on 24 fields: it does not vary among them"),
        (np.where(np.arange(N_FIELDS) < 3, np.nan, TRUTH), Worth.NOT, "no number in 3 of 24"),
        (np.where(np.arange(N_FIELDS) < 2, np.nan, TRUTH), Worth.USE, ""),
    ],
)
def test_a_grade_is_of_shape_and_level_and_says_why(painted, worth, reason):
    grade = graded(TRUTH, painted)
    assert (grade.grade, grade.reason[: len(reason)]) == (worth, reason)
    assert bool(grade.reason) == bool(reason)


def test_what_hardly_varies_but_is_right_is_taken_with_care():
    grade = graded(10 + 0.1 * TRUTH, 10 + 0.1 * TRUTH[::-1])
    assert grade.grade is Worth.CARE
    assert "its level is right, but it hardly follows the truth" in grade.reason


def test_few_fields_earn_no_best_grade():
    assert graded(TRUTH[:3], TRUTH[:3]).reason == "measured on 3 fields: too few"
    assert graded(TRUTH[:7], TRUTH[:7]).reason == "r 1.00 of 7 fields is not sure"
    assert graded(TRUTH[:8], TRUTH[:8]).grade is Worth.USE
    nothing = np.full(4, np.nan)
    assert graded(nothing, nothing).reason == "no number in any field"
    assert graded(TRUTH[:1], TRUTH[:1]).grade is Worth.CARE


def test_intervals_are_drawn_over_whole_wells():
    """All fields of a well are one copy: six wells are no surer than six fields."""
    truth, noise = np.tile(TRUTH[:N_WELLS], 4), np.tile(NOISE[:N_WELLS], 4)
    of_wells = graded(truth, truth + noise)
    once = graded(truth[:N_WELLS], (truth + noise)[:N_WELLS])
    assert of_wells.r == pytest.approx(once.r)
    assert of_wells.r_low == pytest.approx(once.r_low)


def test_detection_and_diameters_are_of_objects():
    """Of eight objects in a field, four are found; a thing not found costs as one invented."""
    pairs = dataclasses.replace(FOUND, n_missed=4, n_spurious=2)
    fields = [field(at, {"X": TRUTH[at]}, {"X": TRUTH[at]}, pairs) for at in range(N_FIELDS)]
    grades = {(grade.table, grade.feature): grade for grade in grades_of(fields, "none")}
    detection, sizes = grades["Nuclei", DETECTION], grades["LipidDroplets", DIAMETER]
    f1 = 2 * 4 / (2 * 4 + 4 + 2)
    assert detection.error == pytest.approx(1 - f1)
    assert (detection.grade, detection.reason) == (Worth.CARE, "F1 0.57")
    true_um, painted_um = (
        2 * UM_PER_PX[20] * np.sqrt(areas_px / np.pi)
        for areas_px in (FOUND.truth_px, FOUND.painted_px)
    )
    assert sizes.r == pytest.approx(np.corrcoef(true_um, painted_um)[0, 1])
    error = np.abs(true_um - painted_um).mean() / np.median(true_um)
    assert sizes.error == pytest.approx(error)
    assert sizes.n_objects == 4 * N_FIELDS
    assert sizes.grade is Worth.USE


def test_what_needs_a_stain_that_was_not_painted_has_no_grade():
    """The true stain stood in for it."""
    given = {"LipidDroplets_Mean_X": 1.0, "Cells_Mean_X": 2.0}
    fields = [field(at, given, given, stains=("A2",)) for at in range(4)]
    names = {(grade.table, grade.feature) for grade in grades_of(fields, "none")}
    assert names == {
        (WELLS, "LipidDroplets_Mean_X"),
        ("LipidDroplets", DETECTION),
        ("LipidDroplets", DIAMETER),
    }
    assert grades_of([field(0, given, given, stains=("A1",))], "none") == []


def test_models_are_compared_by_their_grades():
    truth = {"X": TRUTH, "Y": TRUTH}
    fields = [
        field(at, {name: of[at] for name, of in truth.items()}, {"X": TRUTH[at], "Y": NOISE[at]})
        for at in range(N_FIELDS)
    ]
    varied = [
        dataclasses.replace(
            one, truth_features={"F": TRUTH[at]}, painted_features={"none": {"F": TRUTH[at]}}
        )
        for at, one in enumerate(fields)
    ]
    grades = grades_of(varied, "none")
    assert summary(grades) == {20: {Worth.USE: 1, Worth.CARE: 0, Worth.NOT: 1}}
    assert grade_metrics(grades) == {"features_to_use_20x": 1, "feature_r_20x": pytest.approx(1)}
    assert [grade.feature for grade in grades if grade.table == IMAGE] == ["F"]


def test_grades_go_through_json():
    grades = [graded(TRUTH, TRUTH + NOISE), graded(TRUTH[:1], TRUTH[:1])]
    text = json.dumps(to_json(Earned("none", grades, [])), allow_nan=False)
    read = from_json(json.loads(text))
    assert (read.intensities, read.realities) == ("none", [])
    np.testing.assert_equal([vars(one) for one in read.grades], [vars(one) for one in grades])


@pytest.mark.parametrize("value", ["perfect", None, 3])
def test_other_json_is_no_grade(value):
    content = to_json(Earned("none", [graded(TRUTH, TRUTH)], []))
    content["grades"][0]["grade"] = value
    with pytest.raises(ValueError, match=r"grade|not a valid Worth"):
        from_json(content)
