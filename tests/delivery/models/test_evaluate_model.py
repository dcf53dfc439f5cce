"""All steps once, on a tiny plate; then the registered model in every way that people use it."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from adipocyte.config import StainConfig
from adipocyte.delivery.batch.plate import Here, stain_plate
from adipocyte.delivery.models.load import load_stainer
from adipocyte.delivery.runs.runs import newest_run
from adipocyte.domain import TARGETS, Intensities
from adipocyte.errors import ConfigError
from adipocyte.evaluation.pixels import PIXEL_MEASUREMENTS
from adipocyte.imaging.histograms import counts_histogram, match_histogram
from adipocyte.plate.scan import scan_plate
from adipocyte.plate.tiff import decode_stack, encode_stack, read_image
from adipocyte.staining.bundle import calibrate_bundle, read_calibrations, read_manifest
from adipocyte.staining.stainer import Stainer
from adipocyte.store.reader import Store
from adipocyte.training.state import STATE, state_step
from tests.support import ROOT
from tests.support.bundles import SMALLEST
from tests.support.processes import wait_for
from tests.support.served import make_model
from tests.support.tracking import tracked_at

TINY = {
    "epochs": 2,
    "epoch_steps": 2,
    "batch": 2,
    "patch_px": 32,
    "workers": 0,
    "precision": "32",
    "save_every": 1,
}
SMALL = {"encoder": SMALLEST, "discriminator_width": 4}  # of networks that are not compact
MODEL = "models:/adipocyte@champion"

pytestmark = pytest.mark.slow  # all steps, from preparing to registering


@dataclass(frozen=True)
class Workplace:
    """An MLflow store with one registered model, the plate and the store that it was made from."""

    environment: dict[str, str]
    plate: Path
    store: Store | None

    def mlflow_run(self, *args: str) -> subprocess.CompletedProcess[str]:
        return self.mlflow("run", str(ROOT), "--env-manager", "local", *args)

    def command(self, name: str, **settings: object) -> Result:
        """The command itself in this process: `mlflow run` adds only its own start to it."""
        command = getattr(importlib.import_module(f"entrypoints.{name}"), name)
        given = [f"--{setting}={value}" for setting, value in settings.items()]
        return CliRunner().invoke(command, given, env=self.environment)

    def mlflow_start(self, *args: str) -> subprocess.Popen:
        """A command in a group of processes of its own."""
        command = [sys.executable, "-m", "mlflow", *args]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def mlflow(self, *args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mlflow", *args]
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True
        )


def is_training(target: str, folder: Path) -> bool:
    """Whether the network of a *target* is in training, with a state to resume it from."""
    found = mlflow.search_runs(
        search_all_experiments=True,
        filter_string=f"tags.`adipocyte.target` = '{target}'",
        output_format="list",
    )
    states = (folder / "store.training" / run.info.run_id / STATE for run in found)
    return any(state_step(state) >= 1 for state in states)


@pytest.fixture(scope="module")
def workplace(small_plate: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """`mlflow run . -P plate=…`, the smallest way it can be run, killed on the way and typed again.

    It is killed in the training of A1.
    """
    folder = tmp_path_factory.mktemp("workplace")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with tracked_at(f"sqlite:///{folder}/mlflow.db"):
        experiment = mlflow.create_experiment(
            "tests", artifact_location=f"file://{folder}/artifacts"
        )
        environment = {**os.environ, "PATH": path, "MLFLOW_EXPERIMENT_ID": experiment}
        settings = (
            {"plate": small_plate, "store": folder / "store", "recipe": "fast"} | TINY | SMALL
        )
        made = Workplace(environment, small_plate, None)
        given = [f"-P{name}={value}" for name, value in settings.items()]
        with made.mlflow_start("run", str(ROOT), "--env-manager", "local", *given) as first:
            wait_for(lambda: is_training("A1", folder), process=first)
            os.killpg(first.pid, signal.SIGKILL)
        result = made.mlflow_run(*given)
        assert result.returncode == 0, result.stdout + result.stderr
        assert "train_segmenter is ready from before" in result.stdout
        yield replace(made, store=Store(folder / "store"))


@pytest.fixture(scope="module")
def model(workplace: Workplace) -> mlflow.pyfunc.PyFuncModel:
    return mlflow.pyfunc.load_model(MODEL)


@pytest.fixture(scope="module")
def planes(workplace: Workplace) -> np.ndarray:
    return workplace.store.planes(workplace.store.keys("test")[0])


@pytest.fixture(scope="module")
def bundle(workplace: Workplace) -> Path:
    """The bundle inside the registered model, calibrated on the validation wells."""
    return Path(mlflow.artifacts.download_artifacts(MODEL)) / "artifacts" / "bundle"


@pytest.fixture(scope="module")
def calibrations(bundle: Path) -> dict[str, np.ndarray]:
    return read_calibrations(bundle, read_manifest(bundle))


@pytest.fixture
def uncalibrated(bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle as it was before it was calibrated."""
    folder = shutil.copytree(bundle, tmp_path / "uncalibrated")
    calibrate_bundle(folder, {}, "none")
    return folder


@pytest.fixture
def calibrated(bundle: Path, calibrations: dict[str, np.ndarray], tmp_path: Path) -> Path:
    """A copy of the bundle that keeps the way calibration."""
    folder = shutil.copytree(bundle, tmp_path / "calibrated")
    calibrate_bundle(folder, calibrations, "calibration")
    return folder


def request(stack: bytes, magnification: int = 20) -> pd.DataFrame:
    return pd.DataFrame({"stack": [stack], "magnification": [magnification]})


def image(data: bytes) -> np.ndarray:
    return decode_stack(data, 1)[0]


# The runs that the way through leaves behind.


def test_main_has_a_child_for_each_step_and_one_that_was_killed_is_continued(workplace):
    everything = mlflow.search_runs(search_all_experiments=True, output_format="list")
    # Resuming opens a run of its own, which stays empty.
    runs = [run for run in everything if "adipocyte.step" in run.data.tags]
    mains = [run for run in runs if run.data.tags["adipocyte.step"] == "main"]
    [parent] = [run for run in mains if run.info.status == "FINISHED"]
    assert len(mains) == 2
    children = [run for run in runs if run not in mains]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert {run.info.status for run in children} == {"FINISHED"}
    assert sorted(
        (run.data.tags["adipocyte.step"], run.data.tags.get("adipocyte.target", ""))
        for run in children
    ) == [
        ("evaluate", ""),
        ("preprocess", ""),
        ("preprocess", ""),  # of the one that was killed, too
        ("register", ""),
        ("train_gan", "A1"),
        ("train_gan", "A2"),
        ("train_gan", "A3"),
        ("train_segmenter", ""),
    ]


@pytest.mark.parametrize("target", ["A1", "A2", "A3"])
def test_a_generator_run_has_the_metrics_that_the_ui_compares(workplace, target):
    [run] = mlflow.search_runs(
        search_all_experiments=True,
        filter_string=f"tags.`adipocyte.target` = '{target}'",
        output_format="list",
    )
    assert {
        "val_mae",
        "val_mae_20x",
        "val_pixel_metric",
        "best_val_mae",
        "train_g_loss",
        "train_d_loss",
    } <= set(run.data.metrics)
    artifacts = {item.path for item in mlflow.artifacts.list_artifacts(run_id=run.info.run_id)}
    assert {"config.json", "network", "images"} <= artifacts
    assert run.data.params["config.epoch_steps"] == "2"
    assert (
        json.loads(mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/config.json"))["target"]
        == target
    )


def load_table(run: mlflow.entities.Run, name: str) -> pd.DataFrame:
    return mlflow.MlflowClient().load_table(run.info.experiment_id, name, [run.info.run_id])


def evaluations() -> list[mlflow.entities.Run]:
    """The newest first."""
    return mlflow.search_runs(
        search_all_experiments=True,
        filter_string="tags.`adipocyte.step` = 'evaluate'",
        output_format="list",
    )


def test_evaluate_logs_every_metric_in_every_way_with_the_model_and_its_data(workplace):
    [run] = evaluations()
    ways = ("", "none_", "matching_", "calibration_", "highlights_")
    names = {
        f"{way}{name}_{target}_20x"
        for way in ways
        for name in PIXEL_MEASUREMENTS
        for target in TARGETS
    }
    assert names | {"pixel_metric", "matching_pixel_metric_40x"} <= run.data.metrics.keys()
    logged = mlflow.get_logged_model(mlflow.models.get_model_info("models:/adipocyte/1").model_id)
    on_page = {metric.key: metric for metric in logged.metrics}
    assert names <= on_page.keys()
    assert on_page["mae_A2_20x"].value == run.data.metrics["mae_A2_20x"]
    assert on_page["mae_A2_20x"].dataset_digest == workplace.store.digest


def test_evaluate_keeps_tables_and_a_report_with_its_run(workplace):
    [run] = evaluations()
    assert {"report.html", "fields.json", "score.json"} <= {
        file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id)
    }
    table = load_table(run, "fields.json")
    # The test well has one field at each of two magnifications.
    assert len(table) == 2 * len(TARGETS) * len(Intensities)
    kept = load_stainer(MODEL).manifest.intensities
    assert run.data.metrics["mae_A2"] == pytest.approx(
        table.query(f"target == 'A2' and intensities == '{kept}'")["mae"].mean()
    )
    page = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/report.html")
    assert workplace.store.digest in page
    assert run.info.run_id in page


def test_runs_are_judged_without_registering_them(workplace):
    [run] = mlflow.search_runs(
        search_all_experiments=True,
        filter_string="tags.`adipocyte.target` = 'A2'",
        output_format="list",
    )
    result = workplace.command(
        "evaluate", store=workplace.store.folder, runs=run.info.run_id, workers=0
    )
    assert result.exit_code == 0, result.stderr
    newest = evaluations()[0]
    assert newest.data.metrics["none_mae_A2"] == evaluations()[1].data.metrics["none_mae_A2"]
    assert "none_mae_A1" not in newest.data.metrics


# The model as a function.


def test_a_field_comes_back_as_three_images_of_its_own_size(model, planes):
    answer = model.predict(request(encode_stack(planes)))
    assert list(answer.columns) == ["A1", "A2", "A3", "warnings"]
    for target in ("A1", "A2", "A3"):
        painted = image(answer.loc[0, target])
        assert painted.shape == planes.shape[1:]
        assert painted.dtype == np.uint16


def test_any_size_goes(model):
    stack = np.random.default_rng(0).integers(1000, 4000, (7, 65, 101), dtype=np.uint16)
    assert image(model.predict(request(encode_stack(stack))).loc[0, "A2"]).shape == (65, 101)


def test_histogram_matching_gives_the_distribution_of_the_training_wells(model, planes, workplace):
    stack = request(encode_stack(planes))
    plain = image(model.predict(stack, params={"histogram_matching": False}).loc[0, "A2"])
    matched = image(model.predict(stack, params={"histogram_matching": True}).loc[0, "A2"])
    store = workplace.store
    training = np.concatenate(
        [store.target(key, "A2").ravel() for key in store.keys("train") if key.magnification == 20]
    )
    np.testing.assert_array_equal(matched, match_histogram(plain, counts_histogram(training)))


def test_without_the_parameter_the_model_does_as_its_bundle_keeps(calibrated, planes, tmp_path):
    model = mlflow.pyfunc.load_model(str(make_model(tmp_path / "model", calibrated)))
    stack, stainer = request(encode_stack(planes)), Stainer(calibrated)
    for params, way in (
        (None, "calibration"),
        ({"histogram_matching": True}, "matching"),
        ({"histogram_matching": False}, "none"),
    ):
        painted = image(model.predict(stack, params=params).loc[0, "A2"])
        np.testing.assert_array_equal(
            painted, stainer.stain(planes, 20, intensities=way).images["A2"]
        )


# The ways of setting intensities, and the bundle that keeps one.


def test_every_way_gives_what_it_says(calibrated, calibrations, planes):
    stainer = Stainer(calibrated)
    painted = {way: stainer.stain(planes, 20, intensities=way).images for way in Intensities}
    for target in ("A1", "A2", "A3"):
        plain = painted["none"][target]
        np.testing.assert_array_equal(
            painted["calibration"][target], calibrations[f"20/{target}"][plain]
        )
        for one, other in (
            ("none", "matching"),
            ("none", "calibration"),
            ("matching", "calibration"),
            ("none", "highlights"),
        ):
            assert (painted[one][target] != painted[other][target]).any()
    for way in Intensities:
        rescaled = stainer.rescale(painted["none"], 20, way)
        assert all((rescaled[target] == painted[way][target]).all() for target in rescaled)


@pytest.mark.parametrize("way", Intensities)
def test_the_way_that_the_bundle_keeps_is_taken_unless_another_is_asked_for(
    calibrated, calibrations, planes, way
):
    calibrate_bundle(calibrated, calibrations, way)
    stainer = Stainer(calibrated)
    assert stainer.manifest.intensities == way
    np.testing.assert_array_equal(
        stainer.stain(planes, 20).images["A3"],
        stainer.stain(planes, 20, intensities=way).images["A3"],
    )


def test_an_unknown_way_is_answered_with_the_known_ones(bundle, planes):
    known = "none, matching, calibration, highlights"
    with pytest.raises(ConfigError, match=f"one of {known}, got 'both'"):
        Stainer(bundle).stain(planes, 20, intensities="both")


def test_a_bundle_without_calibrations_refuses_that_way(uncalibrated, planes):
    stainer = Stainer(uncalibrated)
    assert stainer.manifest.ways == ("none", "matching")
    with pytest.raises(
        ConfigError,
        match="the model has not been calibrated: take the intensities none or matching",
    ):
        stainer.stain(planes, 20, intensities="calibration")


def test_several_rows_are_several_fields(model, planes):
    stack = encode_stack(planes)
    rows = pd.concat(
        [request(stack), request(encode_stack(planes[:, ::-1].copy())), request(stack)],
        ignore_index=True,
    )
    answer = model.predict(rows)
    assert answer.loc[0, "A2"] == answer.loc[2, "A2"] != answer.loc[1, "A2"]


def test_a_stack_far_from_the_training_wells_is_warned_of(model, planes):
    assert model.predict(request(encode_stack(planes))).loc[0, "warnings"] == ""
    assert "brightfield mean" in model.predict(request(encode_stack(planes * 6))).loc[0, "warnings"]


# The registry.


def test_the_first_version_is_champion_and_one_that_is_no_better_is_candidate(workplace):
    same = workplace.command("register", store=workplace.store.folder)
    assert same.exit_code == 0, same.stderr
    assert "models:/adipocyte/1 is champion, registered before from the same runs" in same.stdout
    again = workplace.command("register", store=workplace.store.folder, seed=1)
    assert again.exit_code == 0, again.stderr
    registered = mlflow.MlflowClient().get_registered_model("adipocyte")
    assert {alias: str(version) for alias, version in registered.aliases.items()} == {
        "champion": "1",
        "candidate": "2",
    }
    assert "no better" in again.stdout
    assert "of version 1 on the same wells" in again.stdout
    second = mlflow.MlflowClient().get_model_version("adipocyte", "2")
    assert second.description.startswith("No better: pixel_metric")
    assert "| validation wells | this version | version 1 |" in second.description
    assert second.tags["intensities"] == load_stainer("models:/adipocyte/2").manifest.intensities
    comparison = load_table(mlflow.get_run(second.run_id), "comparison.json")
    assert list(comparison["new"]) == list(comparison["champion"])


@pytest.mark.parametrize(("setting", "target"), [("a2", "A3"), ("segmenter", "A2"), ("a1", "A2")])
def test_a_run_of_another_kind_is_not_registered(workplace, setting, target):
    [run] = mlflow.search_runs(
        search_all_experiments=True,
        filter_string=f"tags.`adipocyte.target` = '{target}'",
        output_format="list",
    )
    given = {"store": workplace.store.folder, setting: run.info.run_id}
    result = workplace.command("register", **given)
    assert result.exit_code == 2
    assert run.info.run_id in result.stderr
    assert "Traceback" not in result.stderr


# Whole plates.


def test_a_plate_is_stained_once_and_the_same_command_goes_on(workplace, tmp_path):
    out = tmp_path / "stained"
    args = ("-e", "stain", "-P", f"plate={workplace.plate}", "-P", f"out={out}")
    assert workplace.mlflow_run(*args).returncode == 0
    files = sorted(out.rglob("*.tif"))
    fields = scan_plate(workplace.plate).fields
    assert files == sorted(
        out / field.targets[target].relative_to(workplace.plate)
        for field in fields
        for target in ("A1", "A2", "A3")
    )
    assert read_image(files[0]).shape == workplace.store.shape(fields[0].key)

    kept, lost = files[0], files[-1]
    time_of_kept = kept.stat().st_mtime_ns
    lost.unlink()
    given = {"plate": workplace.plate, "out": out}
    again = workplace.command("stain", **given)
    assert f"1 fields painted into {out}, {len(fields) - 1} were there already" in again.stdout
    assert kept.stat().st_mtime_ns == time_of_kept
    assert lost.is_file()

    kept_way = load_stainer(MODEL).manifest.intensities
    assert json.loads((out / "stained.json").read_text())["intensities"] == kept_way
    config = StainConfig(plate=workplace.plate, out=str(out), model=MODEL, intensities=kept_way)
    named = stain_plate(config, Here())
    assert (len(named.skipped), named.painted, named.problems) == (len(fields), [], [])
    another_way = next(way for way in Intensities if way != kept_way)
    other = workplace.command("stain", **given, intensities=another_way)
    assert other.exit_code == 2
    assert "holds images of another plate, model, intensities, tiles or arithmetic" in other.stderr


def test_the_arithmetic_changes_the_error_by_less_than_half_a_percent(workplace):
    """Over the test wells, against the true stains, and whichever engine computes."""
    store = workplace.store
    keys = store.keys("test")
    errors = {}
    for precision, compiled in (("32", False), ("bf16", False), ("bf16", True)):
        stainer = load_stainer(MODEL, precision=precision, compiled=compiled)
        painted = {
            key: stainer.stain(store.planes(key), key.magnification, intensities="none").images
            for key in keys
        }
        for target in stainer.manifest.targets:
            differences = [
                np.abs(painted[key][target].astype(float) - store.stain(key, target)).mean()
                for key in keys
            ]
            errors[precision, compiled, target] = np.mean(differences)
    for case, error in errors.items():
        *_, target = case
        assert error == pytest.approx(errors["32", False, target], rel=0.005), case


def test_a_bad_field_is_named_and_does_not_stop_the_plate(workplace, tmp_path):
    plate = tmp_path / "plate"
    shutil.copytree(workplace.plate, plate)
    bad = next(plate.rglob("*Z03C04.tif"))
    bad.write_bytes(b"no TIFF")
    result = workplace.command("stain", plate=plate, out=tmp_path / "out")
    assert result.exit_code == 2
    assert bad.name in result.stderr
    assert "Traceback" not in result.stderr
    assert len(list((tmp_path / "out").rglob("*.tif"))) == 3 * len(scan_plate(plate).fields)


def test_a_magnification_that_the_model_has_not_seen_is_refused(workplace, tmp_path):
    plate = tmp_path / "plate"
    shutil.copytree(workplace.plate / "20x_images", plate / "60x_images")
    result = workplace.command("stain", plate=plate, out=tmp_path / "out")
    assert result.exit_code == 2
    assert "has not seen 60x" in result.stderr
    assert not list(tmp_path.glob("out/**/*.tif"))


# One network for all stains. Last, because it registers a further version.


@pytest.fixture(scope="module")
def shared(workplace: Workplace) -> str:
    """A run of train_gan for all stains."""
    made = workplace.command(
        "train_gan", target="all", recipe="shared", store=workplace.store.folder, **TINY
    )
    assert made.exit_code == 0, made.output
    return newest_run("train_gan", workplace.store.digest, "A1")


def test_a_shared_run_has_the_metrics_of_a_run_for_each_stain(shared):
    run = mlflow.get_run(shared)
    assert run.data.tags["adipocyte.target"] == "A1,A2,A3"
    assert "adipocyte.segmenter" not in run.data.tags
    assert {f"val_mae_{target}" for target in TARGETS} <= run.data.metrics.keys()


def test_register_takes_the_newest_runs_that_together_paint_all_stains(workplace, shared):
    folder, digest = workplace.store.folder, workplace.store.digest
    made = workplace.command("train_gan", target="A2", store=folder, seed=4, **TINY, **SMALL)
    assert made.exit_code == 0, made.output
    alone = newest_run("train_gan", digest, "A2")
    assert alone != shared
    registered = workplace.command("register", store=folder, workers=0)
    assert registered.exit_code == 0, registered.output
    found = mlflow.MlflowClient().search_model_versions("name = 'adipocyte'")
    version = max(found, key=lambda version: int(version.version))
    runs = {network: version.tags.get(f"run.{network}") for network in (*TARGETS, "segmenter")}
    assert runs == {"A1": shared, "A2": alone, "A3": shared, "segmenter": None}
    manifest = load_stainer(f"models:/adipocyte/{version.version}").manifest
    assert {name: one.paints for name, one in manifest.networks.items()} == {
        "A1-A3": ("A1", "", "A3"),
        "A2": ("A2",),
    }
    assert all(one.ranges for one in manifest.networks.values())
    painted = load_stainer(
        f"models:/adipocyte/{version.version}", precision="int8", compiled=True
    ).stain(workplace.store.planes(workplace.store.keys("test")[0]), 20)
    assert list(painted.images) == list(TARGETS)
    separate = load_stainer("models:/adipocyte/1").manifest.networks
    assert {name: bool(one.ranges) for name, one in separate.items()} == {
        "A1": False,  # which sees the mask
        "A2": True,
        "A3": True,
    }
    both = workplace.command("evaluate", store=folder, runs=f"{shared},{alone}", workers=0)
    assert both.exit_code == 2
    assert f"runs {shared} and {alone} both paint A2" in both.output


def test_a_shared_run_is_judged_without_registering_it(workplace, shared):
    result = workplace.command("evaluate", store=workplace.store.folder, runs=shared, workers=0)
    assert result.exit_code == 0, result.output
    assert {f"none_mae_{target}" for target in TARGETS} <= evaluations()[0].data.metrics.keys()
