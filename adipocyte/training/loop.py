"""The loop of a training: its epochs and steps, its best network, and its state on disk."""

import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

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
from adipocyte.training.threads import Course
from adipocyte.training.tracker import Tracker

NETWORK_FOLDER = "network"  # the best network's, in the folder of its training


class Loop:
    """Counts the steps of a training and does what is not learning.

    It resumes, saves, stops, tracks and keeps the best network. *parts* are the networks and
    optimizers that training changes, *shown* the network that is validated and kept; *score* rates
    the metrics of a validation, higher is better. A state in *folder* is resumed. *n_steps* make an
    epoch.
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
        self._shown, self._score, self.n_steps = shown, score, n_steps
        self._best = copy.deepcopy(shown)
        self._parts = {**parts, "best": self._best}
        self.progress = load_state(folder, self._parts)
        self._journal = Journal(tracker, self.progress.totals)
        self._interruption = Interruption(fabric)
        self._threads: Course | None = None  # each process of torchrun has what that gave it
        if fabric.device.type == "cpu" and fabric.world_size == 1:
            self._threads = Course(config.threads, self.progress.threads)
        self._pace: dict[str, float] = {}

    @property
    def steps_left(self) -> range:
        """The steps that are left if no epoch stops the training early, counted from 0."""
        return range(self.progress.step, self._config.epochs * self.n_steps)

    def epochs(self) -> Iterator[int]:
        """The epochs that are left, counted from 0.

        They end with the last, or when `patience` of them brought no better network.
        """
        with self._interruption:
            while self.progress.epoch < self._config.epochs:
                if self._config.patience and self.progress.stale_epochs >= self._config.patience:
                    return
                yield self.progress.epoch

    def steps(self, title: str) -> Iterator[int]:
        """The steps that are left of this epoch, counted from 0 over all epochs.

        The caller ends each one with `note`.
        """
        first, last = self.progress.step, (self.progress.epoch + 1) * self.n_steps
        bar = tqdm(
            range(first, last),
            desc=f"{title}, epoch {self.progress.epoch + 1} of {self._config.epochs}",
            unit="step",
            disable=not self._fabric.is_global_zero,
        )
        start = time.monotonic()
        for step in bar:
            # A layer that draws random numbers draws the same ones after a resume.
            torch.manual_seed(self._config.seed + step)
            if self._threads and (number := self._threads.at(step + 1)):
                self._journal.say(step + 1, {"threads": number})
            yield step
        seconds = time.monotonic() - start
        n_patches = (last - first) * self._config.batch
        self._pace = {"seconds": seconds, "patches_per_second": n_patches / max(seconds, 1e-9)}

    def note(self, values: dict[str, Tensor]) -> None:
        """End a step that measured *values*.

        Raises StoppedError when the process was asked to stop; its state is then saved.
        """
        self.progress.step += 1
        self._journal.note(self.progress.step, values)
        stop = self._looks_up and self._interruption.asked
        if stop or self.progress.step % self._config.save_every == 0:
            self._save()
        if stop:
            raise StoppedError(f"stopped at step {self.progress.step}, as asked")

    def end_epoch(self, metrics: dict[str, float], picture: NDArray[np.uint8]) -> dict[str, float]:
        """End an epoch whose validation gave *metrics*, and keep its network if it is the best.

        Returns the means of the epoch's steps and *metrics*. Raises StoppedError as `note` does.
        """
        progress = self.progress
        means, score = self._journal.close_epoch(), self._agreed(self._score(metrics))
        progress.epoch += 1
        if score > progress.best_score:
            progress.best = {**metrics, "best_epoch": progress.epoch}
            progress.best_score, progress.stale_epochs = score, 0
            self._best.load_state_dict(self._shown.state_dict())
        else:
            progress.stale_epochs += 1
        row = {"epoch": progress.epoch, **means, **metrics, **self._pace}
        self._tracker.metrics({progress.step: row})
        self._tracker.picture("preview", picture, progress.step)
        if self._interruption.asked:
            self._save()
            raise StoppedError(f"stopped after epoch {progress.epoch}, as asked")
        return {**means, **metrics}

    def finish(self, spec: UNetSpec) -> dict[str, float]:
        """Write the best network, built by *spec*, into the folder. Returns its metrics."""
        self._save()  # the training can be resumed until the network is stored
        if self._fabric.is_global_zero:
            save_network(self._folder / NETWORK_FOLDER, spec, self._best)
        return self.progress.best

    def _save(self) -> None:
        self._journal.send()  # first, because it refuses NaNs, so that a saved state is good
        if self._fabric.is_global_zero:
            self._tracker.state(save_state(self._folder, self._parts, self.progress))

    @property
    def _looks_up(self) -> bool:
        """Whether this step looks for a request to stop.

        One process looks at every step; several look seldom, because they must ask each other.
        """
        return self._fabric.world_size == 1 or self.progress.step % 10 == 0

    def _agreed(self, score: float) -> float:
        """The mean over all processes, so that all of them stop at the same epoch."""
        if self._fabric.world_size == 1:
            return score
        mine = torch.tensor(score, dtype=torch.float64, device=self._fabric.device)
        # Fabric reduces collections too; a tensor stays a tensor.
        return float(cast(Tensor, self._fabric.all_reduce(mine, reduce_op="mean")))
