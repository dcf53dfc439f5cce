"""The fields that are judged: where their true and painted images lie, and which of them are measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adipocyte.domain import FieldKey


@dataclass(frozen=True)
class FieldPaths:
    """The single-page TIFFs of a field: `truth` by target; `painted` by way ("none", "matching", "calibration", …) and target."""

    key: FieldKey
    truth: dict[str, Path]
    painted: dict[str, dict[str, Path]]


def spread(keys: Sequence[FieldKey], n: int) -> set[FieldKey]:
    """At most *n* fields of each magnification, spread evenly over the *keys* in their order, and so over the wells."""
    chosen: set[FieldKey] = set()
    for magnification in {key.magnification for key in keys}:
        alike = sorted(key for key in keys if key.magnification == magnification)
        n_chosen = min(n, len(alike))
        chosen.update(
            alike[round(i * (len(alike) - 1) / max(n_chosen - 1, 1))] for i in range(n_chosen)
        )
    return chosen
