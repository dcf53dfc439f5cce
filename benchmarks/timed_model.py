"""The served model, printing how long its networks took; MLflow runs it instead of model.py."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import mlflow
import numpy as np
from numpy.typing import NDArray

from adipocyte.delivery.serving.model import StainerModel
from adipocyte.delivery.serving.painter import Painted, Painter, Work
from adipocyte.delivery.serving.request import Row
from adipocyte.networks.predictor import Predict
from adipocyte.staining.stainer import Stainer


class TimedModel(StainerModel):
    """Prints "networks_s <seconds>" for each row: from a field in network units to outputs."""

    def load_context(self, context: mlflow.pyfunc.PythonModelContext) -> None:
        super().load_context(context)
        self.painter = TimedPainter(self.painter.stainer)


class TimedPainter(Painter):
    """A painter that prints."""

    def __init__(self, stainer: Stainer) -> None:
        super().__init__(stainer)
        self._networks_s = 0.0
        for name, predictor in stainer.predictors.items():
            stainer.predictors[name] = replace(predictor, predict=self._watched(predictor.predict))

    def begin(self, rows: Iterable[Row], params: Mapping[str, Any] | None) -> Work:
        work = super().begin(rows, params)
        return replace(work, rows=self._timed(work.rows))

    def _timed(self, rows: Iterator[Painted]) -> Iterator[Painted]:
        for row in rows:
            print(f"networks_s {self._networks_s}", flush=True)
            self._networks_s = 0.0
            yield row

    def _watched(self, run: Predict) -> Predict:
        def watched(source: NDArray[np.float32]) -> NDArray[np.float32]:
            start = time.perf_counter()
            painted = run(source)
            self._networks_s += time.perf_counter() - start
            return painted

        return watched


mlflow.models.set_model(TimedModel())
