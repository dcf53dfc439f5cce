"""Whether a new version of a model is better than the one in use, on the same fields."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from adipocyte.evaluation.metric import Part, Score


@dataclass(frozen=True)
class Verdict:
    """Whether the new version `wins`, in words why (`reason`), and a `table` of (figure, new, in use), None where one has none."""

    wins: bool
    reason: str
    table: list[tuple[str, float | None, float | None]]


def compare(new: Score, held: Score, tolerance: float) -> Verdict:
    """A *new* version wins over the one *held* when, on the same fields, all of this is so:

    - every feature that the held one's images give is given by the new one's too: a model that paints no nuclei is not better for it;
    - its combined metric, over the features that both give, is lower; its pixel metric, where no feature can be measured;
    - no target's MAE / median is higher by more than *tolerance*, as a share of the held one's.
    """
    names = {
        m: sorted(part.feature_errors.keys() & held.parts[m].feature_errors.keys())
        for m, part in new.parts.items()
    }
    is_combined = all(names.values())
    metric = "combined_metric" if is_combined else "pixel_metric"
    mine, theirs = (
        _combined(score, names) if is_combined else score.pixel_metric for score in (new, held)
    )
    targets = {
        target: (_pixels(new, target), _pixels(held, target))
        for target in sorted(_targets(new) & _targets(held))
    }
    table = [(metric, mine, theirs), ("pixel_metric", new.pixel_metric, held.pixel_metric)][
        : 1 + is_combined
    ]
    if is_combined:
        table.append(
            (
                "feature_metric",
                *(_over(score, lambda part, m: _features(part, names[m])) for score in (new, held)),
            )
        )
    table += [(f"pixel_metric_{target}", *values) for target, values in targets.items()]

    lost = sorted(
        {
            f"{name} at {m}x"
            for m, part in new.parts.items()
            for name in part.left_out.keys() - held.parts[m].left_out.keys()
        }
    )
    worse = {
        target: own / other - 1
        for target, (own, other) in targets.items()
        if own > other * (1 + tolerance)
    }
    comparison = f"{metric} {mine:.4f} against {theirs:.4f}"
    if lost:
        return Verdict(
            False,
            f"its images do not give {len(lost)} features that the other's do, {lost[0]} the first ({comparison})",
            table,
        )
    if not mine < theirs:
        return Verdict(False, f"no better: {comparison}", table)
    if worse:
        target, rise = max(worse.items(), key=lambda item: item[1])
        return Verdict(
            False,
            f"{target} is {rise:.0%} worse, more than the {tolerance:.0%} allowed, though {comparison}",
            table,
        )
    return Verdict(True, f"better: {comparison}", table)


def _combined(score: Score, names: dict[int, list[str]]) -> float:
    return _over(score, lambda part, m: (part.pixel_metric + _features(part, names[m])) / 2)


def _features(part: Part, names: list[str]) -> float:
    return float(np.mean([part.feature_errors[name] for name in names]))


def _over(score: Score, value: Callable[[Part, int], float]) -> float:
    """The mean over magnifications of what *value* gives for a part and its magnification, weighted by fields."""
    parts = score.parts
    return float(
        np.average(
            [value(part, m) for m, part in parts.items()],
            weights=[part.n_fields for part in parts.values()],
        )
    )


def _targets(score: Score) -> set[str]:
    """The targets that have a pixel metric at every magnification."""
    return set.intersection(*(set(part.pixel_metrics) for part in score.parts.values()))


def _pixels(score: Score, target: str) -> float:
    return _over(score, lambda part, _: part.pixel_metrics[target])
