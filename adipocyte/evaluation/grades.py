"""Which measurements of painted images can be trusted: each is graded by how it follows the truth.

A picture may be good and a feature measured in it worthless: published systems reach a mean r of
images of .84 where that of features is .45. So every column of the tables that `measure` writes is
compared, field by field, with what the true stains give.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from adipocyte.domain import TARGETS
from adipocyte.evaluation import counts, reality
from adipocyte.evaluation.cellprofiler.objects import DIAMETER, IMAGE
from adipocyte.evaluation.counts import CountFactors, learn_counts
from adipocyte.evaluation.measure import FieldMeasurement
from adipocyte.evaluation.objects import ObjectPairs, f1, joined
from adipocyte.evaluation.reality import Candidates, Reality, Reliability
from adipocyte.evaluation.resampling import (
    FEWEST_PAIRS,
    Figures,
    figures_of,
    interval,
    r_over_groups,
    samples,
    sums_of,
)
from adipocyte.system.forms import NUMBER, require_form

WELLS, DETECTION = "Wells", "Detection_F1"
GOOD_R, SOME_R, SURE_R = 0.8, 0.5, 0.5  # SURE_R: of the lower end of r's interval
SURE_N = 8  # fields, or objects, with fewer of which an interval of r says too little
SMALL_ERROR = 0.2  # relative
GOOD_F1, SOME_F1 = 0.8, 0.5
MOST_WITHOUT = 0.1  # share of fields in which the painting gives no number where the truth does
_TABLES = {"nuclei": "Nuclei", "droplets": "LipidDroplets"}  # of kinds of objects
# What the names of features begin with that need no other stain than the lipids'.
_OF_LIPIDS = (
    "LipidDroplets_",
    "Image_Count_LipidDroplets",
    "Image_Count_DefectiveLipidDroplets",
    "Granularity_",
    "Count_Lipids",
    "Count_Defective",
    "Mean_Lipids",
    "StDev_Lipids",
)


class Worth(StrEnum):
    """What a measurement of painted images is good for."""

    USE = "use"
    CARE = "with care"
    NOT = "not"

    @property
    def lowered(self) -> "Worth":
        """The next lower one."""
        return {Worth.USE: Worth.CARE}.get(self, Worth.NOT)


@dataclass(frozen=True)
class Grade:
    """What painted images are worth for one `feature` of a `table`, at a magnification.

    `r` is Pearson's over `n_fields` fields of `n_wells` wells, `r_wells` over the means of wells;
    `error` is the mean of |painted - true| over the |median| of the true values, as in the
    challenge. For DETECTION, `error` is 1 - F1 of objects with an intersection over union of more
    than 1/2. For objects' DIAMETER both are over `n_objects` found objects. `…_low` and `…_high`
    are 95 % bootstrap intervals. All are nan where there are too few, or nothing varies.
    """

    magnification: int
    table: str
    feature: str
    grade: Worth
    reason: str
    n_fields: int
    n_wells: int
    n_objects: int = 0
    r: float = np.nan
    r_low: float = np.nan
    r_high: float = np.nan
    r_wells: float = np.nan
    error: float = np.nan
    error_low: float = np.nan
    error_high: float = np.nan


class Earned(NamedTuple):
    """What a model earned on its validation wells, painted with `intensities`.

    Its probabilities of objects are `outdated` when an older version learnt them in another way;
    `realities` then has none.
    """

    intensities: str
    grades: list[Grade]
    realities: list[Reality]
    counts: Sequence[CountFactors] = ()
    outdated: bool = False


_FORM = {
    field.name: {float: NUMBER | None, Worth: str}.get(field.type, field.type)
    for field in dataclasses.fields(Grade)
}


def grades_of(measurements: Sequence[FieldMeasurement], way: str, *, seed: int = 0) -> list[Grade]:
    """Grade every feature of the fields as painted in one *way*; *seed* draws the intervals.

    Graded are the 99 features of "Image", the columns of "Wells", of each field as if it were a
    well, and of nuclei and droplets their detection and diameters. What needs a stain that was not
    painted is left out. There are none where no field was measured by features.
    """
    grades: list[Grade] = []
    for magnification in sorted({field.key.magnification for field in measurements}):
        fields = [
            field
            for field in measurements
            if field.key.magnification == magnification and field.painted_features.get(way)
        ]
        if fields:
            draws = samples([field.key.well for field in fields], seed)
            grades += _of_features(fields, way, draws)
            grades += _of_objects(fields, way, draws)
    return grades


def earned_by(measurements: Sequence[FieldMeasurement], way: str, seed: int) -> Earned:
    """What images painted in a *way* earned on the fields that were measured."""
    grades = grades_of(measurements, way, seed=seed)
    return Earned(way, grades, _realities_of(measurements, way), learn_counts(measurements, way))


def to_rows(grades: Sequence[Grade]) -> list[dict[str, Any]]:
    """A row for each grade; None where there is no number."""
    return [
        {name: None if value != value else value for name, value in asdict(grade).items()}
        for grade in grades
    ]


def to_json(earned: Earned) -> dict[str, Any]:
    """For a file, as `from_json` reads it."""
    return {
        "intensities": earned.intensities,
        "grades": to_rows(earned.grades),
        "objects": [],  # older versions read theirs here, in another form
        "realities": reality.to_json(earned.realities),
        "counts": counts.to_json(earned.counts),
    }


def from_json(content: Any) -> Earned:
    """Raises ValueError when *content* is not as `to_json` makes it."""
    require_form(content, {"intensities": str, "grades": [_FORM], "objects": list}, "the content")
    grades = [
        Grade(**{name: _read(name, row[name]) for name in _FORM}) for row in content["grades"]
    ]
    # Older models have no trees, and no counts.
    of_objects = reality.from_json(content.get("realities", []))
    of_counts = counts.from_json(content.get("counts", []))
    outdated = bool(content["objects"]) and not of_objects
    return Earned(content["intensities"], grades, of_objects, of_counts, outdated)


def _realities_of(measurements: Sequence[FieldMeasurement], way: str) -> list[Reality]:
    """What can be learnt of objects from fields painted in one *way*."""
    found: dict[tuple[int, str], list[tuple[str, Candidates]]] = {}
    for field in measurements:
        for table, of_field in field.candidates.get(way, {}).items():
            place = (field.key.magnification, table)
            found.setdefault(place, []).append((field.key.well, of_field))
    learnt = [
        reality.learn(*place, [one for _, one in fields], [well for well, _ in fields])
        for place, fields in sorted(found.items())
    ]
    return [one for one in learnt if one]


def _read(name: str, value: Any) -> Any:
    if name == "grade":
        return Worth(value)
    return np.nan if value is None else value


def summary(grades: Iterable[Grade]) -> dict[int, dict[Worth, int]]:
    """How many columns of the table of wells have each grade, by magnification."""
    found: dict[int, dict[Worth, int]] = {}
    for grade in grades:
        if grade.table == WELLS:
            found.setdefault(grade.magnification, dict.fromkeys(Worth, 0))[grade.grade] += 1
    return found


def grade_metrics(grades: Sequence[Grade]) -> dict[str, float]:
    """Numbers to compare models by, for each magnification.

    "feature_r_20x" is the mean r of the challenge's features, "features_to_use_20x" the number of
    columns of the table of wells whose grade is "use".
    """
    found = {
        f"features_to_use_{magnification}x": float(counts[Worth.USE])
        for magnification, counts in summary(grades).items()
    }
    for magnification in {grade.magnification for grade in grades}:
        r = [
            grade.r
            for grade in grades
            if (grade.magnification, grade.table) == (magnification, IMAGE) and np.isfinite(grade.r)
        ]
        if r:
            found[f"feature_r_{magnification}x"] = float(np.mean(r))
    return found


def reliabilities(
    measurements: Sequence[FieldMeasurement], way: str, realities: Sequence[Reality]
) -> dict[tuple[int, str], Reliability]:
    """By magnification and table, how far the probabilities of *realities* can be believed.

    The fields are others than those that they were learnt from, painted in the same *way*.
    """
    found = {}
    for one in realities:
        seen = [
            field.candidates[way][one.table]
            for field in measurements
            if field.key.magnification == one.magnification and way in field.candidates
        ]
        if seen:
            given = np.concatenate([one(objects.predictors) for objects in seen])
            is_real = np.concatenate([objects.is_real for objects in seen])
            found[one.magnification, one.table] = reality.reliability(given, is_real)
    return found


def reliability_metrics(found: Mapping[tuple[int, str], Reliability]) -> dict[str, float]:
    """Numbers of `reliabilities` by name: "real_auc_Nuclei_20x", "real_ece_Nuclei_20x", …"""
    return {
        f"real_{name}_{table}_{magnification}x": value
        for (magnification, table), of in found.items()
        for name, value in (("auc", of.auc), ("ece", of.ece))
        if np.isfinite(value)
    }


def _of_features(
    fields: Sequence[FieldMeasurement], way: str, draws: NDArray[np.int64]
) -> Iterator[Grade]:
    stains, wells = set(fields[0].pixels[way]), [field.key.well for field in fields]
    tables = {
        IMAGE: [(field.truth_features, field.painted_features[way]) for field in fields],
        WELLS: [(field.truth_row, field.painted_rows[way]) for field in fields],
    }
    for table, pairs in tables.items():
        names = [name for name in pairs[0][0] if _is_painted(name, stains)]
        # (true and painted, fields, features)
        values = np.array([[[row[name] for name in names] for row in pair] for pair in pairs])
        values = values.swapaxes(0, 1)
        figures = figures_of(sums_of(values), draws)
        r_wells = r_over_groups(values, wells)
        for at, name in enumerate(names):
            has_truth, has_painted = np.isfinite(values[:, :, at])
            seen_in = [
                well for well, one in zip(wells, has_truth & has_painted, strict=True) if one
            ]
            n_without = int(has_truth.sum()) - len(seen_in)
            worth, reason = _judged(figures[at], len(seen_in), n_without)
            yield Grade(
                fields[0].key.magnification,
                table,
                name,
                worth,
                reason,
                n_fields=len(seen_in),
                n_wells=len(set(seen_in)),
                r_wells=float(r_wells[at]),
                **figures[at]._asdict(),
            )


def _of_objects(
    fields: Sequence[FieldMeasurement], way: str, draws: NDArray[np.int64]
) -> Iterator[Grade]:
    """Detection and, of the objects that are found, diameters."""
    magnification, stains = fields[0].key.magnification, set(fields[0].pixels[way])
    n_wells = len({field.key.well for field in fields})
    for kind, table in _TABLES.items():
        pairs = [field.objects[way][kind] for field in fields]
        if not _is_painted(f"{table}_", stains) or not any(map(_n_objects, pairs)):
            continue
        n_found = sum(len(one.truth_px) for one in pairs)
        missed = _missed(pairs, draws)
        um_per_px = [field.objects_um_per_px for field in fields]
        [sizes] = figures_of(_sums_of_objects(pairs, um_per_px), draws)
        for feature, figures, (worth, reason) in (
            (DETECTION, missed, _judged_detection(missed.error)),
            (DIAMETER, sizes, _judged(sizes, n_found, 0, "objects")),
        ):
            yield Grade(
                magnification,
                table,
                feature,
                worth,
                reason,
                n_fields=len(fields),
                n_wells=n_wells,
                n_objects=n_found,
                **figures._asdict(),
            )


def _is_painted(feature: str, stains: set[str]) -> bool:
    """Whether all stains that a *feature* needs are among the painted ones."""
    return stains == set(TARGETS) or ("A2" in stains and feature.startswith(_OF_LIPIDS))


def _sums_of_objects(
    pairs: Sequence[ObjectPairs], um_per_px: Sequence[float]
) -> NDArray[np.float64]:
    """The sums of the objects' diameters in each field, (fields, 7, 1)."""
    areas_um2 = [
        np.stack([one.truth_px, one.painted_px]) * um**2
        for one, um in zip(pairs, um_per_px, strict=True)
    ]
    diameters_um = 2 * np.sqrt(np.concatenate(areas_um2, axis=1) / np.pi)
    ends = np.cumsum([areas.shape[1] for areas in areas_um2])
    parts = np.split(sums_of(diameters_um[..., None]), ends[:-1])
    return np.stack([part.sum(axis=0) for part in parts])


def _missed(pairs: Sequence[ObjectPairs], draws: NDArray[np.int64]) -> Figures:
    """1 - F1 of all fields as the error, and its interval over the *draws*."""
    wrong = np.array([one.n_missed + one.n_spurious for one in pairs])
    n_all = wrong + np.array([2 * len(one.truth_px) for one in pairs])
    with np.errstate(invalid="ignore"):
        [low], [high] = interval(((draws @ wrong) / (draws @ n_all))[:, None])
    return Figures(error=1 - f1(joined(pairs)), error_low=float(low), error_high=float(high))


def _n_objects(pairs: ObjectPairs) -> int:
    return len(pairs.truth_px) + pairs.n_missed + pairs.n_spurious


def _judged(found: Figures, n: int, n_without: int, things: str = "fields") -> tuple[Worth, str]:
    """The grade of r and error, over *n* things, and why it is not the best one."""
    r, error = found.r, found.error
    if n_without > MOST_WITHOUT * (n + n_without):
        return Worth.NOT, f"no number in {n_without} of {n + n_without} painted {things}"
    if n == 0:
        return Worth.NOT, "no number in any field"
    if np.isnan(r):
        why = "it does not vary among them" if n >= FEWEST_PAIRS else "too few"
        is_close = error <= SMALL_ERROR
        return Worth.CARE if is_close else Worth.NOT, f"measured on {n} {things}: {why}"
    if r < SOME_R:
        if error <= SMALL_ERROR / 2:
            return Worth.CARE, f"its level is right, but it hardly follows the truth (r {r:.2f})"
        return Worth.NOT, f"it does not follow the truth (r {r:.2f})"
    doubts = []
    if r < GOOD_R:
        doubts.append(f"it follows the truth in part (r {r:.2f})")
    elif not found.r_low >= SURE_R or n < SURE_N:
        doubts.append(f"r {r:.2f} of {n} {things} is not sure")
    if not error <= SMALL_ERROR:
        doubts.append(f"its level is off by {error:.0%}" if np.isfinite(error) else "it is about 0")
    return (Worth.CARE, "; ".join(doubts)) if doubts else (Worth.USE, "")


def _judged_detection(error: float) -> tuple[Worth, str]:
    f1 = 1 - error
    if f1 >= GOOD_F1:
        return Worth.USE, ""
    return Worth.CARE if f1 >= SOME_F1 else Worth.NOT, f"F1 {f1:.2f}"
