"""A network on a field of any size: in one piece, or in tiles that overlap and leave no seam."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from adipocyte.errors import ConfigError
from adipocyte.imaging.padding import pad_to_multiple
from adipocyte.networks.memory import on_shapes
from adipocyte.networks.predictor import Predict, predictor
from adipocyte.networks.unet import DIVISOR

_SIGMAS = 4.5  # of what a pixel of the output is made of; with 4, a hundredth of a count is left. Measured: benchmarks/tiles.py
_BLEND_PX = 64
_LEAST_KEPT_PX = 192  # of a tile's side, beside its rims: with less, tiles are hardly anything else
_PROBE_PX = 512

Window = tuple[slice, slice]


@dataclass(frozen=True)
class Tiling:
    """Square tiles of `side_px`, all that a network sees at once; what lies within `halo_px` of a cut is thrown away.

    Neighbours overlap by twice the halo and a ramp of 64 pixels, over which one fades into the other. Both are multiples of 32 pixels, so
    that tiles lie on the grid of the network's halvings. Raises ConfigError when they are not, or nothing would be left of a tile.
    """

    side_px: int
    halo_px: int

    def __post_init__(self) -> None:
        if self.side_px % DIVISOR or self.halo_px % DIVISOR or self.step_px < DIVISOR:
            least = 2 * self.halo_px + _BLEND_PX + DIVISOR
            raise ConfigError(
                f"tiles of {self.side_px} pixels with a halo of {self.halo_px} cannot be laid: both must be multiples of {DIVISOR}, "
                f"the side at least {least}"
            )

    @property
    def step_px(self) -> int:
        """From one tile to the next."""
        return self.side_px - 2 * self.halo_px - _BLEND_PX


def halo_of(network: nn.Module, in_channels: int) -> int:
    """How near to a cut *network* may see that something is missing, in pixels: a halo for its tiles, a multiple of 32.

    What a pixel of the output is made of falls off like a Gaussian around it, whose variance is the sum of those of all convolutions
    (Luo et al. 2016, "Understanding the effective receptive field in deep convolutional neural networks", section 2): (k² - 1) / 12 for
    k taps in a row, times the square of the pixels from one tap to the next. Four and a half of its standard deviations leave nothing
    but rounding. What an encoder takes from the mean of a whole image (squeeze and excitation) no halo brings back.
    """
    variance = 0.0

    def add(convolution: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal variance
        apart_px = convolution.dilation[0] * _PROBE_PX / inputs[0].shape[-1]
        variance += apart_px**2 * (convolution.kernel_size[0] ** 2 - 1) / 12

    hooks = [
        module.register_forward_pre_hook(add)
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    ]
    on_shapes(network, in_channels, _PROBE_PX)
    for hook in hooks:
        hook.remove()
    return DIVISOR * math.ceil(_SIGMAS * math.sqrt(variance) / DIVISOR)


def smallest_tile_px(halo_px: int) -> int:
    """The side of the smallest tiles that are worth their rims of *halo_px*."""
    return 2 * halo_px + _BLEND_PX + _LEAST_KEPT_PX


def predict_field(network: nn.Module, source: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run *network*, in evaluation mode, on a (C, Y, X) field of any size in network units. Returns its (Y, X) output."""
    return predict_windows(
        predictor(network), lambda window: source[(slice(None), *window)], source.shape[-2:]
    )


def segment_field(segmenter: nn.Module, planes: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The nuclei mask that *segmenter* sees in normalised (Z, Y, X) planes: probability above one half. Returns (Y, X)."""
    return predict_field(segmenter, planes) > 0  # a logit of 0 is a probability of one half


def predict_windows(
    predict: Predict,
    read: Callable[[Window], NDArray[np.float32]],
    shape_px: tuple[int, int],
    tiling: Tiling | None = None,
    *,
    tta: bool = False,
) -> NDArray[np.float32]:
    """Run a network on a field that is never wholly in memory in network units. Returns its (Y, X) output.

    *read* gives a window of the field, (C, Y, X) in network units, padded at its lower and right edge or not; *shape_px* is the field's
    (Y, X). Without *tiling* the field goes through in one piece. *tta* (test-time augmentation) averages the outputs for the field turned
    and mirrored in all eight ways.
    """
    height, width = shape_px
    if tiling is None:
        return _predict(predict, read((slice(0, height), slice(0, width))), tta)[:height, :width]
    columns = list(_spans(width, tiling))
    painted = np.zeros(shape_px, dtype=np.float32)
    for rows, row_weights in _spans(height, tiling):
        for across, column_weights in columns:
            tile = _predict(predict, read((rows, across)), tta)[
                : len(row_weights), : len(column_weights)
            ]
            tile *= np.outer(row_weights, column_weights)
            painted[rows, across] += tile
    return painted


def _predict(predict: Predict, source: NDArray[np.float32], tta: bool) -> NDArray[np.float32]:
    """The output (Y, X) for a (C, Y, X) *source* of any size."""
    height, width = source.shape[-2:]
    padded = pad_to_multiple(source, DIVISOR)
    return (_average(predict, padded) if tta else predict(padded))[:height, :width]


def _average(predict: Predict, source: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean output (Y, X) for a (C, Y, X) *source* in the eight ways a square can lie."""
    total = np.zeros(source.shape[1:], dtype=np.float32)
    for quarters in range(4):
        turned = np.rot90(source, quarters, (1, 2))
        total += np.rot90(predict(np.ascontiguousarray(turned)), -quarters)
        total += np.rot90(np.fliplr(predict(np.ascontiguousarray(np.flip(turned, 2)))), -quarters)
    return total / 8


def _spans(length: int, tiling: Tiling | None) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Where the tiles lie along a side of *length* pixels, and the weight of each of their pixels; at every place weights add up to 1."""
    padded = length + -length % DIVISOR
    if tiling is None or padded <= tiling.side_px:
        yield slice(0, length), np.ones(length, dtype=np.float32)
        return
    last = padded - tiling.side_px
    starts = [*range(0, last, tiling.step_px), last]
    ramps = [_ramp(tiling, start > 0, start < last) for start in starts]
    total = np.zeros(padded)
    for start, ramp in zip(starts, ramps, strict=True):
        total[start : start + tiling.side_px] += ramp
    for start, ramp in zip(starts, ramps, strict=True):
        span = slice(start, min(start + tiling.side_px, length))
        yield span, (ramp[: span.stop - start] / total[span]).astype(np.float32)


def _ramp(tiling: Tiling, cut_before: bool, cut_after: bool) -> NDArray[np.float64]:
    """The weight of a tile's pixels along one side: 0 in the halo of a cut, rising to 1 over the ramp."""
    from_start = np.arange(tiling.side_px) + 0.5
    weights = np.ones(tiling.side_px)
    for is_cut, distance in ((cut_before, from_start), (cut_after, from_start[::-1])):
        if is_cut:
            weights = np.minimum(weights, np.clip((distance - tiling.halo_px) / _BLEND_PX, 0, 1))
    return weights
