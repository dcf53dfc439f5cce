"""What keeps a field of a plate from being used, and what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass

from adipocyte.domain import FieldKey
from adipocyte.errors import ImageError, PlateError

_HEADINGS = ("where", "found", "what to do")


@dataclass(frozen=True)
class Problem:
    """Something wrong with a plate: the field or folder, what was `found` there, the `remedy`."""

    where: str
    found: str
    remedy: str


def problem_of(key: FieldKey, error: ImageError | PlateError) -> Problem:
    """An error about an image of a field, as a problem of that field."""
    return Problem(str(key), error.found, error.remedy)


def problem_table(problems: Sequence[Problem]) -> str:
    """The *problems* as text, one line for each: where, what was found, what to do."""
    rows = [_HEADINGS, *((one.where, one.found, one.remedy) for one in problems)]
    rows = [[on_one_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(
        f"{where:{widths[0]}}  {found:{widths[1]}}  {remedy}".rstrip()
        for where, found, remedy in rows
    )


def on_one_line(text: str) -> str:
    """*text* with what cannot be printed spelled out, because names of files may hold line ends."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )
