"""A network on a field of any size: in one piece, or in overlapping tiles that leave no seam."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from adipocyte.domain import Window
from adipocyte.errors import ConfigError
from adipocyte.imaging.padding import pad_to_multiple
from adipocyte.networks.predictor import Predict, predict_with
from adipocyte.networks.unet import DIVISOR

_BLEND_PX = 64
_LEAST_KEPT_PX = 192  # of a tile's side beside its halos: smaller tiles are mostly halo


@dataclass(frozen=True)
class Tiling:
    """Square tiles of `side_px`, all that a network sees at once.

    The `halo_px` along a cut are thrown away. Neighbours overlap by twice the halo and a ramp of 64
    pixels, over which one fades into the other. Side and halo are multiples of 32 pixels, so that
    tiles lie on the grid of the network's halvings. Raises ConfigError when they are not, or when
    nothing of a tile would be left.
    """

    side_px: int
    halo_px: int

    def __post_init__(self) -> None:
        if self.side_px % DIVISOR or self.halo_px % DIVISOR or self.step_px < DIVISOR:
            least = 2 * self.halo_px + _BLEND_PX + DIVISOR
            raise ConfigError(
                f"tiles of {self.side_px} pixels with a halo of {self.halo_px} cannot be laid",
                f"both must be multiples of {DIVISOR}, the side at least {least}",
            )

    @property
    def step_px(self) -> int:
        """From one tile to the next."""
        return self.side_px - 2 * self.halo_px - _BLEND_PX


def smallest_tile_px(halo_px: int) -> int:
    """The side of the smallest tiles that are worth their halos of *halo_px*."""
    return 2 * halo_px + _BLEND_PX + _LEAST_KEPT_PX


def predict_field(network: nn.Module, source: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run *network*, in evaluation mode, on a (C, Y, X) field of any size in network units.

    Returns its outputs, (C, Y, X).
    """
    height, width = source.shape[-2:]
    return predict_windows(
        predict_with(network), lambda window: source[(slice(None), *window)], (height, width)
    )


def segment_field(segmenter: nn.Module, planes: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The nuclei mask (Y, X) that *segmenter* finds in normalised (Z, Y, X) planes.

    It is where the probability is above one half.
    """
    return predict_field(segmenter, planes)[0] > 0  # a logit of 0 is a probability of one half


def predict_windows(
    predict: Predict,
    read: Callable[[Window], NDArray[np.float32]],
    shape_px: tuple[int, int],
    tiling: Tiling | None = None,
    *,
    tta: bool = False,
) -> NDArray[np.float32]:
    """Run a network on a field of which only windows are in memory. Returns its outputs (C, Y, X).

    *read* gives a window of the field, (C, Y, X) in network units, which may be padded at its lower
    and right edge; *shape_px* is the field's (Y, X). Without *tiling* the field goes through in one
    piece. *tta* (test-time augmentation) averages the outputs for the field turned and mirrored in
    all eight ways.
    """
    height, width = shape_px
    if tiling is None:
        whole = _predict(predict, read((slice(0, height), slice(0, width))), tta)
        return whole[:, :height, :width]
    columns = list(_spans(width, tiling))
    painted: NDArray[np.float32] | None = None
    for rows, row_weights in _spans(height, tiling):
        for across, column_weights in columns:
            tile = _predict(predict, read((rows, across)), tta)
            tile = tile[:, : len(row_weights), : len(column_weights)]
            tile *= np.outer(row_weights, column_weights)
            if painted is None:
                painted = np.zeros((len(tile), *shape_px), dtype=np.float32)
            painted[:, rows, across] += tile
    return cast(NDArray[np.float32], painted)  # a field has at least one tile


def _predict(predict: Predict, source: NDArray[np.float32], tta: bool) -> NDArray[np.float32]:
    """The outputs (C, Y, X) for a (C, Y, X) *source* of any size."""
    height, width = source.shape[-2:]
    padded = pad_to_multiple(source, DIVISOR)
    return (_average(predict, padded) if tta else predict(padded))[:, :height, :width]


def _average(predict: Predict, source: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean outputs (C, Y, X) for a *source* (C, Y, X) turned and mirrored in all eight ways."""
    turns = _turns(predict, source)
    total = next(turns).copy()
    for output in turns:
        total += output
    total /= 8
    return total


def _turns(predict: Predict, source: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    for quarters in range(4):
        turned = np.rot90(source, quarters, (1, 2))
        yield np.rot90(predict(np.ascontiguousarray(turned)), -quarters, (1, 2))
        mirrored = np.flip(predict(np.ascontiguousarray(np.flip(turned, 2))), 2)
        yield np.rot90(mirrored, -quarters, (1, 2))


def _spans(length: int, tiling: Tiling) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Where the tiles lie along a side of *length* pixels, and the weight of each of their pixels.

    The weights of all tiles at a pixel add up to 1.
    """
    padded = length + -length % DIVISOR
    if padded <= tiling.side_px:
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
    """The weight of a tile's pixels along one side: 0 in the halo of a cut, rising to 1 beyond."""
    from_start = np.arange(tiling.side_px) + 0.5
    weights = np.ones(tiling.side_px)
    for is_cut, distance in ((cut_before, from_start), (cut_after, from_start[::-1])):
        if is_cut:
            weights = np.minimum(weights, np.clip((distance - tiling.halo_px) / _BLEND_PX, 0, 1))
    return weights
