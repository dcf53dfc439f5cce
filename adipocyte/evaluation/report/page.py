"""The page, section by section: what the template shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from matplotlib import colormaps

from adipocyte.domain import TARGET_COLOURS, TARGET_NAMES, TARGETS
from adipocyte.evaluation.fields import FieldPaths
from adipocyte.evaluation.measure import FieldMeasurement
from adipocyte.evaluation.metric import Interval, Part, Score
from adipocyte.evaluation.objects import Agreement, ObjectPairs, agreement, f1, joined
from adipocyte.evaluation.report import charts
from adipocyte.evaluation.report.images import Gallery, chosen, gallery

WAY_NAMES = {
    "none": "as painted",
    "matching": "histogram matching",
    "calibration": "calibration",
    "prediction": "prediction",
}
METRIC_NAMES = {
    "combined_metric": "Combined metric",
    "pixel_metric": "Pixel metric",
    "feature_metric": "Feature metric",
}
KIND_COLOURS = {"nuclei": TARGET_COLOURS["A1"], "droplets": TARGET_COLOURS["A2"]}


@dataclass(frozen=True)
class Headline:
    """One metric of every way: `values` weighted over magnifications; of the way shown also `value` and `spans`; None if not measured."""

    name: str
    value: float | None
    spans: dict[str, Interval]
    chart: Markup | None


@dataclass(frozen=True)
class Features:
    """The features of one magnification: `groups` with their number and mean error, `table` by feature and way."""

    magnification: int
    chart: Markup | None
    groups: dict[str, tuple[int, float]]
    table: dict[str, dict[str, float]]
    left_out: dict[str, list[str]]


@dataclass(frozen=True)
class Objects:
    """The objects of one kind and magnification; `chart` is None when none was found."""

    kind: str
    magnification: int
    pairs: ObjectPairs
    f1: float
    agreement: Agreement
    chart: Markup | None


@dataclass(frozen=True)
class Chart:
    """A chart of one target and magnification."""

    target: str
    magnification: int
    chart: Markup


def page(
    figures: Sequence[FieldMeasurement],
    paths: Sequence[FieldPaths],
    scores: Mapping[str, Score],
    shown: str,
    origin: Mapping[str, str],
) -> str:
    """An evaluation as one HTML page that needs nothing else: no network, no other file.

    *scores* by way ("none", "matching", "calibration"; "prediction"); *shown* is the way whose pictures, features and objects are shown;
    *origin* says by name what was judged and how. The same arguments give the same text, which stays under 50 MB.

    Raises ImageError, naming the file, when an image of *paths* cannot be read.
    """
    figures = sorted(figures, key=lambda field: field.key)
    pairs = [
        (target, magnification)
        for target in TARGETS
        for magnification in sorted(scores[shown].parts)
        if any(
            field.key.magnification == magnification and target in field.truth_counts
            for field in figures
        )
    ]
    fields = [
        one
        for target, magnification in pairs
        for one in chosen(figures, target, magnification, shown)
    ]
    return _template().render(
        n_fields=len(figures),
        n_wells=len({field.key.well for field in figures}),
        scores=scores,
        shown=shown,
        origin=origin,
        headlines=[_headline(metric, scores, shown) for metric in METRIC_NAMES],
        pictures=_by_place(gallery(fields, {of.key: of for of in paths}, shown)),
        features=[
            _features(magnification, scores, shown) for magnification in sorted(scores[shown].parts)
        ],
        objects=_objects(figures, shown),
        distributions=[_distribution(figures, *pair, list(scores)) for pair in pairs],
        plates=_plates(figures, pairs, shown),
        way_names=WAY_NAMES,
        metric_names=METRIC_NAMES,
        target_names=TARGET_NAMES,
        target_colours=TARGET_COLOURS,
        way_colours=charts.way_colours(list(scores)),
        group_colours=charts.GROUP_COLOURS,
        magma=(colormaps["magma"](np.arange(256))[:, :3] * 255)
        .round()
        .astype(np.uint8)
        .tobytes()
        .hex(),
    )


def _template() -> Template:
    """The page's template; all that is put into it is escaped, but for our charts."""
    environment = Environment(
        loader=PackageLoader(__package__, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = _figure
    return environment.get_template("page.html")


def _figure(value: float | None, digits: int = 3) -> str:
    """A number for people; a dash where there is none."""
    return (
        "–" if value is None or not np.isfinite(value) else f"{value:,.{digits}f}".replace("-", "−")
    )


def _headline(metric: str, scores: Mapping[str, Score], shown: str) -> Headline:
    values = {
        way: getattr(score, metric)
        for way, score in scores.items()
        if getattr(score, metric) is not None
    }
    spans = {way: scores[way].intervals.get(metric, {}) for way in values}
    named = {WAY_NAMES.get(way, way): value for way, value in values.items()}
    of_named = {WAY_NAMES.get(way, way): of_way for way, of_way in spans.items()}
    chart = (
        charts.intervals(METRIC_NAMES[metric], named, of_named, WAY_NAMES.get(shown, shown))
        if values
        else None
    )
    return Headline(METRIC_NAMES[metric], values.get(shown), spans.get(shown, {}), chart)


def _by_place(found: Gallery) -> dict:
    """The gallery with its pairs by target and magnification."""
    places: dict[tuple[str, int], list] = {}
    for pair in found.pairs:
        places.setdefault((pair.shown.target, pair.shown.key.magnification), []).append(pair)
    return {"places": places, "method": found.method, "loss": found.loss}


def _features(magnification: int, scores: Mapping[str, Score], shown: str) -> Features:
    parts: dict[str, Part] = {way: score.parts[magnification] for way, score in scores.items()}
    errors = {
        feature: error
        for feature, error in parts[shown].feature_errors.items()
        if np.isfinite(error)
    }
    groups = {feature: _group(feature) for feature in errors}
    of_group = {
        name: [errors[feature] for feature in errors if groups[feature] == name]
        for name in charts.GROUP_COLOURS
    }
    left_out: dict[str, list[str]] = {}
    for feature, reason in sorted(parts[shown].left_out.items()):
        left_out.setdefault(reason, []).append(feature)
    return Features(
        magnification,
        charts.feature_bars(f"Feature errors at {magnification}x", errors, groups)
        if errors
        else None,
        {
            name: (len(values), float(np.mean(values)))
            for name, values in of_group.items()
            if values
        },
        {
            feature: {way: part.feature_errors.get(feature, np.nan) for way, part in parts.items()}
            for feature in sorted(errors)
        },
        left_out,
    )


def _group(feature: str) -> str:
    """Which objects a feature measures, by its name; "image" when none."""
    return next(
        (group for group in ("nuclei", "cells", "lipid") if group in feature.lower()), "image"
    ).replace("lipid", "lipids")


def _objects(figures: Sequence[FieldMeasurement], shown: str) -> list[Objects]:
    found: dict[tuple[str, int], list[ObjectPairs]] = {}
    for field in figures:
        for kind, pairs in field.objects.get(shown, {}).items():
            found.setdefault((kind, field.key.magnification), []).append(pairs)
    sections = []
    for kind, magnification in sorted(
        found, key=lambda place: (list(KIND_COLOURS).index(place[0]), place[1])
    ):
        pairs = joined(found[kind, magnification])
        name = f"Areas of {kind} at {magnification}x, painted against true"
        chart = (
            charts.object_sizes(name, pairs, KIND_COLOURS[kind], log=kind == "droplets")
            if len(pairs.truth_px)
            else None
        )
        sections.append(
            Objects(
                kind,
                magnification,
                pairs,
                f1(pairs),
                agreement(pairs.truth_px, pairs.painted_px),
                chart,
            )
        )
    return sections


def _distribution(
    figures: Sequence[FieldMeasurement], target: str, magnification: int, ways: list[str]
) -> Chart:
    here = [
        field
        for field in figures
        if field.key.magnification == magnification and target in field.truth_counts
    ]
    painted = {
        way: np.sum([field.painted_counts[way][target] for field in here], axis=0)
        for way in ways
        if all(target in field.painted_counts.get(way, {}) for field in here)
    }
    name = f"Counts of {target} at {magnification}x"
    return Chart(
        target,
        magnification,
        charts.distributions(name, _truth_counts(here, target), painted, charts.way_colours(ways)),
    )


def _truth_counts(figures: Sequence[FieldMeasurement], target: str) -> np.ndarray:
    return np.sum([field.truth_counts[target] for field in figures], axis=0)


def _plates(
    figures: Sequence[FieldMeasurement], pairs: Sequence[tuple[str, int]], shown: str
) -> list[Chart]:
    """Where on the plate the errors are: one scale of colour for all magnifications of a target."""
    errors = {pair: errors for pair in pairs if (errors := _well_errors(figures, *pair, shown))}
    highest = {
        target: max(max(found.values()) for (of, _), found in errors.items() if of == target)
        for target, _ in errors
    }
    return [
        Chart(
            target,
            magnification,
            charts.plate_map(
                f"Error of {target} at {magnification}x by well", wells, highest[target]
            ),
        )
        for (target, magnification), wells in errors.items()
    ]


def _well_errors(
    figures: Sequence[FieldMeasurement], target: str, magnification: int, shown: str
) -> dict[str, float]:
    """The mean over a well's fields of MAE / median, the median of all true pixels of the magnification."""
    here = [
        field
        for field in figures
        if field.key.magnification == magnification and target in field.truth_counts
    ]
    counts = _truth_counts(here, target).cumsum()
    median = int(np.searchsorted(counts, counts[-1] / 2))
    wells: dict[str, list[float]] = {}
    for field in here:
        if (
            median
            and target in field.pixels[shown]
            and np.isfinite(mae := field.pixels[shown][target]["mae"])
        ):
            wells.setdefault(field.key.well, []).append(mae / median)
    return {well: float(np.mean(found)) for well, found in wells.items()}
