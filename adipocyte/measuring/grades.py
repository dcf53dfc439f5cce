"""What measurements of a folder of painted images are worth, by the model's grades and the plate.

The grades were earned on wells that the model's training did not see, of the same plate. They are
lowered where this plate, or how it was painted, is another thing.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from adipocyte.domain import FieldKey
from adipocyte.evaluation.cellprofiler.features import STAINS
from adipocyte.evaluation.cellprofiler.objects import KINDS, NUMBER, Table, columns_of
from adipocyte.evaluation.counts import COUNT, CountFactors
from adipocyte.evaluation.grades import WELLS, Earned, Grade, Worth, from_json, summary
from adipocyte.evaluation.reality import PROBABILITY, Predictors, Reality
from adipocyte.imaging.trust import UNTOLD, Trust, Verdict, read_trust
from adipocyte.plate.listing import few
from adipocyte.plate.stained import GRADES, PLATE_MANIFEST, Told, damaged, told_by

VERDICT = "Metadata_Trust"
MOST_UNLIKE = 0.5  # share of a magnification's fields that may be unlike the training wells


@dataclass(frozen=True)
class Graded:
    """The `grades` of what is measured, and `doubts`: sentences for people about all of them.

    `unlike` are the fields that the painter found unlike its training wells. `realities` give
    painted objects their probability of being real; neither they nor `counts` are there for images
    with other intensities than those that they were learnt from. `trusts` say which fields to
    believe, where they were painted with uncertainty; `counts`, how many objects there may be where
    so many are painted.
    """

    grades: tuple[Grade, ...] = ()
    doubts: tuple[str, ...] = ()
    unlike: frozenset[FieldKey] = frozenset()
    realities: tuple[Reality, ...] = ()
    trusts: Mapping[FieldKey, Trust] = field(default_factory=dict)
    counts: tuple[CountFactors, ...] = ()

    @cached_property
    def _of_wells(self) -> dict[tuple[int, str], Grade]:
        return {
            (grade.magnification, grade.feature): grade
            for grade in self.grades
            if grade.table == WELLS
        }

    def of_wells(self, magnification: int, feature: str) -> Grade | None:
        """The grade of a column of the table of wells, None where it has none."""
        return self._of_wells.get((magnification, feature))

    def with_probability(
        self, name: str, magnification: int, table: Table, predictors: Predictors
    ) -> Table:
        """A *table* of objects of that *name* with the column PROBABILITY, by their *predictors*.

        Tables of kinds that the model knows nothing of are as they were; nan stands for a
        magnification that it does not know.
        """
        learnt = {one.magnification: one for one in self.realities if one.table == name}
        if not learnt:
            return table
        of_this, n = learnt.get(magnification), len(table[NUMBER])
        has = of_this and name in predictors  # a missing stain leaves no objects
        return table | {PROBABILITY: of_this(predictors[name]) if has else np.full(n, np.nan)}

    def of_field(self, key: FieldKey) -> dict[str, str]:
        """The column VERDICT of a field, where any field has a verdict; else none."""
        if not self.trusts:
            return {}
        return {VERDICT: str(self.trusts.get(key, UNTOLD).verdict)}

    def of_well(self, keys: Sequence[FieldKey]) -> dict[str, str | float]:
        """The column VERDICT of a well with the fields *keys*, and what error is to be expected.

        A well is to be believed if all of its fields are; it is not if half of them are not. Of its
        fields' expected errors it has the mean.
        """
        if not self.trusts:
            return {}
        trusts = [self.trusts.get(key, UNTOLD) for key in keys]
        told: dict[str, str | float] = {VERDICT: str(_together([one.verdict for one in trusts]))}
        for target in sorted({name for one in self.trusts.values() for name in one.errors}):
            errors = [one.errors[target] for one in trusts if target in one.errors]
            told[f"Metadata_ExpectedError_{STAINS[target]}"] = float(np.mean(errors or [np.nan]))
        return told

    def counts_of(self, row: Mapping[str, str | float]) -> dict[str, int]:
        """Of a *row* of the table of wells the least and the greatest true number of objects."""
        found = {}
        for of in self.counts:
            if of.magnification == row["Metadata_Magnification"]:
                names = (f"Metadata_Count_{of.table}_{end}" for end in ("Low", "High"))
                found |= dict(zip(names, of(float(row[COUNT + of.table])), strict=True))
        return found

    def forbids(self, row: Mapping[str, str | float]) -> bool:
        """Whether the feature of a *row* of controls or doses is not to be trusted."""
        grade = self.of_wells(int(row["Metadata_Magnification"]), str(row["Feature"]))
        return grade is not None and grade.grade is Worth.NOT

    def sentences(self) -> Iterator[str]:
        """What a reader should know first: how many columns have which grade, and the doubts."""
        for magnification, counts in summary(self.grades).items():
            told = ", ".join(f"{n} {worth}" for worth, n in counts.items())
            yield f"Grades of the columns of wells at {magnification}x: {told}."
        yield from self.doubts
        refused = sorted(key for key, one in self.trusts.items() if one.verdict is Verdict.NO)
        if refused:
            wells = few([*dict.fromkeys(key.well for key in refused)])
            yield f"Not to be believed: {len(refused)} of {len(self.trusts)} fields, of {wells}."


def graded_by(images: Path, keys: Sequence[FieldKey]) -> Graded | None:
    """What measurements of the fields *keys* in *images* are worth; None for images not painted.

    Raises PlateError when what the folder tells of itself is damaged.
    """
    told = told_by(images)
    if told is None:
        return None
    unlike = frozenset(key for key in keys if told.warnings.get(str(key)))
    trusts = _trusts(told, keys)
    if told.grades is None:
        doubt = (
            "The model that painted these images has no grades, so nothing says which columns can "
            "be trusted: register it again, and stain with the new version."
        )
        return Graded((), (doubt,), unlike, trusts=trusts)
    try:
        earned = from_json(told.grades)
    except ValueError as error:
        raise damaged(told.folder / GRADES, error) from error
    resampled = {key.magnification for key in keys if str(key) in told.resampled}
    seen = [key for key in keys if key.magnification not in resampled]
    earned = _for({key.magnification for key in seen}, earned)
    doubts = dict(_doubts(seen, unlike, earned.intensities, told.intensities))
    found = [_lowered(grade, doubts.get(grade.magnification, "")) for grade in earned.grades]
    of_objects = list(_of_objects(found))
    sentences = tuple(
        f"At {magnification}x each grade is one lower: {doubt}."
        for magnification, doubt in doubts.items()
    )
    sentences += tuple(
        f"At {magnification}x nothing says which columns can be trusted, because the model has not "
        "seen this objective: its fields were resampled."
        for magnification in sorted(resampled)
    )
    if earned.outdated:
        sentences += (
            "The painted objects have no probability of being real, because an older version "
            "registered the model: register it again, and stain with the new version.",
        )
    if earned.intensities != told.intensities:
        return Graded((*found, *of_objects), sentences, unlike, trusts=trusts)
    learnt = tuple(earned.realities), trusts, tuple(earned.counts)
    return Graded((*found, *of_objects), sentences, unlike, *learnt)


def _for(magnifications: Collection[int], earned: Earned) -> Earned:
    """What was *earned* at some *magnifications*."""
    return earned._replace(
        grades=[one for one in earned.grades if one.magnification in magnifications],
        realities=[one for one in earned.realities if one.magnification in magnifications],
        counts=[one for one in earned.counts if one.magnification in magnifications],
    )


def _trusts(told: Told, keys: Sequence[FieldKey]) -> dict[FieldKey, Trust]:
    """What the folder says of those of the fields *keys* that it says something of."""
    try:
        return {key: read_trust(told.trusts[str(key)]) for key in keys if str(key) in told.trusts}
    except ValueError as error:
        raise damaged(told.folder / PLATE_MANIFEST, error) from error


def _together(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict on a well whose fields have these *verdicts*."""
    if 2 * sum(one is Verdict.NO for one in verdicts) >= len(verdicts):
        return Verdict.NO
    if all(one is verdicts[0] for one in verdicts):
        return verdicts[0]
    return Verdict.CARE


def grade_rows(grades: Iterable[Grade]) -> list[dict[str, str | float]]:
    """The rows of the table of grades."""
    return [
        {
            "Metadata_Magnification": grade.magnification,
            "Table": grade.table,
            "Feature": grade.feature,
            "Grade": str(grade.grade),
            "Reason": grade.reason,
            "Fields": grade.n_fields,
            "Wells": grade.n_wells,
            "Objects": grade.n_objects,
            "r": grade.r,
            "r_low": grade.r_low,
            "r_high": grade.r_high,
            "r_wells": grade.r_wells,
            "Error": grade.error,
            "Error_low": grade.error_low,
            "Error_high": grade.error_high,
        }
        for grade in grades
    ]


def _doubts(
    keys: Sequence[FieldKey], unlike: frozenset[FieldKey], way: str, painted_way: str
) -> Iterator[tuple[int, str]]:
    """By magnification, why this plate's measurements are worth less than the grades say."""
    for magnification in sorted({key.magnification for key in keys}):
        here = [key for key in keys if key.magnification == magnification]
        n_unlike = len(unlike.intersection(here))
        doubts = []
        if n_unlike > MOST_UNLIKE * len(here):
            doubts.append(f"{n_unlike} of {len(here)} fields are unlike the training wells")
        if painted_way != way:
            doubts.append(f"intensities are {painted_way}, and {way} was graded")
        if doubts:
            yield magnification, "; ".join(doubts)


def _lowered(grade: Grade, doubt: str) -> Grade:
    if not doubt:
        return grade
    reason = "; ".join(filter(None, (grade.reason, doubt)))
    return replace(grade, grade=grade.grade.lowered, reason=reason)


def _of_objects(grades: Sequence[Grade]) -> Iterator[Grade]:
    """Grades of the columns of objects: those of their means in a well, unless they have one."""
    own = {(grade.magnification, grade.table, grade.feature) for grade in grades}
    means = {
        (grade.magnification, grade.feature): grade for grade in grades if grade.table == WELLS
    }
    for magnification in sorted({grade.magnification for grade in grades}):
        for table in KINDS:
            for column in columns_of(table):
                mean = means.get((magnification, f"{table}_Mean_{column}"))
                if mean and (magnification, table, column) not in own:
                    yield replace(mean, table=table, feature=column)
