"""The served model, saying how long its networks took. MLflow runs this file in place of stainer_model.py."""

import time
from typing import Any

import mlflow
import pandas as pd
from torch import nn

from adipocyte.delivery.stainer_model import StainerModel


class TimedModel(StainerModel):
    """Prints "networks_s <seconds>" for each request."""

    def load_context(self, context: mlflow.pyfunc.PythonModelContext) -> None:
        super().load_context(context)
        for network in self._stainer._networks.values():
            network.register_forward_pre_hook(self._start)
            network.register_forward_hook(self._stop)

    def predict(
        self, context: mlflow.pyfunc.PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        self._networks_s = 0.0
        answer = super().predict(context, model_input, params)
        print(f"networks_s {self._networks_s}", flush=True)
        return answer

    def _start(self, network: nn.Module, inputs: object) -> None:
        self._started = time.perf_counter()

    def _stop(self, network: nn.Module, inputs: object, output: object) -> None:
        self._networks_s += time.perf_counter() - self._started


mlflow.models.set_model(TimedModel())
