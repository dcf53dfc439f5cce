"""Quality of fields: figures in which a bad field differs from a good one, limits learned from good ones, sentences for people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from adipocyte.domain import SMALLEST_PX
from adipocyte.errors import ImageError

Measures = dict[str, float]
Limits = dict[str, list[float | None]]

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
_SPREADS = 5.0  # robust standard deviations from the training fields' median to a limit
_FARTHEST = 99.0


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


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """How a figure is judged: `low` and `high` begin the sentence for a value below and above the limits ("": that side is not judged).

    `least` is the distance from the training fields' median to a limit, at the least: a factor for a *ratio*, else in the figure's unit.
    No training field can raise the high limit over `most`.
    """

    words: str
    unit: str
    digits: int
    low: str = ""
    high: str
    advice: str
    ratio: bool = False
    least: float
    most: float = np.inf


_LIGHT = "check the lamp, the exposure and the magnification"
_FOCUS = "check the focus and the magnification"
_CLIPPED = "shorten the exposure, and check that no program cut the counts"
# The least distances are wider than simulated fields of one culture differ; docs/data.md shows by how much.
_RULES = {
    "constant_planes": _Rule(
        words="planes of one count",
        unit="",
        digits=0,
        high="no image in a plane",
        advice="check the shutter and the files",
        least=0,
        most=0,
    ),
    "saturated_percent": _Rule(
        words="pixels at the maximum",
        unit=" %",
        digits=2,
        high="saturated",
        advice=_CLIPPED,
        least=0.5,
        most=5,
    ),
    "brightfield_mean_counts": _Rule(
        words="brightfield mean",
        unit=" counts",
        digits=0,
        low="too dark",
        high="too bright",
        advice=_LIGHT,
        ratio=True,
        least=1.25,
    ),
    "brightfield_contrast_percent": _Rule(
        words="brightfield contrast",
        unit=" % of the light",
        digits=1,
        low="faint",
        high="harsh",
        advice=_FOCUS,
        ratio=True,
        least=3,
    ),
    "sharpness": _Rule(
        words="sharpness",
        unit="",
        digits=3,
        low="out of focus",
        high="sharper than in training",
        advice=_FOCUS,
        ratio=True,
        least=1.2,
    ),
    "focus_trend": _Rule(
        words="trend of focus",
        unit="",
        digits=2,
        low="focused too near the first planes",
        high="focused too near the last planes",
        advice="check the focus and the order of the planes",
        least=0.7,
    ),
    "noise_percent": _Rule(
        words="noise",
        unit=" % of the light",
        digits=1,
        high="grainy",
        advice=_LIGHT,
        ratio=True,
        least=1.6,
    ),
    "unevenness_percent": _Rule(
        words="light varies over the field by",
        unit=" %",
        digits=0,
        high="unevenly lit",
        advice="check lamp and condenser",
        least=25,
    ),
    "planes_range_percent": _Rule(
        words="light varies between the planes by",
        unit=" %",
        digits=0,
        high="flickering",
        advice="check the lamp and the files",
        least=15,
    ),
    "empty_percent": _Rule(
        words="blocks without structure",
        unit=" %",
        digits=0,
        high="empty",
        advice="check the focus and the position",
        least=80,
        most=95,
    ),
}
_STAIN_RULES = {
    "constant": _Rule(
        words="of one count",
        unit="",
        digits=0,
        high="no image",
        advice="check the shutter and the files",
        least=0,
        most=0,
    ),
    "saturated_percent": _Rule(
        words="pixels at the maximum",
        unit=" %",
        digits=2,
        high="saturated",
        advice=_CLIPPED,
        least=0.5,
        most=5,
    ),
    "mean_counts": _Rule(
        words="mean",
        unit=" counts",
        digits=0,
        low="too dark",
        high="too bright",
        advice="check the stain, the exposure and the channel",
        ratio=True,
        least=6,
    ),
    "contrast_counts": _Rule(
        words="contrast",
        unit=" counts",
        digits=0,
        low="no stain",
        high="harsh",
        advice="check the stain and the channel",
        ratio=True,
        least=5,
    ),
}


def learn_limits(fields: Sequence[Measures]) -> Limits:
    """Limits, [low, high] by name, of the figures of good *fields* at one magnification; None where a side is not judged.

    A limit lies five robust standard deviations (1.4826 times the median absolute deviation) from the median, on a logarithmic scale
    where figures are ratios, and at least as far as each figure's own least distance. So a minority of bad fields moves it little, and
    two fields are enough to begin with. The result fits into JSON.
    """
    learnt: Limits = {}
    for name in sorted({name for figures in fields for name in figures}):
        rule = _rule(name)
        values = [figures[name] for figures in fields if name in figures]
        if rule is not None and rule.ratio:
            values = [
                value for value in values if value > 0
            ]  # the median does without a black field
        if rule is None or not values:
            continue
        scaled = _scaled(rule, np.array(values))
        middle = np.median(scaled)
        reach = max(
            _scaled(rule, rule.least), _SPREADS * 1.4826 * np.median(np.abs(scaled - middle))
        )
        low, high = (
            np.exp(side) if rule.ratio else side for side in (middle - reach, middle + reach)
        )
        learnt[name] = [float(low) if rule.low else None, min(float(high), rule.most)]
    return learnt


def flags(figures: Measures, limits: Limits) -> tuple[str, ...]:
    """Sentences for people about what in a field's *figures* lies beyond *limits*, none for a good field.

    Only what both have is judged, so a stack without stains is judged by its brightfield.
    """
    sentences = []
    for name, value in figures.items():
        low, high = limits.get(name, (None, None))
        if low is not None and value < low:
            sentences.append(_sentence(name, value, _rule(name).low, limits[name]))
        if high is not None and value > high:
            sentences.append(_sentence(name, value, _rule(name).high, limits[name]))
    return tuple(sentences)


def distance(figures: Measures, limits: Limits) -> float:
    """How far a field is from the training fields: 0 in the middle of all its two-sided *limits*, 1 at the first of them, at most 99."""
    farthest = 0.0
    for name in figures.keys() & {name for name, (low, _) in limits.items() if low is not None}:
        rule = _rule(name)
        if rule.ratio and figures[name] <= 0:
            return _FARTHEST
        low, high, value = (_scaled(rule, number) for number in (*limits[name], figures[name]))
        farthest = max(farthest, abs(value - (low + high) / 2) / ((high - low) / 2))
    return float(min(farthest, _FARTHEST))


def _rule(name: str) -> _Rule | None:
    """The rule of a figure, None where it is not judged; a stain's figure begins with the stain's name."""
    stain, _, figure = name.partition("_")
    return (
        _RULES.get(name) if name in _RULES or stain == "brightfield" else _STAIN_RULES.get(figure)
    )


def _scaled(rule: _Rule, value: NDArray[np.float64] | float) -> NDArray[np.float64] | float:
    return np.log(value) if rule.ratio else value


def _sentence(name: str, value: float, beginning: str, limits: list[float | None]) -> str:
    rule, (low, high) = _rule(name), limits
    stain = "" if name in _RULES else f"{name.partition('_')[0]} "
    allowed = (
        f"at most {high:.{rule.digits}f}"
        if low is None
        else f"{low:.{rule.digits}f} to {high:.{rule.digits}f}"
    )
    return f"{stain}{beginning}: {rule.words} {value:.{rule.digits}f}{rule.unit}, training wells allow {allowed}; {rule.advice}"
