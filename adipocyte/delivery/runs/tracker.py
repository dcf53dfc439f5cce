"""The tracker of a training that writes to an MLflow run."""

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric, Run
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

from adipocyte.delivery.runs.runs import artifacts_of
from adipocyte.errors import RunError
from adipocyte.training.state import state_step

STATES = "state"  # artifact folder
STATE_STEP_TAG = "adipocyte.state_step"  # the step of the newest state
_BATCH = 1000  # metrics that MLflow takes in one request


class MlflowTracker:
    """The `training.tracker.Tracker` that writes to an MLflow run.

    Raises RunError when the tracking server is lost.
    """

    def __init__(self, run: Run) -> None:
        self._client, self._run_id = MlflowClient(), run.info.run_id
        self._is_remote = urlparse(artifacts_of(run)).scheme not in ("", "file")
        self._n_states = 0

    def metrics(self, rows: dict[int, dict[str, float]]) -> None:
        now = int(time.time() * 1000)
        metrics = [
            Metric(name, value, now, step)
            for step, row in rows.items()
            for name, value in row.items()
        ]
        with reaching_server():
            for start in range(0, len(metrics), _BATCH):
                self._client.log_batch(self._run_id, metrics=metrics[start : start + _BATCH])

    def picture(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        with reaching_server():
            self._client.log_image(self._run_id, image[..., None], key=name, step=step)

    def warning(self, sentence: str) -> None:
        print(f"Warning: {sentence}", file=sys.stderr)
        with reaching_server():
            self._client.set_tag(self._run_id, "adipocyte.warning", sentence)

    def state(self, path: Path) -> None:
        """Copy the state to the run's artifacts, unless these are on this disk.

        The copies go to two folders by turns, so that one is whole whatever happens to the other.
        """
        with reaching_server():
            if self._is_remote:
                self._client.log_artifact(self._run_id, str(path), f"{STATES}/{self._n_states % 2}")
            self._client.set_tag(self._run_id, STATE_STEP_TAG, state_step(path))
        self._n_states += 1


@contextmanager
def reaching_server() -> Generator[None]:
    """Turn an error of the tracking server into a RunError."""
    try:
        yield
    except (MlflowException, OSError) as error:
        raise RunError(
            f"the tracking server took no more of the run's records ({str(error)[:300]})",
            "see that it runs again",
        ) from error
