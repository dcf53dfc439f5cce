"""Where a loop sends its measurements."""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Tracker(Protocol):
    """The methods that a loop needs of an experiment tracker.

    `delivery.runs.tracker` has MLflow's.
    """

    def metrics(self, rows: dict[int, dict[str, float]]) -> None:
        """Record named numbers at each of some steps."""

    def picture(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        """Record a (Y, X) picture at a step."""

    def warning(self, sentence: str) -> None:
        """Show a sentence to those who look at the run."""

    def state(self, path: Path) -> None:
        """Keep a copy of the state file at *path*, which has just been written."""


class Silent:
    """The tracker of every process but the first: it records nothing."""

    def metrics(self, rows: dict[int, dict[str, float]]) -> None: ...
    def picture(self, name: str, image: NDArray[np.uint8], step: int) -> None: ...
    def warning(self, sentence: str) -> None: ...
    def state(self, path: Path) -> None: ...
