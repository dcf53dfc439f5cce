"""A plate map is read whole, or every line that is wrong is named."""

import math
import re
from pathlib import Path

import pytest

from adipocyte.errors import PlateError
from adipocyte.measuring import plate_map
from adipocyte.measuring.plate_map import Role, Treatment, read_plate_map

WELLS = ("B03", "B04", "C03", "C04", "C05", "AA10")
HEAD = "well,role,compound,concentration\n"
WHOLE = """B03,negative,DMSO,
B04,negative,,
C03,positive,rosiglitazone,1 uM
C04,positive,rosiglitazone,1 uM
c5,treated,compound 7,500 nM
AA10,Treated,compound 7,0.5 µM
"""


def written(text: str, folder: Path, encoding: str = "utf-8") -> Path:
    path = folder / "map.csv"
    path.write_text(text, encoding)
    return path


def refusal(text: str, folder: Path) -> str:
    with pytest.raises(PlateError) as refused:
        read_plate_map(written(text, folder), WELLS)
    return str(refused.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("separator", [",", ";"])
def test_roles_compounds_and_concentrations_are_read(tmp_path, encoding, separator):
    text = (HEAD + WHOLE).replace(",", separator)
    found = read_plate_map(written(text, tmp_path, encoding), WELLS)
    assert list(found) == list(WELLS)
    assert found["C05"] == Treatment(Role.TREATED, "compound 7", pytest.approx(5e-7), "M")
    assert found["AA10"].concentration == pytest.approx(found["C05"].concentration)
    assert found["B03"].role is Role.NEGATIVE
    assert math.isnan(found["B04"].concentration)


@pytest.mark.parametrize(
    ("text", "molar", "unit"),
    [("2 mM", 2e-3, "M"), ("2nM", 2e-9, "M"), ("1e-1 pM", 1e-13, "M"), ("3 ng/ml", 3e-6, "g/l")],
)
def test_units_are_brought_to_one(tmp_path, text, molar, unit):
    found = read_plate_map(written(f"{HEAD}B03,treated,x,{text}\n", tmp_path), WELLS)
    assert (found["B03"].concentration, found["B03"].unit) == (pytest.approx(molar), unit)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("D09,treated,x,1 uM", "line 2 well D09 has no image"),
        ("Z3x,treated,x,1 uM", "'Z3x' is no well"),
        ("B03,treated,x,1 uM\nb3,treated,x,2 uM", "line 3 well B03 stands there twice"),
        ("B03,treated,x,much", "'much' is no concentration"),
        ("B03,treated,x,1", "'1' is no concentration"),
        ("B03,treated,x,-1 uM", "'-1 uM' is no concentration"),
        ("B03,treated,x,nan uM", "'nan uM' is no concentration"),
        ("B03,treated,x,1 spoon", "give a number and its unit, one of M, mM, nM, pM, uM, mg/ml"),
        ("B03,treated,x,", "a treated well has no concentration"),
        ("B03,treated,,1 uM", "a treated well has no compound"),
        ("B03,placebo,x,1 uM", "'placebo' is no role"),
        ("B03,negative,,\nC03,treated,x,1 uM", "there is one negative control"),
        ("B03,treated,x,1 uM\nB04,treated,x,1 ng/ml", "x is given in M and in g/l"),
    ],
)
def test_what_is_wrong_is_named_by_its_line(tmp_path, lines, said):
    assert said in re.sub(" +", " ", refusal(HEAD + lines, tmp_path))


def test_all_that_is_wrong_is_told_at_once(tmp_path):
    said = refusal(f"{HEAD}B03,placebo,x,much\nD09,treated,x,much\n", tmp_path)
    assert "'placebo' is no role" in said
    assert "well D09 has no image" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no column well"),
        (b"place,role\nB03,negative", "has no column well"),
        (b"well,what\nB03,negative", "has no column role"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"well,role\n" + b"x" * 200_000, "cannot be read"),
    ],
    ids=["empty", "no well", "no role", "bytes", "long"],
)
def test_what_is_no_plate_map_is_refused_with_an_example(tmp_path, content, said):
    path = tmp_path / "map.csv"
    path.write_bytes(content)
    with pytest.raises(PlateError, match=said) as refused:
        read_plate_map(path, WELLS)
    assert "well,role,compound,concentration" in refused.value.remedy


def test_a_map_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(PlateError, match=r"cannot be read .*No such file"):
        read_plate_map(tmp_path / "map.csv", WELLS)


@pytest.mark.parametrize(
    ("amount", "unit", "words"),
    [
        (1000 * 1e-9, "M", "1 µM"),
        (3.3333e-8, "M", "33.3 nM"),
        (2.0, "M", "2 M"),
        (5e-15, "M", "0.005 pM"),
        (2.5e-3, "g/l", "2.5 µg/ml"),
        (0.0, "g/l", "0 mg/ml"),
        (math.nan, "M", "–"),
        (math.inf, "M", "–"),
    ],
)
def test_a_concentration_is_written_with_the_unit_that_suits_it(amount, unit, words):
    assert plate_map.written(amount, unit) == words
