"""A training as an MLflow run: what it sends there, its folder on this disk, and taking it up again after an interruption."""

import contextlib
import dataclasses
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from adipocyte.config import build, spelled, without_retired
from adipocyte.delivery.runs.datasets import store_dataset
from adipocyte.delivery.runs.runs import (
    NETWORK_ARTIFACT,
    SETTINGS_FILE,
    STEP_TAG,
    STORE_TAG,
    TARGET_TAG,
    step_run,
)
from adipocyte.delivery.runs.tracker import STATE_STEP_TAG, STATES, MlflowTracker, reaching_server
from adipocyte.errors import AdipocyteError, ConfigError, DivergedError, RunError
from adipocyte.store.reader import Store
from adipocyte.system.machine import arithmetic, fastest_device
from adipocyte.training.loop import NETWORK_FOLDER
from adipocyte.training.state import STATE, state_step
from adipocyte.training.tracker import Silent, Tracker

Config = TypeVar("Config")


@dataclass
class Training:
    """A training under way: its *folder* on this disk and the *tracker* to give to its loop. Of several processes the first has a run."""

    folder: Path
    tracker: Tracker
    run_id: str | None
    keeps_state: bool = True

    def finish(self, best: dict[str, float]) -> None:
        """Record the best network and its metrics; once the run has ended, its state is no longer needed."""
        if self.run_id is None:
            return
        with reaching_server():
            mlflow.log_metrics(
                {f"best_{name.removeprefix('best_')}": value for name, value in best.items()}
            )
            mlflow.log_artifacts(str(self.folder / NETWORK_FOLDER), NETWORK_ARTIFACT)
        self.discard()

    def discard(self) -> None:
        """Let the state go, here and with the run, when the run ends."""
        self.keeps_state = False


@contextmanager
def training_run(step: str, config: Any, store: Store, **tags: str) -> Iterator[Training]:
    """Open the run of a training *step* on *store*, or take up the run `config.resume` again.

    An error that leaves a state behind says how to go on from it. Raises RunError when the run to resume has no state or is being trained
    at this moment, and for any error of the disk or the tracking server.
    """
    if config.resume:
        _fetch_state(store, config.resume)
    if int(os.environ.get("RANK", "0")):  # torchrun's: the first process alone keeps the records
        yield Training(_folder(store, config.resume or "unsaved"), Silent(), None)
        return
    opened = os.environ.get("MLFLOW_RUN_ID")  # by `mlflow run`, even where an older run is to go on
    training = None
    try:
        with contextlib.ExitStack() as stack:
            if config.resume:  # before its run is touched, which may be another process's
                stack.enter_context(_held(store, config.resume))
            run = stack.enter_context(
                step_run(
                    step,
                    config,
                    run_id=config.resume or None,
                    system_metrics=True,
                    store=store.digest,
                    **tags,
                )
            )
            run_id = run.info.run_id
            if not config.resume:
                stack.enter_context(_held(store, run_id))
            stack.enter_context(_saying_how_to_go_on(step, tags.get("target", ""), store, run_id))
            mlflow.log_input(store_dataset(store), context="training")
            training = Training(_folder(store, run_id), MlflowTracker(run), run_id)
            yield training
    finally:
        if training and not training.keeps_state:
            _remove_state(training)
    if config.resume and opened and opened != config.resume:
        # The empty run that `mlflow run` opened; it cannot be removed, for `mlflow run` will want to close it.
        MlflowClient().set_tag(opened, "mlflow.runName", f"resumed {run.info.run_name}")


def settled(config: Config) -> Config:
    """*config* with precision=auto replaced by the arithmetic that is faster here, so that the run records it."""
    return dataclasses.replace(config, precision=arithmetic(config.precision, fastest_device()))


def resumed(config: Config, step: str) -> Config:
    """The settings to train with: *config*'s own, or where it resumes a run, that run's. The store may lie elsewhere now.

    Raises RunError when there is no such run of *step* to resume, ConfigError when *config* asks for other settings than the run has.
    """
    if not config.resume:
        return settled(config)
    try:
        run = mlflow.get_run(config.resume)
        settings = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/{SETTINGS_FILE}")
    except (MlflowException, OSError) as error:
        raise RunError(
            f"there is no run {config.resume!r} to resume ({error}): take the id of one from mlflow ui"
        ) from error
    found = (run.data.tags.get(STEP_TAG), run.data.tags.get(TARGET_TAG, ""))
    if found[0] not in ("train_segmenter", "train_gan"):
        raise RunError(
            f"run {config.resume} is no training that can be resumed: take the id of one from mlflow ui"
        )
    if found != (step, getattr(config, "target", "")):
        raise RunError(
            f"run {config.resume} is one of {' '.join(filter(None, found))}: resume it with mlflow run . -e {found[0]}"
        )
    if run.info.status == "FINISHED":
        raise RunError(
            f"run {config.resume} has finished: there is nothing to resume; train anew without -P resume"
        )
    kept = build(type(config), without_retired(settings) | {"resume": config.resume})
    _refuse_changes(config, kept)
    if config.store != type(config).store:
        return dataclasses.replace(kept, store=config.store)
    return kept


def _refuse_changes(config: Any, kept: Any) -> None:
    """Raise ConfigError where *config* asks for another setting than the run to resume was started with."""
    for field in dataclasses.fields(config):
        given, before = getattr(config, field.name), getattr(kept, field.name)
        if field.name != "store" and given not in (field.default, before):
            raise ConfigError(
                f"run {config.resume} trains with {field.name}={spelled(before)}, not {spelled(given)}",
                f"a resumed run keeps its settings; leave -P {field.name} out",
            )


def is_resumable(run_id: str, store: Store) -> bool:
    """Whether a state of the run is kept, here or with the run."""
    return state_step(_folder(store, run_id) / STATE) >= 0 or _has_copies(run_id)


def _folder(store: Store, run_id: str) -> Path:
    return store.folder.with_name(f"{store.folder.name}.training") / run_id


def _fetch_state(store: Store, run_id: str) -> None:
    """See that the newest state of a run lies in its folder on this disk. Raises RunError when there is none, or for another store."""
    folder, tags = _folder(store, run_id), mlflow.get_run(run_id).data.tags
    if (digest := tags.get(STORE_TAG)) != store.digest:
        raise RunError(
            f"run {run_id} trains on the store {digest}, and {store.folder} is {store.digest}: name the right one with -P store="
        )
    kept = state_step(folder / STATE)
    if kept >= 0 and kept >= int(tags.get(STATE_STEP_TAG, "-1")):
        return
    with tempfile.TemporaryDirectory() as scratch:
        if _has_copies(run_id):
            mlflow.artifacts.download_artifacts(
                run_id=run_id, artifact_path=STATES, dst_path=scratch
            )
        newest = max(Path(scratch).rglob(STATE), key=state_step, default=None)
        if newest is None or state_step(newest) <= kept:
            if kept >= 0:
                return
            raise RunError(
                f"no state of run {run_id} was saved, neither in {folder} nor with the run: train anew, without -P resume"
            )
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{STATE}.{os.getpid()}.partial"  # each process of torchrun fetches
        shutil.copyfile(newest, partial)
        partial.replace(folder / STATE)


def _has_copies(run_id: str) -> bool:
    return bool(mlflow.artifacts.list_artifacts(run_id=run_id, artifact_path=STATES))


@contextmanager
def _held(store: Store, run_id: str) -> Iterator[None]:
    """Hold a run's folder for this process. The lock goes with the process, however it ends; the folder, when it keeps no state.

    Raises RunError when another process holds it.
    """
    folder = _folder(store, run_id)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.lockf(
                lock, fcntl.LOCK_EX | fcntl.LOCK_NB
            )  # not flock, whose locks the workers that read patches would inherit
        except OSError as error:
            raise RunError(
                f"run {run_id} is being trained by another process at this moment: wait for it, or stop it first"
            ) from error
        try:
            yield
        finally:
            if not (folder / STATE).exists():
                _remove_folder(folder)


def _remove_state(training: Training) -> None:
    """Remove the state of a *training* that needs none any more. What cannot be removed is in nobody's way."""
    with contextlib.suppress(MlflowException, OSError):
        if _has_copies(training.run_id):
            get_artifact_repository(
                mlflow.get_run(training.run_id).info.artifact_uri
            ).delete_artifacts(STATES)
    _remove_folder(training.folder)


def _remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()  # when it was the last


@contextmanager
def _saying_how_to_go_on(step: str, target: str, store: Store, run_id: str) -> Iterator[None]:
    try:
        yield
    except (AdipocyteError, OSError, MlflowException) as error:
        kept = state_step(_folder(store, run_id) / STATE)
        if isinstance(error, DivergedError) or (kept < 0 and isinstance(error, AdipocyteError)):
            raise  # from that state it would diverge again
        if kept < 0:
            raise RunError(str(error)) from error
        settings = {"target": target, "resume": run_id, "store": str(store.folder)}
        command = " ".join(
            [
                f"mlflow run . -e {step}",
                *(f"-P {name}={value}" for name, value in settings.items() if value),
            ]
        )
        kind = type(error) if isinstance(error, AdipocyteError) else RunError
        raise kind(
            f"{error}. The state of step {kept} is kept; to go on from it: {command}"
        ) from error
