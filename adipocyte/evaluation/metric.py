"""The challenge's official metric: pixels, features, and their mean.

Per magnification, over all fields (evaluation notebook and criteria of the Adipocyte Cell Imaging
Challenge, AI Sweden and AstraZeneca, 2020): `pixel_metric` is the mean over targets of mean |T - P|
/ median(T), mean and median over all pixels of all fields. `feature_metric` is the mean over
features of mean |t - p| / median(t), mean and median over fields. `combined_metric` is their mean.
Over magnifications each is weighted by the number of fields.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adipocyte.errors import ImageError
from adipocyte.evaluation.measure import FieldMeasurement, Histogram, having, total
from adipocyte.imaging.histograms import median

METRICS = ("pixel_metric", "feature_metric", "combined_metric")
N_DRAWS = 1000
_LEVEL_PERCENT = (2.5, 97.5)

Interval = tuple[float, float]


@dataclass(frozen=True)
class Part:
    """The metric over the fields of one magnification: lower is better.

    `pixel_metrics` by target: MAE / median. `feature_errors` by feature: mean |predicted - true| /
    median; `left_out` says of every other feature or target why it has none. `feature_metric` and
    `combined_metric` are None when no feature could be measured. `n_fields` gave pixels.
    """

    n_fields: int
    pixel_metrics: dict[str, float]
    feature_errors: dict[str, float]
    left_out: dict[str, str]
    pixel_metric: float
    feature_metric: float | None
    combined_metric: float | None


@dataclass(frozen=True)
class Score:
    """`parts` by magnification, and their means weighted by fields; None where a part has none.

    `intervals` by metric ("pixel_metric", …) and by what was drawn anew ("fields", "wells"): 95 %
    bootstrap intervals.
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


def score(measurements: Sequence[FieldMeasurement], way: str, *, seed: int = 0) -> Score:
    """Score the fields as painted in one *way*; *seed* draws the bootstrap samples.

    A feature with a value that is not finite in any field, or with median zero, is left out, and so
    is a target with median zero. Raises ImageError when that leaves no target.
    """
    tables = {
        m: _Table([field for field in measurements if field.key.magnification == m], way)
        for m in sorted({field.key.magnification for field in measurements})
    }
    parts = {
        m: table.part(np.ones(len(table.wells), dtype=np.int64)) for m, table in tables.items()
    }
    for m, part in parts.items():
        if not part.pixel_metrics:
            raise ImageError(
                f"more than half of the true stains' pixels at {m}x are 0 counts",
                "the metric divides by their median; judge fields whose stains are not dark",
            )
    drawn = {"fields": _by_fields(tables, seed), "wells": _by_wells(tables, seed)}
    of_drawn = {name: _intervals(tables, samples) for name, samples in drawn.items()}
    return Score(
        parts,
        pixel_metric=mean_over(parts.values(), [part.pixel_metric for part in parts.values()]),
        feature_metric=_overall(parts, "feature_metric"),
        combined_metric=_overall(parts, "combined_metric"),
        intervals={
            metric: {name: found[metric] for name, found in of_drawn.items() if metric in found}
            for metric in METRICS
        },
    )


def mean_over(parts: Iterable[Part], values: Sequence[float]) -> float:
    """The mean over magnifications of *values*, one for each of *parts*, weighted by fields."""
    return float(np.average(values, weights=[part.n_fields for part in parts]))


def relative_errors(
    truth: NDArray[np.float64], deviations: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The error of each feature: its mean deviation over |median(t)|; nan where the median is zero.

    truth: t, (fields, features); deviations: (features,), the mean of |t - p| over the fields.
    """
    scale = np.abs(np.median(truth, axis=0))
    return np.divide(deviations, scale, out=np.full_like(deviations, np.nan), where=scale != 0)


def well_errors(
    measurements: Sequence[FieldMeasurement], target: str, magnification: int, way: str
) -> dict[str, float]:
    """By well, the mean over its fields of MAE / median.

    The median is that of all true pixels of the magnification. Fields without a finite error are
    passed over; there is no well where the median is zero.
    """
    here = having(measurements, target, magnification)
    middle = median(total(field.truth_counts[target] for field in here)) if here else 0
    if not middle:
        return {}
    wells: dict[str, list[float]] = {}
    for field in here:
        mae = field.pixels[way].get(target, {}).get("mae", np.nan)
        if np.isfinite(mae):
            wells.setdefault(field.key.well, []).append(mae / middle)
    return {well: float(np.mean(errors)) for well, errors in wells.items()}


def _overall(parts: Mapping[int, Part], metric: str) -> float | None:
    """A metric over all magnifications; None where one has none."""
    values = [getattr(part, metric) for part in parts.values()]
    return None if None in values else mean_over(parts.values(), values)


class _Table:
    """What the metric needs of the fields of one magnification, whatever their weights.

    A field's weight says how often it counts; one without a stain does not count for it.
    """

    def __init__(self, fields: list[FieldMeasurement], way: str) -> None:
        self.wells = [field.key.well for field in fields]
        self._targets = sorted({target for field in fields for target in field.pixels[way]})
        counts = [[_counts_of(field, way, target) for field in fields] for target in self._targets]
        self._counts = [_stacked(histograms) for histograms in counts]
        self._n_px = np.array([table.sum(axis=1) for table in self._counts]).T
        maes = [
            [field.pixels[way].get(target, {"mae": 0.0})["mae"] for target in self._targets]
            for field in fields
        ]
        self._errors = self._n_px * maes
        self._measured = np.array(
            [bool(field.truth_features and field.painted_features.get(way)) for field in fields]
        )
        self._take_features(
            [field for field, is_in in zip(fields, self._measured, strict=True) if is_in], way
        )

    def _take_features(self, measured: list[FieldMeasurement], way: str) -> None:
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
        if names:
            kept = [name not in self.left_out for name in names]
            truth, painted = truth[:, kept], painted[:, kept]
        self._truth, self._deviations = truth, np.abs(painted - truth)

    def part(self, weights: NDArray[np.int64]) -> Part:
        """The metric with field i counted weights[i] times."""
        pixels, dark = {}, {}
        sums = zip(weights @ self._errors, weights @ self._n_px, self._counts, strict=True)
        for target, (error, n_px, counts) in zip(self._targets, sums, strict=True):
            if not n_px:
                continue  # none of the fields that count has it
            if middle := _median_of(counts, weights):
                pixels[target] = float(error / n_px) / middle
            else:
                dark[target] = "its median is 0 counts"
        features = self._feature_errors(weights[self._measured])
        pixel_metric = float(np.mean(list(pixels.values()))) if pixels else float("nan")
        feature_metric = float(np.mean(list(features.values()))) if features else None
        return Part(
            n_fields=int(weights.sum()),
            pixel_metrics=pixels,
            feature_errors=features,
            left_out=self.left_out | dark,
            pixel_metric=pixel_metric,
            feature_metric=feature_metric,
            combined_metric=None if feature_metric is None else (pixel_metric + feature_metric) / 2,
        )

    def _feature_errors(self, weights: NDArray[np.int64]) -> dict[str, float]:
        """Mean |t - p| / median(t) by feature, without features whose median is zero.

        Mean and median are those of the fields that count.
        """
        if not weights.sum():
            return {}
        errors = relative_errors(
            np.repeat(self._truth, weights, axis=0), weights @ self._deviations / weights.sum()
        )
        found = zip(self._names, errors.tolist(), strict=True)
        return {name: error for name, error in found if not np.isnan(error)}


def _counts_of(field: FieldMeasurement, way: str, target: str) -> Histogram:
    """The histogram of a field's true stain; empty where nothing was painted beside it."""
    return field.truth_counts[target] if target in field.pixels[way] else np.zeros(0, np.uint8)


def _stacked(histograms: Sequence[Histogram]) -> NDArray[np.float64]:
    """Histograms as rows of one table, in the dtype that matrix products are fast in."""
    table = np.zeros((len(histograms), max(map(len, histograms))))
    for row, histogram in zip(table, histograms, strict=True):
        row[: len(histogram)] = histogram
    return table


def _median_of(counts: NDArray[np.float64], weights: NDArray[np.int64]) -> float:
    """Median in counts of the pixels of N fields.

    *counts*, (N, 65536 or fewer), are their histograms, *weights* how often each field counts.
    """
    return median(np.rint(weights @ counts).astype(np.int64))


def _reason(truth: NDArray[np.float64], painted: NDArray[np.float64]) -> str:
    """Why a feature, given by field, is left out; empty when it is not."""
    for name, values in (("true", truth), ("painted", painted)):
        if n := int((~np.isfinite(values)).sum()):
            return f"no number in {n} of {len(values)} {name} fields"
    return "" if np.median(truth) else "its median is zero"


Sample = dict[int, NDArray[np.int64]]  # how often each field counts, by magnification


def _intervals(tables: Mapping[int, _Table], samples: Iterator[Sample]) -> dict[str, Interval]:
    """The interval of each metric over *samples* of the fields, if more than half have it."""
    values: dict[str, list[float]] = {metric: [] for metric in METRICS}
    for sample in samples:
        parts = {m: tables[m].part(weights) for m, weights in sample.items()}
        for metric in METRICS:
            value = _overall(parts, metric)
            if value is not None and np.isfinite(value):
                values[metric].append(value)
    found = {}
    for metric, drawn in values.items():
        if len(drawn) > N_DRAWS // 2:
            low, high = np.percentile(drawn, _LEVEL_PERCENT).tolist()
            found[metric] = low, high
    return found


def _by_fields(tables: Mapping[int, _Table], seed: int) -> Iterator[Sample]:
    """Samples of as many fields as there are at each magnification, drawn with replacement.

    There are none when a magnification has a single field.
    """
    rng = np.random.default_rng(seed)
    if any(len(table.wells) < 2 for table in tables.values()):
        return
    for _ in range(N_DRAWS):
        yield {
            m: rng.multinomial(n := len(table.wells), np.full(n, 1 / n))
            for m, table in tables.items()
        }


def _by_wells(tables: Mapping[int, _Table], seed: int) -> Iterator[Sample]:
    """Samples of as many wells as there are, with all their fields at every magnification.

    There are none when there is a single well.
    """
    rng = np.random.default_rng(seed)
    wells = sorted({well for table in tables.values() for well in table.wells})
    n = len(wells)
    if n < 2:
        return
    for _ in range(N_DRAWS):
        drawn = dict(zip(wells, rng.multinomial(n, np.full(n, 1 / n)), strict=True))
        sample = {m: np.array([drawn[well] for well in table.wells]) for m, table in tables.items()}
        yield {m: weights for m, weights in sample.items() if weights.any()}
