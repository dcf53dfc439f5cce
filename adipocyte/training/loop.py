"""The loop of a training: its epochs and steps, its best network, and its state on disk."""

import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from adipocyte.config import GeneratorConfig, SegmenterConfig
from adipocyte.errors import StoppedError
from adipocyte.networks.files import save_network
from adipocyte.networks.unet import UNetSpec
from adipocyte.training.interruption import Interruption
from adipocyte.training.journal import Journal
from adipocyte.training.state import Parts, load_state, save_state
from adipocyte.training.tracker import Tracker

NETWORK_FOLDER = "network"  # the folder in a training's folder that the best network goes to


class Loop:
    """Leads a loop through its steps and does what is not learning: resume, save, stop, track, keep the best.

    *parts* are the networks and optimizers that training changes, *shown* the network that is validated and kept, *score* what tells
    a better one: higher is better. A state in *folder* is taken up where it was left. *n_steps* make an epoch.
    """

    def __init__(
        self,
        fabric: Fabric,
        config: SegmenterConfig | GeneratorConfig,
        folder: Path,
        tracker: Tracker,
        *,
        parts: Parts,
        shown: nn.Module,
        score: Callable[[dict[str, float]], float],
        n_steps: int,
    ) -> None:
        self._fabric, self._config, self._folder, self._tracker = fabric, config, folder, tracker
        self._shown, self._score, self._n_steps = shown, score, n_steps
        self._best = copy.deepcopy(shown)
        self._parts = {**parts, "best": self._best}
        self.progress = load_state(folder, self._parts)
        self._journal = Journal(tracker, self.progress.totals)
        self._interruption = Interruption(fabric)

    @property
    def steps_left(self) -> range:
        """Every step that is still to be made, if no early stop comes before, counted from 0."""
        return range(self.progress.step, self._config.epochs * self._n_steps)

    def epochs(self) -> Iterator[int]:
        """The epochs that are left, counted from 0: to the last, or until `patience` of them brought no better network."""
        with self._interruption:
            while self.progress.epoch < self._config.epochs:
                if self._config.patience and self.progress.stale_epochs >= self._config.patience:
                    return
                yield self.progress.epoch

    def steps(self, title: str) -> Iterator[int]:
        """The steps that are left of this epoch, counted from 0 over all epochs. After each one the loop calls `note`."""
        last, first = (self.progress.epoch + 1) * self._n_steps, self.progress.step
        description = f"{title}, epoch {self.progress.epoch + 1} of {self._config.epochs}"
        start = time.monotonic()
        for step in tqdm(
            range(first, last),
            desc=description,
            unit="step",
            disable=not self._fabric.is_global_zero,
        ):
            torch.manual_seed(
                self._config.seed + step
            )  # whatever a layer draws, it draws again after a resume
            yield step
        self._seconds, self._n_patches = (
            time.monotonic() - start,
            (last - first) * self._config.batch,
        )

    def note(self, values: dict[str, Tensor]) -> None:
        """End a step that measured *values*. Raises StoppedError when the process was asked to stop, with its state saved."""
        self.progress.step += 1
        self._journal.note(self.progress.step, values)
        stop = self._looks_up and self._interruption.asked
        if stop or self.progress.step % self._config.save_every == 0:
            self._save()
        if stop:
            raise StoppedError(f"stopped at step {self.progress.step}, as asked")

    def end_epoch(self, metrics: dict[str, float], picture: NDArray[np.uint8]) -> dict[str, float]:
        """Judge the epoch by what validation found. Returns all that is known of it: its steps' means and *metrics*."""
        progress = self.progress
        means, score = self._journal.close_epoch(), self._agreed(self._score(metrics))
        progress.epoch += 1
        if score > progress.best_score:
            progress.best, progress.best_score, progress.stale_epochs = (
                {**metrics, "best_epoch": progress.epoch},
                score,
                0,
            )
            self._best.load_state_dict(self._shown.state_dict())
        else:
            progress.stale_epochs += 1
        pace = {
            "seconds": self._seconds,
            "patches_per_second": self._n_patches / max(self._seconds, 1e-9),
        }
        self._tracker.metrics(
            {progress.step: {"epoch": progress.epoch, **means, **metrics, **pace}}
        )
        self._tracker.picture("preview", picture, progress.step)
        if self._interruption.asked:
            self._save()
            raise StoppedError(f"stopped after epoch {progress.epoch}, as asked")
        return {**means, **metrics}

    def finish(self, spec: UNetSpec) -> dict[str, float]:
        """Write the best network, which is built by *spec*, into the folder. Returns its metrics."""
        self._save()  # until the network is in safe keeping
        if self._fabric.is_global_zero:
            save_network(self._folder / NETWORK_FOLDER, spec, self._best)
        return self.progress.best

    def _save(self) -> None:
        self._journal.send()  # first, for it refuses numbers that are none: what is saved is good
        if self._fabric.is_global_zero:
            self._tracker.state(save_state(self._folder, self._parts, self.progress))

    @property
    def _looks_up(self) -> bool:
        """Whether it is time to see if anyone asked to stop: always, but of several processes seldom, since they must ask each other."""
        return self._fabric.world_size == 1 or self.progress.step % 10 == 0

    def _agreed(self, score: float) -> float:
        """The same number in every process, so that all stop at the same epoch."""
        if self._fabric.world_size == 1:
            return score
        return float(
            self._fabric.all_reduce(
                torch.tensor(score, dtype=torch.float64, device=self._fabric.device),
                reduce_op="mean",
            )
        )
