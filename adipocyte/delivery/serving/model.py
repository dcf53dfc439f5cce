"""The registered model: rows of TIFF stacks in, rows of TIFF images out. MLflow runs this file to make the model (models-from-code)."""

import base64
import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.environment_variables import _MLFLOW_IS_IN_SERVING_ENVIRONMENT
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE

from adipocyte.delivery.serving.parameters import NAMES, painting, reports_errors, way
from adipocyte.domain import SMALLEST_PX
from adipocyte.errors import ConfigError, ImageError, MemoryLimitError
from adipocyte.plate.tiff import decode_stack, encode_image, stack_shape
from adipocyte.staining.stainer import Stainer
from adipocyte.system.machine import pin_threads

MEMORY = "ADIPOCYTE_MEMORY_MB"
_PATIENCE = "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"  # seconds; set in every process of `mlflow models serve`


class StainerModel(mlflow.pyfunc.PythonModel):
    """A bundle behind MLflow's pyfunc interface."""

    def load_context(self, context: mlflow.pyfunc.PythonModelContext) -> None:
        """Raises BundleError when the bundle is not whole, ConfigError when the environment's ADIPOCYTE_MEMORY_MB is no number."""
        pin_threads()
        if _PATIENCE in os.environ:
            pd.options.mode.string_storage = (
                "python"  # else pandas copies the base64 of each stack into Arrow's memory and back
            )
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
        """One row is one field of any size.

        model_input: `stack`, the bytes of a TIFF with a grey uint8 or uint16 page for each z-plane, in counts; `magnification`, 20, 40 or
        60. Parameters, none of which must be given:

        - `histogram_matching`: true gives each image the distribution of the training wells, false leaves it as the networks painted it;
          by default intensities are set in the way that the bundle keeps
        - `targets`: which to paint, "A2" or "A1,A3"; by default "", all
        - `tile_px`: paint in tiles of that side; by default 0, whole or in the largest tiles that the memory limit allows
        - `tta`: true averages what is painted in eight flips and rotations
        - `on_error`: "stop", by default, refuses the request for one bad row; "report" paints the others

        Returns a column for each target, the bytes of a one-page uint16 TIFF in counts (under MLflow's server in base64), and `warnings`;
        with on_error=report also `error`, "" or why the row was not painted, whose images are None then.

        Raises MlflowException: status 400 for what the caller can mend, naming the row, and 503 when a row's turn did not come while the
        server was waiting for the answer.
        """
        if model_input.empty:
            raise _refusal(
                "the request holds no row: send at least one, with the columns stack and magnification"
            )
        until = time.monotonic() + float(os.environ.get(_PATIENCE, "inf"))
        try:
            reports, wishes = reports_errors(params), painting(params)
            self._stainer.check_memory(
                (SMALLEST_PX, SMALLEST_PX), **wishes
            )  # objects to what no row can have, before any is looked at
            rows = []
            for number, (stack, magnification) in enumerate(
                zip(model_input["stack"], model_input["magnification"], strict=True)
            ):
                try:
                    with self._in_turn(until):
                        rows.append(self._paint(stack, int(magnification), way(params), wishes))
                except ImageError as error:
                    if not reports:
                        raise _refusal(f"row {number}: {error}") from error
                    rows.append({"error": str(error)})
        except (ConfigError, MemoryLimitError) as error:
            raise _refusal(str(error)) from error
        return self._answer(rows, wishes["targets"] or self._stainer.manifest.targets, reports)

    def _paint(
        self, stack: bytes, magnification: int, intensities: str | None, wishes: dict[str, Any]
    ) -> dict[str, Any]:
        """One row's images and warnings."""
        if not isinstance(stack, bytes | bytearray | memoryview):
            raise ImageError(
                f"the stack is {type(stack).__name__}, not bytes: send it in base64, in dataframe_records or dataframe_split"
            )
        data, n_planes = bytes(stack), self._stainer.manifest.n_z_planes
        self._stainer.check_memory(
            stack_shape(data, n_planes), **wishes
        )  # before a pixel is decoded
        stained = self._stainer.stain(
            decode_stack(data, n_planes), magnification, intensities=intensities, **wishes
        )
        return {
            target: _packed(encode_image(image)) for target, image in stained.images.items()
        } | {"warnings": "; ".join(stained.warnings)}

    def _answer(
        self, rows: list[dict[str, Any]], targets: Sequence[str], reports: bool
    ) -> pd.DataFrame:
        """The *rows* with every column that was promised: None, "" and "" where one has nothing to say, for NaN is no JSON."""
        empty = dict.fromkeys(targets) | {"warnings": ""} | ({"error": ""} if reports else {})
        return pd.DataFrame([empty | row for row in rows], columns=list(empty), dtype=object)

    @contextmanager
    def _in_turn(self, until: float) -> Iterator[None]:
        """One field at a time: the memory limit is one field's, and the networks keep all cores busy as it is.

        The server cannot stop a request that it has given up (504), so what has waited as long is not painted for nobody.
        """
        if not self._turn.acquire(
            timeout=min(max(0.0, until - time.monotonic()), threading.TIMEOUT_MAX)
        ):
            raise MlflowException(
                "the row's turn did not come within the server's time-out: send fewer at once, or start the server with a longer --timeout",
                error_code=TEMPORARILY_UNAVAILABLE,
            )
        try:
            yield
        finally:
            self._turn.release()


def refuse_unknown_parameters(record: logging.LogRecord) -> bool:
    """Turn MLflow's warning about a parameter that it is going to ignore into a refusal.

    MLflow drops what the signature does not name before the model sees it, and offers no other place to object; a misspelt
    parameter would quietly paint another picture. Only requests to models with this one's parameters are looked at.
    """
    unknown, _, rest = record.getMessage().partition(
        " are ignored for inference. Supported params are: "
    )
    if unknown.startswith("Unrecognized params ") and set(re.findall(r"'(\w+)'", rest)) == set(
        NAMES
    ):
        names = unknown.removeprefix("Unrecognized params ")
        raise _refusal(
            f"there is no parameter {names}: there are {', '.join(NAMES)}; mind the spelling"
        )
    return True


def _memory_mb() -> int | None:
    """The limit that the environment sets, None when it sets none. Raises ConfigError when it is no number."""
    text = os.environ.get(MEMORY, "")
    if text and not text.isdecimal():
        raise ConfigError(
            f"{MEMORY} must be a whole number of megabytes, got {text!r}: set it to 4000, say, or leave it away"
        )
    return int(text) if text else None


def _packed(image: bytes) -> bytes | str:
    """An *image* for the answer: bytes to Python, base64 to MLflow's server, which would take seven times as long to write it."""
    return base64.b64encode(image).decode() if _MLFLOW_IS_IN_SERVING_ENVIRONMENT.get() else image


def _refusal(message: str) -> MlflowException:
    return MlflowException(message, error_code=INVALID_PARAMETER_VALUE)


mlflow.models.set_model(StainerModel())
