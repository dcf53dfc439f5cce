"""The optimizer Muon in float32, for processors that only imitate bf16."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import timm.optim.muon
import torch
from timm.optim import Muon


class Float32Muon(Muon):
    """Muon that makes its directions orthogonal in float32.

    timm's does so in bf16, whatever the weights are, and has no setting for it. Without
    instructions for bf16 that takes most of a step (docs/measurements/training.md).
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """As of any optimizer."""
        with _in_float32():
            return super().step(closure)


# By the arithmetic of the training, as `arithmetic` says it.
MUON = {"32": Float32Muon, "bf16": Muon}


@contextmanager
def _in_float32() -> Generator[None]:
    """Newton and Schulz's iteration, as timm's Muon calls it, in float32."""
    names, iteration = vars(timm.optim.muon), "zeropower_via_newtonschulz"
    usual = names[iteration]
    names[iteration] = partial(usual, dtype=torch.float32)
    try:
        yield
    finally:
        names[iteration] = usual
