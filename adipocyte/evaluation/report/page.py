"""The page, section by section: what the template shows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib import colormaps

from adipocyte.domain import TARGET_COLOURS, TARGET_NAMES, TARGETS
from adipocyte.evaluation.cellprofiler.objects import IMAGE
from adipocyte.evaluation.fields import FieldPaths
from adipocyte.evaluation.grades import Grade, Worth, summary
from adipocyte.evaluation.measure import FieldMeasurement, having, total
from adipocyte.evaluation.metric import Interval, Part, Score, well_errors
from adipocyte.evaluation.objects import Agreement, ObjectPairs, agreement, f1, joined
from adipocyte.evaluation.reality import Reliability
from adipocyte.evaluation.report import charts
from adipocyte.evaluation.report.images import Gallery, chosen, gallery
from adipocyte.evaluation.report.template import template
from adipocyte.evaluation.sureness import NOT_SURE, Held, Sureness

WAY_NAMES = {
    "none": "as painted",
    "matching": "histogram matching",
    "calibration": "calibration",
    "highlights": "calibration, highlights matched",
    "prediction": "prediction",
}
METRIC_NAMES = {
    "combined_metric": "Combined metric",
    "pixel_metric": "Pixel metric",
    "feature_metric": "Feature metric",
}
EMPTY: Mapping[tuple[int, str], Reliability] = {}
KIND_COLOURS = {"nuclei": TARGET_COLOURS["A1"], "droplets": TARGET_COLOURS["A2"]}


@dataclass(frozen=True)
class Headline:
    """One metric: its `value` and the intervals `spans` of the way shown, a `chart` of all ways.

    `value` and `chart` are None if it was not measured.
    """

    name: str
    value: float | None
    spans: dict[str, Interval]
    chart: Markup | None


@dataclass(frozen=True)
class Features:
    """The features of one magnification.

    `groups` has their number and mean error by kind of object, `table` the errors by feature and
    way, `left_out` the names by reason.
    """

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
class Reliable:
    """How far the probabilities of painted objects of a table can be believed."""

    magnification: int
    table: str
    figures: Reliability
    chart: Markup


@dataclass(frozen=True)
class Chart:
    """A chart of one target and magnification."""

    target: str
    magnification: int
    chart: Markup


def page(
    measurements: Sequence[FieldMeasurement],
    paths: Sequence[FieldPaths],
    scores: Mapping[str, Score],
    shown: str,
    origin: Mapping[str, str],
    grades: Sequence[Grade] = (),
    reliable: Mapping[tuple[int, str], Reliability] = EMPTY,
    sureness: Sureness = NOT_SURE,
) -> str:
    """An evaluation as one HTML page that needs no network and no other file.

    *scores* by way ("none", "matching", …; "prediction"); *shown* is the way whose
    pictures, features and objects are shown; *origin* says by name what was judged and how,
    *grades* what measurements of the painted images are worth, *reliable*, by magnification and
    table, how far the probabilities of painted objects can be believed, *sureness* whether
    intervals hold and expected errors come true. The same arguments give the same text, which stays
    under 50 MB.

    Raises ImageError, naming the file, when an image of *paths* cannot be read.
    """
    measurements = sorted(measurements, key=lambda field: field.key)
    magnifications = sorted(scores[shown].parts)
    pairs = [
        (target, magnification)
        for target in TARGETS
        for magnification in magnifications
        if having(measurements, target, magnification)
    ]
    fields = [
        one
        for target, magnification in pairs
        for one in chosen(measurements, target, magnification, shown)
    ]
    magma = (colormaps["magma"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    return template("adipocyte.evaluation.report").render(
        n_fields=len(measurements),
        n_wells=len({field.key.well for field in measurements}),
        scores=scores,
        shown=shown,
        origin=origin,
        headlines=[_headline(metric, scores, shown) for metric in METRIC_NAMES],
        pictures=_by_place(gallery(fields, {of.key: of for of in paths}, shown)),
        features=[_features(magnification, scores, shown) for magnification in magnifications],
        objects=_objects(measurements, shown),
        worths=summary(grades),
        graded=_graded(grades),
        reliable=[_reliable(*place, one) for place, one in reliable.items()],
        held=_by_stain(sureness),
        foretold=_foretold(sureness),
        verdicts=Counter(str(one.trust.verdict) for one in sureness.foretold),
        distributions=[_distribution(measurements, *pair, list(scores)) for pair in pairs],
        plates=_plates(measurements, pairs, shown),
        way_names=WAY_NAMES,
        metric_names=METRIC_NAMES,
        target_names=TARGET_NAMES,
        target_colours=TARGET_COLOURS,
        way_colours=charts.way_colours(list(scores)),
        group_colours=charts.GROUP_COLOURS,
        magma=magma.tobytes().hex(),
    )


def _headline(metric: str, scores: Mapping[str, Score], shown: str) -> Headline:
    name = METRIC_NAMES[metric]
    all_values = {way: getattr(score, metric) for way, score in scores.items()}
    values = {way: value for way, value in all_values.items() if value is not None}
    if not values:
        return Headline(name, None, {}, None)
    spans = {way: scores[way].intervals.get(metric, {}) for way in values}
    named = {WAY_NAMES.get(way, way): value for way, value in values.items()}
    of_named = {WAY_NAMES.get(way, way): of_way for way, of_way in spans.items()}
    chart = charts.intervals(name, named, of_named, WAY_NAMES.get(shown, shown))
    return Headline(name, values.get(shown), spans.get(shown, {}), chart)


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
        group: [errors[feature] for feature in errors if groups[feature] == group]
        for group in charts.GROUP_COLOURS
    }
    left_out: dict[str, list[str]] = {}
    for feature, reason in sorted(parts[shown].left_out.items()):
        left_out.setdefault(reason, []).append(feature)
    name = f"Feature errors at {magnification}x"
    return Features(
        magnification,
        chart=charts.feature_bars(name, errors, groups) if errors else None,
        groups={
            group: (len(values), float(np.mean(values)))
            for group, values in of_group.items()
            if values
        },
        table={
            feature: {way: part.feature_errors.get(feature, np.nan) for way, part in parts.items()}
            for feature in sorted(errors)
        },
        left_out=left_out,
    )


def _group(feature: str) -> str:
    """Which objects a feature measures, by its name; "image" if none."""
    for word, group in (("nuclei", "nuclei"), ("cells", "cells"), ("lipid", "lipids")):
        if word in feature.lower():
            return group
    return "image"


def _by_stain(sureness: Sureness) -> dict[str, list[Held]]:
    """How often the intervals of each stain and magnification held, at every place."""
    found: dict[str, list[Held]] = {}
    for one in sureness.held:
        name = f"{one.target} {TARGET_NAMES[one.target]}, {one.magnification}x"
        found.setdefault(name, []).append(one)
    return found


def _foretold(sureness: Sureness) -> dict[int, Markup]:
    """By magnification a chart of the fields' expected and true errors."""
    pairs: dict[int, dict[str, list[tuple[float, float]]]] = {}
    for one in sureness.foretold:
        for target in sorted(one.errors.keys() & one.trust.errors.keys()):
            of_target = pairs.setdefault(one.key.magnification, {}).setdefault(target, [])
            of_target.append((one.trust.errors[target], one.errors[target]))
    return {
        magnification: charts.expected_errors(f"expected-{magnification}", of)
        for magnification, of in sorted(pairs.items())
    }


def _graded(grades: Sequence[Grade]) -> dict[int, list[Grade]]:
    """By magnification the grades of the columns of wells and of objects, the best first."""
    found: dict[int, list[Grade]] = {}
    for grade in sorted(grades, key=lambda grade: list(Worth).index(grade.grade)):
        if grade.table != IMAGE:  # the 99 features, which the columns of wells are made of
            found.setdefault(grade.magnification, []).append(grade)
    return found


def _reliable(magnification: int, table: str, one: Reliability) -> Reliable:
    name = f"Painted {table} at {magnification}x: share that is real"
    return Reliable(magnification, table, one, charts.reliability(name, one.bins))


def _objects(measurements: Sequence[FieldMeasurement], shown: str) -> list[Objects]:
    found: dict[tuple[str, int], list[ObjectPairs]] = {}
    for field in measurements:
        for kind, pairs in field.objects.get(shown, {}).items():
            found.setdefault((kind, field.key.magnification), []).append(pairs)
    kinds = list(KIND_COLOURS)
    places = sorted(found, key=lambda place: (kinds.index(place[0]), place[1]))
    return [_objects_of(*place, joined(found[place])) for place in places]


def _objects_of(kind: str, magnification: int, pairs: ObjectPairs) -> Objects:
    chart = None
    if len(pairs.truth_px):
        name = f"Areas of {kind} at {magnification}x, painted against true"
        chart = charts.object_sizes(name, pairs, KIND_COLOURS[kind], log=kind == "droplets")
    of_sizes = agreement(pairs.truth_px, pairs.painted_px)
    return Objects(kind, magnification, pairs, f1(pairs), of_sizes, chart)


def _distribution(
    measurements: Sequence[FieldMeasurement], target: str, magnification: int, ways: list[str]
) -> Chart:
    here = having(measurements, target, magnification)
    truth = total(field.truth_counts[target] for field in here)
    painted = {
        way: total(field.painted_counts[way][target] for field in here)
        for way in ways
        if all(target in field.painted_counts.get(way, {}) for field in here)
    }
    name = f"Counts of {target} at {magnification}x"
    chart = charts.distributions(name, truth, painted, charts.way_colours(ways))
    return Chart(target, magnification, chart)


def _plates(
    measurements: Sequence[FieldMeasurement], pairs: Sequence[tuple[str, int]], shown: str
) -> list[Chart]:
    """Where on the plate the errors are: one scale of colour for all magnifications of a target."""
    errors = {pair: wells for pair in pairs if (wells := well_errors(measurements, *pair, shown))}
    highest: dict[str, float] = {}
    for (target, _), wells in errors.items():
        highest[target] = max(highest.get(target, 0.0), *wells.values())
    found = []
    for (target, magnification), wells in errors.items():
        name = f"Error of {target} at {magnification}x by well"
        chart = charts.plate_map(name, wells, highest[target])
        found.append(Chart(target, magnification, chart))
    return found
