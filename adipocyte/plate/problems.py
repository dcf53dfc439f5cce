"""What keeps a field of a plate from being used, and what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass

from adipocyte.domain import FieldKey
from adipocyte.errors import ImageError, PlateError


@dataclass(frozen=True)
class Problem:
    """Something wrong with a plate: in which field or folder, what was `found` there, and the `remedy`."""

    where: str
    found: str
    remedy: str


def problem_of(key: FieldKey, error: ImageError | PlateError) -> Problem:
    """An error that names what was found and, behind a colon, what is needed, as a problem of a field."""
    found, _, remedy = str(error).partition(": ")
    return Problem(str(key), found, remedy)


def problem_table(problems: Sequence[Problem]) -> str:
    """The *problems* as text, a line for each: where, what was found, what to do."""
    rows = [
        ("where", "found", "what to do"),
        *((one.where, one.found, one.remedy) for one in problems),
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(
        "  ".join((row[0].ljust(widths[0]), row[1].ljust(widths[1]), row[2])) for row in rows
    )
