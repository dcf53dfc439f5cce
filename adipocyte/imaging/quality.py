"""Quality of fields: measures that differ between good fields and bad ones (see `limits`)."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from adipocyte.domain import SMALLEST_PX
from adipocyte.errors import ImageError

Measures = dict[str, float]

_BLOCK_PX, _MARGIN_PX = 48, 8  # filters mirror at a block's border; the margin absorbs this
_MOST_BLOCKS = 12  # along a side, so that a full field takes no longer than one of 400 pixels
_FINE_PX, _MIDDLE_PX, _BROAD_PX = 1.0, 2.0, 4.0  # sigmas; their differences are bands of detail
_EMPTY_PERCENT = 2.0  # of the light: a block with less structure in every plane is empty
_FAINTEST_PERCENT = 0.3  # of the light: with less detail than this, focus cannot be measured
_RESIDUE_PERCENT = 0.05  # of the light: noise that may remain after its subtraction


def measure_quality(
    planes: NDArray[np.uint16], stains: Mapping[str, NDArray[np.uint16]] | None = None
) -> Measures:
    """Measure the quality of a field.

    planes: (Z, Y, X) brightfield counts with at least one plane and sides of at least 64 pixels.
    stains: (Y, X) counts by name. Saturated pixels and stains are measured on all pixels,
    everything else on at most 12 x 12 blocks of 48 pixels, spread evenly. Returns these measures,
    without those that cannot be measured in this field:

    - `brightfield_mean_counts`, and `brightfield_contrast_counts`: the planes' standard deviation
    - `brightfield_contrast_percent`: the same in percent of the mean
    - `focus_z1_percent` …: each plane's fine detail, in percent of its light: the root mean square
      between Gaussians with sigmas of 1 and 2 pixels, with the noise subtracted
    - `sharpest_z`: the plane with most fine detail, counted from 1
    - `sharpness`: the sharpest plane's fine detail divided by the whole stack's coarse detail
      (between sigmas of 2 and 4 pixels). Fewer cells give less of both; bad focus gives less fine
      detail only
    - `focus_trend`: natural logarithm of the last plane's fine detail divided by the first's. Its
      sign changes if the planes are in reverse order
    - `noise_percent`: standard deviation of the noise in percent of the light (Immerkær 1996,
      Computer Vision and Image Understanding 64:300: his mask, but squares in place of absolute
      values). At 20x this includes some of the finest structure
    - `unevenness_percent`: range of a second-order surface through the light of the blocks, in
      percent of the mean
    - `planes_range_percent`: range of the planes' light in percent of the mean
    - `empty_percent`: share of the blocks in which no plane has more structure than 2 % of the
      light, with the noise subtracted
    - `saturated_percent`: share of the pixels at the stack's own maximum, in the worst plane. An
      image reaches its maximum in a few pixels, a clipped image in many, whether the maximum is
      255, 4095, 16383 or 65535
    - `constant_planes`: number of planes with one count everywhere. All measures above leave these
      planes out, except the mean and `saturated_percent`
    - `A1_mean_counts`, `A1_contrast_counts`, `A1_saturated_percent` and `A1_constant` (0 or 1), and
      likewise for each other stain

    Raises ImageError if *planes* is not such a stack.
    """
    is_stack = planes.ndim == 3 and planes.dtype == np.uint16 and len(planes) > 0
    if not is_stack or min(planes.shape[1:]) < SMALLEST_PX:
        raise ImageError(
            f"the stack is {planes.dtype} of shape {planes.shape}",
            "quality is measured on uint16 counts of shape (Z, Y, X) with sides of "
            f"{SMALLEST_PX} pixels or more",
        )
    blocks = cut_blocks(planes)
    constant = np.ptp(blocks, axis=(1, 2, 3, 4)) == 0
    measures: Measures = {"brightfield_mean_counts": float(blocks.mean(dtype=np.float64))}
    if not constant.all():
        numbers = np.flatnonzero(~constant) + 1
        blocks = blocks[numbers - 1]
        measures |= _measure_light(blocks)
        measures |= _measure_detail(blocks.reshape(len(numbers), -1, *blocks.shape[3:]), numbers)
    measures["saturated_percent"] = _saturated_percent(planes)
    measures["constant_planes"] = int(constant.sum())
    for name, image in (stains or {}).items():
        measures[f"{name}_mean_counts"] = float(image.mean())
        measures[f"{name}_contrast_counts"] = float(image.std(dtype=np.float32))
        measures[f"{name}_saturated_percent"] = _saturated_percent(image[None])
        measures[f"{name}_constant"] = int(image.min() == image.max())
    return measures


def cut_blocks(planes: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Blocks of every plane of (Z, Y, X), (Z, rows, columns, 48, 48), evenly from border to border.

    Neighbours share their margins, or lie further apart; there are at most 12 rows and 12 columns.
    """
    tops, lefts = map(_block_starts, planes.shape[1:])
    blocks = np.empty((len(planes), len(tops), len(lefts), _BLOCK_PX, _BLOCK_PX), dtype=np.float32)
    for row, top in enumerate(tops):
        for column, left in enumerate(lefts):
            blocks[:, row, column] = planes[:, top : top + _BLOCK_PX, left : left + _BLOCK_PX]
    return blocks


def _block_starts(side_px: int) -> NDArray[np.int64]:
    inner_px = _BLOCK_PX - 2 * _MARGIN_PX
    n = min(max((side_px - _MARGIN_PX) // inner_px, 2), _MOST_BLOCKS)
    return np.linspace(0, side_px - _BLOCK_PX, n).round().astype(np.int64)


def _measure_light(blocks: NDArray[np.float32]) -> Measures:
    """Contrast, and evenness of the light over the field and between planes.

    blocks: (Z, rows, columns, Y, X).
    """
    mean = blocks.mean(axis=(1, 2, 3, 4))
    contrast = float(blocks.std(axis=(1, 2, 3, 4)).mean())
    measures = {
        "brightfield_contrast_counts": contrast,
        "brightfield_contrast_percent": float(100 * contrast / mean.mean()),
        "planes_range_percent": float(100 * np.ptp(mean) / mean.mean()),
    }
    light = blocks.mean(axis=(3, 4)) / mean[:, None, None]
    if min(light.shape[1:]) > 3:  # in fewer blocks a droplet outweighs the lamp
        measures["unevenness_percent"] = float(100 * np.ptp(_surface(light.mean(axis=0))))
    return measures


def _surface(light: NDArray[np.float32]) -> NDArray[np.float64]:
    """The second-order surface that best fits a (rows, columns) map of *light*, as one row.

    Cells bend light but absorb hardly any, so a block's mean over its pixels and planes shows the
    lamp through the cells.
    """
    sides = [np.linspace(-1, 1, n) for n in light.shape]
    y, x = (grid.ravel() for grid in np.meshgrid(*sides, indexing="ij"))
    terms = np.stack([np.ones_like(y), y, x, y**2, x * y, x**2], axis=1)
    return terms @ np.linalg.lstsq(terms, light.ravel().astype(np.float64))[0]


def _measure_detail(blocks: NDArray[np.float32], numbers: NDArray[np.int64]) -> Measures:
    """Focus, noise and share of empty blocks.

    blocks: (Z, N, Y, X). numbers: (Z,), the number of each plane, from 1.
    """
    light2 = blocks.mean(axis=(1, 2, 3), dtype=np.float64)[:, None] ** 2
    noise2 = _noise2(blocks)
    smooth = _blurred(blocks, _FINE_PX)
    # The squared sigmas of successive Gaussians add up.
    middle = _blurred(smooth, np.sqrt(_MIDDLE_PX**2 - _FINE_PX**2))
    broad = _blurred(middle, np.sqrt(_BROAD_PX**2 - _MIDDLE_PX**2))
    fine2 = _power(smooth - middle, noise2, _FINE_PX, _MIDDLE_PX) / light2
    coarse2 = _power(middle - broad, noise2, _MIDDLE_PX, _BROAD_PX) / light2
    structure2 = _power(smooth - broad, noise2, _FINE_PX, _BROAD_PX) / light2

    focus = _root_percent(fine2.mean(axis=1))
    measures: Measures = {
        f"focus_z{number}_percent": float(score)
        for number, score in zip(numbers, focus, strict=True)
    }
    measures["sharpest_z"] = int(numbers[focus.argmax()])
    measures["noise_percent"] = float(_root_percent((noise2 / light2).mean()))
    is_empty = _root_percent(structure2).max(axis=0) < _EMPTY_PERCENT
    measures["empty_percent"] = float(100 * is_empty.mean())
    if (coarse := _root_percent(coarse2.mean())) > _FAINTEST_PERCENT:
        measures["sharpness"] = float(focus.max() / coarse)
        if len(focus) > 1:
            first, last = np.log(np.maximum(focus[[0, -1]], _RESIDUE_PERCENT))
            measures["focus_trend"] = float(last - first)
    return measures


def _noise2(blocks: NDArray[np.float32]) -> NDArray[np.float64]:
    """Variance of the noise in counts squared, (Z, N), by Immerkær's mask.

    The mask passes frequencies that a microscope's lens hardly passes.
    """
    across = blocks[..., :-2] - 2 * blocks[..., 1:-1] + blocks[..., 2:]
    both = across[..., :-2, :] - 2 * across[..., 1:-1, :] + across[..., 2:, :]
    return np.square(both).mean(axis=(2, 3), dtype=np.float64) / 36


def _blurred(blocks: NDArray[np.float32], sigma_px: float) -> NDArray[np.float32]:
    return ndimage.gaussian_filter(blocks, sigma_px, axes=(-2, -1), truncate=3)


def _power(
    band: NDArray[np.float32], noise2: NDArray[np.float64], low_px: float, high_px: float
) -> NDArray[np.float64]:
    """Mean square, (Z, N), of a *band* between two Gaussians, without noise and blocks' margins.

    White noise of variance 1 adds the integral of the squared difference of the two kernels.
    """
    inner = slice(_MARGIN_PX, -_MARGIN_PX)
    passed = (1 / low_px**2 + 1 / high_px**2) / (4 * np.pi) - 1 / (np.pi * (low_px**2 + high_px**2))
    return np.square(band[..., inner, inner]).mean(axis=(2, 3), dtype=np.float64) - passed * noise2


def _root_percent(square: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    return 100 * np.sqrt(np.maximum(square, 0))


def _saturated_percent(planes: NDArray[np.uint16]) -> float:
    """Share of the pixels of (Z, Y, X) *planes* at their common maximum, in the worst plane.

    It is 0 if all pixels have one count below the dtype's limit.
    """
    highest = planes.max()
    if planes.min() == highest < np.iinfo(planes.dtype).max:
        return 0.0
    return 100 * max(float((plane == highest).mean()) for plane in planes)
