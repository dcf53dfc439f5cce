"""The registered model: rows of TIFF stacks in, rows of TIFF images out.

MLflow runs this file by its path to make the model (models-from-code).
"""

import logging
import os
import re
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from adipocyte.delivery.serving.painter import Painter, Work
from adipocyte.delivery.serving.parameters import NAMES
from adipocyte.delivery.serving.request import RequestError, Row, parse
from adipocyte.errors import ConfigError
from adipocyte.staining.stainer import Stainer
from adipocyte.system.threads import Threads

MEMORY = "ADIPOCYTE_MEMORY_MB"
REQUEST = "ADIPOCYTE_REQUEST_MB"
REQUEST_MB = 150  # a field of 7 x 2154 x 2554 counts is 103 MB in base64
# The server's time-out in seconds, set in every process of `mlflow models serve`.
_PATIENCE = "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"
_AFTERWARDS_S = 30  # MLflow's own time-out, whose answer is no JSON, comes so much later than ours


class StainerModel(mlflow.pyfunc.PythonModel):
    """A bundle behind MLflow's pyfunc interface."""

    def load_context(self, context: mlflow.pyfunc.PythonModelContext) -> None:
        """Load the bundle; in a process of `mlflow models serve`, take its requests over.

        Raises BundleError when the bundle is incomplete or damaged, ConfigError when the
        environment's ADIPOCYTE_MEMORY_MB or ADIPOCYTE_REQUEST_MB is no number.
        """
        Threads().adapt()
        stainer = Stainer(Path(context.artifacts["bundle"]), memory_mb=_megabytes(MEMORY))
        self.painter = Painter(stainer)
        if patience_s := os.environ.get(_PATIENCE):
            self._take_requests(float(patience_s))
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
        in counts; `magnification`, 20 for 20x. All parameters are optional:

        - `histogram_matching`: true gives each image the distribution of the training wells, false
          leaves it as the networks painted it; by default the bundle says how intensities are set
        - `targets`: which to paint, "A2" or "A1,A3"; by default "", all
        - `tile_px`: paint in tiles of that side; by default 0, whole or in the largest tiles that
          the memory limit allows
        - `tta`: true averages what is painted in eight flips and rotations
        - `measure`: true also measures what is painted
        - `um_per_px`: the side of a pixel in µm; by default 0, as the stack tells, as the model has
          seen it, or as is usual at the magnification
        - `resample`: true also paints fields of objectives that the model has not seen, in pixels
          of the nearest that it has
        - `on_error`: "stop", by default, refuses the request for one bad row; "report" paints the
          others

        Returns a column for each target, the bytes of a one-page uint16 TIFF in counts, and
        `warnings`; with measure=true also `features` and `objects`, texts in JSON (see
        `serving.measuring.measured`); with on_error=report also `error`, "" or why the row was not
        painted, whose images, features and objects are None then.

        Raises MlflowException, status 400, for what the caller can mend, naming the row.
        """
        rows = map(Row, model_input["stack"], model_input["magnification"])
        try:
            answers = list(self.painter.begin(rows, params).answers())
        except RequestError as error:
            raise _refusal(str(error)) from error
        if not answers:
            raise _refusal(
                "the request holds no row: send at least one, with the columns stack and "
                "magnification"
            )
        return pd.DataFrame(answers, dtype=object)

    def _take_requests(self, patience_s: float) -> None:
        """Answer the requests to MLflow's server in this process, under limits."""
        # Only here, because what a server needs is much to load.
        from adipocyte.delivery.serving.handler import Limits, handle_requests

        def begin(body: bytearray) -> Work:
            return self.painter.begin(*parse(body))

        limits = Limits((_megabytes(REQUEST) or REQUEST_MB) * 10**6, patience_s)
        handle_requests(begin, limits)
        os.environ[_PATIENCE] = f"{patience_s + _AFTERWARDS_S:.0f}"


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


def _megabytes(name: str) -> int | None:
    """A limit that the environment sets, None when it sets none.

    Raises ConfigError when it is no number.
    """
    text = os.environ.get(name, "")
    if text and not text.isdecimal():
        raise ConfigError(
            f"{name} must be a whole number of megabytes, got {text!r}",
            "set it to 4000, say, or leave it out",
        )
    return int(text) if text else None


def _refusal(message: str) -> MlflowException:
    return MlflowException(message, error_code=INVALID_PARAMETER_VALUE)


mlflow.models.set_model(StainerModel())
