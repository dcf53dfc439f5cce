"""Convolutions in integers of eight bits, which OpenVINO computes faster than bf16.

What a convolution sees is rounded to 256 values over the range that it has on training patches, the
kernel of each output channel to 255 values around zero (Jacob et al. 2018, "Quantization and
training of neural networks for efficient integer-arithmetic-only inference", sections 2.1 and 3).
On processors that add products in 16 bits kernels have 127 values, so that no sum runs over
(OpenVINO's documentation, "Saturation (overflow) issue workaround").
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adipocyte.system.machine import is_x86_without

Ranges = dict[str, tuple[float, float]]  # of what a convolution sees, by the name of its module

_PERCENT = 99.99  # of a patch's values lie within its range; the few beyond would make steps coarse


@torch.inference_mode()
def measure_ranges(network: nn.Module, sources: Iterable[NDArray[np.float32]]) -> Ranges:
    """The range of what each convolution of *network* sees in any of *sources*.

    *network* is in evaluation mode; *sources* are (C, Y, X) in network units, with sides that are
    multiples of 32 pixels.
    """
    ranges: Ranges = {}

    def note(name: str, inputs: tuple[Tensor, ...]) -> None:
        seen = np.percentile(inputs[0].numpy(), [100 - _PERCENT, _PERCENT])
        low, high = ranges.get(name, (0.0, 0.0))  # padding is zero
        ranges[name] = min(low, float(seen[0])), max(high, float(seen[1]))

    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: note(name, inputs))
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    for source in sources:
        network(torch.from_numpy(source)[None])
    for hook in hooks:
        hook.remove()
    return ranges


def quantise(model: Any, ranges: Ranges) -> int:
    """Round, in an OpenVINO *model* of a network, what its convolutions see, and their kernels.

    Convolutions without a range stay as they are. Returns how many were rounded.
    """
    n_rounded, in_16_bits = 0, adds_in_16_bits()
    for operation in model.get_ordered_ops():
        # "__module.encoder.conv1/aten::_convolution/Convolution"
        name = operation.get_friendly_name().removeprefix("__module.").split("/")[0]
        if operation.get_type_name() != "Convolution" or name not in ranges:
            continue
        low, high = with_zero(*ranges[name])
        kernels = operation.input_value(1)
        largest = np.abs(kernels.get_node().data).max(axis=(1, 2, 3), keepdims=True)
        largest = np.maximum(largest, np.finfo(np.float32).tiny)
        # In a range twice as wide the largest is the 63rd of 127 values to either side.
        reach = largest * (127 / 63 if in_16_bits else 1)
        rounded = [
            _rounded(operation.input_value(0), np.array(low), np.array(high), 256),
            _rounded(kernels, -reach, reach, 255),
        ]
        for i, output in enumerate(rounded):
            operation.input(i).replace_source_output(output)
        n_rounded += 1
    model.validate_nodes_and_infer_types()
    return n_rounded


def adds_in_16_bits() -> bool:
    """Whether this processor adds two products of 8-bit integers in 16 bits, which may run over.

    Those of x86 without VNNI or AMX do.
    """
    return is_x86_without("avx512_vnni", "avx_vnni", "amx_int8")


def with_zero(low: float, high: float) -> tuple[float, float]:
    """The range, moved by less than a step, so that zero is one of its 256 values.

    Padding is zero, and so is all that a ReLU cuts off.
    """
    step = (high - low) / 255 or 1.0
    n_below = round(-low / step)
    return -n_below * step, (255 - n_below) * step


def _rounded(value: Any, low: NDArray, high: NDArray, n_values: int) -> Any:
    from openvino import opset13  # an extra

    ends = [opset13.constant(end.astype(np.float32)) for end in (low, high)]
    return opset13.fake_quantize(value, *ends, *ends, n_values).output(0)
