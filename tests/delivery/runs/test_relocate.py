"""A project that was moved: MLflow's database follows by the command of the manual."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import sqlalchemy
from click.testing import CliRunner

from adipocyte.config import EvaluateConfig
from adipocyte.delivery.models.load import load_manifest
from adipocyte.delivery.models.package import as_model, copy_code
from adipocyte.delivery.runs.relocate import relocate
from adipocyte.delivery.runs.runs import artifacts_of, fetched, step_run
from adipocyte.errors import ConfigError, MissingFilesError, RunError
from adipocyte.plate.tiff import encode_stack
from entrypoints.relocate import relocate as command
from tests.support import ROOT
from tests.support.plates import planes
from tests.support.tracking import tracked_at

MODEL = "models:/adipocyte/1"
MANUAL = (ROOT / "docs" / "serving.md").read_text()


def kept(run_id: str) -> str:
    """What the run keeps as note.txt."""
    with fetched(artifacts_of(mlflow.get_run(run_id)), "note.txt") as path:
        return path.read_text()


def noted(experiment: str) -> str:
    """A run of an *experiment* that keeps a note. Returns its id."""
    with mlflow.start_run(experiment_id=experiment) as run:
        mlflow.log_text("here", "note.txt")
    return run.info.run_id


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that a project is in: `mlflow.db` and `mlruns`, as MLflow has them by default."""
    folder = tmp_path / "old_home"
    folder.mkdir()
    monkeypatch.chdir(folder)
    # Not by its relative path, by which MLflow would keep one project's database for all tests.
    with tracked_at(f"sqlite:///{folder}/mlflow.db"):
        yield folder


def move(project: Path, monkeypatch: pytest.MonkeyPatch, name: str = "new home") -> Path:
    """Move the project, and work in its new folder."""
    new = project.rename(project.with_name(name))
    monkeypatch.chdir(new)
    mlflow.set_tracking_uri(f"sqlite:///{new}/mlflow.db")
    return new


def test_a_project_that_was_moved_goes_on_by_the_command_of_the_manual(
    project, compact_bundle, monkeypatch
):
    example = pd.DataFrame({"stack": [encode_stack(planes(0, (64, 64)))], "magnification": [20]})
    with mlflow.start_run():
        mlflow.pyfunc.log_model(
            name="model",
            registered_model_name="adipocyte",
            **as_model(compact_bundle, example, copy_code(project / "code")),
        )
    before = [noted("0"), noted(mlflow.create_experiment("b", (project / "b c").as_uri()))]
    manifest = load_manifest(MODEL)
    new = move(project, monkeypatch)
    with pytest.raises(MissingFilesError, match=rf"{project}.*relocate -P before="):
        load_manifest(MODEL)

    [documented] = re.findall(r"mlflow run \. -e relocate -P (before=/\S+)", MANUAL)
    setting = documented.replace("/home/ada/adipocyte", str(project))
    result = CliRunner().invoke(command, [f"--{shlex.split(setting)[0]}"])
    assert result.exit_code == 0, result.output
    assert f"lay in {project} and lie in {new} now" in result.stdout
    assert load_manifest(MODEL) == manifest
    assert [kept(run) for run in before] == ["here", "here"]
    with step_run("evaluate", EvaluateConfig()) as run:
        assert artifacts_of(run).startswith(str(new))
    assert not project.exists()


def test_only_what_lies_in_the_folder_is_changed(project, tmp_path, monkeypatch):
    """Of a folder whose name begins alike, is written in capitals, or has any letter for "_"."""
    others = {name: str(tmp_path / name) for name in ("old_home2", "OLD_HOME", "oldshome")}
    for name, place in others.items():
        mlflow.create_experiment(name, place)
    new = move(project, monkeypatch)
    assert relocate(project, new) == 1
    places = {one.name: one.artifact_location for one in mlflow.search_experiments()}
    assert places == others | {"Default": f"{new}/mlruns/0"}


def test_artifacts_that_were_moved_alone_are_found_in_their_new_folder(project, tmp_path):
    run = noted("0")
    (project / "mlruns").rename(tmp_path / "disk")
    relocate(project / "mlruns", tmp_path / "disk")
    assert kept(run) == "here"


def test_a_folder_in_which_nothing_was_is_refused_and_the_right_one_named(project, tmp_path):
    mlflow.search_experiments()
    with pytest.raises(RunError, match=rf"lies in {tmp_path}/nowhere: .*{project}/mlruns/0"):
        relocate(tmp_path / "nowhere", project)


def test_a_new_folder_that_is_not_there_is_refused(project):
    with pytest.raises(ConfigError, match="there is no folder nowhere"):
        relocate(project, Path("nowhere"))


@pytest.mark.parametrize("uri", ["http://127.0.0.1:1", "file:///data/mlruns"])
def test_records_in_no_database_of_this_machine_are_refused(tmp_path, uri):
    with (
        tracked_at(uri),
        pytest.raises(ConfigError, match=r"is no database .*MLFLOW_TRACKING_URI.*filestore"),
    ):
        relocate(tmp_path, tmp_path)


def test_what_fails_half_way_changes_nothing(project, tmp_path):
    """A database of another program, which has no table of models."""
    mlflow.search_experiments()
    with sqlalchemy.create_engine(mlflow.get_tracking_uri()).begin() as database:
        database.exec_driver_sql("DROP TABLE model_versions")
    with pytest.raises(sqlalchemy.exc.OperationalError):
        relocate(project, tmp_path)
    with sqlalchemy.create_engine(mlflow.get_tracking_uri()).connect() as database:
        [place] = database.exec_driver_sql("SELECT artifact_location FROM experiments").scalars()
    assert place == f"{project}/mlruns/0"
