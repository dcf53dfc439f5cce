"""How much memory a network takes, predicted before any is allocated."""

import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

PROBE_PX = 512


def bytes_per_px(network: nn.Module, in_channels: int, dtype: torch.dtype = torch.float32) -> float:
    """The most bytes that *network* takes at once in *dtype*, for each pixel of its input.

    Weights are not counted. A probe with shapes alone adds up all tensors that live at the same
    time. While a convolution runs, its input and output count twice, because libraries lay both out
    anew for themselves.
    """
    tally = _Tally()
    on_shapes(network, in_channels, dtype, watched_by=tally)
    return tally.most / PROBE_PX**2


def layout_bytes(network: nn.Module) -> int:
    """Bytes that *network* takes at an input of any size.

    A convolution lays its weights out anew while it runs; convolutions run one after another.
    """
    return max(parameter.nbytes for parameter in network.parameters())


def on_shapes(
    network: nn.Module,
    in_channels: int,
    dtype: torch.dtype = torch.float32,
    watched_by: AbstractContextManager | None = None,
    *,
    n_images: int = 1,
    side_px: int = PROBE_PX,
) -> torch.Size:
    """Run *network* on squares of *side_px* pixels with shapes alone, without computing anything.

    Hooks and *watched_by* see the shapes; that of the output is returned. For the moment of the run
    the network has no weights.
    """
    weights = {
        name: tensor.to("meta", dtype if tensor.is_floating_point() else None)
        for name, tensor in network.state_dict().items()
    }
    probe = torch.empty((n_images, in_channels, side_px, side_px), device="meta", dtype=dtype)
    with torch.inference_mode(), watched_by or nullcontext():
        return torch.func.functional_call(network, weights, (probe,)).shape


class _Tally(TorchFunctionMode):
    """Adds up the bytes of the tensors that are alive (`now`), and keeps the maximum (`most`)."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: Mapping | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        # A function that works in place returns a tensor that is known already.
        if isinstance(result, torch.Tensor) and id(result) not in self._known:
            self._known.add(id(result))
            self.now += result.nbytes
            weakref.finalize(result, self._forget, id(result), result.nbytes)
        laid_out = 0
        if func in (torch.conv2d, torch.nn.functional.conv2d):
            laid_out = args[0].nbytes + result.nbytes
        self.most = max(self.most, self.now + laid_out)
        return result

    def _forget(self, known: int, n_bytes: int) -> None:
        self._known.discard(known)
        self.now -= n_bytes
