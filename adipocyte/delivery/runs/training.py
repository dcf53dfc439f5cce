"""A training as an MLflow run: its records, its folder on this disk, and how it is resumed."""

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from adipocyte.config import GeneratorConfig, SegmenterConfig, as_recorded, build, spelled
from adipocyte.delivery.runs.datasets import store_dataset
from adipocyte.delivery.runs.runs import (
    NETWORK_ARTIFACT,
    SETTINGS_FILE,
    STEP_TAG,
    STORE_TAG,
    TARGET_TAG,
    artifacts_of,
    step_run,
)
from adipocyte.delivery.runs.tracker import STATE_STEP_TAG, STATES, MlflowTracker, reaching_server
from adipocyte.errors import ConfigError, DivergedError, RunError
from adipocyte.store.reader import Store
from adipocyte.system.failures import explained, one_line
from adipocyte.system.files import HeldError, locked, replacing
from adipocyte.system.machine import arithmetic, fastest_device
from adipocyte.training.loop import NETWORK_FOLDER
from adipocyte.training.state import STATE, state_step
from adipocyte.training.tracker import Silent, Tracker

_SAVING = ("batch", "patch_px", "workers")  # settings that save memory
_RESUMED_BY_HAND = ("train_segmenter", "train_gan")  # `tune` resumes its trials itself

Config = TypeVar("Config", SegmenterConfig, GeneratorConfig)


@dataclass
class Training:
    """A training under way: its *folder* on this disk and the *tracker* to give to its loop.

    Of several processes the first has a run; the others have no `run_id`.
    """

    folder: Path
    tracker: Tracker
    run_id: str | None
    keeps_state: bool = True

    def finish(self, best: dict[str, float]) -> None:
        """Record the best network and its metrics. The state is removed when the run has ended."""
        if self.run_id is None:
            return
        with reaching_server():
            mlflow.log_metrics(
                {f"best_{name.removeprefix('best_')}": value for name, value in best.items()}
            )
            mlflow.log_artifacts(str(self.folder / NETWORK_FOLDER), NETWORK_ARTIFACT)
        self.discard()

    def discard(self) -> None:
        """Remove the state, here and with the run, when the run ends."""
        self.keeps_state = False


@contextmanager
def training_run(
    step: str, config: SegmenterConfig | GeneratorConfig, store: Store, **tags: str
) -> Generator[Training]:
    """Open the run of a training *step* on *store*, or the run `config.resume` again.

    An error that leaves a state behind says how to resume from it. Raises RunError when the run to
    resume has no state or another process trains it, and for any error of the tracking server;
    ResourceError when disk, memory or another resource of the machine runs out.
    """
    if config.resume:
        _fetch_state(store, config.resume)
    if int(os.environ.get("RANK", "0")):  # torchrun's: only the first process keeps records
        yield Training(_folder(store, config.resume or "unsaved"), Silent(), None)
        return
    opened = os.environ.get("MLFLOW_RUN_ID")  # by `mlflow run`, even when a run is resumed
    training = None
    try:
        with contextlib.ExitStack() as stack:
            if config.resume:  # before the run is touched, because another process may train it
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
            stack.enter_context(_saying_how_to_resume(step, tags.get("target", ""), store, run_id))
            mlflow.log_input(store_dataset(store), context="training")
            training = Training(_folder(store, run_id), MlflowTracker(run), run_id)
            yield training
    finally:
        if training and not training.keeps_state:
            _remove_state(training.folder, run_id)
    if config.resume and opened and opened != config.resume:
        # The empty run that `mlflow run` opened; it stays, because `mlflow run` wants to close it.
        MlflowClient().set_tag(opened, "mlflow.runName", f"resumed {run.info.run_name}")


def settled(config: Config) -> Config:
    """*config* with an arithmetic in place of precision=auto, so that its run records which.

    It is that of the run that *config* resumes, or the one that is faster on this machine. Several
    processes on CPUs take float32, because each would measure for itself and they must agree.
    """
    precision: str = config.precision
    if precision == "auto" and config.resume:
        precision = _recorded(config.resume)[1]["precision"]
    device = fastest_device()
    if precision == "auto" and device.type == "cpu" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        precision = "32"
    return dataclasses.replace(config, precision=arithmetic(precision, device))


def resumed(config: Config, step: str) -> Config:
    """The settings to train with: *config*'s own, or those of the run that it resumes.

    The store may lie elsewhere now. Raises RunError when there is no such run of *step* to resume,
    ConfigError when *config* asks for other settings than the run has.
    """
    if not config.resume:
        return settled(config)
    run, settings = _recorded(config.resume)
    found = (run.data.tags.get(STEP_TAG, ""), run.data.tags.get(TARGET_TAG, ""))
    if found[0] not in _RESUMED_BY_HAND:
        raise RunError(
            f"run {config.resume} is no training that can be resumed",
            "take the id of one from mlflow ui",
        )
    if found != (step, ",".join(getattr(config, "targets", ()))):
        raise RunError(
            f"run {config.resume} is one of {' '.join(filter(None, found))}",
            f"resume it with mlflow run . -e {found[0]}",
        )
    if run.info.status == "FINISHED":
        raise RunError(
            f"run {config.resume} has finished",
            "there is nothing to resume; train anew without -P resume",
        )
    kept = build(type(config), as_recorded(type(config), settings) | {"resume": config.resume})
    _refuse_changes(config, kept)
    if config.store != type(config).store:
        kept = dataclasses.replace(kept, store=config.store)
    return settled(kept)


def _recorded(run_id: str) -> tuple[Run, dict[str, Any]]:
    """A run and the settings that it recorded. Raises RunError when there is no such run."""
    try:
        run = mlflow.get_run(run_id)
        return run, mlflow.artifacts.load_dict(f"{artifacts_of(run)}/{SETTINGS_FILE}")
    except (MlflowException, OSError) as error:
        raise RunError(
            f"there is no run {run_id!r} to resume ({error})", "take the id of one from mlflow ui"
        ) from error


def _refuse_changes(config: Config, kept: Config) -> None:
    """Raise ConfigError where *config* asks for another setting than the resumed run has."""
    for field in dataclasses.fields(config):
        name = field.name
        given, before = getattr(config, name), getattr(kept, name)
        if name != "store" and given not in (field.default, before):
            raise ConfigError(
                f"run {config.resume} trains with {name}={spelled(before)}, not {spelled(given)}",
                f"a resumed run keeps its settings; leave -P {name} out",
            )


def is_resumable(run_id: str, store: Store) -> bool:
    """Whether a state of the run is kept, here or with the run."""
    return state_step(_folder(store, run_id) / STATE) >= 0 or _has_copies(run_id)


def _folder(store: Store, run_id: str) -> Path:
    return store.folder.with_name(f"{store.folder.name}.training") / run_id


def _fetch_state(store: Store, run_id: str) -> None:
    """See that the newest state of a run lies in its folder on this disk.

    Raises RunError when there is none, or when the run trains on another store.
    """
    folder, tags = _folder(store, run_id), mlflow.get_run(run_id).data.tags
    if (digest := tags.get(STORE_TAG)) != store.digest:
        raise RunError(
            f"run {run_id} trains on the store {digest}, and {store.folder} is {store.digest}",
            "name the right one with -P store=",
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
                f"no state of run {run_id} was saved, neither in {folder} nor with the run",
                "train anew, without -P resume",
            )
        with replacing(folder / STATE) as partial:  # every process of torchrun fetches
            shutil.copyfile(newest, partial)


def _has_copies(run_id: str) -> bool:
    return bool(mlflow.artifacts.list_artifacts(run_id=run_id, artifact_path=STATES))


@contextmanager
def _held(store: Store, run_id: str) -> Generator[None]:
    """Hold a run's folder for this process. When the block ends without a state, the folder goes.

    Raises RunError when another process holds it.
    """
    folder = _folder(store, run_id)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / "lock"))
        except HeldError as error:
            raise RunError(
                f"run {run_id} is being trained by another process at this moment",
                "wait for it, or stop it first",
            ) from error
        try:
            yield
        finally:
            if not (folder / STATE).exists():
                _remove_folder(folder)


def _remove_state(folder: Path, run_id: str) -> None:
    """Remove what a run that needs no state any more has kept in *folder* and among its artifacts.

    What cannot be removed does no harm.
    """
    with contextlib.suppress(MlflowException, OSError):
        if _has_copies(run_id):
            repository = get_artifact_repository(artifacts_of(mlflow.get_run(run_id)))
            repository.delete_artifacts(STATES)
    _remove_folder(folder)


def _remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()  # if it was the last


@contextmanager
def _saying_how_to_resume(step: str, target: str, store: Store, run_id: str) -> Generator[None]:
    """Turn errors of the machine and the tracking server into RunErrors, and say how to resume."""
    try:
        yield
    except DivergedError:
        raise  # resuming would diverge again
    except Exception as error:
        known = explained(error, _SAVING)
        if not (known or isinstance(error, (OSError, MlflowException))):
            raise
        kept = state_step(_folder(store, run_id) / STATE)
        advice = []
        if kept >= 0 and step in _RESUMED_BY_HAND:
            settings = {"target": target, "resume": run_id, "store": str(store.folder)}
            given = [f"-P {name}={value}" for name, value in settings.items() if value]
            command = " ".join([f"mlflow run . -e {step}", *given])
            advice = [f"the state of step {kept} is kept; to resume from it: {command}"]
        if known is error and not advice:
            raise
        if known:
            remedy = "; ".join(filter(None, [known.remedy, *advice]))
            raise type(known)(known.found, remedy) from error
        raise RunError(one_line(error), *advice) from error
