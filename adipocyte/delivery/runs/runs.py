"""MLflow runs: starting them, what every one of them records, and finding them again."""

import contextlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.artifact.models_artifact_repo import ModelsArtifactRepository

from adipocyte.config import plain
from adipocyte.errors import RunError, StoppedError

STEP_TAG, STORE_TAG, TARGET_TAG = "adipocyte.step", "adipocyte.store", "adipocyte.target"
SEGMENTER_TAG, VERSION_TAG = "adipocyte.segmenter", "adipocyte.version"
SETTINGS_TAG, PARENT_TAG = "adipocyte.settings", "mlflow.parentRunId"
SETTINGS_FILE = "config.json"
NETWORK_ARTIFACT = "network"


@contextmanager
def step_run(
    step: str, config: Any, *, run_id: str | None = None, system_metrics: bool = False, **tags: str
) -> Iterator[Run]:
    """A run of one *step*: the one that `mlflow run` opened, the run *run_id* taken up again, or a new one, below an active one if any.

    Records *config* whole and *tags* ("adipocyte.<name>"), and the load of the machine on request. The run ends as KILLED when the step
    was stopped, as FAILED when it went wrong.
    """
    name = step if "target" not in tags else f"{step} {tags['target']}"
    run = mlflow.start_run(
        run_id=run_id, run_name=name, nested=True, log_system_metrics=system_metrics
    )
    try:
        if not run_id:
            settings = plain(config)
            mlflow.log_dict(settings, SETTINGS_FILE)
            # Under a prefix: `mlflow run` has already logged what MLproject declares, under the plain names, and parameters are write-once.
            mlflow.log_params({f"config.{name}": value for name, value in settings.items()})
            mlflow.set_tags(
                {STEP_TAG: step, **{f"adipocyte.{name}": value for name, value in tags.items()}}
            )
        yield run
    except BaseException as error:
        stopped = isinstance(error, (KeyboardInterrupt, StoppedError))
        with contextlib.suppress(
            MlflowException
        ):  # a server that is lost must not hide what went wrong
            mlflow.end_run("KILLED" if stopped else "FAILED")
        raise
    mlflow.end_run()


def newest_run(step: str, store_digest: str, target: str = "") -> str:
    """The id of the newest finished run of *step* (and *target*) on a store. Raises RunError, with the command that makes one."""
    query = f"tags.`{STEP_TAG}` = '{step}' and tags.`{STORE_TAG}` = '{store_digest}' and attributes.status = 'FINISHED'"
    if target:
        query += f" and tags.`{TARGET_TAG}` = '{target}'"
    found = _newest(query)
    if not found:
        what = f"{step} of {target}" if target else step
        command = f"mlflow run . -e {step}" + (f" -P target={target}" if target else "")
        raise RunError(
            f"there is no finished run of {what} on the store {store_digest}: make one with {command}"
        )
    return found[0].info.run_id


def interrupted_run(step: str, digest: str) -> str | None:
    """The id of the newest run of *step* with the settings of a *digest*, when it is one that did not finish."""
    runs = _newest(f"tags.`{STEP_TAG}` = '{step}' and tags.`{SETTINGS_TAG}` = '{digest}'")
    return runs[0].info.run_id if runs and runs[0].info.status != "FINISHED" else None


def adopt_children(parent: str) -> None:
    """Make the children of a run those of the active one."""
    for child in mlflow.search_runs(
        search_all_experiments=True,
        filter_string=f"tags.`{PARENT_TAG}` = '{parent}'",
        output_format="list",
    ):
        mlflow.MlflowClient().set_tag(
            child.info.run_id, PARENT_TAG, mlflow.active_run().info.run_id
        )


def child_of(step: str, store_digest: str, target: str) -> Run | None:
    """The newest run of *step* (and *target*) on a store among the children of the active run."""
    parent = mlflow.active_run().info.run_id
    query = f"tags.`{PARENT_TAG}` = '{parent}' and tags.`{STEP_TAG}` = '{step}' and tags.`{STORE_TAG}` = '{store_digest}'"
    runs = _newest(query + (f" and tags.`{TARGET_TAG}` = '{target}'" if target else ""))
    return runs[0] if runs else None


def _newest(query: str) -> list[Run]:
    """The newest run, if any, that a *query* finds in all experiments."""
    return mlflow.search_runs(
        search_all_experiments=True,
        filter_string=query,
        order_by=["attributes.start_time DESC"],
        max_results=1,
        output_format="list",
    )


@contextmanager
def fetched(uri: str, path: str) -> Iterator[Path]:
    """What lies at *path* among the artifacts of *uri* ("models:/…", or where a run keeps its own), on this disk while the block lasts.

    Artifacts that are on this disk anyway are used where they lie; others are copied, and the copy is removed. Raises MlflowException or
    OSError when there is nothing.
    """
    repository = get_artifact_repository(uri)
    if isinstance(repository, ModelsArtifactRepository):
        repository = repository.repo  # the place it stands for: by its name MLflow would write a file of its own beside the model
    is_here = isinstance(repository, LocalArtifactRepository)
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(repository.download_artifacts(path, None if is_here else scratch))


@contextmanager
def network_of(run_id: str, step: str, store_digest: str, target: str = "") -> Iterator[Path]:
    """The folder of the network that a run kept, while the block lasts.

    Raises RunError when there is no such run, it kept none, or it is not a run of *step* (and *target*) on that store.
    """
    with contextlib.ExitStack() as stack:
        try:
            run = mlflow.get_run(run_id)
            tags = run.data.tags
            found = (tags.get(STEP_TAG, ""), tags.get(STORE_TAG, ""), tags.get(TARGET_TAG, ""))
            if found != (step, store_digest, target):
                needed = f"a run of {step} {target} on the store {store_digest}"
                raise RunError(
                    f"run {run_id} is one of {found[0]} {found[2]} on the store {found[1]}: needed {needed}; see mlflow ui"
                )
            folder = stack.enter_context(fetched(run.info.artifact_uri, NETWORK_ARTIFACT))
        except (MlflowException, OSError) as error:
            raise RunError(
                f"run {run_id!r} has no network to load ({error}): give the id of a finished training run, as mlflow ui shows it"
            ) from error
        yield folder


def segmenter_of(run_id: str) -> str:
    """The run of the segmenter whose masks the A1 generator of *run_id* trained with. Raises RunError when there is no such run."""
    return _tag_of(run_id, SEGMENTER_TAG, "A1")


def target_of(run_id: str) -> str:
    """The target that the generator of *run_id* paints. Raises RunError when there is no such run."""
    return _tag_of(run_id, TARGET_TAG, "a target")


def encoder_weights_of(run_id: str) -> str:
    """What the encoder of a training run's network started from: "none", "imagenet" or a file."""
    return mlflow.get_run(run_id).data.params.get("config.encoder_weights", "none")


def _tag_of(run_id: str, tag: str, what: str) -> str:
    try:
        return mlflow.get_run(run_id).data.tags[tag]
    except (MlflowException, KeyError) as error:
        raise RunError(
            f"run {run_id!r} is no run of train_gan of {what} ({error}): give the id of one, as mlflow ui shows it"
        ) from error


def log_table(rows: list[dict[str, Any]], name: str) -> None:
    """Record a table as *name*.json (MLflow shows it as a table) in the active run."""
    mlflow.log_table({column: [row[column] for row in rows] for column in rows[0]}, f"{name}.json")


def commit() -> str:
    """The commit of the project that the active run records, or "unknown"."""
    run = mlflow.active_run()
    return run.data.tags.get("mlflow.source.git.commit", "unknown") if run else "unknown"
