"""What measurements of painted images are worth: the model's grades, lowered where they mislead."""

import json
from pathlib import Path

import numpy as np
import pytest

from adipocyte.domain import FieldKey
from adipocyte.errors import PlateError
from adipocyte.evaluation.cellprofiler.objects import DIAMETER
from adipocyte.evaluation.counts import CountFactors
from adipocyte.evaluation.grades import WELLS, Earned, Grade, Worth, to_json
from adipocyte.evaluation.reality import Reality
from adipocyte.evaluation.trees import Trees
from adipocyte.measuring.grades import grade_rows, graded_by

KEYS = [FieldKey(m, "B03", fov) for m in (20, 40) for fov in range(1, 5)]
AREA = "AreaShape_Area"


def grade(magnification: int, table: str, feature: str, worth: Worth, reason: str = "") -> Grade:
    return Grade(magnification, table, feature, worth, reason, n_fields=9, n_wells=3)


GRADES = [
    *(grade(m, WELLS, f"Nuclei_Mean_{AREA}", Worth.USE) for m in (20, 40, 60)),
    grade(20, WELLS, f"Nuclei_Mean_{DIAMETER}", Worth.USE),
    grade(20, "Nuclei", DIAMETER, Worth.CARE, "r 0.70"),
    grade(20, WELLS, "Image_Count_Cells", Worth.NOT, "r 0.10"),
]


LEARNT = Reality(20, "LipidDroplets", Trees(0.0, [], [], []), scores=[0.0], probabilities=[0.5])


def painted(folder: Path, *, way: str = "none", unlike: tuple[FieldKey, ...] = ()) -> Path:
    """A folder that tells of images painted with the intensities "none", some *unlike*."""
    folder.mkdir()
    fields = {str(key): {"warnings": ["dim: …"] if key in unlike else []} for key in KEYS}
    for name, content in {
        "stained.json": {"plate": "raw", "intensities": way},
        "manifest.json": {"fields": fields},
        "grades.json": to_json(Earned("none", GRADES, [LEARNT])),
    }.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def worths(found) -> dict[tuple[int, str, str], tuple[str, str]]:
    return {
        (row["Metadata_Magnification"], row["Table"], row["Feature"]): (row["Grade"], row["Reason"])
        for row in grade_rows(found.grades)
    }


def test_columns_of_objects_have_the_grade_of_their_mean_or_their_own(tmp_path):
    found = graded_by(painted(tmp_path / "stained"), KEYS)
    assert worths(found) == {
        (20, WELLS, f"Nuclei_Mean_{AREA}"): ("use", ""),
        (40, WELLS, f"Nuclei_Mean_{AREA}"): ("use", ""),
        (20, WELLS, f"Nuclei_Mean_{DIAMETER}"): ("use", ""),
        (20, WELLS, "Image_Count_Cells"): ("not", "r 0.10"),
        (20, "Nuclei", AREA): ("use", ""),
        (40, "Nuclei", AREA): ("use", ""),
        (20, "Nuclei", DIAMETER): ("with care", "r 0.70"),
    }
    assert found.doubts == ()
    assert list(found.sentences()) == [
        "Grades of the columns of wells at 20x: 2 use, 0 with care, 1 not.",
        "Grades of the columns of wells at 40x: 1 use, 0 with care, 0 not.",
    ]


def test_a_plate_unlike_the_training_wells_lowers_the_grades_of_that_magnification(tmp_path):
    unlike = tuple(KEYS[:3])
    found = graded_by(painted(tmp_path / "stained", unlike=unlike), KEYS)
    doubt = "3 of 4 fields are unlike the training wells"
    assert worths(found)[20, "Nuclei", AREA] == ("with care", doubt)
    assert worths(found)[20, WELLS, "Image_Count_Cells"] == ("not", f"r 0.10; {doubt}")
    assert worths(found)[40, "Nuclei", AREA] == ("use", "")
    assert found.doubts == (f"At 20x each grade is one lower: {doubt}.",)
    assert found.unlike == set(unlike)


def test_nothing_is_known_of_an_objective_that_was_resampled(tmp_path):
    folder = painted(tmp_path / "stained")
    manifest = json.loads((folder / "manifest.json").read_text())
    for key in KEYS[:4]:
        manifest["fields"][str(key)] |= {"resampled": True}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    found = graded_by(folder, KEYS)
    assert {magnification for magnification, _, _ in worths(found)} == {40}
    assert found.realities == ()  # the model's are of 20x
    assert "At 20x nothing says which columns can be trusted" in found.doubts[0]


def test_half_of_the_fields_lower_nothing(tmp_path):
    found = graded_by(painted(tmp_path / "stained", unlike=tuple(KEYS[:2])), KEYS)
    assert found.doubts == ()
    assert len(found.unlike) == 2


def test_intensities_that_were_not_graded_lower_all(tmp_path):
    folder = painted(tmp_path / "stained", way="matching")
    (folder / "20x_images").mkdir()
    found = graded_by(folder / "20x_images", KEYS[:4])
    assert found.doubts == (
        "At 20x each grade is one lower: intensities are matching, and none was graded.",
    )
    assert found.realities == ()
    as_learnt = graded_by(painted(tmp_path / "kept"), KEYS[:4])
    assert [one.table for one in as_learnt.realities] == ["LipidDroplets"]


def test_images_that_nobody_painted_have_no_grades(tmp_path):
    assert graded_by(tmp_path, KEYS) is None


def test_a_model_without_grades_is_named(tmp_path):
    folder = painted(tmp_path / "stained")
    (folder / "grades.json").unlink()
    found = graded_by(folder, KEYS)
    assert found.grades == ()
    assert "register it again" in found.doubts[0]


def test_probabilities_of_an_older_version_are_left_out_and_told(tmp_path):
    folder = painted(tmp_path / "stained")
    content = json.loads((folder / "grades.json").read_text())
    content["objects"] = [{"magnification": 20, "table": "LipidDroplets", "weights": [0.0]}]
    del content["realities"]
    (folder / "grades.json").write_text(json.dumps(content))
    found = graded_by(folder, KEYS[:4])
    assert found.realities == ()
    assert found.grades
    assert "register it again" in found.doubts[-1]


@pytest.mark.parametrize("name", ["stained.json", "manifest.json", "grades.json"])
@pytest.mark.parametrize(
    "content", ["{", "[]", '{"fields": {"a": 1}, "grades": [{}], "objects": []}']
)
def test_what_is_damaged_is_named(tmp_path, name, content):
    folder = painted(tmp_path / "stained")
    (folder / name).write_text(content)
    with pytest.raises(PlateError, match=f"{name}.* is damaged .*remove the file and measure"):
        graded_by(folder, KEYS)


def verdicts(folder: Path, **of_fields: str) -> Path:
    """The folder tells of the fields "B03_1", … at 20x whether to believe them."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, verdict in of_fields.items():
        fov = int(name.removeprefix("B03_"))
        trust = {"verdict": verdict, "reason": "", "errors": {"A2": 0.1 * fov}}
        manifest["fields"][str(FieldKey(20, "B03", fov))]["trust"] = trust
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    ("fields", "well"),
    [
        (("yes", "yes", "yes", "yes"), "yes"),
        (("yes", "yes", "no", "yes"), "with care"),
        (("yes", "no", "no", "yes"), "no"),
        (("with care",) * 4, "with care"),
    ],
)
def test_a_well_is_to_be_believed_as_its_fields_are(tmp_path, fields, well):
    named = {f"B03_{fov}": verdict for fov, verdict in enumerate(fields, 1)}
    found = graded_by(verdicts(painted(tmp_path / "stained"), **named), KEYS)
    keys = KEYS[:4]
    assert [found.of_field(key)["Metadata_Trust"] for key in keys] == list(fields)
    assert found.of_well(keys) == {
        "Metadata_Trust": well,
        "Metadata_ExpectedError_Bodipy": pytest.approx(0.25),
    }
    unknown = found.of_well(KEYS[4:])
    assert unknown["Metadata_Trust"] == "unknown"
    assert np.isnan(unknown["Metadata_ExpectedError_Bodipy"])
    said = f"Not to be believed: {fields.count('no')} of 4 fields, of B03."
    assert (said in found.sentences()) == ("no" in fields)


def test_a_folder_painted_without_trust_has_no_such_columns(tmp_path):
    found = graded_by(painted(tmp_path / "stained"), KEYS)
    assert found.of_field(KEYS[0]) == found.of_well(KEYS) == {}


def test_a_damaged_verdict_is_named(tmp_path):
    folder = verdicts(painted(tmp_path / "stained"), B03_1="perhaps")
    with pytest.raises(PlateError, match=r"manifest.json is damaged"):
        graded_by(folder, KEYS)


def test_numbers_of_objects_get_their_bounds(tmp_path):
    folder = painted(tmp_path / "stained")
    counts = [CountFactors(20, "Nuclei", 1.0, 2.0, 0.9, 20, 5)]
    content = to_json(Earned("none", GRADES, [LEARNT], counts))
    (folder / "grades.json").write_text(json.dumps(content))
    row = {"Metadata_Magnification": 20, "Image_Count_Nuclei": 9}
    found = graded_by(folder, KEYS)
    assert found.counts_of(row) == {
        "Metadata_Count_Nuclei_Low": 9,
        "Metadata_Count_Nuclei_High": 19,
    }
    assert found.counts_of(row | {"Metadata_Magnification": 40}) == {}
