"""Where a loop sends what it measures."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Tracker(Protocol):
    """What a training loop needs of an experiment tracker; `delivery.tracking` has MLflow's."""

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Record named numbers at a step."""

    def picture(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        """Record a (Y, X) picture at a step."""
