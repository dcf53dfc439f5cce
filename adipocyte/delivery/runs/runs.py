"""MLflow runs: opening them, what each of them records, and finding them again.

Staining a plate imports this module, so it imports nothing of the store, training or evaluation.
"""

import contextlib
import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import mlflow
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.store.artifact.models_artifact_repo import ModelsArtifactRepository

from adipocyte.config import LATER, GeneratorConfig, plain
from adipocyte.errors import RunError, StoppedError

STEP_TAG, STORE_TAG, TARGET_TAG = "adipocyte.step", "adipocyte.store", "adipocyte.target"
SEGMENTER_TAG, VERSION_TAG = "adipocyte.segmenter", "adipocyte.version"
STARTED_TAG = "adipocyte.started_from"
SETTINGS_TAG, PARENT_TAG = "adipocyte.settings", "mlflow.parentRunId"
SETTINGS_FILE = "config.json"
NETWORK_ARTIFACT = "network"


@contextmanager
def step_run(
    step: str, config: Any, *, run_id: str | None = None, system_metrics: bool = False, **tags: str
) -> Generator[Run]:
    """Open a run of one *step*: *run_id* again, or the one that `mlflow run` opened, or a new one.

    A run that is active becomes its parent. A new run records *config* whole and *tags*
    ("adipocyte.<name>"); *system_metrics* adds the load of the machine. The run ends as KILLED when
    the step was stopped, as FAILED when it went wrong.
    """
    name = f"{step} {tags['target']}" if "target" in tags else step
    run = mlflow.start_run(
        run_id=run_id, run_name=name, nested=True, log_system_metrics=system_metrics
    )
    try:
        if not run_id:
            settings = plain(config)
            mlflow.log_dict(settings, SETTINGS_FILE)
            # Under a prefix, because `mlflow run` has logged MLproject's parameters under the plain
            # names, and a parameter can be written only once.
            mlflow.log_params({f"config.{name}": value for name, value in settings.items()})
            mlflow.set_tags(
                {STEP_TAG: step, **{f"adipocyte.{name}": value for name, value in tags.items()}}
            )
        yield run
    except BaseException as error:
        stopped = isinstance(error, (KeyboardInterrupt, StoppedError))
        with contextlib.suppress(MlflowException):  # a lost server must not hide the first error
            mlflow.end_run("KILLED" if stopped else "FAILED")
        raise
    mlflow.end_run()


def newest_run(step: str, store_digest: str, target: str = "") -> str:
    """The id of the newest finished run of *step* on a store, of those that paint *target*.

    Raises RunError when there is none, with the command that makes one.
    """
    query = _query(step, store_digest, target) + " and attributes.status = 'FINISHED'"
    found = _newest(query)
    if not found:
        what = f"{step} of {target}" if target else step
        command = f"mlflow run . -e {step}" + (f" -P target={target}" if target else "")
        raise RunError(
            f"there is no finished run of {what} on the store {store_digest}",
            f"make one with {command}",
        )
    return found[0].info.run_id


def interrupted_run(step: str, digest: str) -> str | None:
    """The id of the newest run of *step* with settings of this *digest*, unless it finished."""
    runs = _newest(f"tags.`{STEP_TAG}` = '{step}' and tags.`{SETTINGS_TAG}` = '{digest}'")
    return runs[0].info.run_id if runs and runs[0].info.status != "FINISHED" else None


def adopt_children(before: str, parent: str) -> None:
    """Make the children of the run *before* those of *parent*."""
    for child in mlflow.search_runs(
        search_all_experiments=True,
        filter_string=f"tags.`{PARENT_TAG}` = '{before}'",
        output_format="list",
    ):
        mlflow.MlflowClient().set_tag(child.info.run_id, PARENT_TAG, parent)


def child_of(parent: str, step: str, store_digest: str, target: str) -> Run | None:
    """The newest run of *step* (and *target*) on a store among the children of *parent*."""
    runs = _newest(f"tags.`{PARENT_TAG}` = '{parent}' and {_query(step, store_digest, target)}")
    return runs[0] if runs else None


def _query(step: str, store_digest: str, target: str) -> str:
    query = f"tags.`{STEP_TAG}` = '{step}' and tags.`{STORE_TAG}` = '{store_digest}'"
    # A network of several targets has all of them in its tag: "A1,A2,A3".
    return query + (f" and tags.`{TARGET_TAG}` LIKE '%{target}%'" if target else "")


def _newest(query: str) -> list[Run]:
    """The newest run, if any, that a *query* finds in all experiments."""
    return mlflow.search_runs(
        search_all_experiments=True,
        filter_string=query,
        order_by=["attributes.start_time DESC"],
        max_results=1,
        output_format="list",
    )


def artifacts_of(run: Run) -> str:
    """Where a run keeps its artifacts. A run that a tracking server knows has such a place."""
    return cast(str, run.info.artifact_uri)


@contextmanager
def fetched(uri: str, path: str) -> Generator[Path]:
    """An artifact on this disk, while the block lasts: *path* in *uri*.

    *uri* is "models:/…" or `artifacts_of` a run. Artifacts that already lie on this disk are used
    there; others are copied, and the copy is removed. Raises MlflowException or OSError when there
    is no such artifact.
    """
    repository = repository_of(uri)
    is_here = isinstance(repository, LocalArtifactRepository)
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(repository.download_artifacts(path, None if is_here else scratch))


def repository_of(uri: str) -> ArtifactRepository:
    """Where the artifacts at *uri* lie; nothing is looked for there.

    Raises MlflowException when *uri* is "models:/…" and there is no such model.
    """
    repository = get_artifact_repository(uri)
    if isinstance(repository, ModelsArtifactRepository):
        # The place it stands for: by the model's name, MLflow writes a file of its own beside it.
        return repository.repo
    return repository


def if_moved(place: str) -> str:
    """What to do where the artifacts of *place* were only moved."""
    if place.startswith(("http://", "https://", "mlflow-artifacts:")):
        return "if they were moved, start the server with their folder as --artifacts-destination"
    return "if the project was moved, mlflow run . -e relocate -P before=<its old folder>"


def lacks(repository: ArtifactRepository, folder: str, name: str) -> bool:
    """Whether a place that can be looked into has no file *name* in *folder*.

    Raises MlflowException or OSError when it cannot be looked into.
    """
    path = f"{folder}/{name}"
    if not isinstance(repository, LocalArtifactRepository):
        return path not in [file.path for file in repository.list_artifacts(folder)]
    try:
        os.stat(Path(repository.artifact_dir) / path)  # MLflow takes what is forbidden for missing
    except (FileNotFoundError, NotADirectoryError):
        return True
    return False


@contextmanager
def fetched_network(run: Run) -> Generator[Path]:
    """The folder of the network that a *run* kept, while the block lasts.

    Raises RunError when it kept none, or it is no longer there.
    """
    place = artifacts_of(run)
    with contextlib.ExitStack() as stack:
        try:  # not around the block, whose own errors are none of this
            folder = stack.enter_context(fetched(place, NETWORK_ARTIFACT))
        except (MlflowException, OSError) as error:
            raise RunError(
                f"run {run.info.run_id} has no network in {place} ({error})",
                f"{if_moved(place)}; else give the id of a finished one, as mlflow ui shows it",
            ) from error
        yield folder


@contextmanager
def network_of(run_id: str, step: str, store_digest: str, *targets: str) -> Generator[Path]:
    """The folder of the network that a run kept, while the block lasts.

    Raises RunError when there is no such run, it kept no network, or it is not a run of *step* on
    that store that paints all *targets*.
    """
    try:
        run = mlflow.get_run(run_id)
    except MlflowException as error:
        raise RunError(
            f"there is no run {run_id!r} ({error})",
            "give the id of a finished training run, as mlflow ui shows it",
        ) from error
    found = [run.data.tags.get(tag, "") for tag in (STEP_TAG, TARGET_TAG, STORE_TAG)]
    is_right = [found[0], found[2]] == [step, store_digest]
    if not is_right or not {*targets} <= {*found[1].split(",")}:
        wanted = _named(step, ",".join(targets), store_digest)
        raise RunError(
            f"run {run_id} is one of {_named(*found)}",
            f"give the id of one of {wanted}; see mlflow ui",
        )
    with fetched_network(run) as folder:
        yield folder


def _named(step: str, target: str, store_digest: str) -> str:
    return f"{' '.join(filter(None, (step, target)))} on the store {store_digest}"


@contextmanager
def segmenter_for(
    config: GeneratorConfig, store_digest: str, run_id: str = ""
) -> Generator[tuple[Path | None, dict[str, str]]]:
    """The segmenter that the generator of *config* trains with, while the block lasts.

    Gives the folder of its network and the tags for the generator's run. It is that of *run_id*, or
    the newest of the store; for a generator that sees no mask the folder is None. Raises RunError
    when there is no such segmenter.
    """
    tags = {"target": ",".join(config.targets)}
    if not config.sees_mask:
        yield None, tags
        return
    tags["segmenter"] = run_id or newest_run("train_segmenter", store_digest)
    with network_of(tags["segmenter"], "train_segmenter", store_digest) as folder:
        yield folder, tags


def segmenter_of(run_id: str) -> str:
    """The run of the segmenter whose masks the generator of *run_id* trained with, "" for none.

    Raises RunError when there is no such run.
    """
    return _tags_of(run_id).get(SEGMENTER_TAG, "")


def targets_of(run_id: str) -> tuple[str, ...]:
    """What the generator of *run_id* paints, in the order of its outputs.

    Raises RunError when there is no such run.
    """
    return tuple(_tags_of(run_id)[TARGET_TAG].split(","))


def encoder_weights_of(run_id: str) -> str:
    """What the encoder of a run's network started from: "none", "imagenet" or a file."""
    return mlflow.get_run(run_id).data.params.get("config.encoder_weights", "none")


def started_from(run_id: str) -> str:
    """The trained network that the generator of *run_id* started from, "" for none.

    Raises RunError when there is no such run.
    """
    return _tags_of(run_id).get(STARTED_TAG, "")


def knows_any_planes(run_id: str) -> bool:
    """Whether the generator of *run_id* learnt from any number of planes."""
    return mlflow.get_run(run_id).data.params.get("config.augmentations") == "any_planes"


def finest_of(run_id: str) -> float:
    """The finest pixels, in µm, that the generator of *run_id* sees; 0: those of the microscope."""
    params = mlflow.get_run(run_id).data.params
    return float(params.get("config.finest_um_per_px", LATER["finest_um_per_px"]))


def _tags_of(run_id: str) -> dict[str, str]:
    """The tags of a run of train_gan. Raises RunError when there is no such run."""
    try:
        tags = mlflow.get_run(run_id).data.tags
    except MlflowException as error:
        raise RunError(
            f"there is no run {run_id!r} ({error})", "give the id of one, as mlflow ui shows it"
        ) from error
    if tags.get(STEP_TAG) != "train_gan":
        raise RunError(
            f"run {run_id!r} is no run of train_gan", "give the id of one, as mlflow ui shows it"
        )
    return tags


def log_table(rows: list[dict[str, Any]], name: str) -> None:
    """Record a table as *name*.json (MLflow shows it as a table) in the active run."""
    mlflow.log_table({column: [row[column] for row in rows] for column in rows[0]}, f"{name}.json")


def commit() -> str:
    """The commit of the project that the active run records, or "unknown"."""
    run = mlflow.active_run()
    return run.data.tags.get("mlflow.source.git.commit", "unknown") if run else "unknown"
