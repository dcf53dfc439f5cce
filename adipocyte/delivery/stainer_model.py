"""The registered model: rows of TIFF stacks in, rows of TIFF images out. MLflow runs this file to make the model (models-from-code)."""

import logging
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from adipocyte.errors import ImageError
from adipocyte.plate.tiff import decode_stack, encode_image
from adipocyte.staining.stainer import Stainer

PARAMETER = "histogram_matching"
_WAYS = {None: None, True: "matching", False: "none"}  # of the parameter's values; None: the way that the bundle keeps


class StainerModel(mlflow.pyfunc.PythonModel):
    """A bundle behind MLflow's pyfunc interface."""

    def load_context(self, context: mlflow.pyfunc.PythonModelContext) -> None:
        self._stainer = Stainer(Path(context.artifacts["bundle"]))
        logging.getLogger("mlflow.models.utils").addFilter(refuse_unknown_parameters)

    def predict(
        self, context: mlflow.pyfunc.PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """One row is one field of any size.

        model_input: `stack`, the bytes of a TIFF with a grey uint16 page for each z-plane, in counts; `magnification`, 20, 40 or
        60. Parameter `histogram_matching`: true gives each image the distribution of the training wells, false leaves it as the
        networks painted it; without the parameter intensities are set in the way that the bundle keeps. Returns a column for each
        target, the bytes of a one-page uint16 TIFF in counts, and `warnings`.

        Raises MlflowException (status 400) naming the row that cannot be painted.
        """
        if model_input.empty:
            raise _refusal("the request holds no row: send at least one, with the columns stack and magnification")
        way = _WAYS[(params or {}).get(PARAMETER)]
        rows = []
        for number, (data, magnification) in enumerate(zip(model_input["stack"], model_input["magnification"], strict=True)):
            try:
                planes = decode_stack(bytes(data), self._stainer.manifest.n_z_planes)
                stained = self._stainer.stain(planes, int(magnification), intensities=way)
            except ImageError as error:
                raise _refusal(f"row {number}: {error}") from error
            images = {target: encode_image(image) for target, image in stained.images.items()}
            rows.append({**images, "warnings": "; ".join(stained.warnings)})
        return pd.DataFrame(rows)


def refuse_unknown_parameters(record: logging.LogRecord) -> bool:
    """Turn MLflow's warning about a parameter that it is going to ignore into a refusal.

    MLflow drops what the signature does not name before the model sees it, and offers no other place to object; a misspelt
    parameter would quietly paint another picture. Only requests to models with this one's parameters are looked at.
    """
    message = record.getMessage()
    if message.startswith("Unrecognized params") and f"Supported params are: {{{PARAMETER!r}}}" in message:
        unknown = message.removeprefix("Unrecognized params ").partition(" are ignored")[0]
        raise _refusal(f"there is no parameter {unknown}: the only one is {PARAMETER!r}; mind the spelling")
    return True


def _refusal(message: str) -> MlflowException:
    return MlflowException(message, error_code=INVALID_PARAMETER_VALUE)


mlflow.models.set_model(StainerModel())
