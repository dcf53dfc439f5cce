"""How many objects there are where so many are painted: intervals, from validation fields."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adipocyte.evaluation.cellprofiler.objects import KINDS
from adipocyte.evaluation.measure import FieldMeasurement
from adipocyte.imaging.intervals import LEVEL
from adipocyte.system.forms import NUMBER, require_form

FEWEST_FIELDS = 4
COUNT = "Image_Count_"  # what the columns of numbers begin with in the table of wells


@dataclass(frozen=True)
class CountFactors:
    """Between how many times the painted number of a `table`'s objects the true number lies.

    They hold for a share `level` of fields like the `n_fields` of `n_wells` wells that taught them:
    LEVEL, or less where those were fewer than nineteen.
    """

    magnification: int
    table: str
    low: float
    high: float
    level: float
    n_fields: int
    n_wells: int

    def __call__(self, n_painted: float) -> tuple[int, int]:
        """The least and the greatest true number to be expected where *n_painted* are painted."""
        least = self.low * (n_painted + 1) - 1
        return max(int(np.floor(least)), 0), int(np.ceil(self.high * (n_painted + 1) - 1))


def learn_counts(measurements: Sequence[FieldMeasurement], way: str) -> list[CountFactors]:
    """What fields painted in one *way* teach of numbers; nothing of fewer than FEWEST_FIELDS.

    Of n fields' factors, (true + 1) / (painted + 1), those of the ranks (n + 1) (1 - LEVEL) / 2 and
    (n + 1) (1 + LEVEL) / 2 bound the interval (split conformal prediction: Vovk et al. 2005,
    "Algorithmic learning in a random world"), or the least and the greatest.
    """
    found = []
    for magnification in sorted({field.key.magnification for field in measurements}):
        fields = [
            field
            for field in measurements
            if field.key.magnification == magnification and field.painted_rows.get(way)
        ]
        n_wells = len({field.key.well for field in fields})
        for table in KINDS:
            factors = np.sort([*_factors(fields, way, table)])
            if len(factors) >= FEWEST_FIELDS:
                low, high, level = _bounds(factors)
                found.append(
                    CountFactors(magnification, table, low, high, level, len(factors), n_wells)
                )
    return found


def _factors(fields: Iterable[FieldMeasurement], way: str, table: str) -> Iterator[float]:
    for field in fields:
        true, painted = (row[COUNT + table] for row in (field.truth_row, field.painted_rows[way]))
        if np.isfinite(true) and np.isfinite(painted):
            yield (true + 1) / (painted + 1)


def _bounds(ordered: NDArray[np.float64]) -> tuple[float, float, float]:
    n = len(ordered)
    outside = max(int((n + 1) * (1 - LEVEL) / 2), 1)  # beyond either end, with the new one counted
    return float(ordered[outside - 1]), float(ordered[n - outside]), 1 - 2 * outside / (n + 1)


def to_json(found: Iterable[CountFactors]) -> list[dict[str, Any]]:
    """For a file, as `from_json` reads it."""
    return [asdict(one) for one in found]


def from_json(content: Any) -> list[CountFactors]:
    """Raises ValueError when *content* is not as `to_json` makes it."""
    form = {
        field.name: {float: NUMBER}.get(field.type, field.type)
        for field in dataclasses.fields(CountFactors)
    }
    require_form(content, [form], "the numbers")
    found = [CountFactors(**{name: one[name] for name in form}) for one in content]
    if not all(0 < one.low <= one.high < np.inf for one in found):
        raise ValueError("a number's factors are no interval")
    return found
