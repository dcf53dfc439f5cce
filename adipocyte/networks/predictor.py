"""A network made ready to predict, and for nothing else: in the arithmetic, layout and engine that its device is fastest in."""

import importlib.util
import sys
import warnings
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.fx.experimental.optimization import fuse
from torch.fx.proxy import TraceError

from adipocyte.errors import ConfigError
from adipocyte.networks.unet import DIVISOR
from adipocyte.system.machine import DTYPES

# From (C, Y, X) in network units, sides multiples of DIVISOR, to the network's output (Y, X), float32 both.
Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]

NO_COMPILER = (
    'compiling for a CPU takes OpenVINO, which is not here: pip install "adipocyte[openvino]"'
)


def make_ready(
    network: nn.Module, in_channels: int, device: torch.device, precision: str, compiled: bool
) -> tuple[nn.Module, Predict]:
    """*network*, which is used up, folded and placed; and what predicts with it.

    *precision* is "32" or "bf16" (see `arithmetic`). *compiled* spends seconds now and again for each size of field, to be faster
    at every field: OpenVINO on a CPU, torch.compile on a GPU. Raises ConfigError when OpenVINO is not installed.
    """
    network = fold(network)
    if compiled and device.type == "cpu":
        return network, _OpenVINO(network, in_channels, precision)
    network = network.to(device, DTYPES[precision], memory_format=torch.channels_last)
    return network, predictor(torch.compile(network, dynamic=False) if compiled else network)


def predictor(network: nn.Module) -> Predict:
    """What predicts with *network*, in evaluation mode, where it lies and in the arithmetic of its weights."""
    weight = next(network.parameters())

    @torch.inference_mode()
    def predict(source: NDArray[np.float32]) -> NDArray[np.float32]:
        fields = torch.from_numpy(source)[None].to(
            weight.device, weight.dtype, memory_format=torch.channels_last
        )
        return network(fields)[0, 0].float().cpu().numpy()

    return predict


def fold(network: nn.Module) -> nn.Module:
    """*network* in evaluation mode, each batch normalisation that follows a convolution worked into its weights.

    The network is used up. One whose path depends on what it sees (of ours: U-Net++) cannot be followed and comes back as it was.
    """
    network.eval()
    try:
        return fuse(network, inplace=True)
    except (TraceError, TypeError, AttributeError):
        return network


def has_compiler() -> bool:
    """Whether `make_ready` can compile on this machine."""
    if torch.cuda.is_available():
        return True
    return importlib.util.find_spec("openvino") is not None


class _OpenVINO:
    """A network on a CPU by OpenVINO, which lays whole networks out for the processor's matrix units; compiled for one size at a time.

    It keeps its memory from field to field: to ask for it anew took a tenth of the time.
    """

    def __init__(self, network: nn.Module, in_channels: int, precision: str) -> None:
        openvino, self._core = _openvino()
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", FutureWarning
            )  # torch.jit.trace is on its way out, and OpenVINO's way in
            example = torch.zeros((1, in_channels, 2 * DIVISOR, 2 * DIVISOR))
            self._model = openvino.convert_model(network, example_input=example)
        self._settings = {
            "INFERENCE_PRECISION_HINT": {"32": "f32", "bf16": "bf16"}[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._shape: tuple[int, ...] = ()

    def __call__(self, source: NDArray[np.float32]) -> NDArray[np.float32]:
        if source.shape != self._shape:
            self._compiled, self._shape = None, ()  # the one before gives its memory back first
            self._model.reshape([1, *source.shape])
            self._compiled, self._shape = (
                self._core.compile_model(self._model, "CPU", self._settings),
                source.shape,
            )
        return self._compiled(source[None])[0][0, 0]


@cache
def _openvino() -> tuple[ModuleType, Any]:
    """The package, and the one core that all networks of this process are compiled by.

    One, and never given back: each core moves the thread's stack for signals to memory of its own, and puts the one before in its place
    when it goes, even where the core of that one is gone already; the next signal would end the process.
    """
    sys.modules.setdefault(
        "openvino_telemetry", None
    )  # it would tell OpenVINO's makers of every import, unasked; this is "not there"
    try:
        import openvino
    except ImportError as error:
        raise ConfigError(f"{NO_COMPILER}, or go on with -P compile=false") from error
    return openvino, openvino.Core()
