"""The search for settings: real studies in SQLite, real trainings, as small as they can be."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import mlflow
import optuna
import pytest
from click.testing import CliRunner, Result
from matplotlib import pyplot
from mlflow.entities import Run
from optuna.trial import FrozenTrial, TrialState

from adipocyte.config import GeneratorConfig
from adipocyte.delivery.runs import tune as search
from adipocyte.delivery.runs.runs import STEP_TAG, network_of, newest_run
from adipocyte.delivery.runs.tracker import MlflowTracker
from adipocyte.errors import BundleError, RunError
from adipocyte.store.reader import Store
from adipocyte.system import machine
from adipocyte.training import generator
from entrypoints.train_segmenter import train_segmenter
from entrypoints.tune import tune
from tests.support import ROOT
from tests.support.processes import wait_for
from tests.support.tracking import tracked_at

pytestmark = pytest.mark.slow  # searches in processes of their own

TINY = {
    "encoder": "resnet18",
    "patch_px": 32,
    "batch": 2,
    "epochs": 1,
    "epoch_steps": 2,
    "workers": 0,
    "precision": "32",
}
GOOD = {
    "spectral_weight": 0.1,
    "adversarial_weight": 0.01,
    "learning_rate": 1e-4,
    "discriminator_learning_rate": 1e-5,
}
POOR = {**GOOD, "learning_rate": 3e-3}


@pytest.fixture(scope="module", autouse=True)
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with an MLflow store."""
    folder = tmp_path_factory.mktemp("tune")
    with tracked_at(f"sqlite:///{folder}/mlflow.db"), pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "MLFLOW_EXPERIMENT_ID",
            mlflow.create_experiment("tests", artifact_location=f"file://{folder}/artifacts"),
        )
        yield folder


class Desk:
    """A study's database of its own, and the command that searches."""

    def __init__(self, folder: Path, store: Store):
        self.store, self.storage = store, f"sqlite:///{folder}/tune.db"

    def args(self, trials: int, **settings: object) -> list[str]:
        values = {
            "target": "A2",
            "store": self.store.folder,
            "storage": self.storage,
            "study": "s",
            "trials": trials,
            **TINY,
        }
        return [
            f"--{name}={value}"
            for name, value in (values | {"discriminator_width": 4} | settings).items()
        ]

    def type(self, trials: int, **settings: object) -> Result:
        return CliRunner().invoke(tune, self.args(trials, **settings))

    def tune(self, trials: int, **settings: object) -> str:
        """Type the command, which must succeed. Returns what it says."""
        result = self.type(trials, **settings)
        assert result.exit_code == 0, result.output
        return result.stdout

    def refusal(self, **settings: object) -> str:
        result = self.type(1, **settings)
        assert result.exit_code == 2, result.output
        return result.stderr.splitlines()[-1]

    def process(self, trials: int, **settings: object) -> subprocess.Popen:
        """Type the command in a process of its own."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            [sys.executable, "-m", "entrypoints.tune", *self.args(trials, **settings)],
            env=environment,
        )

    def enqueue(self, *settings: dict[str, float]) -> None:
        study = optuna.create_study(storage=self.storage, study_name="s")
        for values in settings:
            study.enqueue_trial(values)

    @property
    def study(self) -> optuna.Study:
        return optuna.load_study(storage=self.storage, study_name="s")

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(states=states or None)

    def runs(self) -> list[Run]:
        """The MLflow runs of the trials; one too many, begun by two processes at once, has none."""
        begun = {trial.user_attrs.get("run") for trial in self.trials()} - {None}
        return [mlflow.get_run(run_id) for run_id in begun]

    def parents(self) -> list[Run]:
        """The MLflow runs of the command on this study, newest first."""
        return mlflow.search_runs(
            filter_string=f"params.`config.storage` = '{self.storage}' "
            f"and tags.`{STEP_TAG}` = 'tune'",
            output_format="list",
        )


def children(run: Run) -> list[Run]:
    return mlflow.search_runs(
        filter_string=f"tags.`mlflow.parentRunId` = '{run.info.run_id}'", output_format="list"
    )


@pytest.fixture
def desk(tmp_path: Path, small_store: Store) -> Desk:
    return Desk(tmp_path, small_store)


def test_a_search_names_the_best_of_its_trials_and_typed_again_adds_only_what_is_missing(
    desk: Desk,
):
    said = desk.tune(3)
    [parent] = desk.parents()
    assert {run.info.run_name for run in children(parent)} == {"trial 0", "trial 1", "trial 2"}
    assert parent.info.status == "FINISHED"

    best = min(desk.trials(), key=lambda trial: trial.value)
    run = mlflow.get_run(best.user_attrs["run"])
    assert parent.data.tags["adipocyte.best"] == run.info.run_id
    assert (
        parent.data.metrics["best_val_pixel_metric"]
        == run.data.metrics["best_val_pixel_metric"]
        == best.value
    )
    for name, value in best.params.items():
        assert (
            float(parent.data.params[f"best.{name}"])
            == float(run.data.params[f"config.{name}"])
            == value
        )
        assert f"-P {name}={value!r}" in said
    assert f"mlflow run . -e register -P a2={run.info.run_id}" in said
    recorded = {file.path for file in mlflow.MlflowClient().list_artifacts(parent.info.run_id)}
    assert recorded >= {"trials.json", "history.png", "importance.png"}

    desk.tune(4)
    assert len(desk.trials()) == 4
    added, _ = desk.parents()
    assert [run.info.run_name for run in children(added)] == ["trial 3"]
    assert added.data.metrics["trials"] == 4

    desk.tune(4)
    assert len(desk.trials()) == 4


def test_register_takes_the_best_trial_and_no_other(desk: Desk):
    def steps() -> list[str]:
        return [
            mlflow.get_run(trial.user_attrs["run"]).data.tags[STEP_TAG]
            for trial in desk.trials(TrialState.COMPLETE)
        ]

    desk.enqueue(POOR, GOOD, POOR)
    desk.tune(1)
    assert steps() == ["train_gan"]
    desk.tune(3)
    assert steps() == ["trial", "train_gan", "trial"]

    _, good, poor = (trial.user_attrs["run"] for trial in desk.trials())
    assert newest_run("train_gan", desk.store.digest, "A2") == good
    with network_of(good, "train_gan", desk.store.digest, "A2") as folder:
        assert folder.is_dir()
    with (
        pytest.raises(RunError, match="one of trial A2"),
        network_of(poor, "train_gan", desk.store.digest, "A2"),
    ):
        pass


def test_a_poor_trial_stops_early_and_is_no_network_to_register(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(search, "STARTUP_TRIALS", 1)
    desk.enqueue(GOOD, POOR)
    desk.tune(2, epochs=2)
    good, poor = desk.trials()
    assert (good.state, poor.state) == (TrialState.COMPLETE, TrialState.PRUNED)
    run = mlflow.get_run(poor.user_attrs["run"])
    assert run.data.tags["adipocyte.trial"] == "pruned"
    assert run.info.status == "KILLED"
    assert run.data.metrics["epoch"] == 1
    assert newest_run("train_gan", desk.store.digest, "A2") == good.user_attrs["run"]
    states = desk.store.folder.with_name(f"{desk.store.folder.name}.training")
    assert not (states / run.info.run_id).exists()


def test_a_trial_that_diverges_ends_the_trial_and_not_the_search(desk: Desk, monkeypatch):
    # No setting within its range makes these small networks diverge.
    losses = generator.painting_losses
    monkeypatch.setattr(
        generator,
        "painting_losses",
        lambda *given: {name: loss * float("nan") for name, loss in losses(*given).items()},
    )
    assert "diverged" in desk.refusal()
    [trial] = desk.trials()
    assert trial.state is TrialState.PRUNED
    assert mlflow.get_run(trial.user_attrs["run"]).data.tags["adipocyte.trial"] == "diverged"


def test_a_given_setting_is_not_searched(desk: Desk):
    said = desk.tune(1, learning_rate=0.0002)
    [trial] = desk.trials()
    assert trial.params.keys() == GOOD.keys() - {"learning_rate"}
    assert mlflow.get_run(trial.user_attrs["run"]).data.params["config.learning_rate"] == "0.0002"
    assert "-P learning_rate=0.0002" in said


def test_trials_draw_from_the_seed_and_their_number(desk: Desk):
    def drawn(number: int, seed: int) -> float:
        study = optuna.create_study(sampler=search.TrialSampler(seed))
        for _ in range(number):
            study.ask()
        return study.ask().suggest_float("learning_rate", 1e-4, 3e-3, log=True)

    assert drawn(0, seed=0) == drawn(0, seed=0)
    assert len({drawn(0, seed=0), drawn(1, seed=0), drawn(0, seed=1), drawn(1, seed=1)}) == 4


def stop_after_epoch_1(desk: Desk, **settings: object) -> str:
    """Type the command, and stop it in its first trial. Returns the last line that it says."""

    def metrics_and_stop(tracker: MlflowTracker, rows: dict) -> None:
        metrics(tracker, rows)
        signal.raise_signal(signal.SIGTERM)

    metrics = MlflowTracker.metrics
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlflowTracker, "metrics", metrics_and_stop)
        result = desk.type(1, epochs=2, **settings)
    assert result.exit_code == 130
    return result.stderr.splitlines()[-1]


def test_a_stopped_trial_is_resumed_when_the_command_is_typed_again(desk: Desk):
    said = stop_after_epoch_1(desk)
    assert said.startswith("Stopped: stopped after epoch 1, as asked: ")
    assert said.endswith("the same command resumes trial 0")
    assert "train_gan" not in said  # a trial is no run that is resumed by hand
    assert desk.parents()[0].info.status == "KILLED"

    desk.tune(1, epochs=2)
    stopped, again = desk.trials()
    assert (stopped.state, again.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert again.params == stopped.params
    [run] = desk.runs()
    assert again.user_attrs["run"] == run.info.run_id
    assert (run.info.run_name, run.info.status) == ("trial 1", "FINISHED")
    assert run.data.tags["mlflow.parentRunId"] == desk.parents()[0].info.run_id


def test_a_trial_records_its_arithmetic_and_is_resumed_in_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    trained_in = []

    def noting(store: Store, config: GeneratorConfig, *rest: object) -> dict[str, float]:
        trained_in.append(config.precision)
        return train_generator(store, config, *rest)

    train_generator = search.train_generator
    monkeypatch.setattr(search, "train_generator", noting)
    monkeypatch.setattr(machine, "fastest_arithmetic", lambda _: "32")
    stop_after_epoch_1(desk, precision="auto")
    monkeypatch.setattr(machine, "fastest_arithmetic", lambda _: "bf16")
    desk.tune(1, epochs=2, precision="auto")
    assert trained_in == ["32", "32"]
    [run] = desk.runs()
    assert run.data.params["config.precision"] == "32"
    assert desk.study.user_attrs["settings"]["precision"] == "auto"  # on any machine


def test_a_trial_whose_process_was_killed_is_tried_again_with_the_same_settings(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    desk.enqueue()
    process = desk.process(1, epochs=3)
    wait_for(lambda: any("run" in trial.user_attrs for trial in desk.trials()))
    process.kill()
    process.wait()
    assert [trial.state for trial in desk.trials()] == [TrialState.RUNNING]

    monkeypatch.setattr(search, "GRACE_S", 1)
    desk.tune(1, epochs=3)
    killed, again = desk.trials()
    assert (killed.state, again.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert again.params == killed.params
    assert "RUNNING" not in [run.info.status for run in desk.runs()]


def test_two_processes_that_share_a_study_train_as_many_trials_as_were_asked_for(desk: Desk):
    desk.enqueue()
    process = desk.process(3)
    wait_for(lambda: desk.trials(TrialState.RUNNING))
    desk.tune(3)
    assert process.wait() == 0
    assert len(desk.trials(*search.FINISHED)) == len(desk.runs()) == 3
    assert len({trial.params["learning_rate"] for trial in desk.trials(*search.FINISHED)}) == 3
    assert sum(len(children(parent)) for parent in desk.parents()) == 3
    assert len({parent.data.tags["adipocyte.best"] for parent in desk.parents()}) == 1


def test_a_trial_that_another_process_took_over_does_not_end_the_search(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    def take_over(trial: optuna.Trial) -> None:
        if trial.number == 0:
            desk.study.tell(0, state=TrialState.FAIL)

    should_prune = optuna.Trial.should_prune
    monkeypatch.setattr(
        optuna.Trial, "should_prune", lambda trial: take_over(trial) or should_prune(trial)
    )
    assert "another one tries its trial again" in desk.tune(1, epochs=2)
    assert [trial.state for trial in desk.trials()] == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_search_that_is_stopped_in_a_trial_that_another_took_over_stops(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    def take_over(trial: optuna.Trial) -> bool:
        desk.study.tell(trial.number, state=TrialState.FAIL)
        return False

    monkeypatch.setattr(optuna.Trial, "should_prune", take_over)
    assert stop_after_epoch_1(desk).startswith("Stopped: stopped after epoch 1, as asked")


def test_a_wrong_value_in_a_trial_ends_the_search(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    """BundleError is a ValueError, as is what Optuna raises for a trial that was taken over."""

    def damaged(*_: object) -> None:
        raise BundleError("the network is damaged", "train anew")

    monkeypatch.setattr(search, "train_generator", damaged)
    assert desk.refusal() == "Error: the network is damaged: train anew"
    assert [trial.state for trial in desk.trials()] == [TrialState.FAIL]


def test_the_nuclei_are_searched_with_the_segmenter_that_the_study_began_with(desk: Desk):
    for trials in (1, 2):
        result = CliRunner().invoke(
            train_segmenter,
            [f"--{name}={value}" for name, value in {**TINY, "store": desk.store.folder}.items()],
        )
        assert result.exit_code == 0, result.output
        desk.tune(trials, target="A1")
    first, second = (run.data.tags["adipocyte.segmenter"] for run in desk.runs())
    assert first == second != newest_run("train_segmenter", desk.store.digest)


def test_trials_with_other_settings_are_refused(desk: Desk):
    desk.tune(1)
    said = desk.refusal(epochs=3)
    assert "epochs=1, not 3" in said
    assert "-P study=" in said
    assert "learning_rate=searched, not 0.001" in desk.refusal(learning_rate=0.001)


def test_a_search_by_features_is_refused_before_it_begins(desk: Desk):
    assert "tune judges its trials by pixels" in desk.refusal(select="mean")


def test_a_search_from_a_trained_network_is_refused_before_it_begins(desk: Desk):
    assert "tune trains each trial from nothing" in desk.refusal(start="models:/adipocyte/1")


def test_a_search_of_nothing_is_refused(desk: Desk):
    assert "nothing is left to search" in desk.refusal(**GOOD)


def test_a_study_of_the_previous_version_is_continued_unless_a_setting_is_gone(desk: Desk):
    desk.tune(1)
    settings = desk.study.user_attrs["settings"]
    desk.study.set_user_attr("settings", settings | {"label_smoothing": 0.0})
    desk.tune(2)
    desk.study.set_user_attr("settings", settings | {"label_smoothing": 0.1})
    said = desk.refusal()
    assert "the study s has label_smoothing=0.1" in said
    assert "-P study=" in said


def test_optunas_plots_leave_no_figure_and_no_style(desk: Desk):
    style = dict(matplotlib.rcParams)
    desk.tune(2)
    assert pyplot.get_fignums() == []
    assert {**matplotlib.rcParams, "backend": None} == {**style, "backend": None}
    [parent] = desk.parents()
    for name in ("history.png", "importance.png"):
        address = f"{parent.info.artifact_uri}/{name}"
        assert mlflow.artifacts.load_image(address).size > (400, 300)


@pytest.mark.parametrize("storage", ["sqlite:////no/such/folder/tune.db", "no address"])
def test_a_database_that_cannot_be_opened_is_named(desk: Desk, storage):
    said = desk.refusal(storage=storage)
    assert storage in said
    assert "-P storage=sqlite:///tune.db" in said


def test_without_optuna_the_command_says_how_to_install_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "pip install adipocyte[tune]" in desk.refusal()


def test_torchrun_is_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "CUDA_VISIBLE_DEVICES" in desk.refusal()
