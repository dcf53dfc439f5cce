"""The registry: versions, registering again and after interruptions, rolling back, other servers.

The networks are random, and moved by hand to paint better or worse, so nothing is trained.
"""

import ast
import base64
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import mlflow
import numpy as np
import pytest
import requests
import sqlalchemy
import torch
import torch._dynamo  # here, because its import makes a folder among the temporary ones
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from adipocyte.config import GeneratorConfig, RegisterConfig, SegmenterConfig
from adipocyte.delivery.models import register as registry
from adipocyte.delivery.models.assemble import gather
from adipocyte.delivery.models.load import load_grades, load_manifest, load_stainer, model_id_of
from adipocyte.delivery.models.package import requirements
from adipocyte.delivery.models.register import Registered
from adipocyte.delivery.models.start import start_of
from adipocyte.delivery.runs.runs import network_of, step_run
from adipocyte.domain import FieldKey
from adipocyte.errors import MissingFilesError, RunError
from adipocyte.evaluation.cellprofiler import COLUMNS
from adipocyte.evaluation.grades import Worth, from_json
from adipocyte.networks.compact import CompactUNet
from adipocyte.networks.files import save_network
from adipocyte.networks.unet import UNetSpec, build_unet
from adipocyte.plate.fields import RawField, write_field
from adipocyte.plate.tiff import decode_stack, encode_stack
from adipocyte.simulation import simulate_field
from adipocyte.staining.stainer import Stainer
from adipocyte.store.reader import Store
from tests.support import ROOT
from tests.support.processes import free_port, wait_for
from tests.support.served import UNSCHEDULED, mlflow_server
from tests.support.stores import Killed, prepared
from tests.support.tracking import tracked_at

pytestmark = pytest.mark.slow  # judges a model for nearly every test

CHROMIUM = shutil.which("chromium")
# By how many standard deviations of the training wells a network paints too bright.
GOOD, POOR = 0.0, 3.0
TAGS = {
    "digest",
    "store",
    "code",
    "commit",
    "adipocyte",
    "intensities",
    "verdict",
    "reason",
    "run.A1",
    "run.segmenter",
    "pixel_metric",
}


@dataclass(frozen=True)
class Shelf:
    """An MLflow store with the runs of two chains that were never trained.

    One paints about the mean, the other far too bright.
    """

    environment: dict[str, str]
    store: Store
    good: dict[str, str]
    poor: dict[str, str]


def keep_networks(store: Store, folder: Path) -> dict[float, dict[str, str]]:
    """Runs of a segmenter and of two generators of A1, by how bright they paint."""
    segmenter = keep_network(store, folder, "train_segmenter", SegmenterConfig(), 0.0, {})
    tags = {"target": "A1", "segmenter": segmenter}
    config = GeneratorConfig(target="A1")
    generators = {
        offset: keep_network(store, folder, "train_gan", config, offset, tags)
        for offset in (GOOD, POOR)
    }
    return {offset: {"segmenter": segmenter, "A1": run} for offset, run in generators.items()}


def keep_network(
    store: Store, folder: Path, step: str, config: object, offset: float, tags: dict[str, str]
) -> str:
    """A run of a *step* with a random network that gives about *offset* everywhere.

    The offset is in network units. Returns the run's id.
    """
    torch.manual_seed(0)
    spec = UNetSpec(
        encoder="none",
        in_channels=store.manifest.n_z_planes + ("segmenter" in tags),
        out_channels=len(tags.get("target", "A1").split(",")),
        architecture="compact",  # which is built and loaded in no time
    )
    network = cast(CompactUNet, build_unet(spec))
    with torch.no_grad():
        # Against the light, so that matching its histogram makes no image better than it is.
        network.head.weight.neg_()
        network.head.bias.fill_(offset)
    with step_run(step, config, store=store.digest, **tags) as run:
        save_network(folder / run.info.run_id, spec, network)
        mlflow.log_artifacts(str(folder / run.info.run_id), "network")
    return run.info.run_id


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with A1 alone, for the smallest whole chain.

    It has one field for validation, too few to calibrate by, because that would hide a difference.
    """
    folder = tmp_path_factory.mktemp("store")
    for seed, well in enumerate(("B03", "B04", "C02", "C03")):
        simulated = simulate_field(20, (96, 80), seed=seed)
        write_field(
            folder / "plate",
            FieldKey(20, well, 1),
            RawField(simulated.planes, {"A1": simulated.targets["A1"]}),
        )
    return prepared(folder / "plate", folder / "store")


@pytest.fixture(scope="module")
def shelf(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    folder = tmp_path_factory.mktemp("shelf")
    # Not set_experiment, because later tests of this process would inherit it.
    with tracked_at(f"sqlite:///{folder}/mlflow.db"), pytest.MonkeyPatch.context() as patch:
        experiment = mlflow.create_experiment(
            "registry", artifact_location=f"file://{folder}/artifacts"
        )
        patch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path, **UNSCHEDULED}
        runs = keep_networks(store, folder)
        yield Shelf(environment, store, runs[GOOD], runs[POOR])


@pytest.fixture(scope="module")
def pair(shelf: Shelf) -> tuple[Registered, Registered]:
    """A model "pair" of two versions: the champion, and a candidate that paints worse."""
    return register(shelf.store, shelf.good, "pair"), register(shelf.store, shelf.poor, "pair")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder, empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def register(store: Store, runs: dict[str, str], name: str, **settings) -> Registered:
    config = RegisterConfig(name=name, workers=0, **settings)
    with step_run("register", config, store=store.digest):
        return registry.register(store, runs, config)


def versions(name: str) -> list:
    """All versions of a model, the first one first."""
    found = MlflowClient().search_model_versions(f"name = '{name}'")
    return sorted(
        (MlflowClient().get_model_version(name, version.version) for version in found),
        key=lambda one: int(one.version),
    )


def aliases(name: str) -> dict[str, str]:
    return {
        alias: str(number)
        for alias, number in MlflowClient().get_registered_model(name).aliases.items()
    }


def field(store: Store) -> np.ndarray:
    return store.planes(store.keys("test")[0])


def painted(stainer: Stainer, store: Store) -> np.ndarray:
    return stainer.stain(field(store), 20).images["A1"]


def request(store: Store) -> dict:
    stack = base64.b64encode(encode_stack(field(store))).decode()
    return {"dataframe_records": [{"stack": stack, "magnification": 20}]}


def answered(answer: dict) -> np.ndarray:
    return decode_stack(base64.b64decode(answer["predictions"][0]["A1"]), 1)[0]


# What a version says of itself.


def test_a_version_carries_what_it_was_made_of_and_how_well_it_paints(shelf, pair):
    first, second = versions("pair")
    run = mlflow.get_run(second.run_id)
    assert set(first.tags) >= TAGS
    assert first.tags["run.A1"] == shelf.good["A1"]
    assert first.tags["store"] == shelf.store.digest
    assert float(second.tags["pixel_metric"]) == pytest.approx(
        run.data.metrics["validation_pixel_metric"], abs=1e-4
    )
    assert (second.tags["verdict"], second.tags["against"]) == ("candidate", "1")
    assert second.description.startswith("No better: pixel_metric")
    assert (
        f"| pixel_metric | {second.tags['pixel_metric']} | {first.tags['pixel_metric']} |"
        in second.description
    )
    # What MLflow's column takes on a strict database.
    assert max(len(version.description) for version in (first, second)) < 5000
    assert aliases("pair") == {"champion": "1", "candidate": "2"}


def test_a_version_says_what_measurements_of_its_images_are_worth(shelf, tmp_path):
    """Two validation fields large enough to be measured, painted by a network that saw nothing."""
    for seed, well in enumerate(("B03", "B04", "C02", "C03")):
        simulated = simulate_field(20, (384, 384), seed=seed)
        stains = RawField(simulated.planes, simulated.targets)
        write_field(tmp_path / "plate", FieldKey(20, well, 1), stains)
    store = prepared(tmp_path / "plate", tmp_path / "store")
    config = GeneratorConfig(target="A1,A2,A3")
    tags = {"target": "A1,A2,A3"}
    run = keep_network(store, tmp_path, "train_gan", config, GOOD, tags)
    made = register(store, dict.fromkeys(("A1", "A2", "A3"), run), "graded")
    way, grades, *_ = from_json(json.loads(load_grades(made.uri)))
    assert way == made.intensities
    by_table = Counter(grade.table for grade in grades)
    assert by_table["Image"] == len(COLUMNS)
    assert by_table["Wells"] > 150
    assert not any(grade.grade is Worth.USE for grade in grades)
    [version] = versions("graded")
    logged = mlflow.load_table("grades.json", [version.run_id])
    assert list(logged["reason"]) == [grade.reason for grade in grades]


def test_the_picture_lies_with_the_run_and_with_the_model(pair, tmp_path):
    [version, _] = versions("pair")
    of_run = mlflow.artifacts.download_artifacts(
        f"runs:/{version.run_id}/fields.png", dst_path=str(tmp_path)
    )
    of_model = mlflow.artifacts.download_artifacts("models:/pair/1/artifacts/fields.png")
    assert Path(of_run).read_bytes() == Path(of_model).read_bytes()
    assert Path(of_run).read_bytes().startswith(b"\x89PNG")


@pytest.mark.browser
@pytest.mark.server
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")
def test_the_page_of_a_version_shows_table_and_picture_and_leads_to_the_model(
    shelf, pair, tmp_path
):
    from playwright.sync_api import sync_playwright

    version = versions("pair")[1]
    uri = shelf.environment["MLFLOW_TRACKING_URI"]
    ui = ["ui", "--backend-store-uri", uri, "--workers", "1"]
    with (
        mlflow_server(ui, tmp_path / "log", shelf.environment, health="/health") as server,
        sync_playwright() as playwright,
    ):
        tab = playwright.chromium.launch(executable_path=CHROMIUM).new_page()
        tab.goto(f"{server.url}/#/models/pair/versions/2")
        tab.get_by_role("cell", name=version.tags["pixel_metric"]).first.wait_for()
        picture = tab.get_by_role("link").locator("img[src*='fields.png']")
        picture.wait_for()
        picture.evaluate("image => image.decode()")
        size = picture.evaluate("image => [image.naturalWidth, image.naturalHeight]")
        # One target at one magnification, the true field above the painted one.
        assert size == [230, 460]
        tab.goto(f"{server.url}/{picture.locator('..').get_attribute('href')}")
        tab.get_by_text(version.source.rpartition("/")[2]).first.wait_for()
        tab.get_by_text("validation_pixel_metric", exact=True).first.wait_for()


# Registering again.


def test_the_same_is_registered_once(shelf, pair):
    again = register(shelf.store, shelf.poor, "pair")
    assert (again.version, again.alias, again.is_new) == ("2", "candidate", False)
    assert again.left_over == ()
    assert again.reason == pair[1].reason
    assert len(versions("pair")) == 2


def test_other_settings_make_another_version(shelf):
    first, other = (register(shelf.store, shelf.good, "settings", seed=seed) for seed in (0, 1))
    assert (first.version, other.version, other.is_new) == ("1", "2", True)
    assert (first.alias, other.alias) == ("champion", "candidate")  # no better


def test_registering_again_does_not_undo_what_was_decided_by_hand(shelf):
    good, poor = (register(shelf.store, run, "by_hand") for run in (shelf.good, shelf.poor))
    MlflowClient().set_registered_model_alias("by_hand", "champion", poor.version)
    again = register(shelf.store, shelf.good, "by_hand")
    assert (again.version, again.is_new, again.alias) == (good.version, False, "")
    assert again.address == "models:/by_hand/1"
    assert aliases("by_hand")["champion"] == poor.version


@pytest.mark.parametrize(
    ("found", "alias", "reason"),
    [
        (3, "champion", "version 1, the champion before, can no longer be loaded"),
        (99, "candidate", "version 1 stays champion, because it cannot be"),
    ],
    ids=["older", "newer"],
)
def test_a_champion_of_an_older_format_gives_way_and_one_of_newer_code_stays(
    shelf, found, alias, reason
):
    name = f"format{found}"
    register(shelf.store, shelf.poor, name)
    manifest = files_of(name) / "artifacts" / "bundle" / "bundle.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": found}))
    later = register(shelf.store, shelf.good, name)
    assert later.alias == alias
    assert later.reason.startswith(reason)
    assert aliases(name)[alias] == "2"


def files_of(name: str, number: int = 1) -> Path:
    """The folder of a version's files, on this disk."""
    location = mlflow.get_logged_model(model_id_of(f"models:/{name}/{number}")).artifact_location
    return Path(location.removeprefix("file://"))


def all_of_them(files: Path) -> None:
    shutil.rmtree(files)


def a_large_one(files: Path) -> None:
    (files / "artifacts" / "bundle" / "A1" / "weights.safetensors").unlink()


@pytest.mark.parametrize("remove", [all_of_them, a_large_one])
def test_a_champion_whose_files_are_gone_gives_way_to_any_version(shelf, remove):
    name = f"gone_{remove.__name__}"
    register(shelf.store, shelf.good, name)
    remove(files_of(name))
    later = register(shelf.store, shelf.poor, name)
    assert (later.version, later.alias) == ("2", "champion")
    assert later.reason.startswith("version 1, the champion before, can no longer be loaded: ")
    page = versions(name)[1]
    assert (page.tags["reason"], page.tags["against"]) == (later.reason, "1")
    assert page.description.startswith("Version 1, the champion before, can no longer be loaded")
    assert load_stainer(f"models:/{name}@champion").manifest.runs == shelf.poor


@pytest.mark.parametrize("remove", [all_of_them, a_large_one])
def test_a_version_whose_files_are_gone_is_registered_again(shelf, remove):
    name = f"again_{remove.__name__}"
    register(shelf.store, shelf.good, name)
    remove(files_of(name))
    again = register(shelf.store, shelf.good, name)
    assert (again.version, again.alias, again.is_new) == ("2", "champion", True)
    assert again.left_over == ()  # the files of version 1 are no interrupted registration's
    third = register(shelf.store, shelf.good, name)
    assert (third.version, third.is_new) == ("2", False)


def test_whatever_loads_a_version_whose_files_are_gone_says_where_they_were(shelf):
    register(shelf.store, shelf.good, "told")
    files = files_of("told")
    shutil.rmtree(files)
    said = rf"models:/told/1 is registered, but its files are gone from .*{files}: .*relocate"
    start = GeneratorConfig(target="A1", start="models:/told@champion")
    with pytest.raises(MissingFilesError, match=said):
        load_manifest("models:/told/1")  # as `stain` begins
    with pytest.raises(MissingFilesError, match=said):
        load_stainer("models:/told/1")
    with pytest.raises(MissingFilesError, match=said), start_of(start):
        pass


def test_a_champion_whose_files_cannot_be_fetched_just_now_stays(shelf, monkeypatch):
    """The server that keeps them does not answer."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    register(shelf.store, shelf.poor, "unreachable")
    place = "http://127.0.0.1:1/api/2.0/mlflow-artifacts/artifacts/model"
    with sqlalchemy.create_engine(mlflow.get_tracking_uri()).begin() as database:
        change = "UPDATE model_versions SET storage_location = ? WHERE name = 'unreachable'"
        database.exec_driver_sql(change, (place,))
    with pytest.raises(RunError, match="is registered, but its files cannot be fetched") as refused:
        load_stainer("models:/unreachable/1")
    assert not isinstance(refused.value, MissingFilesError)
    later = register(shelf.store, shelf.good, "unreachable")
    assert later.alias == "candidate"
    assert later.reason.startswith("version 1 stays champion")


def test_a_run_whose_files_are_gone_is_told_with_their_place(shelf, tmp_path):
    run = keep_networks(shelf.store, tmp_path)[GOOD]["A1"]
    place = mlflow.get_run(run).info.artifact_uri
    shutil.rmtree(place.removeprefix("file://"))
    with (
        pytest.raises(RunError, match=f"run {run} has no network in {place} .*relocate"),
        network_of(run, "train_gan", shelf.store.digest, "A1"),
    ):
        pass


def test_a_champion_that_does_not_paint_all_of_the_store_stays_and_the_reason_is_told(
    shelf, small_store, tmp_path
):
    runs = keep_networks(small_store, tmp_path)[GOOD]
    register(small_store, runs, "other")
    later = register(small_store, runs, "other", seed=1)
    assert later.alias == "candidate"
    why = "it cannot be compared on this store: it paints A1, not A1, A2, A3"
    assert later.reason == f"version 1 stays champion, because {why}"
    assert "| pixel_metric_A1 |" in versions("other")[1].description


def test_a_champion_that_no_plate_has_judged_gives_way_where_it_cannot_be_compared(
    shelf, small_store, tmp_path
):
    runs = keep_networks(small_store, tmp_path)[GOOD]
    register(small_store, runs, "early")
    MlflowClient().set_model_version_tag("early", "1", "unjudged", "true")
    later = register(small_store, runs, "early", seed=1)
    assert later.alias == "champion"
    assert later.reason.startswith("version 1, the champion before, was judged on no plate, and")


# Interruptions.


def stopping(reached: list[str], step: str = "") -> Callable:
    """A call that stops its caller, and leaves its *step* in *reached*."""

    def instead(*_, **__):
        reached.append(step)
        raise Killed

    return instead


# Every call by which `register` changes something outside its process, in their order.
STEPS = (
    "log_artifact",
    "_create_logged_model",
    "log_model_artifacts",
    "log_batch",
    "log_table",
    "create_registered_model",
    "create_model_version",
    "set_registered_model_alias",
    "set_logged_model_tags",
    "set_model_version_tag",
)


def check_usable(name: str) -> None:
    """Every version says what it is and can be loaded; every alias leads to one of them."""
    try:
        registered = MlflowClient().get_registered_model(name)
    except MlflowException:
        return
    found = versions(name)
    assert {str(number) for number in registered.aliases.values()} <= {
        str(version.version) for version in found
    }
    for version in found:
        assert version.description
        assert set(version.tags) >= TAGS
        assert load_stainer(f"models:/{name}/{version.version}").manifest.targets == ("A1",)
    verdicts = {str(version.version): version.tags["verdict"] for version in found}
    for alias, number in registered.aliases.items():
        assert alias == verdicts[str(number)]


def test_stopped_at_any_step_the_registry_is_usable_and_the_same_command_completes(
    shelf, monkeypatch
):
    register(shelf.store, shelf.poor, "stopped")
    reached = []
    config = RegisterConfig(name="stopped", workers=0)
    for step in STEPS:
        with step_run("register", config, store=shelf.store.digest), monkeypatch.context() as patch:
            patch.setattr(MlflowClient, step, stopping(reached, step))
            with pytest.raises(Killed):
                registry.register(shelf.store, shelf.good, config)
        check_usable("stopped")
        expected = "2" if STEPS.index(step) > STEPS.index("set_registered_model_alias") else "1"
        assert aliases("stopped")["champion"] == expected
    assert reached == list(STEPS)

    done = register(shelf.store, shelf.good, "stopped")
    # The eighth try made the version.
    assert (done.version, done.alias, done.is_new) == ("2", "champion", False)
    assert len(versions("stopped")) == 2
    # Of the tries that began a logged model and made no version.
    assert len(done.left_over) == 5
    [kept] = [version for version in versions("stopped") if str(version.version) == done.version]
    assert not any(kept.source.endswith(model_id) for model_id in done.left_over)
    for model_id in done.left_over:
        MlflowClient().delete_logged_model(model_id)
    assert register(shelf.store, shelf.good, "stopped").left_over == ()


def test_killed_the_registry_is_usable_and_the_same_command_completes(shelf):
    places = ("upload", "set_registered_model_alias")
    arguments = [str(shelf.store.folder), json.dumps(shelf.good), "killed", *places]
    command = [sys.executable, "tests/support/interrupted.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=shelf.environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    check_usable("killed")
    assert len(versions("killed")) == 1
    assert aliases("killed") == {}
    registered = register(shelf.store, shelf.good, "killed")
    assert (registered.version, registered.alias, registered.is_new) == ("1", "champion", False)
    [half] = registered.left_over
    assert MlflowClient().get_logged_model(half).status.value != "READY"


def test_a_version_that_was_interrupted_does_not_unseat_a_champion_it_never_met(shelf, monkeypatch):
    register(shelf.store, shelf.poor, "late")
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", stopping([]))
        with pytest.raises(Killed):
            register(shelf.store, shelf.good, "late")
    register(shelf.store, shelf.good, "late", seed=1)
    assert aliases("late") == {"champion": "3"}
    late = register(shelf.store, shelf.good, "late")
    assert (late.version, late.alias) == ("2", "candidate")
    assert aliases("late") == {"champion": "3", "candidate": "2"}


# What is fetched from here.


def test_artifacts_on_this_disk_are_not_copied(shelf, pair, temporary):
    with network_of(shelf.good["A1"], "train_gan", shelf.store.digest, "A1") as folder:
        assert folder.as_uri() == f"{mlflow.get_run(shelf.good['A1']).info.artifact_uri}/network"
    model = Path(mlflow.artifacts.download_artifacts("models:/pair/1/MLmodel")).parent
    before = sorted(model.rglob("*"))
    load_stainer("models:/pair@champion")
    assert model_id_of("models:/pair@champion") == model.parent.name
    assert sorted(model.rglob("*")) == before
    assert list(temporary.rglob("*")) == []


def test_what_is_not_there_is_said_in_words(shelf):
    with pytest.raises(RunError, match="there is no registered model at models:/nobody@champion"):
        load_stainer("models:/nobody@champion")
    config = GeneratorConfig(target="A1")
    with step_run("train_gan", config, store=shelf.store.digest, target="A1") as run:
        pass
    with (
        pytest.raises(RunError, match="has no network in "),
        network_of(run.info.run_id, "train_gan", shelf.store.digest, "A1"),
    ):
        pass


# What a model is made of.


MODEL_FILES = {
    "MLmodel",
    "conda.yaml",
    "python_env.yaml",
    "requirements.txt",
    "model.py",
    "input_example.json",
    "serving_input_example.json",
    "artifacts/fields.png",
    "artifacts/bundle/bundle.json",
    "artifacts/bundle/calibrations.safetensors",
    "artifacts/bundle/histograms.safetensors",
    "artifacts/bundle/A1/network.json",
    "artifacts/bundle/A1/weights.safetensors",
    "artifacts/bundle/segmenter/network.json",
    "artifacts/bundle/segmenter/weights.safetensors",
}


def test_a_model_is_text_json_pictures_and_safetensors_and_nothing_that_training_leaves(pair):
    model = Path(mlflow.artifacts.download_artifacts("models:/pair/1/MLmodel")).parent
    files = [path.relative_to(model) for path in model.rglob("*") if path.is_file()]
    code = {path for path in files if path.parts[0] == "code"}
    assert {path.suffix for path in code} == {".py", ".typed", ".css", ".html", ".js"}
    names = {re.sub(r"-[0-9a-f]{8}\.", ".", str(path)) for path in files if path not in code}
    # MLflow adds "registered_model_meta" when somebody downloads the model.
    assert names - {"registered_model_meta"} == MODEL_FILES
    starts = {(model / path).read_bytes()[:2] for path in files}
    assert b"PK" not in starts  # a zip, as torch.save writes
    assert not any(start.startswith(b"\x80") for start in starts)  # a pickle


# `mlflow models predict`, in a process that records what is unpickled and where our code lies.
WATCHED = """
import sys
found = []
def watch(event, arguments):
    if event == "pickle.find_class":
        found.append(arguments)
sys.addaudithook(watch)
from mlflow.cli import cli
cli(["models", "predict", *sys.argv[1:]], standalone_mode=False)
ours = [name for name in sys.modules if name.partition(".")[0] == "adipocyte"]
print({name: sys.modules[name].__file__ for name in ours})
print(found)
"""


def test_predict_answers_a_file_with_the_code_that_was_shipped_and_unpickles_nothing(
    shelf, pair, tmp_path
):
    (tmp_path / "request.json").write_text(json.dumps(request(shelf.store)))
    files = ["-i", str(tmp_path / "request.json"), "-o", str(tmp_path / "answer.json")]
    model = ["-m", "models:/pair@champion", "--env-manager", "local", "-t", "json"]
    command = [sys.executable, "-c", WATCHED, *model, *files]
    done = subprocess.run(command, cwd=ROOT, env=shelf.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer = json.loads((tmp_path / "answer.json").read_text())
    np.testing.assert_array_equal(
        answered(answer), painted(load_stainer("models:/pair@champion"), shelf.store)
    )

    modules, unpickled = map(ast.literal_eval, done.stdout.splitlines()[-2:])
    assert unpickled == []
    assert "adipocyte.staining.stainer" in modules
    code = Path(mlflow.artifacts.download_artifacts("models:/pair/1/MLmodel")).parent / "code"
    assert {path for path in modules.values() if not Path(path).is_relative_to(code)} == set()


def test_the_dockerfile_copies_the_model_and_installs_what_is_pinned(shelf, pair, tmp_path):
    arguments = ["-m", "models:/pair@champion", "-d", str(tmp_path / "image")]
    command = [sys.executable, "-m", "mlflow", "models", "generate-dockerfile", *arguments]
    command += ["--env-manager", "local"]
    subprocess.run(command, cwd="/", env=shelf.environment, check=True, capture_output=True)
    lines = (tmp_path / "image" / "Dockerfile").read_text().splitlines()
    python = ".".join(map(str, sys.version_info[:3]))
    assert f"FROM python:{python}-slim" in lines
    assert f"RUN pip install mlflow=={mlflow.__version__}" in lines
    [source] = [line.split()[1] for line in lines if line.startswith("COPY")]
    model = tmp_path / "image" / source
    assert any("_install_pyfunc_deps" in line and "/opt/ml/model" in line for line in lines)
    assert requirements() == (model / "requirements.txt").read_text().split()
    assert yaml.safe_load((model / "python_env.yaml").read_text())["dependencies"] == [
        "-r requirements.txt"
    ]
    np.testing.assert_array_equal(
        painted(Stainer(model / "artifacts" / "bundle"), shelf.store),
        painted(load_stainer("models:/pair@champion"), shelf.store),
    )


# Rolling back.


@pytest.mark.server
def test_a_served_alias_follows_when_the_server_is_started_again(shelf, tmp_path):
    for run in (shelf.good, shelf.poor):
        register(shelf.store, run, "served")
    images = {
        number: painted(load_stainer(f"models:/served/{number}"), shelf.store) for number in (1, 2)
    }
    assert (images[1] != images[2]).any()

    def ask() -> np.ndarray:
        command = ["models", "serve", "-m", "models:/served@champion", "--env-manager", "local"]
        with mlflow_server(
            [*command, "--workers", "1"], tmp_path / "log", shelf.environment
        ) as server:
            asked = request(shelf.store)
            return answered(
                requests.post(f"{server.url}/invocations", json=asked, timeout=100).json()
            )

    MlflowClient().set_registered_model_alias("served", "champion", 2)
    np.testing.assert_array_equal(ask(), images[2])
    [code] = re.findall(
        r"python -c \"(import mlflow; .*set_registered_model_alias.*)\"",
        (ROOT / "README.md").read_text(),
    )
    rollback = code.replace("'adipocyte', 'champion', 2", "'served', 'champion', 1")
    assert rollback != code
    subprocess.run(
        [sys.executable, "-c", rollback], env=shelf.environment, check=True, capture_output=True
    )
    np.testing.assert_array_equal(ask(), images[1])


# A database and artifacts elsewhere.


def postgresql() -> Path | None:
    """The folder of PostgreSQL's programs, as Debian installs them."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    return Path(found[-1]).parent if found else None


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """A PostgreSQL in a folder of its own.

    It refuses to run as root, so for root it runs as the user that Debian made for it.
    """
    programs = postgresql()
    if programs is None:
        pytest.skip("no PostgreSQL in /usr/lib/postgresql: apt-get install postgresql")
    someone = (
        {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder, port = Path(scratch), free_port()
        if someone:
            shutil.chown(folder, "postgres", "postgres")
        data, log = folder / "data", folder / "log"
        making = [programs / "initdb", "-D", data, "-A", "trust", "-U", "adipocyte", "--no-sync"]
        subprocess.run(making, cwd=folder, check=True, capture_output=True, **someone)
        address = ["-h", "127.0.0.1", "-p", str(port), "-k", folder]
        serving = [programs / "postgres", "-D", data, *address, "-c", "fsync=off"]
        with log.open("w") as file:
            process = subprocess.Popen(serving, cwd=folder, stdout=file, stderr=file, **someone)
        try:
            ready = "ready to accept connections"
            wait_for(lambda: ready in log.read_text(), process=process, log=log)
            yield f"postgresql+psycopg2://adipocyte@127.0.0.1:{port}/postgres"
        finally:
            process.send_signal(signal.SIGINT)  # its fast shutdown
            assert process.wait(60) == 0, log.read_text()


@contextmanager
def served(database: str, folder: Path, shelf: Shelf) -> Iterator[str]:
    """`mlflow server` on a *database*, with artifacts in *folder*; clients send them through it."""
    kept = ["--artifacts-destination", str(folder / "artifacts"), "--serve-artifacts"]
    command = ["server", "--backend-store-uri", database, *kept, "--workers", "1"]
    environment = {
        name: value for name, value in shelf.environment.items() if not name.startswith("MLFLOW_")
    }
    environment |= UNSCHEDULED
    with (
        mlflow_server(command, folder / "log", environment, health="/health") as server,
        tracked_at(server.url),
    ):
        yield server.url


@pytest.fixture
def remote(
    database: str, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """`mlflow server` on PostgreSQL."""
    with served(database, tmp_path, shelf) as url:
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", mlflow.create_experiment("remote"))
        yield url


@pytest.mark.server
def test_files_that_are_gone_on_the_server_are_told_and_their_champion_gives_way(
    shelf, tmp_path, monkeypatch, temporary
):
    folder, said = tmp_path / "served", "is registered, but its files are gone from .*http://127"
    folder.mkdir()
    with served(f"sqlite:///{folder}/mlflow.db", folder, shelf):
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", mlflow.create_experiment("lost"))
        runs = keep_networks(shelf.store, tmp_path / "networks")
        register(shelf.store, runs[GOOD], "lost")
        [files] = folder.glob("artifacts/*/models/m-*")
        files.rename(tmp_path / "files")
        with pytest.raises(MissingFilesError, match=f"{said}.*--artifacts-destination"):
            load_stainer("models:/lost@champion")
        later = register(shelf.store, runs[POOR], "lost")
        assert (later.version, later.alias) == ("2", "champion")
        again = register(shelf.store, runs[GOOD], "lost")
        assert (again.version, again.alias, again.is_new) == ("3", "champion", True)
    assert list(temporary.rglob("*")) == []


@pytest.mark.server
def test_what_a_server_keeps_is_found_after_its_folder_was_moved(shelf, tmp_path, monkeypatch):
    before, now = tmp_path / "before", tmp_path / "now"
    before.mkdir()
    with served(f"sqlite:///{before}/mlflow.db", before, shelf):
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", mlflow.create_experiment("moved"))
        runs = keep_networks(shelf.store, tmp_path / "networks")[GOOD]
        register(shelf.store, runs, "moved")
    before.rename(now)
    with served(f"sqlite:///{now}/mlflow.db", now, shelf):
        assert load_stainer("models:/moved@champion").manifest.runs == runs
        assert register(shelf.store, runs, "moved").is_new is False
    assert not before.exists()


@pytest.mark.database
@pytest.mark.server
def test_a_model_goes_through_a_server_on_postgresql_and_comes_back(
    remote, shelf, tmp_path, temporary
):
    store = shelf.store
    runs = keep_networks(store, tmp_path / "networks")
    good, poor = runs[GOOD], runs[POOR]
    register(store, good, "far")
    second = register(store, poor, "far")
    assert mlflow.get_run(good["A1"]).info.artifact_uri.startswith("mlflow-artifacts:/")
    assert aliases("far") == {"champion": "1", "candidate": "2"}
    assert register(store, good, "far").is_new is False
    assert versions("far")[1].description.startswith("No better")

    stainer = load_stainer("models:/far@champion")
    bundle = gather(store, good, tmp_path / "bundle", "float32")
    expected = Stainer(bundle).stain(field(store), 20, intensities="none").images["A1"]
    np.testing.assert_array_equal(
        stainer.stain(field(store), 20, intensities="none").images["A1"], expected
    )

    MlflowClient().set_registered_model_alias("far", "champion", second.version)
    assert load_stainer("models:/far@champion").manifest.runs == poor
    assert model_id_of("models:/far@champion") == versions("far")[1].source.rpartition("/")[2]
    assert list(temporary.rglob("*")) == []  # nothing that was fetched is left

    model = mlflow.pyfunc.load_model("models:/far/1")
    assert decode_stack(model.predict(model.input_example).loc[0, "A1"], 1).shape == (1, 64, 64)
