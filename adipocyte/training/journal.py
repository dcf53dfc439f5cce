"""What each step measured: kept on the device, read, checked and sent on in batches, since reading waits for a GPU."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from adipocyte.errors import DivergedError
from adipocyte.training.tracker import Tracker

SEND_EVERY = 50  # steps


class Journal:
    """Sends the metrics of every step to *tracker* as "step_<name>" and sums them up to the epoch's means, "train_<name>".

    *totals* holds (sum, count) by name of the epoch so far, and is part of a training's state.
    """

    def __init__(self, tracker: Tracker, totals: dict[str, list[float]]) -> None:
        self._tracker, self.totals = tracker, totals
        self._pending: list[tuple[int, Iterable[str], Tensor]] = []

    def note(self, step: int, values: dict[str, Tensor]) -> None:
        """Remember scalars of *step*, counted from 1. Raises as `send` does."""
        self._pending.append(
            (
                step,
                values.keys(),
                torch.stack([value.detach().float() for value in values.values()]),
            )
        )
        if len(self._pending) == SEND_EVERY:
            self.send()

    def send(self) -> None:
        """Send what is pending. Raises DivergedError at the first step with a number that is none."""
        numbers = iter(
            torch.cat([values for _, _, values in self._pending]).tolist() if self._pending else []
        )
        rows = {
            step: {f"step_{name}": next(numbers) for name in names}
            for step, names, _ in self._pending
        }
        self._pending = []
        bad = next(
            (step for step, row in rows.items() if not all(map(math.isfinite, row.values()))), None
        )
        good = {step: row for step, row in rows.items() if bad is None or step < bad}
        for row in good.values():
            for name, value in row.items():
                total = self.totals.setdefault(f"train_{name.removeprefix('step_')}", [0.0, 0])
                total[0] += value
                total[1] += 1
        if good:
            self._tracker.metrics(good)
        if bad is not None:
            wrong = ", ".join(
                name.removeprefix("step_")
                for name, value in rows[bad].items()
                if not math.isfinite(value)
            )
            raise DivergedError(
                f"the training diverged: at step {bad} these were no longer numbers: {wrong}. "
                "Train anew with a smaller step, -P learning_rate=<half>, or with -P clip_norm=1"
            )

    def close_epoch(self) -> dict[str, float]:
        """The means of the epoch, which ends here."""
        self.send()
        means = {name: total / count for name, (total, count) in self.totals.items()}
        self.totals.clear()
        return means
