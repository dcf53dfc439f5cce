"""The measurements of each step, kept on the device and read in batches.

Reading a number waits for the GPU. A number that is not finite is found when it is read, and
reported with its step.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from adipocyte.errors import DivergedError
from adipocyte.training.tracker import Tracker

SEND_EVERY = 50  # steps


class Journal:
    """Sends the metrics of each step to *tracker* as "step_<name>", and sums them over the epoch.

    The epoch's means are "train_<name>". *totals* holds (sum, count) by name of the epoch so far,
    and is part of a training's state.
    """

    def __init__(self, tracker: Tracker, totals: dict[str, list[float]]) -> None:
        self._tracker, self.totals = tracker, totals
        self._pending: list[tuple[int, Iterable[str], Tensor]] = []
        self._said: dict[int, dict[str, float]] = {}

    def say(self, step: int, values: dict[str, float]) -> None:
        """Remember numbers of *step*, counted from 1, that are known before it and have no mean."""
        self._said[step] = values

    def note(self, step: int, values: dict[str, Tensor]) -> None:
        """Remember scalars of *step*, counted from 1. Raises as `send` does."""
        numbers = torch.stack([value.detach().float() for value in values.values()])
        self._pending.append((step, values.keys(), numbers))
        if len(self._pending) == SEND_EVERY:
            self.send()

    def send(self) -> None:
        """Send the pending steps. Raises DivergedError at the first number that is not finite."""
        rows = self._read()
        bad = next((step for step, row in rows.items() if _not_finite(row)), None)
        good = {step: row for step, row in rows.items() if bad is None or step < bad}
        for row in good.values():
            for name, value in row.items():
                total = self.totals.setdefault(f"train_{name}", [0.0, 0])
                total[0] += value
                total[1] += 1
        if good:
            self._tracker.metrics(
                {
                    step: {f"step_{name}": value for name, value in row.items()}
                    | self._said.pop(step, {})
                    for step, row in good.items()
                }
            )
        if bad is not None:
            raise DivergedError(
                f"the training diverged at step {bad}, where {', '.join(_not_finite(rows[bad]))} "
                "had no finite value",
                "train anew with a smaller step, -P learning_rate=<half>, or with -P clip_norm=1",
            )

    def close_epoch(self) -> dict[str, float]:
        """The means of the epoch, which ends here."""
        self.send()
        means = {name: total / count for name, (total, count) in self.totals.items()}
        self.totals.clear()
        return means

    def _read(self) -> dict[int, dict[str, float]]:
        """The pending numbers by step and name, all read at once; nothing is pending then."""
        pending, self._pending = self._pending, []
        if not pending:
            return {}
        numbers = iter(torch.cat([values for _, _, values in pending]).tolist())
        return {step: {name: next(numbers) for name in names} for step, names, _ in pending}


def _not_finite(row: dict[str, float]) -> list[str]:
    """The names of the numbers that are NaN or infinite."""
    return [name for name, value in row.items() if not math.isfinite(value)]
