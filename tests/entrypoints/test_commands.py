"""What every command does with bad input: one paragraph, exit status 2, nothing half-written."""

import dataclasses
import importlib
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner, Result

from adipocyte.domain import FieldKey
from adipocyte.plate.fields import RawField, write_field
from adipocyte.store.reader import Store
from entrypoints.command import next_command
from tests.support import ROOT
from tests.support.drawn import INSIDE, NUCLEI, drawn_field
from tests.support.stores import contents
from tests.support.tracking import tracked_at
from tests.test_project import CONFIGS

COMMANDS = sorted(CONFIGS)
HEAVY = {
    "gradio",
    "matplotlib",
    "mlflow",
    "numpy",
    "optuna",
    "pandas",
    "scipy",
    "skimage",
    "torch",
    "zarr",
}


@pytest.fixture(autouse=True)
def elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path
) -> Iterator[Path]:
    """A folder to work in, empty but for an MLflow store of its own."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    with tracked_at(f"sqlite:///{tmp_path}/mlflow.db"):
        yield tmp_path


def run(name: str, *args: str) -> Result:
    return CliRunner().invoke(getattr(importlib.import_module(f"entrypoints.{name}"), name), args)


def refusal(name: str, *args: str) -> str:
    """What the command says when it refuses; it must end as a refusal does."""
    result = run(name, *args)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    # MLflow and progress bars may have written lines before.
    _, error, said = result.stderr.rpartition("Error: ")
    assert error, result.stderr
    return said


def plate_of(planes: np.ndarray, folder: Path) -> Path:
    """A plate of two wells that hold the same *planes*, A1 included."""
    for well in ("B03", "C04"):
        write_field(folder, FieldKey(20, well, 1), RawField(planes, {"A1": planes[0]}))
    return folder


def grey(n_planes: int) -> np.ndarray:
    return np.random.default_rng(0).integers(100, 900, (n_planes, 64, 64), dtype=np.uint16)


@pytest.mark.parametrize("name", ["main", "preprocess", "stain"])
def test_a_plate_that_is_not_there_is_named_with_the_way_to_make_one(name):
    said = refusal(name, "--plate", "no/such/plate")
    assert "no/such/plate" in said
    assert "-P plate=" in said


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("train_segmenter", ()),
        ("train_gan", ("--target", "A2")),
        ("register", ()),
        ("evaluate", ()),
    ],
)
def test_without_a_store_the_next_command_is_preprocess(name, args):
    assert "mlflow run . -e preprocess" in refusal(name, *args)


def test_without_a_segmenter_the_nuclei_generator_asks_for_one(small_store: Store):
    said = refusal("train_gan", "--target", "A1", "--store", str(small_store.folder))
    assert "mlflow run . -e train_segmenter" in said


def test_without_runs_register_asks_for_the_first_that_is_missing(small_store: Store):
    said = refusal("register", "--store", str(small_store.folder))
    assert "mlflow run . -e train_gan -P target=A1" in said


def test_an_unknown_run_is_named(small_store: Store):
    store = str(small_store.folder)
    said = refusal("train_gan", "--target", "A1", "--store", store, "--segmenter", "0123456789")
    assert "0123456789" in said


def test_a_simulation_is_not_written_over_other_images(elsewhere: Path, small_plate: Path):
    before = {path: path.read_bytes() for path in small_plate.rglob("*.tif")}
    assert "name another folder" in refusal("simulate", "--out", str(small_plate))
    assert {path: path.read_bytes() for path in small_plate.rglob("*.tif")} == before


def test_the_command_that_a_simulation_names_next_can_be_pasted(elsewhere: Path):
    folder = str(elsewhere / "run: 2")
    sizes = ("--height_px", "64", "--width_px", "64")
    done = run("simulate", "--out", folder, "--magnifications", "20", "--wells", "B03", *sizes)
    command = done.stdout.partition("Next: ")[2]
    assert shlex.split(command) == ["mlflow", "run", ".", "-P", f"plate={folder}"]


def test_processes_simulate_the_plate_that_one_does():
    small = ("--magnifications=20", "--wells=B03,C02", "--height_px=64", "--width_px=64")
    for plate, workers in (("alone", 0), ("shared", 2), ("shared", 1)):
        done = run("simulate", f"--out={plate}", f"--workers={workers}", *small)
        assert done.exit_code == 0, done.output
    alone, shared = (
        {image.name: image.read_bytes() for image in Path(plate, "20x_images").iterdir()}
        for plate in ("alone", "shared")
    )
    assert len(alone) == 2 * 2 * 10
    assert alone == shared


def test_a_port_that_is_taken_is_named_with_another():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        said = refusal("demo_app", "--port", str(port))
    assert f"port {port} (Address already in use)" in said
    assert "-P port=" in said


def test_what_is_no_address_of_a_server_opens_no_page():
    assert "'nonsense' is no address" in refusal("demo_app", "--server", "nonsense")


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "demo_app"])
def test_a_database_that_takes_no_records_is_told_before_any_work(elsewhere: Path, name):
    (elsewhere / "garbage.db").write_bytes(b"no database" * 1000)
    before = contents(elsewhere)
    needed = {"target": "A2", "plate": "plate", "images": "images", "before": "gone"}
    fields = dataclasses.fields(CONFIGS[name])
    given = [f"--{field.name}={needed[field.name]}" for field in fields if field.name in needed]
    with tracked_at(f"sqlite:///{elsewhere}/garbage.db"):
        assert "MLflow can record no run at sqlite:///" in refusal(name, *given)
    assert contents(elsewhere) == before


@pytest.mark.parametrize(
    ("setting", "value"),
    [("magnifications", "20x"), ("magnifications", ""), ("wells", "B3"), ("wells", "")],
)
def test_a_simulation_that_no_plate_could_hold_is_refused(elsewhere: Path, setting, value):
    assert f"-P {setting}=" in refusal("simulate", f"--{setting}", value)
    assert not (elsewhere / "simulated").exists()


@pytest.mark.parametrize("name", ["", "lab/adipocyte", "a:b"])
def test_a_name_that_the_registry_cannot_hold_is_refused_before_any_work(small_plate: Path, name):
    assert "-P name=adipocyte" in refusal("main", "--plate", str(small_plate), "--name", name)


def test_an_unknown_target_is_answered_with_the_three():
    assert "A1, A2, A3" in refusal("train_gan", "--target", "A4")


def test_a_missing_setting_is_named_with_its_meaning():
    assert "-P target=" in refusal("train_gan")


def test_a_misspelt_setting_is_answered_with_the_right_one():
    assert "did you mean -P epochs=" in refusal("train_gan", "--target", "A2", "--epohcs", "3")


def test_a_setting_may_be_spelt_with_underscores_or_hyphens():
    for spelling in ("--patch_px", "--patch-px"):
        assert "patch_px must be" in refusal("train_gan", "--target", "A2", spelling, "8")


def test_a_value_of_the_wrong_type_is_refused():
    assert "epochs" in refusal("train_gan", "--target", "A2", "--epochs", "many")


def test_an_unknown_model_is_answered_with_register(small_plate: Path):
    said = refusal("stain", "--plate", str(small_plate), "--model", "models:/nobody@champion")
    assert "mlflow run . -e register" in said


def test_a_missing_plane_is_named_and_leaves_no_store(elsewhere: Path):
    plate = plate_of(grey(7), elsewhere / "plate")
    next(plate.glob("20x_images/*C04*Z07C04.tif")).unlink()
    said = refusal("preprocess", "--plate", str(plate))
    assert "lacks Z7" in said
    assert "-P on_error=skip" in said
    assert not (elsewhere / "prepared").exists()


def test_preprocess_only_looks_when_asked_to(elsewhere: Path, small_plate: Path):
    shutil.copytree(small_plate / "20x_images", elsewhere / "plate" / "20x_images")
    next((elsewhere / "plate").glob("20x_images/*C03*Z07C04.tif")).unlink()
    (elsewhere / "plate" / "20x_images" / "notes.txt").touch()
    before = {*elsewhere.rglob("*")}
    result = run("preprocess", "--plate=plate", "--look=true")
    assert result.exit_code == 0, result.output
    assert re.search(r"fields +3 whole, 1 problems\n", result.stdout)
    assert re.search(r"left alone +1 files not named as an image is: notes.txt\n", result.stdout)
    assert "20x C03 F001  lacks Z7" in result.stdout
    [looked] = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert (looked.info.status, looked.data.tags["adipocyte.step"]) == ("FINISHED", "look")
    assert mlflow.artifacts.load_text(f"runs:/{looked.info.run_id}/understood.txt") in result.stdout
    made = {*elsewhere.rglob("*")} - before
    assert all(path.relative_to(elsewhere).parts[0].startswith("ml") for path in made)


def test_preprocess_skips_on_request_and_shows_what_it_found(elsewhere: Path, small_plate: Path):
    shutil.copytree(small_plate / "20x_images", elsewhere / "plate" / "20x_images")
    next((elsewhere / "plate").glob("20x_images/*C03*Z07C04.tif")).unlink()
    settings = {"plate": "plate", "on_error": "skip", "workers": "0", "test_wells": "B03"}
    result = run("preprocess", *(f"--{name}={value}" for name, value in settings.items()))
    assert result.exit_code == 0, result.output
    assert "20x C03 F001  lacks Z7" in result.stdout
    assert "3 fields in prepared" in result.stdout
    [preprocessing] = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert (preprocessing.data.metrics["fields"], preprocessing.data.metrics["skipped"]) == (3, 1)
    artifacts = {
        file.path for file in mlflow.MlflowClient().list_artifacts(preprocessing.info.run_id)
    }
    assert {
        "manifest.json",
        "alignment.json",
        "quality.json",
        "quality.png",
        "histograms.png",
        "masks.png",
    } <= artifacts
    rows = mlflow.load_table("quality.json", run_ids=[preprocessing.info.run_id])
    assert list(rows["well"]) == ["B03", "B04", "C02"]
    assert (rows["brightfield_mean_counts"] > 0).all()


def test_measure_says_what_it_found_and_records_wells_and_a_picture(elsewhere: Path):
    for well in ("B03", "C04"):
        stains = RawField(np.empty((0, 0, 0), np.uint16), drawn_field(NUCLEI))
        write_field(elsewhere / "stained", FieldKey(20, well, 1), stains)
    [red] = (elsewhere / "stained" / "20x_images").glob("*_C04_*C03.tif")
    red.unlink()
    result = run("measure", "--images", "stained", "--workers", "0")
    assert result.exit_code == 0, result.output
    out = result.stdout
    assert "Without A3 (cytoplasm), so without what needs it: 20x C04 F001." in out
    assert f"{len(INSIDE)} Cells" in out
    assert "in 2 fields, 2 measured now." in out
    assert (elsewhere / "measured" / "Cells.parquet").is_file()
    [recorded] = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert recorded.data.metrics["Cells"] == len(INSIDE)
    files = {file.path for file in mlflow.MlflowClient().list_artifacts(recorded.info.run_id)}
    assert files >= {
        "measured.html",
        "wells.json",
        "Wells.parquet",
        "outlines.png",
        "plate.png",
    }
    report = (elsewhere / "measured" / "report.html").read_text("utf-8")
    assert "Without A3 (cytoplasm), so without what needs it: 20x C04 F001." in report
    wells = mlflow.load_table("wells.json", run_ids=[recorded.info.run_id])
    assert list(wells["Metadata_Well"]) == ["B03", "C04"]


def test_a_preparation_that_is_refused_is_a_run_that_failed(small_plate: Path):
    """The run is opened first, so that a server that takes none is known before the work."""
    refusal("preprocess", "--plate", str(small_plate), "--test_wells", "P24", "--workers", "0")
    [run] = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert (run.data.tags["adipocyte.step"], run.info.status) == ("preprocess", "FAILED")


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.ones((64, 64), dtype=np.float32), "float32"),
        (np.ones((64, 64, 3), dtype=np.uint16), "(64, 64, 3)"),
        (np.ones((64, 48), dtype=np.uint16), "(64, 48)"),
    ],
    ids=["float", "colour", "another size"],
)
def test_an_image_of_another_kind_is_named_with_its_file(elsewhere: Path, image, found):
    plate = plate_of(grey(7), elsewhere / "plate")
    path = next(plate.glob("20x_images/*C04*Z05C04.tif"))
    tifffile.imwrite(path, image)
    said = refusal("preprocess", "--plate", str(plate))
    assert path.name in said
    assert found in said
    assert not (elsewhere / "prepared").exists()


def test_a_truncated_tiff_is_named(elsewhere: Path):
    plate = plate_of(grey(7), elsewhere / "plate")
    path = next(plate.glob("20x_images/*B03*Z02C04.tif"))
    path.write_bytes(path.read_bytes()[:3000])
    assert path.name in refusal("preprocess", "--plate", str(plate))


def test_a_folder_that_is_no_store_is_not_overwritten(elsewhere: Path, small_plate: Path):
    (elsewhere / "thesis").mkdir()
    (elsewhere / "thesis" / "chapter1.txt").write_text("years of work")
    assert "thesis" in refusal("preprocess", "--plate", str(small_plate), "--store", "thesis")
    assert (elsewhere / "thesis" / "chapter1.txt").read_text() == "years of work"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_every_setting_at_once(name):
    """It imports nothing that takes seconds, and neither does a mistyped setting."""
    script = f"""
import sys
from entrypoints.{name} import {name}
{name}.main(["--help"])
print(sorted(set(sys.modules) & {HEAVY}))
"""
    shown = fresh(script)
    assert shown.splitlines()[-1] == "[]"
    for setting in dataclasses.fields(CONFIGS[name]):
        assert f"--{setting.name}" in shown


def test_importing_the_package_imports_nothing_that_takes_seconds():
    assert fresh(f"import sys, adipocyte; print(set(sys.modules) & {HEAVY})").strip() == "set()"


def fresh(script: str) -> str:
    """What a *script* prints in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


def test_a_next_command_can_be_pasted_whatever_the_names_are():
    command = next_command("train_gan", Path("my stores/#1 (new)"), target="A1")
    assert shlex.split(command)[5:] == ["-P", "target=A1", "-P", "store=my stores/#1 (new)"]
