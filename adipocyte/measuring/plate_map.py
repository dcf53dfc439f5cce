"""What each well was given: a CSV of roles, compounds and concentrations."""

import csv
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from adipocyte.domain import ROWS
from adipocyte.errors import PlateError
from adipocyte.plate.problems import Problem, problem_table

COLUMNS = ("well", "role", "compound", "concentration")
_EXAMPLE = "well,role,compound,concentration\nB03,treated,rosiglitazone,0.5 uM"
_LARGEST_BYTES = 10_000_000
FEWEST_CONTROLS = 2
_WELL = re.compile(r"([A-Za-z]{1,2})0*([1-9]\d?)")
_AMOUNT = re.compile(r"([-+0-9.eE]+)\s*(\S+)")
# To M, or to g/l.
_UNITS = {
    **{
        f"{prefix}M": ("M", factor)
        for prefix, factor in [("", 1.0), ("m", 1e-3), ("n", 1e-9), ("p", 1e-12)]
    },
    **{f"{micro}M": ("M", 1e-6) for micro in ("u", "µ", "μ")},
    "mg/ml": ("g/l", 1.0),
    **{f"{micro}g/ml": ("g/l", 1e-3) for micro in ("u", "µ", "μ")},
    "ng/ml": ("g/l", 1e-6),
}


_WRITTEN = {
    "M": (("M", 1.0), ("mM", 1e-3), ("µM", 1e-6), ("nM", 1e-9), ("pM", 1e-12)),
    "g/l": (("mg/ml", 1.0), ("µg/ml", 1e-3), ("ng/ml", 1e-6)),
}


class Role(StrEnum):
    """What a well is for: controls without and with the full effect, or a treatment to judge."""

    NEGATIVE = "negative"
    POSITIVE = "positive"
    TREATED = "treated"


@dataclass(frozen=True)
class Treatment:
    """What a well was given: `concentration` in `unit`, "M" or "g/l"; nan and "" where none."""

    role: Role
    compound: str = ""
    concentration: float = math.nan
    unit: str = ""


def read_plate_map(path: Path, wells: Collection[str]) -> dict[str, Treatment]:
    """The treatments of *wells*, those that were imaged, from a CSV with COLUMNS.

    A well is named B3 or B03, a concentration is a number and its unit: "0.5 uM", "3 ng/ml".

    Raises PlateError for a file that is not such a CSV; and, with a table of every wrong line, for
    wells that were not imaged or stand there twice, unknown roles, a treatment without a
    concentration that can be read, units of two kinds for one compound, or fewer than
    FEWEST_CONTROLS wells of a control that is used.
    """
    rows = _rows(path)
    problems: list[Problem] = []
    found: dict[str, Treatment] = {}
    for line, row in rows:
        where = f"{path.name}, line {line}"
        well = _well(row["well"])
        wrong = list(_wrong_well(where, row["well"], well, wells, found))
        try:
            treatment = _treatment(row)
        except ValueError as error:
            wrong.append(Problem(where, *error.args))
        if wrong:
            problems += wrong
        else:
            found[well] = treatment
    problems += _wrong_together(path.name, found)
    if problems:
        raise PlateError(
            f"{path} does not describe this plate",
            f"mend these lines; nothing was measured:\n{problem_table(problems)}",
        )
    return found


def written(amount: float, unit: str) -> str:
    """A concentration, in the *unit* M or g/l, as people write it; a dash for no finite number."""
    if not math.isfinite(amount):
        return "–"
    if amount == 0:
        return f"0 {_WRITTEN[unit][0][0]}"
    largest = (one for one in _WRITTEN[unit] if amount >= one[1] * (1 - 1e-9))
    name, factor = next(largest, _WRITTEN[unit][-1])
    return f"{amount / factor:.3g} {name}"


def _rows(path: Path) -> list[tuple[int, Mapping[str, str]]]:
    """The rows of a CSV with their lines' numbers."""
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise ValueError("it is larger than 10 MB")
        text = path.read_text("utf-8-sig")  # Excel begins with a mark
        separator = ";" if ";" in text.partition("\n")[0] else ","
        reader = csv.DictReader(text.splitlines(), delimiter=separator, restval="")
        names = [(name or "").strip().lower() for name in reader.fieldnames or ()]
        reader.fieldnames = names
        rows = [(reader.line_num, row) for row in reader if any(map(_text, row.values()))]
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise PlateError(
            f"the plate map {path} cannot be read ({error})", f"give a CSV such as\n{_EXAMPLE}"
        ) from error
    if missing := [name for name in COLUMNS[:2] if name not in names]:
        raise PlateError(
            f"the plate map {path} has no column {' and no column '.join(missing)}",
            f"its first line names the columns:\n{_EXAMPLE}",
        )
    return [(line, {name: _text(row.get(name)) for name in COLUMNS}) for line, row in rows]


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _well(text: str) -> str:
    """A well's name as files have it: "b3" → "B03"; "" where it is none."""
    match = _WELL.fullmatch(text)
    return f"{match[1].upper()}{int(match[2]):02d}" if match and match[1].upper() in ROWS else ""


def _wrong_well(
    where: str, text: str, well: str, wells: Collection[str], found: Collection[str]
) -> Iterator[Problem]:
    if not well:
        yield Problem(where, f"{text!r} is no well", "name it as B03")
    elif well not in wells:
        yield Problem(where, f"well {well} has no image", "take the line out, or add its images")
    elif well in found:
        yield Problem(where, f"well {well} stands there twice", "keep one line")


def _treatment(row: Mapping[str, str]) -> Treatment:
    """Raises ValueError with what was found and a remedy."""
    roles = ", ".join(Role)
    if row["role"].lower() not in list(Role):
        raise ValueError(f"{row['role']!r} is no role", f"give one of {roles}")
    role = Role(row["role"].lower())
    if role is Role.TREATED and not row["compound"]:
        raise ValueError("a treated well has no compound", "name it")
    if not row["concentration"]:
        if role is Role.TREATED:
            raise ValueError("a treated well has no concentration", "give it with its unit: 0.5 uM")
        return Treatment(role, row["compound"])
    amount, unit = _concentration(row["concentration"])
    return Treatment(role, row["compound"], amount, unit)


def _concentration(text: str) -> tuple[float, str]:
    """A concentration in M or g/l. Raises ValueError with what was found and a remedy."""
    match = _AMOUNT.fullmatch(text)
    try:
        amount = float(match[1]) if match else math.nan
    except ValueError:
        amount = math.nan
    if match is None or not (math.isfinite(amount) and amount >= 0) or match[2] not in _UNITS:
        known = ", ".join(name for name in _UNITS if name.isascii())
        raise ValueError(
            f"{text!r} is no concentration", f"give a number and its unit, one of {known}"
        )
    unit, factor = _UNITS[match[2]]
    return amount * factor, unit


def _wrong_together(name: str, found: Mapping[str, Treatment]) -> Iterator[Problem]:
    """What is wrong with the lines together."""
    for role in (Role.NEGATIVE, Role.POSITIVE):
        n = sum(treatment.role is role for treatment in found.values())
        if 0 < n < FEWEST_CONTROLS:
            yield Problem(
                name,
                f"there is one {role} control",
                f"give {FEWEST_CONTROLS} or more, because a spread needs them, or none",
            )
    units: dict[str, set[str]] = {}
    for treatment in found.values():
        if treatment.unit:
            units.setdefault(treatment.compound, set()).add(treatment.unit)
    for compound, of in units.items():
        if len(of) > 1:
            yield Problem(name, f"{compound} is given in M and in g/l", "give it in one of them")
