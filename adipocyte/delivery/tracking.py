"""MLflow runs: starting them, what every one of them records, and finding them again."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

from adipocyte.errors import RunError

STEP, STORE, TARGET = "adipocyte.step", "adipocyte.store", "adipocyte.target"
SEGMENTER, VERSION = "adipocyte.segmenter", "adipocyte.version"
NETWORK = "network"


class MlflowTracker:
    """The `training.tracker.Tracker` that writes to the active run."""

    def metrics(self, values: dict[str, float], step: int) -> None:
        mlflow.log_metrics(values, step=step)

    def picture(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        mlflow.log_image(image[..., None], key=name, step=step)


@contextmanager
def step_run(step: str, config: Any, **tags: str) -> Iterator[Run]:
    """A run of one *step*: the one that `mlflow run` opened, or a new one. Records *config* whole and *tags* ("adipocyte.<name>")."""
    with mlflow.start_run(run_name=step if "target" not in tags else f"{step} {tags['target']}") as run:
        settings = dataclasses.asdict(config)
        mlflow.log_dict(settings, "config.json")
        # Under a prefix: `mlflow run` has already logged what MLproject declares, under the plain names, and parameters are write-once.
        mlflow.log_params({f"config.{name}": value for name, value in settings.items()})
        mlflow.set_tags({STEP: step, **{f"adipocyte.{name}": value for name, value in tags.items()}})
        yield run


def newest_run(step: str, store_digest: str, target: str = "") -> str:
    """The id of the newest finished run of *step* (and *target*) on a store. Raises RunError, with the command that makes one."""
    query = f"tags.`{STEP}` = '{step}' and tags.`{STORE}` = '{store_digest}' and attributes.status = 'FINISHED'"
    if target:
        query += f" and tags.`{TARGET}` = '{target}'"
    found = mlflow.search_runs(
        search_all_experiments=True, filter_string=query, order_by=["attributes.start_time DESC"], max_results=1, output_format="list"
    )
    if not found:
        what = f"{step} of {target}" if target else step
        command = f"mlflow run . -e {step}" + (f" -P target={target}" if target else "")
        raise RunError(f"there is no finished run of {what} on the store {store_digest}: make one with {command}")
    return found[0].info.run_id


def network_of(run_id: str, step: str, store_digest: str, target: str = "") -> Path:
    """Fetch the network that a run kept.

    Raises RunError when there is no such run, it kept none, or it is not a run of *step* (and *target*) on that store.
    """
    try:
        tags = mlflow.get_run(run_id).data.tags
        found = (tags.get(STEP, ""), tags.get(STORE, ""), tags.get(TARGET, ""))
        if found != (step, store_digest, target):
            needed = f"a run of {step} {target} on the store {store_digest}"
            raise RunError(f"run {run_id} is one of {found[0]} {found[2]} on the store {found[1]}: needed {needed}; see mlflow ui")
        return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=NETWORK))
    except (MlflowException, OSError) as error:
        raise RunError(
            f"run {run_id!r} has no network to load ({error}): give the id of a finished training run, as mlflow ui shows it"
        ) from error


def segmenter_of(run_id: str) -> str:
    """The run of the segmenter whose masks the A1 generator of *run_id* trained with. Raises RunError when there is no such run."""
    try:
        return mlflow.get_run(run_id).data.tags[SEGMENTER]
    except (MlflowException, KeyError) as error:
        raise RunError(f"run {run_id!r} is no run of train_gan of A1 ({error}): give the id of one, as mlflow ui shows it") from error


def log_table(rows: list[dict[str, Any]], name: str) -> None:
    """Record a table as *name*.json (MLflow shows it as a table) in the active run."""
    mlflow.log_table({column: [row[column] for row in rows] for column in rows[0]}, f"{name}.json")


def commit() -> str:
    """The commit of the project that the active run records, or "unknown"."""
    run = mlflow.active_run()
    return run.data.tags.get("mlflow.source.git.commit", "unknown") if run else "unknown"


def write_json(path: Path, content: Any) -> None:
    """Write *content* to *path*, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)
