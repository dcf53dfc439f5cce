"""Where a loop sends what it measures."""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Tracker(Protocol):
    """What a training loop needs of an experiment tracker; `delivery.tracking` has MLflow's."""

    def metrics(self, rows: dict[int, dict[str, float]]) -> None:
        """Record named numbers at each of some steps."""

    def picture(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        """Record a (Y, X) picture at a step."""

    def warning(self, sentence: str) -> None:
        """Tell whoever looks at the run."""

    def state(self, path: Path) -> None:
        """Keep a copy of the state file at *path*, which has just been written."""


class Silent:
    """The tracker of every process but the first."""

    def metrics(self, rows: dict[int, dict[str, float]]) -> None: ...
    def picture(self, name: str, image: NDArray[np.uint8], step: int) -> None: ...
    def warning(self, sentence: str) -> None: ...
    def state(self, path: Path) -> None: ...
