"""How much memory a network will take, told before it is taken."""

import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_PROBE_PX = 512


def bytes_per_px(network: nn.Module, in_channels: int, dtype: torch.dtype = torch.float32) -> float:
    """Bytes that *network* needs at its fullest, in *dtype*, for each pixel of its input, without weights; a probe of shapes alone.

    All that lives at the same time counts, and beside it, while a convolution runs, its input and output once more: libraries lay both
    out anew for themselves.
    """
    tally = _Tally()
    on_shapes(network, in_channels, _PROBE_PX, dtype, watched_by=tally)
    return tally.most / _PROBE_PX**2


def on_shapes(
    network: nn.Module,
    in_channels: int,
    side_px: int,
    dtype: torch.dtype = torch.float32,
    watched_by: AbstractContextManager | None = None,
) -> None:
    """Run *network* on a square of *side_px* with shapes alone, for hooks and *watched_by* to see: nothing is computed."""
    weights = {
        name: tensor.to("meta", dtype if tensor.is_floating_point() else None)
        for name, tensor in network.state_dict().items()
    }
    probe = torch.empty((1, in_channels, side_px, side_px), device="meta", dtype=dtype)
    with torch.inference_mode(), watched_by or nullcontext():
        torch.func.functional_call(network, weights, (probe,))


def layout_bytes(network: nn.Module) -> int:
    """Bytes that *network* needs whatever its input's size: a convolution lays its weights out anew while it runs, one after another."""
    return max(parameter.nbytes for parameter in network.parameters())


class _Tally(TorchFunctionMode):
    """Adds up the tensors that are alive (`now`), and keeps the most that ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: Mapping | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if (
            isinstance(result, torch.Tensor) and id(result) not in self._known
        ):  # what works in place returns what it was given
            self._known.add(id(result))
            self.now += result.nbytes
            weakref.finalize(result, self._forget, id(result), result.nbytes)
        is_convolution = function in (torch.conv2d, torch.nn.functional.conv2d)
        self.most = max(
            self.most, self.now + (args[0].nbytes + result.nbytes if is_convolution else 0)
        )
        return result

    def _forget(self, known: int, n_bytes: int) -> None:
        self._known.discard(known)
        self.now -= n_bytes
