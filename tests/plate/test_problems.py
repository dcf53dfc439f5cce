"""The table of problems is whole, whatever the plate's folders are called."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from adipocyte.domain import FieldKey
from adipocyte.errors import ImageError
from adipocyte.plate.fields import RawField, write_field
from adipocyte.plate.problems import Problem, problem_of, problem_table
from adipocyte.plate.scan import scan_plate

KEY = FieldKey(20, "B03", 1)
LONG = "/".join(["x" * 200] * 6)
NAMES = ["run: 2", "a: b: c", ": ", "two\nlines: of\r\ttext", "\x1b[2J: cleared", LONG, "é…: 脂"]
REMEDY = "it must be a whole TIFF of grey pages; save it again"


def on_one_line(text: str) -> str:
    """*text* as a table shows it, by Python's own spelling of what cannot be printed."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


@pytest.fixture(params=NAMES, ids=ascii)
def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The text file that has the name of an image, in a plate with a hostile name."""
    plate = tmp_path / request.param
    planes = np.random.default_rng(0).integers(100, 900, (7, 64, 64), dtype=np.uint16)
    for key in (KEY, FieldKey(20, "C02", 1)):
        write_field(plate, key, RawField(planes, {"A1": planes[0]}))
    [path] = plate.glob("20x_images/*_B03_*Z03C04.tif")
    path.write_text("notes: these are no pixels\n")
    return path


def test_a_text_file_under_an_images_name_gives_a_whole_table(damaged):
    [problem] = scan_plate(damaged.parents[1]).problems
    assert problem.where == "20x B03 F001"
    assert problem.found.startswith(f"{damaged} cannot be read as TIFF (TiffFileError(")
    assert problem.found.endswith("))")
    assert problem.remedy == REMEDY
    headings, row = problem_table([problem]).split("\n")
    assert headings.split() == ["where", "found", "what", "to", "do"]
    assert row == f"20x B03 F001  {on_one_line(problem.found)}  {REMEDY}"
    assert (headings.index("found"), headings.index("what to do")) == (
        row.index(on_one_line(str(damaged))),
        row.index(REMEDY),
    )


def test_preprocess_refuses_with_the_whole_table(damaged, tmp_path):
    plate = damaged.parents[1]
    command = importlib.import_module("entrypoints.preprocess").preprocess
    store = tmp_path / "store"
    result = CliRunner().invoke(command, ["--plate", str(plate), "--store", str(store)])
    assert result.exit_code == 2
    assert problem_table(scan_plate(plate).problems) in result.stderr
    assert "-P on_error=skip" in result.stderr
    assert not store.exists()


def test_a_problem_takes_both_parts_of_an_error():
    error = ImageError("run: 2/image.tif is empty: 0 bytes", "copy it: again")
    assert problem_of(KEY, error) == Problem(str(KEY), error.found, error.remedy)


@given(cells=st.lists(st.tuples(st.text(), st.text(), st.text()), max_size=4))
def test_every_text_stands_whole_on_its_line(cells):
    _, *rows = problem_table([Problem(*row) for row in cells]).split("\n")
    for row, texts in zip(rows, cells, strict=True):
        assert row.split() == " ".join(map(on_one_line, texts)).split()


def test_columns_are_as_wide_as_their_longest_cell():
    table = problem_table([Problem("a", "bb", "ccc"), Problem("20x B03 F001", "b", "")])
    assert table.split("\n") == [
        "where         found  what to do",
        "a             bb     ccc",
        "20x B03 F001  b",
    ]
