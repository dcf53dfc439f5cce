"""Trainings of a few steps, a tracker that remembers them, and what they leave behind."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from adipocyte.config import GeneratorConfig, SegmenterConfig, build
from adipocyte.networks.files import load_network
from adipocyte.training.loop import NETWORK_FOLDER
from tests.support.bundles import SMALLEST

TINY = {
    "encoder": SMALLEST,
    "patch_px": 32,
    "batch": 2,
    "epochs": 2,
    "epoch_steps": 2,
    "workers": 0,
    "precision": "32",
}
SEGMENTER = build(SegmenterConfig, TINY)
LIPIDS = build(GeneratorConfig, {**TINY, "target": "A2", "discriminator_width": 4})
NUCLEI = replace(LIPIDS, target="A1")
ALL_STAINS = build(
    GeneratorConfig, {**TINY, "encoder": "none", "target": "all", "recipe": "shared"}
)


class Notes:
    """A tracker that remembers."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}
        self.pictures: dict[tuple[str, int], NDArray[np.uint8]] = {}
        self.warnings: list[str] = []
        self.states: list[Path] = []

    def metrics(self, rows: dict[int, dict[str, float]]) -> None:
        for step, row in rows.items():
            self.rows.setdefault(step, {}).update(row)

    def picture(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        self.pictures[name, step] = image

    def warning(self, sentence: str) -> None:
        self.warnings.append(sentence)

    def state(self, path: Path) -> None:
        self.states.append(path)

    def epochs(self) -> list[dict[str, float]]:
        """The rows that end an epoch."""
        return [row for row in self.rows.values() if "epoch" in row]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The state of the best network of the training in *folder*."""
    return load_network(folder / NETWORK_FOLDER)[1].state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two states are equal bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())
