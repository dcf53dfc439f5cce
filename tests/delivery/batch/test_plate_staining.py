"""A whole plate is painted field by field, and the same command resumes after any interruption."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import tifffile

from adipocyte.config import StainConfig
from adipocyte.delivery.batch import painter
from adipocyte.delivery.batch import plate as batch
from adipocyte.delivery.batch.painter import Assignment, FieldOutcome
from adipocyte.delivery.batch.plate import Here, should_compile, stain_plate
from adipocyte.domain import FieldKey
from adipocyte.errors import ConfigError, OutputError, PlateError
from adipocyte.plate.fields import FieldFiles
from adipocyte.staining.stainer import Stainer
from tests.support import ROOT
from tests.support.plates import images, plane, write_plate
from tests.support.processes import wait_for

ANOTHER = "images of another plate, model, intensities, tiles or arithmetic"


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five fields."""
    return write_plate(tmp_path_factory.mktemp("raw") / "plate", range(1, 6))


@pytest.fixture
def stain(plate: Path, small_model: Path, tmp_path: Path):
    """Paint the plate into tmp_path/out, or with other settings."""

    def run(crew: batch.Crew | None = None, **settings: Any) -> batch.StainedPlate:
        given = {"plate": plate, "model": str(small_model), "out": str(tmp_path / "out")} | settings
        return stain_plate(StainConfig(**given), crew or Here())

    return run


class LeavesEarly(Here):
    """Gives up after so many fields, by Ctrl-C or another way."""

    def __init__(self, n_fields: int, error: BaseException) -> None:
        self._n_fields, self._error = n_fields, error

    def paint(self, assignment: Assignment, fields: Sequence[FieldFiles]) -> Iterator[FieldOutcome]:
        yield from super().paint(assignment, fields[: self._n_fields])
        raise self._error


def entries(out: Path) -> dict[str, Any]:
    return json.loads((out / "manifest.json").read_text())["fields"]


def fovs(keys: Sequence[FieldKey]) -> list[int]:
    return [key.fov for key in keys]


def test_every_field_is_painted_as_the_stainer_paints_it(stain, plate, small_bundle, tmp_path):
    result = stain()
    assert fovs(result.painted) == [1, 2, 3, 4, 5]
    assert (result.skipped, result.problems) == ([], [])
    planes = tifffile.imread([plane(plate, 3, z) for z in range(1, 8)])
    expected = Stainer(small_bundle).stain(planes, 20).images
    for target, channel in (("A1", "C01"), ("A2", "C02"), ("A3", "C03")):
        [path] = (tmp_path / "out").glob(f"20x_images/*F003*{channel}.tif")
        assert (tifffile.imread(path) == expected[target]).all()


@pytest.mark.slow
def test_the_manifest_tells_of_each_field(stain, tmp_path):
    result = stain()
    told = entries(tmp_path / "out")
    assert list(told) == [f"20x B03 F{fov:03d}" for fov in range(1, 6)]
    assert {entry["status"] for entry in told.values()} == {"painted"}
    assert all(0 < entry["seconds"] < 100 for entry in told.values())
    assert result.warnings  # noise is unlike the training wells
    assert {key: entry["warnings"] for key, entry in told.items()} == {
        str(key): list(said) for key, said in result.warnings.items()
    }


@pytest.mark.slow
def test_a_bad_field_is_recorded_and_mended_by_the_same_command(stain, plate, tmp_path):
    """One lacks a plane, which the scan sees; one has pixels that cannot be decoded, if read."""
    broken = shutil.copytree(plate, tmp_path / "broken")
    plane(broken, 2, 3).unlink()
    damaged = plane(broken, 4, 5)
    tifffile.imwrite(damaged, tifffile.imread(damaged), compression="zlib")
    whole = damaged.read_bytes()
    with tifffile.TiffFile(damaged) as tiff:
        start = tiff.pages[0].dataoffsets[0]
    damaged.write_bytes(whole[:start] + bytes(100) + whole[start + 100 :])
    result = stain(plate=broken)
    assert fovs(result.painted) == [1, 3, 5]
    told = entries(tmp_path / "out")
    lacking, unreadable = told["20x B03 F002"], told["20x B03 F004"]
    assert "lacks Z3" in lacking.pop("problem")
    assert lacking == {"status": "failed", "seconds": 0, "warnings": []}
    assert unreadable["status"] == "failed"
    assert damaged.name in unreadable["problem"]
    assert [problem.where for problem in result.problems] == ["20x B03 F002", "20x B03 F004"]

    shutil.copy(plane(plate, 2, 3), broken / "20x_images")
    damaged.write_bytes(whole)
    again = stain(plate=broken)
    assert (fovs(again.painted), fovs(again.skipped), again.problems) == ([2, 4], [1, 3, 5], [])
    assert {entry["status"] for entry in entries(tmp_path / "out").values()} == {"painted"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OutputError("the disk is full")], ids=["Ctrl-C", "no room"]
)
def test_what_was_painted_before_an_interruption_is_kept(stain, tmp_path, error):
    with pytest.raises(type(error)):
        stain(LeavesEarly(2, error))
    assert len(entries(tmp_path / "out")) == 2
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.tif")}
    again = stain()
    assert (fovs(again.painted), fovs(again.skipped)) == ([3, 4, 5], [1, 2])
    assert {path: path.stat().st_mtime_ns for path in times} == times
    stain(out=str(tmp_path / "at once"))
    assert images(tmp_path / "out") == images(tmp_path / "at once")


@pytest.mark.slow
def test_a_plate_whose_painting_is_killed_resumes(stain, plate, small_model, tmp_path):
    command = [sys.executable, "-m", "entrypoints.stain"]
    command += ["--plate", str(plate), "--model", str(small_model), "--out", str(tmp_path / "out")]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL
    ) as painting:
        wait_for(lambda: images(tmp_path / "out"), process=painting)
        painting.send_signal(signal.SIGKILL)
    assert len(images(tmp_path / "out")) > 0
    stain()
    stain(out=str(tmp_path / "at once"))
    assert images(tmp_path / "out") == images(tmp_path / "at once")
    assert len(entries(tmp_path / "out")) == 5


def test_the_manifest_is_written_while_the_plate_is_painted(stain, tmp_path, monkeypatch):
    """By then a kill may come at any time."""
    monkeypatch.setattr(batch, "WRITE_EVERY_S", 0)
    seen = []

    class Watched(Here):
        def paint(
            self, assignment: Assignment, fields: Sequence[FieldFiles]
        ) -> Iterator[FieldOutcome]:
            for outcome in super().paint(assignment, fields):
                seen.append(len(entries(tmp_path / "out")))
                yield outcome

    stain(Watched())
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_an_image_that_is_lost_is_painted_again(stain, tmp_path):
    stain()
    [lost] = (tmp_path / "out").glob("20x_images/*F002*C02.tif")
    lost.unlink()
    again = stain()
    assert (fovs(again.painted), lost.is_file()) == ([2], True)


@pytest.mark.slow
def test_a_finished_plate_needs_no_networks(stain, monkeypatch):
    stain()
    monkeypatch.setattr(painter, "load_stainer", None)
    assert fovs(stain().skipped) == [1, 2, 3, 4, 5]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "memory"])
def test_a_plate_can_go_to_any_address(stain, tmp_path, kind):
    address = {"file": f"file://{tmp_path}/elsewhere", "memory": f"memory://{tmp_path.name}"}[kind]
    assert fovs(stain(out=address).painted) == [1, 2, 3, 4, 5]
    assert fovs(stain(out=address).skipped) == [1, 2, 3, 4, 5]
    stain()
    out = batch.Output(address)
    painted = {name: out.read(name) for name in out.files() if name.endswith(".tif")}
    assert painted == images(tmp_path / "out")


@pytest.mark.slow
def test_a_plate_is_finished_in_the_arithmetic_it_was_begun_in(stain, tmp_path):
    """Another machine, or the same on a busier day, may be faster in the other."""

    class Other(Here):
        def fastest(self) -> str:
            return "32" if began == "bf16" else "bf16"

    with pytest.raises(KeyboardInterrupt):
        stain(LeavesEarly(2, KeyboardInterrupt()))
    began = json.loads((tmp_path / "out" / "stained.json").read_text())["precision"]
    assert fovs(stain(Other()).painted) == [3, 4, 5]
    stain(out=str(tmp_path / "at once"), precision=began)
    assert images(tmp_path / "out") == images(tmp_path / "at once")
    with pytest.raises(PlateError, match=ANOTHER):
        stain(precision=Other().fastest())


@pytest.mark.slow
def test_what_is_compiled_stays_so(stain, tmp_path):
    stain(compile="true")
    for path in (tmp_path / "out").glob("20x_images/*F002*"):
        path.unlink()
    assert fovs(stain().painted) == [2]
    stain(out=str(tmp_path / "at once"), compile="true")
    assert images(tmp_path / "out") == images(tmp_path / "at once")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("manifest.json", "{", "is damaged"),
        ("stained.json", "[1]", "was written by another program"),
    ],
)
def test_a_folder_with_files_of_other_kinds_is_refused(stain, tmp_path, name, content, said):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text(content)
    with pytest.raises(PlateError, match=f"{name} in .* {said}.*-P out=<folder>"):
        stain()
    assert (tmp_path / "out" / name).read_text() == content


@pytest.mark.parametrize("where", ["inside", "itself by a link", "itself by a detour"])
def test_the_raw_plate_is_never_written_to(stain, plate, tmp_path, where):
    (tmp_path / "link").symlink_to(plate.parent)
    out = {
        "inside": plate / "stained",
        "itself by a link": tmp_path / "link" / plate.name,
        "itself by a detour": f"{plate}/../{plate.name}",
    }
    before = images(plate)
    with pytest.raises(PlateError, match="lies in the raw plate, which is never written to"):
        stain(out=str(out[where]))
    assert images(plate) == before
    assert not list(plate.rglob("*.json"))


@pytest.mark.slow
def test_a_detour_around_the_raw_plate_is_allowed(stain, plate, tmp_path):
    assert fovs(stain(out=f"{plate}/../beside").painted) == [1, 2, 3, 4, 5]


def test_a_plate_without_a_whole_field_is_recorded_field_by_field(stain, plate, tmp_path):
    broken = shutil.copytree(plate, tmp_path / "broken")
    for fov in range(1, 6):
        plane(broken, fov, 3).unlink()
    result = stain(plate=broken)
    assert (result.painted, len(result.problems)) == ([], 5)
    assert {entry["status"] for entry in entries(tmp_path / "out").values()} == {"failed"}


@pytest.mark.slow
def test_a_bad_field_that_is_removed_leaves_the_manifest(stain, plate, tmp_path):
    broken = shutil.copytree(plate, tmp_path / "broken")
    plane(broken, 2, 3).unlink()
    stain(plate=broken)
    assert "20x B03 F002" in entries(tmp_path / "out")
    for path in (broken / "20x_images").glob("*F002*"):
        path.unlink()
    assert fovs(stain(plate=broken).skipped) == [1, 3, 4, 5]
    assert list(entries(tmp_path / "out")) == [f"20x B03 F{fov:03d}" for fov in (1, 3, 4, 5)]


@pytest.mark.slow
def test_settings_bind_from_the_first_image_on(stain, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        stain(LeavesEarly(0, KeyboardInterrupt()), intensities="none")
    with pytest.raises(KeyboardInterrupt):
        stain(LeavesEarly(1, KeyboardInterrupt()), intensities="matching", tile_px=1088)
    for settings in ({"intensities": "none", "tile_px": 1088}, {"intensities": "matching"}):
        with pytest.raises(PlateError, match=ANOTHER):
            stain(**settings)
    assert fovs(stain(intensities="matching", tile_px=1088).painted) == [2, 3, 4, 5]


def test_auto_compiles_for_workers_of_sixteen_fields_where_it_is_possible():
    wanted = [should_compile("auto", n_fields, possible=True) for n_fields in (1, 15, 16, 3456)]
    assert wanted == [False, False, True, True]
    assert not should_compile("auto", 1000, possible=False)
    assert should_compile("true", 1, possible=False)  # `stain_plate` says what to install
    assert not should_compile("false", 3456, possible=True)


@pytest.mark.slow
def test_what_cannot_be_compiled_here_is_said_before_anything_is_claimed(stain, tmp_path):
    class Plain(Here):
        def has_compiler(self) -> bool:
            return False

    with pytest.raises(
        ConfigError,
        match=r"pip install \"adipocyte\[openvino\]\", or continue with -P compile=false",
    ):
        stain(Plain(), compile="true")
    assert not (tmp_path / "out").exists()
    stain(compile="true")
    for path in (tmp_path / "out").glob("20x_images/*F002*"):
        path.unlink()
    with pytest.raises(
        ConfigError,
        match=r"openvino\]\", or name another folder with -P out=<folder>: this one was begun so",
    ):
        stain(Plain())
