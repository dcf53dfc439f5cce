"""Fields judged: their figures, the official score of every way they were painted in, and both as tables."""

from collections.abc import Sequence
from dataclasses import dataclass

from adipocyte.errors import StoreError
from adipocyte.evaluation.fields import FieldPaths
from adipocyte.evaluation.measure import FieldMeasurement, measure_fields
from adipocyte.evaluation.metric import Score, score


@dataclass(frozen=True)
class Judgement:
    """What came of `fields`: `figures` of each, `scores` by way, and the way that is `kept`, whose figures bear plain names."""

    fields: Sequence[FieldPaths]
    figures: list[FieldMeasurement]
    scores: dict[str, Score]
    kept: str

    @property
    def targets(self) -> list[str]:
        return sorted({target for field in self.figures for target in field.pixels[self.kept]})


def judge(
    fields: Sequence[FieldPaths], kept: str, *, feature_fields: int, workers: int, seed: int
) -> Judgement:
    """Measure and score painted *fields*, in every way they were painted.

    At most *feature_fields* of each magnification are measured for the 99 features. Raises ImageError for an image that cannot be
    used or stains that are dark, StoreError when there is no field or a worker is killed.
    """
    if not fields:
        raise StoreError(
            "there is no field to judge by: its wells have none; choose others with preprocess -P test_wells=… or -P wells=…"
        )
    figures = measure_fields(fields, n_measured=feature_fields, workers=workers)
    return Judgement(
        fields, figures, {way: score(figures, way, seed=seed) for way in figures[0].pixels}, kept
    )
