"""Judging painted fields: their measurements, and the official score of every way."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from adipocyte.domain import TARGETS
from adipocyte.errors import StoreError
from adipocyte.evaluation.fields import FieldPaths, spread
from adipocyte.evaluation.grades import Grade, grades_of
from adipocyte.evaluation.measure import FieldMeasurement, measure_fields
from adipocyte.evaluation.metric import Score, score


@dataclass(frozen=True)
class Judgement:
    """The `measurements` of `fields`, `scores` by way, and the way that is `kept`.

    The metrics of the way that is kept bear plain names. Intervals are drawn by `seed`.
    """

    fields: Sequence[FieldPaths]
    measurements: list[FieldMeasurement]
    scores: dict[str, Score]
    kept: str
    seed: int = 0

    @cached_property
    def grades(self) -> list[Grade]:
        """What measurements of images of the way that is kept are worth."""
        return grades_of(self.measurements, self.kept, seed=self.seed)

    @property
    def targets(self) -> list[str]:
        return sorted({target for field in self.measurements for target in field.pixels[self.kept]})


def grade(judgement: Judgement, n_fields: int, workers: int) -> list[Grade]:
    """The grades of the way that is kept, over *n_fields* of each magnification or more.

    Fields that judging did not measure are measured now, in that way alone: to judge needs few
    fields and every way, a correlation many fields. There are no grades where judging measured no
    features. Raises as `judge` does.
    """
    measured = [field for field in judgement.measurements if field.truth_features]
    if not measured:
        return []
    whole = {field.key: field for field in judgement.fields if set(field.truth) == set(TARGETS)}
    known = {field.key for field in measured}
    left = [
        replace(whole[key], painted={judgement.kept: whole[key].painted[judgement.kept]})
        for key in sorted(spread(list(whole), n_fields) - known)
    ]
    more = measure_fields(left, n_measured=len(left), workers=workers) if left else []
    return grades_of([*measured, *more], judgement.kept, seed=judgement.seed)


def judge(
    fields: Sequence[FieldPaths], kept: str, *, feature_fields: int, workers: int, seed: int
) -> Judgement:
    """Measure and score painted *fields*, in every way they were painted.

    At most *feature_fields* of each magnification are measured for the 99 features. Raises
    ImageError when an image cannot be used or the stains are dark, StoreError when there is no
    field, WorkerError when a worker is killed.
    """
    if not fields:
        raise StoreError(
            "there is no field to judge by, because its wells have none",
            "choose others with preprocess -P test_wells=… or -P wells=…",
        )
    measurements = measure_fields(fields, n_measured=feature_fields, workers=workers)
    scores = {way: score(measurements, way, seed=seed) for way in measurements[0].pixels}
    return Judgement(fields, measurements, scores, kept, seed)
