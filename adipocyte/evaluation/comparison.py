"""Whether a new version of a model is better than the one in use, on the same fields."""

from dataclasses import dataclass

import numpy as np

from adipocyte.evaluation.metric import Score, mean_over

Row = tuple[str, float, float | None]
Names = dict[int, list[str]]  # features by magnification


@dataclass(frozen=True)
class Verdict:
    """Whether the new version `wins`, the `reason` in words, a `table` of (metric, new, in use).

    The last is None where the version in use has no such number, or there is none in use.
    """

    wins: bool
    reason: str
    table: list[Row]


def compare(new: Score, held: Score, tolerance: float) -> Verdict:
    """A *new* version wins over the one *held* when all of this holds on the same fields.

    - The new one's images give every feature that the held one's give, because a model that paints
      no nuclei is not better.
    - Its combined metric, over the features that both give, is lower; its pixel metric, if no
      feature can be measured.
    - No target's MAE / median is higher by more than *tolerance*, as a share of the held one's.
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
    table: list[Row] = [(metric, mine, theirs)]
    if is_combined:
        table.append(("pixel_metric", new.pixel_metric, held.pixel_metric))
        table.append(("feature_metric", _features(new, names), _features(held, names)))
    table += [(f"pixel_metric_{target}", *values) for target, values in targets.items()]

    comparison = f"{metric} {mine:.4f} against {theirs:.4f}"
    if lost := _lost(new, held):
        found = f"its images lack {len(lost)} features that the other's give (first: {lost[0]})"
        return Verdict(False, f"{found}, {comparison}", table)
    if not mine < theirs:
        return Verdict(False, f"no better: {comparison}", table)
    worse = {
        target: own / other - 1
        for target, (own, other) in targets.items()
        if own > other * (1 + tolerance)
    }
    if worse:
        target, rise = max(worse.items(), key=lambda item: item[1])
        found = f"{target} is {rise:.0%} worse, more than the {tolerance:.0%} allowed"
        return Verdict(False, f"{found}, though {comparison}", table)
    return Verdict(True, f"better: {comparison}", table)


def _lost(new: Score, held: Score) -> list[str]:
    """The features that *held* gives and *new* does not."""
    return sorted(
        f"{name} at {m}x"
        for m, part in new.parts.items()
        for name in part.left_out.keys() - held.parts[m].left_out.keys()
    )


def _combined(score: Score, names: Names) -> float:
    """The combined metric over the features *names*."""
    errors = _feature_metrics(score, names)
    values = [
        (part.pixel_metric + error) / 2
        for part, error in zip(score.parts.values(), errors, strict=True)
    ]
    return mean_over(score.parts.values(), values)


def _features(score: Score, names: Names) -> float:
    """The feature metric over the features *names*."""
    return mean_over(score.parts.values(), _feature_metrics(score, names))


def _feature_metrics(score: Score, names: Names) -> list[float]:
    return [
        float(np.mean([part.feature_errors[name] for name in names[m]]))
        for m, part in score.parts.items()
    ]


def _targets(score: Score) -> set[str]:
    """The targets that have a pixel metric at every magnification."""
    return set.intersection(*(set(part.pixel_metrics) for part in score.parts.values()))


def _pixels(score: Score, target: str) -> float:
    parts = score.parts.values()
    return mean_over(parts, [part.pixel_metrics[target] for part in parts])
