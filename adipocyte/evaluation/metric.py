"""The challenge's official metric: pixels, features, and their mean.

Per magnification, over all fields (evaluation notebook and criteria of the Adipocyte Cell Imaging Challenge, AI Sweden and AstraZeneca,
2020): `pixel_metric` is the mean over targets of mean |T - P| / median(T), mean and median over all pixels of all fields.
`feature_metric` is the mean over features of mean |t - p| / median(t), mean and median over fields. `combined_metric` is their mean.
Over magnifications each is weighted by the number of fields.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adipocyte.errors import ImageError
from adipocyte.evaluation.measure import FieldMeasurement
from adipocyte.imaging.histograms import median

METRICS = ("pixel_metric", "feature_metric", "combined_metric")
N_DRAWS = 1000
_LEVEL_PERCENT = (2.5, 97.5)

Interval = tuple[float, float]


@dataclass(frozen=True)
class Part:
    """The metric over the fields of one magnification: lower is better.

    `pixel_metrics` by target: MAE / median. `feature_errors` by feature: mean |predicted - true| / median; `left_out` says of every
    other feature or target why it has none. `feature_metric` and `combined_metric` are None when no feature could be measured.
    `n_fields` gave pixels, `n_measured` of them features.
    """

    n_fields: int
    n_measured: int
    pixel_metrics: dict[str, float]
    feature_errors: dict[str, float]
    left_out: dict[str, str]
    pixel_metric: float
    feature_metric: float | None
    combined_metric: float | None


@dataclass(frozen=True)
class Score:
    """`parts` by magnification, and their means weighted by fields; None where a part has none.

    `intervals` by metric ("pixel_metric", …) and by what was drawn anew ("fields", "wells"): 95 % bootstrap intervals.
    """

    parts: dict[int, Part]
    pixel_metric: float
    feature_metric: float | None
    combined_metric: float | None
    intervals: dict[str, dict[str, Interval]]

    @property
    def n_left_out(self) -> int:
        """How many features are left out, over all magnifications."""
        return sum(len(part.left_out) for part in self.parts.values())


def score(figures: Sequence[FieldMeasurement], way: str, *, seed: int = 0) -> Score:
    """Score the fields as painted in one *way*; *seed* draws the bootstrap samples.

    A feature with a value that is not finite in any field, or with median zero, is left out, and so is a target with median zero.
    Raises ImageError when that leaves no target.
    """
    tables = {
        m: _Table([field for field in figures if field.key.magnification == m], way)
        for m in _magnifications(figures)
    }
    parts = {
        m: table.part(np.ones(len(table.wells), dtype=np.int64)) for m, table in tables.items()
    }
    for m, part in parts.items():
        if not part.pixel_metrics:
            raise ImageError(
                f"more than half of the true stains' pixels at {m}x are 0 counts: the metric divides by their median"
            )
    intervals: dict[str, dict[str, Interval]] = {metric: {} for metric in METRICS}
    for drawn, samples in (
        ("fields", _by_fields(tables, seed)),
        ("wells", _by_wells(tables, seed)),
    ):
        totals = [
            _totals({m: tables[m].part(weights) for m, weights in sample.items()})
            for sample in samples
        ]
        for metric in METRICS:
            values = [
                total[metric]
                for total in totals
                if total[metric] is not None and np.isfinite(total[metric])
            ]
            if len(values) > N_DRAWS // 2:
                intervals[metric][drawn] = tuple(
                    float(bound) for bound in np.percentile(values, _LEVEL_PERCENT)
                )
    return Score(parts, **_totals(parts), intervals=intervals)


def _magnifications(figures: Sequence[FieldMeasurement]) -> list[int]:
    return sorted({field.key.magnification for field in figures})


def _totals(parts: Mapping[int, Part]) -> dict[str, float | None]:
    """The metrics over all magnifications, weighted by fields."""
    totals: dict[str, float | None] = {}
    for metric in METRICS:
        values = [getattr(part, metric) for part in parts.values()]
        weights = [part.n_fields for part in parts.values()]
        totals[metric] = None if None in values else float(np.average(values, weights=weights))
    return totals


class _Table:
    """What the metric needs of the fields of one magnification, for any weights: how often each field counts."""

    def __init__(self, figures: list[FieldMeasurement], way: str) -> None:
        self.wells = [field.key.well for field in figures]
        self._targets = [
            target
            for target in figures[0].pixels[way]
            if all(target in field.pixels[way] for field in figures)
        ]
        self._n_px = np.array(
            [[field.truth_counts[target].sum() for target in self._targets] for field in figures],
            dtype=np.float64,
        )
        self._errors = self._n_px * [
            [field.pixels[way][target]["mae"] for target in self._targets] for field in figures
        ]
        self._counts = [
            _trimmed(np.array([field.truth_counts[target] for field in figures]))
            for target in self._targets
        ]
        self._measured = np.array(
            [bool(field.truth_features and field.painted_features.get(way)) for field in figures]
        )
        measured = [
            field for field, is_measured in zip(figures, self._measured, strict=True) if is_measured
        ]
        names = list(measured[0].truth_features) if measured else []
        truth = np.array([[field.truth_features[name] for name in names] for field in measured])
        painted = np.array(
            [[field.painted_features[way][name] for name in names] for field in measured]
        )
        self.left_out = {
            name: reason
            for column, name in enumerate(names)
            if (reason := _reason(truth[:, column], painted[:, column]))
        }
        self._names = [name for name in names if name not in self.left_out]
        kept = [name not in self.left_out for name in names]
        self._truth, self._deviations = (
            truth[:, kept] if names else truth,
            np.abs(painted - truth)[:, kept] if names else truth,
        )

    def part(self, weights: NDArray[np.int64]) -> Part:
        """The metric with field i counted weights[i] times."""
        medians = [_median_of(counts, weights) for counts in self._counts]
        maes = (weights @ self._errors) / (weights @ self._n_px)
        pixels = {
            target: mae / middle
            for target, mae, middle in zip(self._targets, maes.tolist(), medians, strict=True)
            if middle
        }
        dark = {
            target: "its median is 0 counts"
            for target, middle in zip(self._targets, medians, strict=True)
            if not middle
        }
        features = self._feature_errors(weights[self._measured])
        pixel_metric = float(np.mean(list(pixels.values()))) if pixels else float("nan")
        feature_metric = float(np.mean(list(features.values()))) if features else None
        combined = None if feature_metric is None else (pixel_metric + feature_metric) / 2
        n_measured = int(weights[self._measured].sum())
        return Part(
            int(weights.sum()),
            n_measured,
            pixels,
            features,
            self.left_out | dark,
            pixel_metric,
            feature_metric,
            combined,
        )

    def _feature_errors(self, weights: NDArray[np.int64]) -> dict[str, float]:
        """Mean |t - p| / median(t) by feature; without those whose median is zero among the fields that count."""
        if not weights.sum():
            return {}
        medians = np.median(np.repeat(self._truth, weights, axis=0), axis=0)
        deviations = weights @ self._deviations / weights.sum()
        return {
            name: float(deviation / abs(middle))
            for name, deviation, middle in zip(self._names, deviations, medians, strict=True)
            if middle
        }


def _median_of(counts: NDArray[np.float64], weights: NDArray[np.int64]) -> float:
    """Median in counts of the pixels of N fields: *counts*, (N, 65536 or fewer), are their histograms, *weights* how often each counts."""
    return median(np.rint(weights @ counts).astype(np.int64))


def _trimmed(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Histograms without the empty end that all of them have, in the dtype that matrix products are fast in."""
    return counts[:, : int(np.flatnonzero(counts.any(axis=0))[-1]) + 1].astype(np.float64)


def _reason(truth: NDArray[np.float64], painted: NDArray[np.float64]) -> str:
    """Why a feature, given by field, is left out; empty when it is not."""
    for name, values in (("true", truth), ("painted", painted)):
        if n := int((~np.isfinite(values)).sum()):
            return f"no number in {n} of {len(values)} {name} fields"
    return "" if np.median(truth) else "its median is zero"


def _by_fields(tables: Mapping[int, _Table], seed: int) -> Iterator[dict[int, NDArray[np.int64]]]:
    """Samples of as many fields as there are at each magnification, drawn with replacement; none when one has a single field."""
    rng = np.random.default_rng(seed)
    if any(len(table.wells) < 2 for table in tables.values()):
        return
    for _ in range(N_DRAWS):
        yield {
            m: rng.multinomial(n := len(table.wells), np.full(n, 1 / n))
            for m, table in tables.items()
        }


def _by_wells(tables: Mapping[int, _Table], seed: int) -> Iterator[dict[int, NDArray[np.int64]]]:
    """Samples of as many wells as there are, with all their fields at every magnification; none for a single well."""
    rng = np.random.default_rng(seed)
    wells = sorted({well for table in tables.values() for well in table.wells})
    if len(wells) < 2:
        return
    for _ in range(N_DRAWS):
        drawn = dict(
            zip(
                wells, rng.multinomial(len(wells), np.full(len(wells), 1 / len(wells))), strict=True
            )
        )
        sample = {m: np.array([drawn[well] for well in table.wells]) for m, table in tables.items()}
        yield {m: weights for m, weights in sample.items() if weights.any()}
