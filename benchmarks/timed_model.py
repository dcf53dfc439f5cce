"""The served model, printing how long its networks took; MLflow runs it instead of model.py."""

import time
from dataclasses import replace
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from adipocyte.delivery.serving.model import StainerModel
from adipocyte.networks.predictor import Predict


class TimedModel(StainerModel):
    """Prints "networks_s <seconds>" for each request: from a field in network units to outputs."""

    def load_context(self, context: mlflow.pyfunc.PythonModelContext) -> None:
        super().load_context(context)
        predictors = self._stainer.predictors
        for name, predictor in predictors.items():
            predictors[name] = replace(predictor, predict=self._watched(predictor.predict))

    def predict(
        self,
        context: mlflow.pyfunc.PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        self._networks_s = 0.0
        answer = super().predict(context, model_input, params)
        print(f"networks_s {self._networks_s}", flush=True)
        return answer

    def _watched(self, run: Predict) -> Predict:
        def watched(source: NDArray[np.float32]) -> NDArray[np.float32]:
            start = time.perf_counter()
            painted = run(source)
            self._networks_s += time.perf_counter() - start
            return painted

        return watched


mlflow.models.set_model(TimedModel())
