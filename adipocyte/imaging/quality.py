"""Quality of fields: figures in which a bad field differs from a good one, limits learned from good ones, sentences for people."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from adipocyte.domain import SMALLEST_PX
from adipocyte.errors import ImageError

Measures = dict[str, float]

_BLOCK_PX, _MARGIN_PX = 48, 8  # what the filters mirror at a block's border stays in its margin
_MOST_BLOCKS = 12  # along a side: a full field costs no more than one of 400 pixels
_FINE_PX, _MIDDLE_PX, _BROAD_PX = (
    1.0,
    2.0,
    4.0,
)  # sigmas of three Gaussians; their differences are two bands of detail
_EMPTY_PERCENT = 2.0  # of the light: a block with less structure in every plane is empty
_FAINTEST_PERCENT = (
    0.3  # of the light: with less detail than this there is nothing to judge the focus by
)
_RESIDUE_PERCENT = 0.05  # of the light: what may be left of noise once it is removed


def measure_quality(
    planes: NDArray[np.uint16], stains: Mapping[str, NDArray[np.uint16]] | None = None
) -> Measures:
    """Measure the quality of a field, in figures that a table can hold.

    planes: (Z, Y, X) brightfield counts, Z of 1 or more, sides of 64 pixels or more. stains: (Y, X) counts by name, if there are any.
    Saturated pixels and stains are measured on all pixels, the rest on at most 12 x 12 blocks of 48 pixels, spread evenly. Returns, as
    far as they can be measured (what cannot is left out):

    - `brightfield_mean_counts`, and `brightfield_contrast_counts`: the planes' standard deviation
    - `brightfield_contrast_percent`: the same in percent of the mean
    - `focus_z1_percent` …: each plane's fine detail (between Gaussians of 1 and 2 pixels' sigma), root mean square, in percent of its
      light, with the noise removed; `sharpest_z`: the plane that has most of it, counted from 1
    - `sharpness`: the sharpest plane's fine detail over the whole stack's coarse detail (between 2 and 4 pixels' sigma), no unit. A field
      with fewer cells has less of both, a field out of focus has less of the fine
    - `focus_trend`: natural logarithm of the last plane's fine detail over the first's; in reverse order it changes sign
    - `noise_percent`: standard deviation of the noise (Immerkær 1996, Computer Vision and Image Understanding 64:300, its mask with
      squares in place of absolute values) in percent of the light; at 20x this holds some of the finest structure, too
    - `unevenness_percent`: range of a second-order surface through the light of the blocks, in percent of the mean
    - `planes_range_percent`: range of the planes' light in percent of the mean
    - `empty_percent`: blocks in which no plane has structure of more than 2 % of the light beyond noise
    - `saturated_percent`: pixels at the stack's own maximum, in the worst plane. Unclipped images reach their maximum in a few pixels,
      clipped ones in many, whether at 255, 4095, 16383 or 65535
    - `constant_planes`: how many planes are one count everywhere; the figures above, but the mean, leave them out
    - `A1_mean_counts`, `A1_contrast_counts`, `A1_saturated_percent` and `A1_constant` (0 or 1), and so on for each stain

    Raises ImageError for anything but such a stack.
    """
    if (
        planes.ndim != 3
        or planes.dtype != np.uint16
        or not len(planes)
        or min(planes.shape[1:]) < SMALLEST_PX
    ):
        raise ImageError(
            f"the stack is {planes.dtype} of shape {planes.shape}: quality is measured on uint16 counts of shape (Z, Y, X) "
            f"with sides of {SMALLEST_PX} pixels or more"
        )
    blocks = _cut(planes)
    constant = np.ptp(blocks, axis=(1, 2, 3, 4)) == 0
    figures: Measures = {"brightfield_mean_counts": float(blocks.mean(dtype=np.float64))}
    if not constant.all():
        numbers = np.flatnonzero(~constant) + 1
        blocks = blocks[numbers - 1]
        figures |= _light_figures(blocks) | _detail_figures(
            blocks.reshape(len(numbers), -1, _BLOCK_PX, _BLOCK_PX), numbers
        )
    figures["saturated_percent"] = _saturated_percent(planes)
    figures["constant_planes"] = int(constant.sum())
    for name, image in (stains or {}).items():
        figures[f"{name}_mean_counts"] = float(image.mean())
        figures[f"{name}_contrast_counts"] = float(image.std(dtype=np.float32))
        figures[f"{name}_saturated_percent"] = _saturated_percent(image[None])
        figures[f"{name}_constant"] = int(image.min() == image.max())
    return figures


def _cut(planes: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Blocks of every plane, (Z, rows, columns, 48, 48), from border to border; neighbours share their margins, or lie further apart."""
    inner_px = _BLOCK_PX - 2 * _MARGIN_PX
    tops, lefts = (
        np.linspace(0, side - _BLOCK_PX, np.clip((side - _MARGIN_PX) // inner_px, 2, _MOST_BLOCKS))
        .round()
        .astype(int)
        for side in planes.shape[1:]
    )
    rows = [
        np.stack(
            [planes[:, top : top + _BLOCK_PX, left : left + _BLOCK_PX] for left in lefts], axis=1
        )
        for top in tops
    ]
    return np.stack(rows, axis=1).astype(np.float32)


def _light_figures(blocks: NDArray[np.float32]) -> Measures:
    """What the (Z, rows, columns, Y, X) *blocks* tell of the light: contrast, and evenness in the field and from plane to plane."""
    mean = blocks.mean(axis=(1, 2, 3, 4))
    contrast = float(blocks.std(axis=(1, 2, 3, 4)).mean())
    figures = {
        "brightfield_contrast_counts": contrast,
        "brightfield_contrast_percent": float(100 * contrast / mean.mean()),
        "planes_range_percent": float(100 * np.ptp(mean) / mean.mean()),
    }
    light = blocks.mean(axis=(3, 4)) / mean[:, None, None]
    if min(light.shape[1:]) > 3:  # in fewer blocks a droplet outweighs the lamp
        figures["unevenness_percent"] = float(100 * np.ptp(_surface(light.mean(axis=0))))
    return figures


def _surface(light: NDArray[np.float32]) -> NDArray[np.float64]:
    """The second-order surface that fits a (rows, columns) map of *light* best, as one row of values.

    Cells bend light but hardly take any, so a block's mean over its pixels and planes shows the lamp through the cells.
    """
    y, x = (
        grid.ravel()
        for grid in np.meshgrid(*(np.linspace(-1, 1, n) for n in light.shape), indexing="ij")
    )
    terms = np.stack([np.ones_like(y), y, x, y**2, x * y, x**2], axis=1)
    return terms @ np.linalg.lstsq(terms, light.ravel().astype(np.float64))[0]


def _detail_figures(blocks: NDArray[np.float32], numbers: NDArray[np.int64]) -> Measures:
    """What the (Z, N, Y, X) *blocks* of the planes with these *numbers* tell of focus, noise and empty ground."""
    light2 = blocks.mean(axis=(1, 2, 3), dtype=np.float64)[:, None] ** 2
    noise2 = _noise2(blocks)
    smooth = _blurred(blocks, _FINE_PX)
    middle = _blurred(
        smooth, np.sqrt(_MIDDLE_PX**2 - _FINE_PX**2)
    )  # Gaussians add up by their squared sigmas
    broad = _blurred(middle, np.sqrt(_BROAD_PX**2 - _MIDDLE_PX**2))
    fine2 = _power(smooth - middle, noise2, _FINE_PX, _MIDDLE_PX) / light2
    coarse2 = _power(middle - broad, noise2, _MIDDLE_PX, _BROAD_PX) / light2
    structure2 = _power(smooth - broad, noise2, _FINE_PX, _BROAD_PX) / light2

    focus = _root_percent(fine2.mean(axis=1))
    figures: Measures = {
        f"focus_z{number}_percent": float(score)
        for number, score in zip(numbers, focus, strict=True)
    }
    figures["sharpest_z"] = int(numbers[focus.argmax()])
    figures["noise_percent"] = float(_root_percent((noise2 / light2).mean()))
    figures["empty_percent"] = float(
        100 * (_root_percent(structure2).max(axis=0) < _EMPTY_PERCENT).mean()
    )
    if (coarse := _root_percent(coarse2.mean())) > _FAINTEST_PERCENT:
        figures["sharpness"] = float(focus.max() / coarse)
        if len(focus) > 1:
            figures["focus_trend"] = float(
                np.diff(np.log(np.maximum(focus[[0, -1]], _RESIDUE_PERCENT)))[0]
            )
    return figures


def _noise2(blocks: NDArray[np.float32]) -> NDArray[np.float64]:
    """Variance of the noise in counts squared, (Z, N). A microscope's lens passes next to nothing of what Immerkær's mask sees."""
    across = blocks[..., :-2] - 2 * blocks[..., 1:-1] + blocks[..., 2:]
    both = across[..., :-2, :] - 2 * across[..., 1:-1, :] + across[..., 2:, :]
    return np.square(both).mean(axis=(2, 3), dtype=np.float64) / 36


def _blurred(blocks: NDArray[np.float32], sigma_px: float) -> NDArray[np.float32]:
    return ndimage.gaussian_filter(blocks, sigma_px, axes=(-2, -1), truncate=3)


def _power(
    band: NDArray[np.float32], noise2: NDArray[np.float64], low_px: float, high_px: float
) -> NDArray[np.float64]:
    """Mean square of a *band* between two Gaussians inside the blocks' margins, (Z, N), less what white noise leaves there.

    White noise of variance 1 leaves the integral of the squared difference of the two kernels.
    """
    inner = slice(_MARGIN_PX, -_MARGIN_PX)
    passed = (1 / low_px**2 + 1 / high_px**2) / (4 * np.pi) - 1 / (np.pi * (low_px**2 + high_px**2))
    return np.square(band[..., inner, inner]).mean(axis=(2, 3), dtype=np.float64) - passed * noise2


def _root_percent(square: NDArray[np.float64]) -> NDArray[np.float64]:
    return 100 * np.sqrt(np.maximum(square, 0))


def _saturated_percent(planes: NDArray[np.uint16]) -> float:
    """Share of (Z, Y, X) *planes* at their common maximum, in the worst plane; 0 where all is one count below the dtype's limit."""
    highest = planes.max()
    if planes.min() == highest < np.iinfo(planes.dtype).max:
        return 0.0
    return 100 * max(float((plane == highest).mean()) for plane in planes)
