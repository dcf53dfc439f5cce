"""The registered model: rows of TIFF stacks in, rows of TIFF images out.

MLflow runs this file by its path to make the model (models-from-code).
"""

import base64
import logging
import os
import re
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.environment_variables import _MLFLOW_IS_IN_SERVING_ENVIRONMENT
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE

from adipocyte.delivery.serving.parameters import NAMES, Parameters
from adipocyte.domain import SMALLEST_PX
from adipocyte.errors import ConfigError, ImageError, MemoryLimitError
from adipocyte.plate.tiff import decode_stack, encode_image, stack_shape
from adipocyte.staining.stainer import Stainer
from adipocyte.system.machine import pin_threads

MEMORY = "ADIPOCYTE_MEMORY_MB"
# The server's time-out in seconds, set in every process of `mlflow models serve`.
_PATIENCE = "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"


class StainerModel(mlflow.pyfunc.PythonModel):
    """A bundle behind MLflow's pyfunc interface."""

    def load_context(self, context: mlflow.pyfunc.PythonModelContext) -> None:
        """Load the bundle.

        Raises BundleError when the bundle is incomplete or damaged, ConfigError when the
        environment's ADIPOCYTE_MEMORY_MB is no number.
        """
        pin_threads()
        if _PATIENCE in os.environ:
            # Otherwise pandas copies the base64 of each stack into Arrow's memory and back.
            pd.options.mode.string_storage = "python"
        self._stainer = Stainer(Path(context.artifacts["bundle"]), memory_mb=_memory_mb())
        self._turn = threading.Lock()
        logger = logging.getLogger("mlflow.models.utils")
        logger.addFilter(refuse_unknown_parameters)
        logger.setLevel(logging.WARNING)  # a quieter level would keep the warning from the filter

    def predict(
        self,
        context: mlflow.pyfunc.PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Paint the fields of *model_input*, one a row, of any size.

        model_input: `stack`, the bytes of a TIFF with a grey uint8 or uint16 page for each z-plane,
        in counts; `magnification`, 20, 40 or 60. All parameters are optional:

        - `histogram_matching`: true gives each image the distribution of the training wells, false
          leaves it as the networks painted it; by default the bundle says how intensities are set
        - `targets`: which to paint, "A2" or "A1,A3"; by default "", all
        - `tile_px`: paint in tiles of that side; by default 0, whole or in the largest tiles that
          the memory limit allows
        - `tta`: true averages what is painted in eight flips and rotations
        - `on_error`: "stop", by default, refuses the request for one bad row; "report" paints the
          others

        Returns a column for each target, the bytes of a one-page uint16 TIFF in counts (under
        MLflow's server in base64), and `warnings`; with on_error=report also `error`, "" or why the
        row was not painted, whose images are None then.

        Raises MlflowException: status 400 for what the caller can mend, naming the row, and 503
        when a row's turn did not come while the server was waiting for the answer.
        """
        if model_input.empty:
            raise _refusal(
                "the request holds no row: send at least one, with the columns stack and "
                "magnification"
            )
        until = time.monotonic() + float(os.environ.get(_PATIENCE, "inf"))
        try:
            asked = Parameters.of(params)
            # Rejects parameters that are invalid for every row.
            self._stainer.check_memory((SMALLEST_PX, SMALLEST_PX), **asked.painting)
            rows = [
                self._row(number, stack, magnification, asked, until)
                for number, (stack, magnification) in enumerate(
                    zip(model_input["stack"], model_input["magnification"], strict=True)
                )
            ]
        except (ConfigError, MemoryLimitError) as error:
            raise _refusal(str(error)) from error
        targets = asked.painting["targets"] or self._stainer.manifest.targets
        return _table(rows, targets, asked.reports_errors)

    def _row(
        self, number: int, stack: bytes, magnification: int, asked: Parameters, until: float
    ) -> dict[str, Any]:
        """The answer to one row: images and warnings, or its error where errors are reported."""
        try:
            with self._in_turn(until):
                return self._paint(stack, int(magnification), asked)
        except ImageError as error:
            if not asked.reports_errors:
                raise _refusal(f"row {number}: {error}") from error
            return {"error": str(error)}

    def _paint(self, stack: bytes, magnification: int, asked: Parameters) -> dict[str, Any]:
        """One row's images and warnings."""
        if not isinstance(stack, bytes | bytearray | memoryview):
            raise ImageError(
                f"the stack is {type(stack).__name__}, not bytes",
                "send it in base64, in dataframe_records or dataframe_split",
            )
        data, n_planes = bytes(stack), self._stainer.manifest.n_z_planes
        # Before any pixel is decoded.
        self._stainer.check_memory(stack_shape(data, n_planes), **asked.painting)
        stained = self._stainer.stain(
            decode_stack(data, n_planes),
            magnification,
            intensities=asked.intensities,
            **asked.painting,
        )
        images = {target: _packed(encode_image(image)) for target, image in stained.images.items()}
        return images | {"warnings": "; ".join(stained.warnings)}

    @contextmanager
    def _in_turn(self, until: float) -> Generator[None]:
        """One field at a time: the memory limit is one field's, and its networks use all cores.

        The server cannot stop a request that it has given up (504), so a row that waited past the
        time-out is dropped, because nobody will receive it.
        """
        left_s = max(0.0, until - time.monotonic())
        if not self._turn.acquire(timeout=min(left_s, threading.TIMEOUT_MAX)):
            raise MlflowException(
                "the row's turn did not come within the server's time-out: send fewer at once, or "
                "start the server with a longer --timeout",
                error_code=TEMPORARILY_UNAVAILABLE,
            )
        try:
            yield
        finally:
            self._turn.release()


def refuse_unknown_parameters(record: logging.LogRecord) -> bool:
    """Turn MLflow's warning about a parameter that it ignores into a refusal.

    MLflow drops what the signature does not name before the model sees it, and offers no other
    place to object. Without this, a misspelt parameter would quietly paint another picture. So this
    reads MLflow's sentence; tests/delivery/serving/test_serving.py holds its wording. Requests
    to models with other parameters than this one's pass.
    """
    unknown, _, rest = record.getMessage().partition(
        " are ignored for inference. Supported params are: "
    )
    names = unknown.removeprefix("Unrecognized params ")
    if names != unknown and set(re.findall(r"'(\w+)'", rest)) == set(NAMES):
        raise _refusal(
            f"there is no parameter {names}: there are {', '.join(NAMES)}; mind the spelling"
        )
    return True


def _table(rows: list[dict[str, Any]], targets: Sequence[str], with_errors: bool) -> pd.DataFrame:
    """The answers to all *rows*, with every column that the signature promises.

    Missing images are None and missing text is "", because NaN is no JSON.
    """
    empty: dict[str, Any] = dict.fromkeys(targets) | {"warnings": ""}
    if with_errors:
        empty["error"] = ""
    return pd.DataFrame([empty | row for row in rows], columns=list(empty), dtype=object)


def _memory_mb() -> int | None:
    """The limit that the environment sets, None when it sets none.

    Raises ConfigError when it is no number.
    """
    text = os.environ.get(MEMORY, "")
    if text and not text.isdecimal():
        raise ConfigError(
            f"{MEMORY} must be a whole number of megabytes, got {text!r}",
            "set it to 4000, say, or leave it out",
        )
    return int(text) if text else None


def _packed(image: bytes) -> bytes | str:
    """An *image* for the answer: bytes in Python, base64 under MLflow's server.

    The server itself would take seven times as long to write it.
    """
    return base64.b64encode(image).decode() if _MLFLOW_IS_IN_SERVING_ENVIRONMENT.get() else image


def _refusal(message: str) -> MlflowException:
    return MlflowException(message, error_code=INVALID_PARAMETER_VALUE)


mlflow.models.set_model(StainerModel())
