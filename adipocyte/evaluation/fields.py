"""The fields that are judged: files of their true and painted images, and which to measure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adipocyte.domain import FieldKey
from adipocyte.imaging.trust import UNTOLD, Trust


@dataclass(frozen=True)
class FieldPaths:
    """The images of a field: `truth` by target, `painted` by way and target.

    They are files, or planes of arrays (see `plate.planes`). A way is a way of intensities ("none",
    "matching", …), or a name for images that came otherwise ("prediction", "champion"). `trust` is
    what the model that painted it says of the field. Pixels are of `um_per_px`.
    """

    key: FieldKey
    truth: dict[str, Path]
    painted: dict[str, dict[str, Path]]
    um_per_px: float
    trust: Trust = UNTOLD


def spread(keys: Sequence[FieldKey], n: int) -> set[FieldKey]:
    """At most *n* of each magnification, spread evenly over the ordered *keys*, so over wells."""
    chosen: set[FieldKey] = set()
    for magnification in {key.magnification for key in keys}:
        alike = sorted(key for key in keys if key.magnification == magnification)
        n_chosen = min(n, len(alike))
        chosen.update(
            alike[round(i * (len(alike) - 1) / max(n_chosen - 1, 1))] for i in range(n_chosen)
        )
    return chosen
