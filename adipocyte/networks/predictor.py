"""A network made ready to predict, in the arithmetic and engine that its device is fastest in."""

import importlib.util
import math
import sys
import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.fx.proxy import TraceError

from adipocyte.errors import ConfigError
from adipocyte.networks.memory import PROBE_PX, bytes_per_px, layout_bytes
from adipocyte.networks.quantisation import Ranges, quantise
from adipocyte.networks.unet import DIVISOR
from adipocyte.system.machine import DTYPES, fastest_arithmetic

# From (C, Y, X) in network units to the network's outputs (C, Y, X), both float32; sides are
# multiples of DIVISOR.
Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]

NO_COMPILER = "compiling for a CPU takes OpenVINO, which is not here"
INSTALL_COMPILER = 'pip install "adipocyte[openvino]"'

# Standard deviations of an output pixel's receptive field that a halo covers. With 4, a hundredth
# of a count is left at a cut. Measured: benchmarks/tiles.py.
_SIGMAS = 4.5


@dataclass(frozen=True)
class Predictor:
    """A network made ready, and what it takes; calling it is calling `predict`.

    `in_channels` is the number of channels that it sees. `halo_px` is the halo of its tiles (see
    `halo_of`). `px_bytes` is the memory for each pixel of its input, `layout_bytes` that for any
    input (see `networks.memory`).
    """

    predict: Predict
    in_channels: int
    halo_px: int
    px_bytes: float
    layout_bytes: int

    def __call__(self, source: NDArray[np.float32]) -> NDArray[np.float32]:
        """The outputs (C, Y, X) for a *source* (C, Y, X), as `Predict` describes them."""
        return self.predict(source)


def make_ready(
    network: nn.Module,
    in_channels: int,
    device: torch.device,
    precision: str,
    compiled: bool,
    ranges: Ranges | None = None,
) -> Predictor:
    """Fold *network*, which is used up, and place it on *device* for predicting.

    *precision* is "32", "bf16" or "int8" (see `system.machine.arithmetic`). *compiled* spends
    seconds on each new size of field and is faster at every field: by OpenVINO on a CPU, by
    torch.compile on a GPU. "int8" takes OpenVINO and the *ranges* of the convolutions (see
    `networks.quantisation`). Raises ConfigError when one of these is missing.
    """
    by_openvino = compiled and device.type == "cpu"
    if precision == "int8":
        _require_rounding(by_openvino, ranges)
    network = fold(network)
    dtype = DTYPES.get(precision, torch.bfloat16)
    if by_openvino:
        predict: Predict = _OpenVINO(network, in_channels, precision, ranges or {})
    else:
        network = network.to(  # ty: ignore[no-matching-overload]  its stubs lack memory_format
            device, dtype, memory_format=torch.channels_last
        )
        predict = predict_with(torch.compile(network, dynamic=False) if compiled else network)
    # The probe runs now because it takes the network's weights away for a moment, which no other
    # thread may see.
    with _noting_variances(network) as variances_px2:
        px_bytes = bytes_per_px(network, in_channels, dtype)
    halo_px = halo_of(variances_px2)
    return Predictor(predict, in_channels, halo_px, px_bytes, layout_bytes(network))


def _require_rounding(by_openvino: bool, ranges: Ranges | None) -> None:
    """Raise ConfigError where a network cannot be computed in int8."""
    if not by_openvino:
        raise ConfigError(
            "int8 takes OpenVINO on a CPU", "give -P compile=true, or -P precision=auto"
        )
    if not ranges:
        raise ConfigError(
            "the model does not say what the convolutions of all its networks see, as int8 takes",
            "register it again if it is old, or give -P precision=auto: networks around a nuclei "
            "mask have no int8",
        )


def predict_with(network: nn.Module) -> Predict:
    """Predict with *network*, in evaluation mode, on its device and in the dtype of its weights."""
    weight = next(network.parameters())

    @torch.inference_mode()
    def predict(source: NDArray[np.float32]) -> NDArray[np.float32]:
        fields = torch.from_numpy(source)[None].to(
            weight.device, weight.dtype, memory_format=torch.channels_last
        )
        return network(fields)[0].float().cpu().numpy()

    return predict


def fold(network: nn.Module) -> nn.Module:
    """Set *network* to evaluation mode and merge each batch normalisation into its convolution.

    The network is used up. A network whose path depends on its input cannot be traced and comes
    back unmerged; of ours that is U-Net++.
    """
    network.eval()
    try:
        return fuse(network, inplace=True)
    except (TraceError, TypeError, AttributeError):
        return network


def halo_of(variances_px2: Iterable[float]) -> int:
    """Width in pixels of the border along a cut that a network paints wrong, a multiple of 32.

    The weight of the input around an output pixel falls off like a Gaussian whose variance is the
    sum of those of all convolutions, *variances_px2* in pixels² (Luo et al. 2016, "Understanding
    the effective receptive field in deep convolutional neural networks", section 2). Beyond 4.5 of
    its standard deviations only rounding is left. No halo makes up for what an encoder takes from
    the mean of a whole image (squeeze and excitation).
    """
    return DIVISOR * math.ceil(_SIGMAS * math.sqrt(sum(variances_px2)) / DIVISOR)


@contextmanager
def _noting_variances(network: nn.Module) -> Generator[list[float]]:
    """Note the variance in pixels² of each convolution that runs on PROBE_PX pixels meanwhile.

    It is (k² - 1) / 12 for k taps in a row, times the square of the pixels from one tap to the
    next.
    """
    variances_px2 = []

    def note(convolution: nn.Conv2d, inputs: tuple[Tensor, ...]) -> None:
        apart_px = convolution.dilation[0] * PROBE_PX / inputs[0].shape[-1]
        variances_px2.append(apart_px**2 * (convolution.kernel_size[0] ** 2 - 1) / 12)

    hooks = [
        module.register_forward_pre_hook(note)
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    yield variances_px2
    for hook in hooks:
        hook.remove()


def has_compiler() -> bool:
    """Whether `make_ready` can compile on this machine."""
    if torch.cuda.is_available():
        return True
    return importlib.util.find_spec("openvino") is not None


class _OpenVINO:
    """A network on a CPU by OpenVINO, which lays it out for the processor's matrix units.

    It is compiled for one size of field at a time. It keeps its memory from field to field, because
    allocating it anew took a tenth of the time.
    """

    def __init__(
        self, network: nn.Module, in_channels: int, precision: str, ranges: Ranges
    ) -> None:
        openvino, self._core = _openvino()
        with torch.inference_mode(), warnings.catch_warnings():
            # OpenVINO converts by torch.jit.trace, which PyTorch is about to retire.
            warnings.simplefilter("ignore", FutureWarning)
            example = torch.zeros((1, in_channels, 2 * DIVISOR, 2 * DIVISOR))
            self._model = openvino.convert_model(network, example_input=example)
        beside = precision  # what is not rounded
        if precision == "int8":
            if not quantise(self._model, ranges):
                raise ConfigError(
                    "none of the network's convolutions can be told in OpenVINO's model of it",
                    "give -P precision=auto",
                )
            beside = fastest_arithmetic("cpu")
        self._settings = {
            "INFERENCE_PRECISION_HINT": {"32": "f32", "bf16": "bf16"}[beside],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._compiled: Any = None
        self._shape: tuple[int, ...] = ()

    def __call__(self, source: NDArray[np.float32]) -> NDArray[np.float32]:
        if source.shape != self._shape:
            self._compiled, self._shape = None, ()  # frees the memory of the old size first
            self._model.reshape([1, *source.shape])
            self._compiled = self._core.compile_model(self._model, "CPU", self._settings)
            self._shape = source.shape
        return self._compiled(source[None])[0][0]


@cache
def _openvino() -> tuple[ModuleType, Any]:
    """The package, and the one core that compiles all networks of this process.

    The core is never freed. Each core moves the thread's signal stack to memory of its own, and
    restores the stack of the core before it when it is freed, even if that core is freed already:
    the next signal would end the process.
    """
    # OpenVINO reports every import to its makers through this package. None makes it unavailable;
    # typeshed does not know that.
    sys.modules.setdefault("openvino_telemetry", None)  # ty: ignore[no-matching-overload]
    try:
        import openvino
    except ImportError as error:
        raise ConfigError(
            NO_COMPILER, f"{INSTALL_COMPILER}, or continue with -P compile=false"
        ) from error
    return openvino, openvino.Core()
