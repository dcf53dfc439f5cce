"""Limits of quality: learn them from good fields, and say what in a field lies beyond them."""

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np
from numpy.typing import NDArray

from adipocyte.imaging.quality import Measures

Limits = dict[str, list[float | None]]  # [low, high] by name of a measure; None: no limit

_SPREADS = 5.0  # robust standard deviations from the training fields' median to a limit
_FARTHEST = 99.0


@dataclass(frozen=True)
class _Rule:
    """How to compare a measure with its limits, and how to say it.

    `low` and `high` begin the sentence for a value below and above the limits; "" means that this
    side has no limit. `least` is the least distance from the training fields' median to a limit: a
    factor if `ratio`, else in the measure's unit. No training field raises the high limit above
    `most`.
    """

    words: str
    unit: str
    digits: int
    advice: str
    _: KW_ONLY
    low: str = ""
    high: str
    ratio: bool = False
    least: float
    most: float = np.inf


_FILES = "check the shutter and the files"
_CLIPPED = "shorten the exposure, and check that no program cut the counts"
_LIGHT = "check the lamp, the exposure and the magnification"
_FOCUS = "check the focus and the magnification"
_SATURATED = _Rule("pixels at the maximum", " %", 2, _CLIPPED, high="saturated", least=0.5, most=5)

# fmt: off
# The least distances are wider than the differences between simulated fields of one culture;
# docs/measurements/quality.md shows by how much.
_RULES = {
    "constant_planes": _Rule(
        "planes of one count", "", 0, _FILES,
        high="no image in a plane", least=0, most=0,
    ),
    "saturated_percent": _SATURATED,
    "brightfield_mean_counts": _Rule(
        "brightfield mean", " counts", 0, _LIGHT,
        low="too dark", high="too bright", ratio=True, least=1.25,
    ),
    "brightfield_contrast_percent": _Rule(
        "brightfield contrast", " % of the light", 1, _FOCUS,
        low="faint", high="harsh", ratio=True, least=3,
    ),
    "sharpness": _Rule(
        "sharpness", "", 3, _FOCUS,
        low="out of focus", high="sharper than in training", ratio=True, least=1.2,
    ),
    "focus_trend": _Rule(
        "trend of focus", "", 2, "check the focus and the order of the planes",
        low="focused too near the first planes", high="focused too near the last planes", least=0.7,
    ),
    "noise_percent": _Rule(
        "noise", " % of the light", 1, _LIGHT,
        high="grainy", ratio=True, least=1.6,
    ),
    "unevenness_percent": _Rule(
        "light varies over the field by", " %", 0, "check lamp and condenser",
        high="unevenly lit", least=25,
    ),
    "planes_range_percent": _Rule(
        "light varies between the planes by", " %", 0, "check the lamp and the files",
        high="flickering", least=15,
    ),
    "empty_percent": _Rule(
        "blocks without structure", " %", 0, "check the focus and the position",
        high="empty", least=80, most=95,
    ),
}
_STAIN_RULES = {
    "constant": _Rule("of one count", "", 0, _FILES, high="no image", least=0, most=0),
    "saturated_percent": _SATURATED,
    "mean_counts": _Rule(
        "mean", " counts", 0, "check the stain, the exposure and the channel",
        low="too dark", high="too bright", ratio=True, least=6,
    ),
    "contrast_counts": _Rule(
        "contrast", " counts", 0, "check the stain and the channel",
        low="no stain", high="harsh", ratio=True, least=5,
    ),
}
# fmt: on


def learn_limits(fields: Sequence[Measures]) -> Limits:
    """Learn the limits of each measure from good *fields* at one magnification.

    A limit lies five robust standard deviations (1.4826 times the median absolute deviation) from
    the median, on a logarithmic scale for ratios, and at least as far as the measure's own least
    distance. A minority of bad fields therefore moves a limit little, and two fields are enough.
    The result fits into JSON.
    """
    learnt: Limits = {}
    for name in sorted({name for measures in fields for name in measures}):
        rule = _rule(name)
        if rule is None:
            continue
        values = np.array([measures[name] for measures in fields if name in measures], np.float64)
        if rule.ratio:
            values = values[values > 0]  # a black field has no logarithm
        if len(values):
            learnt[name] = _limits_of(rule, values)
    return learnt


def flags(measures: Measures, limits: Limits) -> tuple[str, ...]:
    """Sentences for people about the *measures* beyond their *limits*; none for a good field.

    Only names in both are compared, so a stack without stains is compared by its brightfield.
    """
    return tuple(
        _sentence(words, rule, measures[name], limits[name])
        for words, name, rule in _beyond(measures, limits)
    )


def flag_words(measures: Measures, limits: Limits) -> tuple[str, ...]:
    """The words before the colon in each sentence of `flags`, such as "A2 no stain"."""
    return tuple(words for words, _, _ in _beyond(measures, limits))


def distance(measures: Measures, limits: Limits) -> float:
    """How far a field is from the training fields, by those *limits* that have two sides.

    0 is in the middle of all of them, 1 is at the first limit reached; the distance is at most 99.
    """
    farthest = 0.0
    for name, (low, high) in limits.items():
        rule = _rule(name)
        if rule is None or low is None or high is None or name not in measures:
            continue
        if rule.ratio and measures[name] <= 0:
            return _FARTHEST
        low, high, value = _scaled(rule, np.array([low, high, measures[name]]))
        farthest = max(farthest, abs(value - (low + high) / 2) / ((high - low) / 2))
    return float(min(farthest, _FARTHEST))


def on_scales(measures: Measures) -> Measures:
    """The *measures* of a field's planes that have limits, each on the scale of its rule.

    Those are logarithms for ratios, of which a black field has none: that measure is left out.
    """
    return {
        name: float(_scaled(rule, np.array(measures[name])))
        for name, rule in _RULES.items()
        if rule.least and name in measures and not (rule.ratio and measures[name] <= 0)
    }


def _rule(name: str) -> _Rule | None:
    """The rule of a measure, None if it has no limits. A stain's measures begin with its name."""
    stain, _, measure = name.partition("_")
    is_of_planes = name in _RULES or stain == "brightfield"
    return _RULES.get(name) if is_of_planes else _STAIN_RULES.get(measure)


def _limits_of(rule: _Rule, values: NDArray[np.float64]) -> list[float | None]:
    scaled = _scaled(rule, values)
    middle = np.median(scaled)
    spread = np.median(np.abs(scaled - middle))
    reach = max(_scaled(rule, np.array(rule.least)), _SPREADS * 1.4826 * spread)
    low, high = middle - reach, middle + reach
    if rule.ratio:
        low, high = np.exp(low), np.exp(high)
    return [float(low) if rule.low else None, min(float(high), rule.most)]


def _scaled(rule: _Rule, values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(values) if rule.ratio else values


def _beyond(measures: Measures, limits: Limits) -> Iterator[tuple[str, str, _Rule]]:
    """Words for people, name and rule of each measure beyond its limits, in the measures' order."""
    for name, value in measures.items():
        rule = _rule(name)
        if rule is None or name not in limits:
            continue
        stain = "" if name in _RULES else f"{name.partition('_')[0]} "
        low, high = limits[name]
        if low is not None and value < low:
            yield stain + rule.low, name, rule
        if high is not None and value > high:
            yield stain + rule.high, name, rule


def _sentence(words: str, rule: _Rule, value: float, limits: list[float | None]) -> str:
    low, high = limits
    allowed = f"at most {high:.{rule.digits}f}"
    if low is not None:
        allowed = f"{low:.{rule.digits}f} to {high:.{rule.digits}f}"
    found = f"{rule.words} {value:.{rule.digits}f}{rule.unit}"
    return f"{words}: {found}, training wells allow {allowed}; {rule.advice}"
