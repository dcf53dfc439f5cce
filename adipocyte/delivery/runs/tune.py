"""The search for good settings of one generator: a study of Optuna's, whose trials are trainings.

Each trial is an MLflow run of its own.
"""

import contextlib
import dataclasses
import time
import warnings
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import matplotlib
import mlflow
import numpy as np
import optuna
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray
from optuna import Study, Trial, TrialPruned
from optuna.exceptions import (
    ExperimentalWarning,
    StorageInternalError,
    UpdateFinishedTrialError,
)
from optuna.importance import FanovaImportanceEvaluator
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization.matplotlib import plot_optimization_history, plot_param_importances

from adipocyte.config import GeneratorConfig, TuneConfig, as_recorded, build, plain
from adipocyte.delivery.runs.runs import (
    PARENT_TAG,
    SETTINGS_FILE,
    STEP_TAG,
    log_table,
    segmenter_for,
    step_run,
)
from adipocyte.delivery.runs.training import is_resumable, settled, training_run
from adipocyte.errors import (
    AdipocyteError,
    ConfigError,
    DivergedError,
    ResourceError,
    RunError,
    StoppedError,
)
from adipocyte.store.reader import Store
from adipocyte.training.generator import train_generator
from adipocyte.training.tracker import Tracker

SCORE = "val_pixel_metric"  # lower is better
SCORE_NAME = "MAE / median"  # on the validation wells
TRIAL_TAG = "adipocyte.trial"  # of a trial's run: complete, pruned or diverged
RUN = "run"  # what a trial remembers: its MLflow run
SHARED = "settings"  # what a study remembers: the settings that all trials have
BEST = "best"  # and the run of the best one
STARTUP_TRIALS = 5  # complete ones, before any is pruned
HEARTBEAT_S = 10  # between two signs of life of a process
GRACE_S = 60  # a process without a sign of life for so long is dead
POLL_S = 2  # between two looks at what other processes do
LOCKED_S = 60  # a process waits so long for its turn to write to SQLite
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)

# Settings that may differ within a study; every trial starts from nothing, however that is said.
_INDIFFERENT = ("store", "workers", "compile", "save_every", "resume", "segmenter", "start")
_RESUMABLE = (
    StoppedError,
    RunError,
    ResourceError,
    MlflowException,
    OSError,
    KeyboardInterrupt,
)


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
    """Train trials until the study of *config* has all of them, then record the best in a run.

    *given* are the settings of GeneratorConfig that hold for every trial. Only the best trial then
    counts as a run of train_gan. What a trial draws depends on the seed, its number and the trials
    before it: a search by one process on a CPU repeats itself, one that was interrupted or shared
    may not.

    Raises ConfigError when nothing is left to search or the study's trials have other settings;
    RunError when the database cannot be used or no trial could be completed; StoppedError after
    SIGTERM or Ctrl-C, when the trial in training is kept for the next time; and all that
    `train_generator` raises except DivergedError, which ends a trial, not the search.
    """
    shared = build(GeneratorConfig, given)
    if not searched(given):
        raise ConfigError(
            "every setting that tune looks for was given, so nothing is left to search",
            "leave one out",
        )
    if shared.select != "pixels":
        raise ConfigError(
            "tune judges its trials by pixels",
            "leave -P select out, and train the best settings with train_gan -P select=…",
        )
    if shared.minutes:
        raise ConfigError(
            "tune trains each trial for as many epochs",
            "leave -P minutes out, and say how many with -P epochs=",
        )
    if shared.names_start:
        raise ConfigError(
            "tune trains each trial from nothing",
            "leave -P start out, and train the best settings with train_gan -P start=…",
        )
    for target in shared.targets:
        store.require_target(target)
    study = _open_study(config, config.study or f"{config.target}-{store.digest}", shared.epochs)
    begun_with = study.user_attrs.get(SHARED, {}).get("segmenter", "")
    with segmenter_for(shared, store.digest, begun_with) as (segmenter, tags):
        _agree(study, {**_comparable(shared, given), **tags, "store": store.digest})
        with (
            step_run(
                "tune", config, store=store.digest, study=study.study_name, target=config.target
            ) as run,
            _reaching_database(config.storage),
        ):
            settings = plain(config)
            mlflow.log_dict({**settings, **given}, SETTINGS_FILE)
            mlflow.log_params(
                {f"config.{name}": given[name] for name in given.keys() - settings.keys()}
            )
            objective = _Objective(store, given, segmenter, tags, config.trials, run.info.run_id)
            _train_trials(study, objective)
            return _record(study)


def searched(given: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """The settings to search and the range of each: all that have one and were not *given*."""
    fields = dataclasses.fields(GeneratorConfig)
    return {
        field.name: field.metadata["search"]
        for field in fields
        if field.metadata["search"] and field.name not in given
    }


@dataclass(frozen=True)
class _Objective:
    """Trains one trial and returns its score.

    The run of a trial has the *tags* and is a child of the run *parent_id*.
    """

    store: Store
    given: dict[str, Any]
    segmenter: Path | None
    tags: dict[str, str]
    n_trials: int
    parent_id: str

    def __call__(self, trial: Trial) -> float:
        if _rank(trial) >= self.n_trials:
            raise _SurplusError
        found = {
            name: trial.suggest_float(name, low, high, log=True)
            for name, (low, high) in searched(self.given).items()
        }
        try:
            score = self._train(trial, found)
        except (_PrunedError, DivergedError) as error:
            print(f"Trial {trial.number} was cut short: {error.found}.")
            raise TrialPruned(error.found) from error
        except _RESUMABLE as error:
            RetryHeartbeatStaleTrialCallback()(trial.study, trial.study.trials[trial.number])
            if not isinstance(error, AdipocyteError):
                raise
            again = f"the same command resumes trial {trial.number}"
            remedy = "; ".join(filter(None, [error.remedy, again]))
            raise type(error)(error.found, remedy) from error
        print(f"Trial {trial.number} is complete: MAE / median {score:.4f}.")
        return score

    def _train(self, trial: Trial, found: dict[str, float]) -> float:
        given = {**self.given, **found, "resume": self._unfinished(trial)}
        config = settled(build(GeneratorConfig, given))
        with training_run("trial", config, self.store, **self.tags) as training:
            run_id = cast(str, training.run_id)  # there is one, because torchrun is refused
            trial.set_user_attr(RUN, run_id)
            MlflowClient().update_run(run_id, name=f"trial {trial.number}")
            mlflow.set_tag(PARENT_TAG, self.parent_id)
            tracker = TrialTracker(training.tracker, trial, config.epochs)
            try:
                best = train_generator(self.store, config, self.segmenter, training.folder, tracker)
            except (_PrunedError, DivergedError) as error:
                ending = "pruned" if isinstance(error, _PrunedError) else "diverged"
                mlflow.set_tag(TRIAL_TAG, ending)
                training.discard()
                raise
            training.finish(best)
            mlflow.set_tag(TRIAL_TAG, "complete")
        return best[SCORE]

    def _unfinished(self, trial: Trial) -> str:
        """The run in which a *trial* that is tried again was interrupted, or "".

        It is "" too when no state of the run can be reached from here.
        """
        run_id = trial.user_attrs.get(RUN, "")
        with contextlib.suppress(MlflowException):  # no run, or it is on another tracking server
            if mlflow.get_run(run_id).info.lifecycle_stage == LifecycleStage.ACTIVE:
                if is_resumable(run_id, self.store):
                    return run_id
                # Its process was killed before it could do so.
                MlflowClient().set_terminated(run_id, "KILLED")
        return ""


class TrialTracker:
    """Passes everything on to the *tracker* of a trial's run, and each epoch's score to Optuna.

    Raises _PrunedError when an epoch before the last shows that the trial is a poor one.
    """

    def __init__(self, tracker: Tracker, trial: Trial, n_epochs: int) -> None:
        self._tracker, self._trial, self._n_epochs = tracker, trial, n_epochs

    def metrics(self, rows: dict[int, dict[str, float]]) -> None:
        self._tracker.metrics(rows)
        for row in rows.values():
            if SCORE in row:
                self._trial.report(row[SCORE], int(row["epoch"]))
                if row["epoch"] < self._n_epochs and self._trial.should_prune():
                    raise _PrunedError(
                        f"after epoch {row['epoch']:.0f} it was worse than half of the others"
                    )

    def picture(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        self._tracker.picture(name, image, step)

    def warning(self, sentence: str) -> None:
        self._tracker.warning(sentence)

    def state(self, path: Path) -> None:
        self._tracker.state(path)


class TrialSampler(TPESampler):
    """TPE with a seed for each trial, so that processes that share a study draw differently."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._base_seed = seed

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        seeds = np.random.SeedSequence((self._base_seed, trial.number))
        super().__init__(seed=int(seeds.generate_state(1)[0]))


def _open_study(config: TuneConfig, name: str, n_epochs: int) -> Study:
    """The study of that *name*, begun if need be.

    Raises RunError when its database cannot be opened.
    """
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
    # Optuna's warnings repeat each error with a traceback.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=n_epochs // 4)
    # Optuna, SQLAlchemy and the database's driver each raise errors of their own.
    with _reaching_database(config.storage, Exception):
        return optuna.create_study(
            storage=_open_database(config.storage),
            study_name=name,
            sampler=TrialSampler(config.seed),
            pruner=pruner,
            load_if_exists=True,
        )


def _open_database(address: str) -> RDBStorage:
    is_sqlite = address.startswith("sqlite")
    connect = partial(
        RDBStorage,
        address,
        engine_kwargs={"connect_args": {"timeout": LOCKED_S}} if is_sqlite else None,
        heartbeat_interval=HEARTBEAT_S,
        grace_period=GRACE_S,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
    )
    for _ in range(3):
        with contextlib.suppress(Exception):
            return connect()
        time.sleep(0.5)  # processes that begin a database at the same moment disturb each other
    return connect()


@contextmanager
def _reaching_database(
    address: str, kind: type[Exception] = StorageInternalError
) -> Generator[None]:
    try:
        yield
    except kind as error:
        reason = str(error).partition("\n")[0][:200]
        raise RunError(
            f"the study's database {address} cannot be used ({reason})",
            "see that it can be reached, or name another with -P storage=sqlite:///tune.db",
        ) from error


def _comparable(shared: GeneratorConfig, given: dict[str, Any]) -> dict[str, Any]:
    """The settings that must agree for trials to be compared."""
    settings = plain(shared) | dict.fromkeys(searched(given), "searched")
    return {name: value for name, value in settings.items() if name not in _INDIFFERENT}


def _agree(study: Study, settings: dict[str, Any]) -> None:
    """Let the *study* remember the *settings* of its trials.

    Raises ConfigError when it has trials with others.
    """
    begun = any(
        RUN in trial.user_attrs and trial.state is not TrialState.FAIL
        for trial in study.get_trials(deepcopy=False)
    )
    if begun:
        _refuse_other(study, settings)
    study.set_user_attr(SHARED, settings)


def _refuse_other(study: Study, settings: dict[str, Any]) -> None:
    """Raise ConfigError when the trials of the *study* have other settings than *settings*."""
    another = "begin another study with -P study=<name>"
    try:
        held = as_recorded(GeneratorConfig, study.user_attrs.get(SHARED, {}))
    except ConfigError as error:
        raise ConfigError(f"the study {study.study_name} has {error.found}", another) from error
    for name, value in settings.items():
        if held.get(name) != value:
            raise ConfigError(
                f"the study {study.study_name} has {name}={held.get(name)}, not {value}",
                f"type its own settings again, or {another}",
            )


def _train_trials(study: Study, objective: _Objective) -> None:
    """Train until the *study* has all its trials, those of other processes included.

    A trial whose process died is tried again.
    """
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
                "Waiting for the trials of other processes, or until one that gave no sign of life "
                f"for {GRACE_S} s can be tried again."
            )
        waits = True
        time.sleep(POLL_S)


def _train_next(study: Study, objective: _Objective) -> None:
    """Train the next trial. That another process took it over meanwhile is no error."""
    ended_with: list[BaseException | None] = []

    def noting(trial: Trial) -> float:
        try:
            score = objective(trial)
        except BaseException as error:
            ended_with.append(error)
            raise
        ended_with.append(None)
        return score

    try:
        study.optimize(noting, n_trials=1, catch=(_SurplusError,), gc_after_trial=True)
        return
    except ValueError:
        if not ended_with:
            raise
    # It is the objective's own error, or Optuna's, which refuses to end a trial that another
    # process has ended, and hides how the objective ended.
    [error] = ended_with
    if error and not isinstance(error, (TrialPruned, UpdateFinishedTrialError)):
        raise error
    print(
        f"This process gave no sign of life for {GRACE_S} s, and another one tries its trial again."
    )


def _rank(trial: Trial) -> int:
    """How many trials that did not fail come before this one. Each process finds another number."""
    others = trial.study.get_trials(deepcopy=False)
    return sum(
        other.number < trial.number and other.state is not TrialState.FAIL for other in others
    )


def _record(study: Study) -> Best:
    """Record in the active run what the *study* found.

    Raises RunError when no trial is complete.
    """
    trials = study.get_trials(deepcopy=False, states=FINISHED)
    log_table([_row(trial) for trial in trials], "trials")
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    if not complete:
        raise RunError(
            f"none of the {len(trials)} trials of the study {study.study_name} could be completed, "
            "because each diverged",
            "begin another with -P clip_norm=1 -P study=<name>",
        )
    _log_plot("history.png", partial(plot_optimization_history, study))
    if len(complete) > 1:
        # Optuna's default evaluator needs more trials to be right.
        evaluator = FanovaImportanceEvaluator(seed=0)
        _log_plot("importance.png", partial(plot_param_importances, study, evaluator))
    else:
        print(
            "How much each setting matters cannot be told from one complete trial: give a higher "
            "number with -P trials=."
        )
    best = min(complete, key=_score)
    run_id = best.user_attrs[RUN]
    _promote(study, run_id)
    mlflow.log_metrics(
        {
            f"best_{SCORE}": _score(best),
            "trials": len(trials),
            "trials_pruned": len(trials) - len(complete),
        }
    )
    mlflow.log_params({f"best.{name}": value for name, value in best.params.items()})
    mlflow.set_tags({"adipocyte.best": run_id, "adipocyte.best_trial": best.number})
    return Best(best.number, _score(best), best.params, run_id)


def _score(complete: FrozenTrial) -> float:
    return cast(float, complete.value)  # None only while a trial is not complete


def _log_plot(name: str, draw: Callable[..., Axes]) -> None:
    """Record a plot in the active run. Optuna draws it with pyplot, whose state is put back."""
    with matplotlib.rc_context():  # Optuna sets a style
        pyplot.switch_backend("agg")  # so that no window opens
        figure = cast(Figure, draw(target_name=SCORE_NAME).figure)
        try:
            figure.set_layout_engine("constrained")  # else names of settings are cut off
            mlflow.log_figure(figure, name)
        finally:
            pyplot.close(figure)


def _promote(study: Study, run_id: str) -> None:
    """Let only the run of the best trial count as one of train_gan, so that `register` takes it.

    Raises RunError when the run is lost.
    """
    before = study.user_attrs.get(BEST, run_id)
    try:
        MlflowClient().set_tag(run_id, STEP_TAG, "train_gan")
    except MlflowException as error:
        raise RunError(
            f"the best trial's run {run_id} is not on the tracking server "
            f"{mlflow.get_tracking_uri()}",
            "processes that share a study share a server, so set MLFLOW_TRACKING_URI to it; if the "
            "run was deleted, begin another study with -P study=<name>",
        ) from error
    if before != run_id:
        with contextlib.suppress(MlflowException):  # a deleted run cannot be taken anyway
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
