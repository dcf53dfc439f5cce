"""The search for good settings of one generator: a study of Optuna's whose trials are trainings, each an MLflow run of its own."""

import contextlib
import dataclasses
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import optuna
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException
from optuna import Study, Trial, TrialPruned
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from adipocyte.config import GeneratorConfig, TuneConfig, build, plain
from adipocyte.delivery.runs.runs import (
    PARENT_TAG,
    SETTINGS_FILE,
    STEP_TAG,
    log_table,
    network_of,
    newest_run,
    step_run,
)
from adipocyte.delivery.runs.training import is_resumable, training_run
from adipocyte.errors import AdipocyteError, ConfigError, DivergedError, RunError, StoppedError
from adipocyte.store.reader import Store
from adipocyte.training.generator import train_generator
from adipocyte.training.tracker import Tracker

SCORE = "val_pixel_metric"  # lower is better
TRIAL = "adipocyte.trial"  # tag of a trial's run: complete, pruned or diverged
RUN = "run"  # what a trial remembers: its MLflow run
SHARED, BEST = (
    "settings",
    "best",
)  # what a study remembers: the settings that all trials have, the run of the best one
STARTUP_TRIALS = 5  # complete ones, before any is pruned
HEARTBEAT_S, GRACE_S = (
    10,
    60,
)  # each process gives a sign of life; one that gave none for so long is dead
POLL_S, LOCKED_S = (
    2,
    60,
)  # between two looks at what others do; that a process waits for its turn to write to SQLite
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
_INDIFFERENT = (
    "store",
    "workers",
    "compile",
    "save_every",
    "resume",
    "segmenter",
)  # settings that may differ within a study


class _PrunedError(StoppedError, TrialPruned):
    """To MLflow a training that was stopped, to Optuna a trial that was pruned."""


class _SurplusError(Exception):
    """Another process has begun the last trial that was wanted."""


@dataclass(frozen=True)
class Best:
    """The best trial of a study: its score, the settings that were found, and its MLflow run."""

    number: int
    score: float
    settings: dict[str, float]
    run_id: str


def search(store: Store, config: TuneConfig, given: dict[str, Any]) -> Best:
    """Train trials until the study of *config* has as many as it shall, then record in a run of its own what was found.

    *given* are the settings of GeneratorConfig that hold for every trial. The best trial then counts as a run of train_gan; no other does.
    What a trial draws depends on the seed, its number and the trials begun and finished before it: a search by one process on a CPU
    repeats itself, one that was interrupted or shared need not.

    Raises ConfigError when nothing is left to search or the study's trials have other settings; RunError when the database cannot be
    used or no trial could be completed; StoppedError after SIGTERM or Ctrl-C, when the trial in training is kept for the next time; and
    whatever `train_generator` raises, but DivergedError, which ends a trial, not the search.
    """
    shared = build(GeneratorConfig, given)
    if not searched(given):
        raise ConfigError(
            "every setting that tune looks for was given, so nothing is left to search: leave one out"
        )
    if shared.select != "pixels":
        raise ConfigError(
            "tune judges its trials by pixels: leave -P select out, and train the best settings with train_gan -P select=…"
        )
    store.require_target(config.target)
    study = _open_study(config, config.study or f"{config.target}-{store.digest}", shared.epochs)
    network: contextlib.AbstractContextManager[Path | None] = contextlib.nullcontext()
    tags = {"target": config.target}
    if config.target == "A1":
        tags["segmenter"] = _segmenter(study, store)
        network = network_of(tags["segmenter"], "train_segmenter", store.digest)
    _agree(study, {**_comparable(shared, given), **tags, "store": store.digest})
    with (
        network as segmenter,
        step_run(
            "tune", config, store=store.digest, study=study.study_name, target=config.target
        ) as run,
        _reaching_database(config.storage),
    ):
        mlflow.log_dict({**plain(config), **given}, SETTINGS_FILE)
        mlflow.log_params(
            {f"config.{name}": given[name] for name in given.keys() - plain(config).keys()}
        )
        _train_trials(
            study, _Objective(store, given, segmenter, tags, config.trials, run.info.run_id)
        )
        return _record(study)


def searched(given: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """The settings to search and the range of each: all that have one, but those that were *given*."""
    fields = dataclasses.fields(GeneratorConfig)
    return {
        field.name: field.metadata["search"]
        for field in fields
        if field.metadata["search"] and field.name not in given
    }


@dataclass(frozen=True)
class _Objective:
    """Trains one trial and returns its score. *tags* are those of its run, which is a child of the run *parent_id*."""

    store: Store
    given: dict[str, Any]
    segmenter: Path | None
    tags: dict[str, str]
    n_trials: int
    parent_id: str

    def __call__(self, trial: Trial) -> float:
        if _place(trial) >= self.n_trials:
            raise _SurplusError
        found = {
            name: trial.suggest_float(name, low, high, log=True)
            for name, (low, high) in searched(self.given).items()
        }
        try:
            score = self._train(trial, found)
        except (TrialPruned, DivergedError) as error:
            print(f"Trial {trial.number} was cut short: {error}.")
            raise TrialPruned(str(error)) from error
        except (StoppedError, RunError, MlflowException, OSError, KeyboardInterrupt) as error:
            RetryHeartbeatStaleTrialCallback()(trial.study, trial.study.trials[trial.number])
            if isinstance(
                error, AdipocyteError
            ):  # what it says of going on holds for a run of train_gan, not for a trial
                said = str(error).partition(". The state of")[0]
                raise type(error)(
                    f"{said}; the same command goes on with trial {trial.number}"
                ) from error
            raise
        print(f"Trial {trial.number} is complete: MAE / median {score:.4f}.")
        return score

    def _train(self, trial: Trial, found: dict[str, float]) -> float:
        config = build(GeneratorConfig, {**self.given, **found, "resume": self._unfinished(trial)})
        with training_run("trial", config, self.store, **self.tags) as training:
            trial.set_user_attr(RUN, training.run_id)
            MlflowClient().update_run(training.run_id, name=f"trial {trial.number}")
            mlflow.set_tag(PARENT_TAG, self.parent_id)
            tracker = TrialTracker(training.tracker, trial, config.epochs)
            try:
                best = train_generator(self.store, config, self.segmenter, training.folder, tracker)
            except (TrialPruned, DivergedError) as error:
                mlflow.set_tag(TRIAL, "pruned" if isinstance(error, TrialPruned) else "diverged")
                training.discard()
                raise
            training.finish(best)
            mlflow.set_tag(TRIAL, "complete")
        return best[SCORE]

    def _unfinished(self, trial: Trial) -> str:
        """The run in which a *trial* that is tried again was interrupted, when a state of it can be reached from here; else ""."""
        run_id = trial.user_attrs.get(RUN, "")
        with contextlib.suppress(
            MlflowException
        ):  # there is none, or it is on another tracking server
            if mlflow.get_run(run_id).info.lifecycle_stage == LifecycleStage.ACTIVE:
                if is_resumable(run_id, self.store):
                    return run_id
                MlflowClient().set_terminated(run_id, "KILLED")  # which its process could not do
        return ""


class TrialTracker:
    """The tracker of a trial: passes everything on to a *tracker*, and the score of each epoch to Optuna too.

    Raises _PrunedError when an epoch before the last shows that the trial is a poor one.
    """

    def __init__(self, tracker: Tracker, trial: Trial, n_epochs: int) -> None:
        self._tracker, self._trial, self._n_epochs = tracker, trial, n_epochs
        self.picture, self.warning, self.state = tracker.picture, tracker.warning, tracker.state

    def metrics(self, rows: dict[int, dict[str, float]]) -> None:
        self._tracker.metrics(rows)
        for row in rows.values():
            if SCORE in row:
                self._trial.report(row[SCORE], int(row["epoch"]))
                if row["epoch"] < self._n_epochs and self._trial.should_prune():
                    raise _PrunedError(
                        f"after epoch {row['epoch']:.0f} it was worse than half of the others"
                    )


class _Sampler(TPESampler):
    """TPE with a seed of each trial's own, so that processes which share a study never draw the same."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._base_seed = seed

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        super().__init__(
            seed=int(np.random.SeedSequence((self._base_seed, trial.number)).generate_state(1)[0])
        )


def _open_study(config: TuneConfig, name: str, n_epochs: int) -> Study:
    """The study of that *name*, begun if need be. Raises RunError when its database cannot be opened."""
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
    optuna.logging.set_verbosity(
        optuna.logging.ERROR
    )  # its warnings repeat each error with a traceback
    pruner = MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=n_epochs // 4)
    with _reaching_database(
        config.storage, Exception
    ):  # Optuna, SQLAlchemy and the database's driver have each their own
        storage = _open_database(config.storage)
        return optuna.create_study(
            storage=storage,
            study_name=name,
            sampler=_Sampler(config.seed),
            pruner=pruner,
            load_if_exists=True,
        )


def _open_database(address: str) -> RDBStorage:
    for tries_left in (3, 2, 1, 0):
        try:
            return RDBStorage(
                address,
                engine_kwargs={"connect_args": {"timeout": LOCKED_S}}
                if address.startswith("sqlite")
                else None,
                heartbeat_interval=HEARTBEAT_S,
                grace_period=GRACE_S,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
            )
        except Exception:
            if not tries_left:
                raise
            time.sleep(
                0.5
            )  # processes that begin a database at the same moment are in each other's way


@contextmanager
def _reaching_database(
    address: str, kind: type[Exception] = StorageInternalError
) -> Iterator[None]:
    try:
        yield
    except kind as error:
        reason = str(error).partition("\n")[0][:200]
        raise RunError(
            f"the study's database {address} cannot be used ({reason}): see that it can be reached, or name another with "
            "-P storage=sqlite:///tune.db"
        ) from error


def _segmenter(study: Study, store: Store) -> str:
    """The run of the segmenter whose masks all of the study's A1 generators see: the newest when the study began."""
    return study.user_attrs.get(SHARED, {}).get("segmenter") or newest_run(
        "train_segmenter", store.digest
    )


def _comparable(shared: GeneratorConfig, given: dict[str, Any]) -> dict[str, Any]:
    """The settings that must agree for trials to be compared."""
    settings = plain(shared) | dict.fromkeys(searched(given), "searched")
    return {name: value for name, value in settings.items() if name not in _INDIFFERENT}


def _agree(study: Study, settings: dict[str, Any]) -> None:
    """Let the *study* remember the *settings* of its trials. Raises ConfigError when it has trials with others."""
    held = study.user_attrs.get(SHARED, {})
    begun = any(
        RUN in trial.user_attrs and trial.state is not TrialState.FAIL
        for trial in study.get_trials(deepcopy=False)
    )
    for name, value in settings.items():
        if begun and held.get(name) != value:
            raise ConfigError(
                f"the study {study.study_name} has {name}={held.get(name)}, not {value}: type its own settings again, "
                "or begin another study with -P study=<name>"
            )
    study.set_user_attr(SHARED, settings)


def _train_trials(study: Study, objective: _Objective) -> None:
    """Train until the *study* has all its trials, those of other processes included; a trial whose process died is tried again."""
    waits = False
    while True:
        fail_stale_trials(study)
        n = Counter(trial.state for trial in study.get_trials(deepcopy=False))
        n_finished = sum(n[state] for state in FINISHED)
        if n_finished >= objective.n_trials:
            return
        if n[TrialState.WAITING] or n_finished + n[TrialState.RUNNING] < objective.n_trials:
            _train_next(study, objective)
            continue
        if not waits:
            print(
                f"Waiting for the trials of other processes, or until one that gave no sign of life for {GRACE_S} s can be tried again."
            )
        waits = True
        time.sleep(POLL_S)


def _train_next(study: Study, objective: _Objective) -> None:
    try:
        study.optimize(objective, n_trials=1, catch=(_SurplusError,), gc_after_trial=True)
    except ValueError as error:
        if not str(error).startswith("Cannot tell a "):  # Optuna, of a trial that has ended
            raise
        print(
            f"This process gave no sign of life for {GRACE_S} s, and another one tries its trial again."
        )


def _place(trial: Trial) -> int:
    """How many trials come before this one, of those that did not fail. No two processes find the same."""
    others = trial.study.get_trials(deepcopy=False)
    return sum(
        other.number < trial.number and other.state is not TrialState.FAIL for other in others
    )


def _record(study: Study) -> Best:
    """Record in the active run what the *study* found. Raises RunError when no trial is complete."""
    trials = study.get_trials(deepcopy=False, states=FINISHED)
    log_table([_row(trial) for trial in trials], "trials")
    mlflow.log_figure(history(trials), "history.png")
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    if not complete:
        raise RunError(
            f"none of the {len(trials)} trials of the study {study.study_name} could be completed, for each diverged: "
            "begin another with -P clip_norm=1 -P study=<name>"
        )
    best = min(complete, key=lambda trial: trial.value)
    if len(complete) > 1:
        shares = get_param_importances(
            study, evaluator=FanovaImportanceEvaluator(seed=0)
        )  # Optuna's default takes more trials to be right
        mlflow.log_figure(importances(shares), "importance.png")
    else:
        print(
            "How much each setting matters cannot be told from one complete trial: give a higher number with -P trials=."
        )
    _promote(study, best.user_attrs[RUN])
    mlflow.log_metrics(
        {
            f"best_{SCORE}": best.value,
            "trials": len(trials),
            "trials_pruned": len(trials) - len(complete),
        }
    )
    mlflow.log_params({f"best.{name}": value for name, value in best.params.items()})
    mlflow.set_tags({"adipocyte.best": best.user_attrs[RUN], "adipocyte.best_trial": best.number})
    return Best(best.number, best.value, best.params, best.user_attrs[RUN])


def _promote(study: Study, run_id: str) -> None:
    """Let the run of the best trial, and of no other, count as one of train_gan, so that `register` takes it.

    Raises RunError when the run is lost.
    """
    before = study.user_attrs.get(BEST, run_id)
    try:
        MlflowClient().set_tag(run_id, STEP_TAG, "train_gan")
    except MlflowException as error:
        raise RunError(
            f"the best trial's run {run_id} is not on the tracking server {mlflow.get_tracking_uri()}: processes that share a study share "
            "a server, so set MLFLOW_TRACKING_URI to it; if the run was deleted, begin another study with -P study=<name>"
        ) from error
    if before != run_id:
        with contextlib.suppress(
            MlflowException
        ):  # when it was deleted, none is left that could be taken
            MlflowClient().set_tag(before, STEP_TAG, "trial")
    study.set_user_attr(BEST, run_id)


def _row(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "state": trial.state.name.lower(),
        SCORE: trial.value,
        **trial.params,
        RUN: trial.user_attrs[RUN],
    }


def history(trials: list[FrozenTrial]) -> Figure:
    """The score of each trial, by its number, and of the best so far."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for state, marker in zip(FINISHED, "ox", strict=True):
        points = [
            (trial.number, trial.value)
            for trial in trials
            if trial.state is state and trial.value is not None
        ]
        axes.plot(*np.reshape(points, (-1, 2)).T, marker, label=state.name.lower())
        if state is TrialState.COMPLETE and points:
            numbers, scores = zip(*points, strict=True)
            axes.step(numbers, np.minimum.accumulate(scores), where="post", label="best so far")
    axes.set(xlabel="trial", yscale="log", ylabel="MAE / median on the validation wells")
    axes.legend()
    return figure


def importances(shares: dict[str, float]) -> Figure:
    """A bar for each setting: its share of what the trials' scores owe to settings."""
    figure = Figure(figsize=(8, 0.6 * len(shares) + 1.2), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(shares), list(shares.values()))
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share of importance")
    return figure
