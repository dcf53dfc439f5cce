"""A training as an MLflow run: what it records, and that nothing is lost, whatever stops it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import requests
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from adipocyte.config import GeneratorConfig, SegmenterConfig, build
from adipocyte.delivery.runs.runs import newest_run
from adipocyte.delivery.runs.training import resumed, training_run
from adipocyte.errors import ConfigError, RunError
from adipocyte.store.reader import Store
from adipocyte.system import machine
from adipocyte.training.state import STATE, state_step
from entrypoints.train_gan import train_gan
from tests.support import ROOT
from tests.support.bundles import SMALLEST
from tests.support.processes import free_port, wait_for
from tests.support.served import UNSCHEDULED
from tests.support.tracking import tracked_at

pytestmark = pytest.mark.slow  # trainings in processes of their own

# Two epochs of five steps, a state every other step.
TINY = {
    "target": "A2",
    "encoder": SMALLEST,
    "discriminator_width": 4,
    "patch_px": 32,
    "batch": 2,
    "epochs": 2,
    "epoch_steps": 5,
    "workers": 1,
    "precision": "32",
    "save_every": 2,
}


class Place:
    """A folder with a store, an MLflow store of its own, and commands that run there."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.store = Store(Path(shutil.copytree(store.folder, folder / "store")))
        self.states = folder / "store.training"
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = {
            **os.environ,
            "PATH": path,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }

    def start(self, name: str = "train_gan", **settings) -> subprocess.Popen:
        given = {**TINY, "store": self.store.folder, **settings}
        command = [
            sys.executable,
            "-m",
            f"entrypoints.{name}",
            *(f"--{key}={value}" for key, value in given.items() if value != ""),
        ]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, name: str = "train_gan", **settings) -> tuple[int, str, str]:
        process = self.start(name, **settings)
        said, complained = process.communicate(timeout=300)
        return process.returncode, said, complained

    def run_here(self, **settings) -> Result:
        """train_gan in this process, which spares a start of Python."""
        given = {**TINY, "store": self.store.folder, **settings}
        options = [f"--{key}={value}" for key, value in given.items() if value != ""]
        return CliRunner().invoke(train_gan, options, env=self.environment)

    def refusal(self, **settings) -> str:
        """What train_gan says when it refuses."""
        result = self.run_here(**settings)
        assert result.exit_code == 2, result.output
        return result.stderr

    def step(self) -> int:
        """The step of the only state that is kept here."""
        return max((state_step(path) for path in self.states.glob(f"*/{STATE}")), default=-1)

    def interrupt(self, process: subprocess.Popen, number: int, step: int) -> tuple[int, str, str]:
        """Send a signal to a training once a state of at least *step* is saved."""
        wait_for(lambda: self.step() >= step or process.poll() is not None)
        os.killpg(process.pid, number)  # the whole group, as schedulers and terminals do
        said, complained = process.communicate(timeout=120)
        return process.returncode, said, complained


@pytest.fixture
def place(small_store: Store, tmp_path: Path) -> Iterator[Place]:
    with tracked_at(f"sqlite:///{tmp_path}/mlflow.db"):
        made = Place(tmp_path, small_store)
        experiment = mlflow.create_experiment(
            "tests", artifact_location=f"file://{tmp_path}/artifacts"
        )
        made.environment["MLFLOW_EXPERIMENT_ID"] = experiment
        yield made


def runs() -> list:
    return mlflow.search_runs(
        search_all_experiments=True, output_format="list", order_by=["attributes.start_time ASC"]
    )


def weights(run_id: str) -> dict:
    folder = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="network")
    return load_file(Path(folder) / "weights.safetensors")


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(tensor.equal(b[name]) for name, tensor in a.items())


def history(run_id: str, name: str) -> dict[int, float]:
    return {
        metric.step: metric.value
        for metric in mlflow.MlflowClient().get_metric_history(run_id, name)
    }


def test_a_training_killed_at_any_step_goes_on_bit_for_bit_in_the_same_run(place):
    assert place.run_here().exit_code == 0
    (whole,) = runs()

    killed = place.interrupt(place.start(), signal.SIGKILL, step=2)[0]
    assert killed == -signal.SIGKILL
    broken = runs()[1].info.run_id
    first_kept = place.step()
    assert 2 <= first_kept < 10
    resumed = place.run_here(resume=broken)
    assert (resumed.exit_code, broken in resumed.stdout) == (0, True), resumed.output

    assert [run.info.status for run in runs()] == ["FINISHED", "FINISHED"]  # no third run
    assert same(weights(broken), weights(whole.info.run_id))
    for name in ("step_g_loss", "step_d_gap", "train_mae", "val_mae"):
        assert history(broken, name) == history(whole.info.run_id, name)
    assert not place.states.exists()  # no longer needed

    assert "has finished: there is nothing to resume" in place.refusal(resume=broken)


def test_a_training_asked_to_stop_saves_its_state_and_says_how_to_go_on(place):
    status, _, complained = place.interrupt(place.start(), signal.SIGTERM, step=2)
    (run,) = runs()
    kept = place.step()
    assert status == 130
    assert run.info.status == "KILLED"
    command = (
        f"mlflow run . -e train_gan -P target=A2 -P resume={run.info.run_id} "
        f"-P store={place.store.folder}"
    )
    stopped = f"Stopped: stopped at step {kept}, as asked"
    kept_there = f"the state of step {kept} is kept; to resume from it: {command}\n"
    _, found, remedy = complained.partition(stopped)
    assert found
    assert remedy.endswith(kept_there)

    # By just that command. It opens a run of its own, which stays empty, so that no later step
    # takes it for a training.
    said = subprocess.run(
        [sys.executable, "-m", *command.split(), "--env-manager", "local"],
        cwd=ROOT,
        env=place.environment,
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stderr
    run, opened = runs()
    assert (run.info.status, opened.info.run_name) == ("FINISHED", "resumed train_gan A2")
    assert not opened.data.metrics
    assert newest_run("train_gan", place.store.digest, "A2") == run.info.run_id
    assert list(history(run.info.run_id, "val_mae")) == [5, 10]


def test_a_run_records_what_a_person_would_ask_of_it(place):
    place.environment["MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"] = "1"
    assert place.run()[0] == 0
    (run,) = runs()
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("store", place.store.digest)
    assert json.loads(dataset.dataset.source) == {"uri": str(place.store.folder)}
    assert run.data.params["config.batch"] == "2"
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True).strip()
    assert run.data.tags["mlflow.source.git.commit"] == commit
    assert any(name.startswith("system/cpu") for name in run.data.metrics)
    assert list(history(run.info.run_id, "step_d_accuracy")) == list(range(1, 11))
    for name in ("epoch", "train_mae", "val_mae", "val_mae_20x", "seconds", "patches_per_second"):
        assert list(history(run.info.run_id, name)) == [5, 10]
    scores = history(run.info.run_id, "val_pixel_metric")
    best = min(scores, key=lambda step: scores[step])
    assert run.data.metrics["best_val_mae"] == history(run.info.run_id, "val_mae")[best]
    names = {file.path for file in mlflow.artifacts.list_artifacts(run_id=run.info.run_id)}
    assert {"config.json", "network", "images"} <= names


def test_a_run_that_another_process_trains_cannot_be_resumed(place):
    process = place.start(epochs=50)
    try:
        wait_for(lambda: place.step() >= 2)
        (run,) = runs()
        said = place.refusal(epochs=50, resume=run.info.run_id)
        assert "is being trained by another process at this moment" in said
        assert runs()[0].info.status == "RUNNING"
    finally:
        process.kill()
        process.communicate()


def stopped_run(
    config: GeneratorConfig | SegmenterConfig, store: Store, step: str = "train_gan"
) -> str:
    """The id of a run that was stopped before its first step."""
    tags = {"target": "A2"} if step == "train_gan" else {}
    try:
        with training_run(step, config, store, **tags) as training:
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        return training.run_id


def test_what_cannot_be_resumed_is_refused_with_the_reason(place):
    tiny = {**TINY, "store": str(place.store.folder)}
    with pytest.raises(RunError, match="there is no run '0123' to resume"):
        resumed(build(GeneratorConfig, {**tiny, "resume": "0123"}), "train_gan")
    config = build(GeneratorConfig, tiny)
    run_id = stopped_run(config, place.store)
    assert mlflow.get_run(run_id).info.status == "KILLED"
    with pytest.raises(
        ConfigError,
        match=r"trains with batch=2, not 4: a resumed run keeps its settings; leave -P batch out",
    ):
        resumed(build(GeneratorConfig, {**tiny, "batch": 4, "resume": run_id}), "train_gan")
    with pytest.raises(
        RunError, match=r"is one of train_gan A2: resume it with mlflow run \. -e train_gan"
    ):
        resumed(build(GeneratorConfig, {**tiny, "target": "A3", "resume": run_id}), "train_gan")
    settings = mlflow.artifacts.load_dict(f"{mlflow.get_run(run_id).info.artifact_uri}/config.json")
    # As before these settings.
    older = {
        name: value for name, value in settings.items() if name not in ("select", "select_fields")
    }
    mlflow.MlflowClient().log_dict(run_id, older, "config.json")
    # As MLproject's defaults come along.
    plain = build(GeneratorConfig, {"target": "A2", "resume": run_id})
    assert resumed(plain, "train_gan") == build(GeneratorConfig, {**tiny, "resume": run_id})
    with (
        pytest.raises(
            RunError,
            match=r"no state of run .* was saved, neither in .* nor with the run: train anew",
        ),
        training_run("train_gan", resumed(plain, "train_gan"), place.store, target="A2"),
    ):
        raise AssertionError


OLDER_SETTINGS = {
    "augmentations": "report",
    "compile": "false",
    "discriminator_every": 1,
    "discriminator_norm": "none",
    "label_smoothing": 0.0,
    "r1_weight": 0.0,
    "warmup_epochs": 0,
}


def record(run_id: str, **changes) -> None:
    """Let a run have recorded other settings, as an earlier version did."""
    address = f"{mlflow.get_run(run_id).info.artifact_uri}/config.json"
    settings = mlflow.artifacts.load_dict(address) | changes
    mlflow.MlflowClient().log_dict(run_id, settings, "config.json")


def test_a_run_that_the_previous_version_recorded_is_resumed(place):
    given = {**TINY, "store": str(place.store.folder)}
    run_id = stopped_run(build(GeneratorConfig, given), place.store)
    record(run_id, **OLDER_SETTINGS)
    asked = build(GeneratorConfig, {"target": "A2", "resume": run_id})
    expected = build(GeneratorConfig, {**given, "resume": run_id})
    assert resumed(asked, "train_gan") == expected
    assert expected.compile is False

    record(run_id, compile="true")
    assert resumed(asked, "train_gan").compile is True


@pytest.mark.parametrize(
    ("setting", "value"),
    [("discriminator_norm", "spectral"), ("label_smoothing", 0.1)],
)
def test_a_run_with_a_setting_that_is_gone_is_refused(place, setting, value):
    given = {**TINY, "store": str(place.store.folder)}
    run_id = stopped_run(build(GeneratorConfig, given), place.store)
    record(run_id, **OLDER_SETTINGS | {setting: value})
    with pytest.raises(
        ConfigError, match=f"{setting}={value} is a setting of an earlier version: train anew"
    ):
        resumed(build(GeneratorConfig, {"target": "A2", "resume": run_id}), "train_gan")


def test_a_segmenter_that_the_previous_version_began_is_resumed_or_refused(place):
    given = {"store": str(place.store.folder), "precision": "32", "epochs": 3}
    run_id = stopped_run(build(SegmenterConfig, given), place.store, "train_segmenter")
    asked = build(SegmenterConfig, {"resume": run_id})
    record(run_id, loss="bce", augmentations="report", compile="false")
    assert resumed(asked, "train_segmenter") == build(SegmenterConfig, given | {"resume": run_id})
    record(run_id, loss="dice")
    with pytest.raises(ConfigError, match="loss=dice is a setting of an earlier version"):
        resumed(asked, "train_segmenter")


def test_a_run_records_its_arithmetic_and_is_resumed_in_it_elsewhere(place, monkeypatch):
    given = {**TINY, "store": str(place.store.folder), "precision": "auto"}
    for here, elsewhere in (("32", "bf16"), ("bf16", "32")):
        monkeypatch.setattr(machine, "fastest_arithmetic", lambda _, here=here: here)
        config = resumed(build(GeneratorConfig, given), "train_gan")
        run_id = stopped_run(config, place.store)
        assert mlflow.get_run(run_id).data.params["config.precision"] == here
        asked = build(GeneratorConfig, {"target": "A2", "resume": run_id})
        monkeypatch.setattr(machine, "fastest_arithmetic", lambda _, there=elsewhere: there)
        assert resumed(asked, "train_gan").precision == here


def test_a_run_that_recorded_no_arithmetic_is_resumed_in_the_one_that_is_faster_here(
    place, monkeypatch
):
    run_id = stopped_run(
        build(GeneratorConfig, {**TINY, "store": str(place.store.folder)}), place.store
    )
    record(run_id, precision="auto")
    monkeypatch.setattr(machine, "fastest_arithmetic", lambda _: "bf16")
    asked = build(GeneratorConfig, {"target": "A2", "resume": run_id})
    assert resumed(asked, "train_gan").precision == "bf16"


def start_server(folder: Path, port: int) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--port",
        str(port),
        "--backend-store-uri",
        f"sqlite:///{folder}/server.db",
    ]
    command += ["--artifacts-destination", str(folder / "artifacts"), "--workers", "1"]
    server = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | UNSCHEDULED,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    health = f"http://127.0.0.1:{port}/health"
    wait_for(lambda: requests.get(health, timeout=1).ok, process=server)
    return server


def stop_server(server: subprocess.Popen) -> None:
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


@pytest.fixture
def port() -> Iterator[int]:
    """A free port, at which the runs of a test are kept."""
    port = free_port()
    with tracked_at(f"http://127.0.0.1:{port}"):
        yield port


def test_a_lost_tracking_server_ends_in_a_clear_error_and_another_machine_goes_on(
    small_store, tmp_path, port
):
    server = start_server(tmp_path, port)
    try:
        place = Place(tmp_path, small_store)
        place.environment |= {
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
        }
        assert place.run_here().exit_code == 0
        process = place.start()
        # The state of step 2 was copied by then.
        wait_for(lambda: place.step() >= 4 or process.poll() is not None)
        stop_server(server)
        _, complained = process.communicate(timeout=200)
        assert process.returncode == 2
        assert "Error: the tracking server took no more of the run's records" in complained
        assert (
            "is kept; to resume from it: mlflow run . -e train_gan -P target=A2 -P resume="
            in complained
        )
        assert place.step() >= 4

        server = start_server(tmp_path, port)
        whole, broken = (run.info.run_id for run in runs())
        # As on another machine, which has only what the run's artifacts hold.
        shutil.rmtree(place.states)
        resumed_there = place.run_here(resume=broken)
        assert resumed_there.exit_code == 0, resumed_there.output
        assert same(weights(broken), weights(whole))
        assert not mlflow.artifacts.list_artifacts(run_id=broken, artifact_path="state")
    finally:
        stop_server(server)
