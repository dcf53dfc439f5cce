"""Whether a painted field is to be believed."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from adipocyte.system.forms import NUMBER, require_form


class Verdict(StrEnum):
    """Whether to believe a painted field."""

    YES = "yes"
    CARE = "with care"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Trust:
    """The verdict on a painted field, and the `reason`, "" for "yes".

    `errors` by target are the MAE that is to be expected, over the median of the training wells;
    there are none where the verdict is "unknown".
    """

    verdict: Verdict
    reason: str
    errors: dict[str, float]


UNTOLD = Trust(
    Verdict.UNKNOWN,
    "the model was registered before it could tell, or with fewer than two validation wells; "
    "register it again",
    {},
)


def read_trust(content: Any) -> Trust:
    """What `dataclasses.asdict` made of a Trust. Raises ValueError when *content* is not that."""
    require_form(content, {"verdict": str, "reason": str, "errors": {...: NUMBER}}, "trust")
    return Trust(Verdict(content["verdict"]), content["reason"], content["errors"])
