"""Plates from above: any feature of the wells as colours."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps

from adipocyte.evaluation.cellprofiler.objects import IMAGE, KINDS
from adipocyte.evaluation.grades import Worth
from adipocyte.measuring.grades import Graded
from adipocyte.measuring.pictures import SHOWN, from_above
from adipocyte.measuring.plate_map import Role
from adipocyte.measuring.report.treatments import Plate, given
from adipocyte.measuring.screen import Row, features_of, title

NO_WORTH = "Not to be trusted in painted images"
_COLOURS = (colormaps["viridis"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
VIRIDIS = _COLOURS.tobytes().hex()  # six digits for each of 256 colours
_MARKS: dict[str, str] = {Role.NEGATIVE: "−", Role.POSITIVE: "+"}


@dataclass(frozen=True)
class Well:
    """A well of a map: its number `at` among the plate's wells, what it shows, its `fill`.

    `words` are all that is said of it, `mark` is that of a control. `fill` is "" where there is no
    value.
    """

    at: int
    mark: str
    words: str
    fill: str


@dataclass(frozen=True)
class HeatMap:
    """A plate from above, with the names of its lines; None in `grid` is a well without images.

    `lowest` and `highest` are those of all plates of its magnification.
    """

    title: str
    grid: list[list[Well | None]]
    letters: list[str]
    columns: list[int]
    lowest: float
    highest: float


def figure(value: str | float) -> str:
    """A value with four digits that count; a dash if there is none."""
    number = float(value)
    if not math.isfinite(number):
        return "–"
    short = number if number.is_integer() else float(f"{number:.4g}")
    return f"{short:.10g}".replace("-", "−")


def groups_of(wells: Sequence[Row], graded: Graded) -> dict[str, dict[str, str]]:
    """The features to choose from and what they are called, by group; those of no worth last."""
    if not wells:
        return {}
    magnifications = {int(row["Metadata_Magnification"]) for row in wells}
    features = features_of(wells)
    forbidden = [name for name in features if _is_forbidden(name, magnifications, graded)]
    left = [name for name in features if name not in forbidden]
    first = {name: words for name, words in SHOWN.items() if name in left}
    by_table = {
        table: {name: name for name in left if name.startswith(f"{table}_")}
        for table in (*KINDS, IMAGE)
    }
    groups = {"First looks": first} | by_table | {NO_WORTH: {name: name for name in forbidden}}
    return {group: named for group, named in groups.items() if named}


def _is_forbidden(feature: str, magnifications: set[int], graded: Graded) -> bool:
    grades = [graded.of_wells(magnification, feature) for magnification in magnifications]
    return all(grade is not None and grade.grade is Worth.NOT for grade in grades)


def heat_maps(plates: Sequence[Plate]) -> list[HeatMap]:
    """The maps of the first feature, with which the page begins."""
    if not plates:
        return []
    feature = next(iter(SHOWN))
    maps = []
    for named, wells in plates:
        grid, letters, columns = from_above(wells)
        low, high = _range(plates, named, feature)
        numbers = {str(row["Metadata_Well"]): at for at, row in enumerate(wells)}
        shown = [
            [_well(row, numbers, feature, low, high) if row else None for row in line]
            for line in grid
        ]
        maps.append(HeatMap(title(named), shown, letters, columns, low, high))
    return maps


def plate_data(plates: Sequence[Plate], graded: Graded) -> list[dict[str, object]]:
    """What the page's script draws: the wells of each plate, values and grades of all features."""
    return [
        {
            "magnification": named["Metadata_Magnification"],
            "wells": [str(row["Metadata_Well"]) for row in wells],
            "given": [given(row) for row in wells],
            "values": {
                feature: [_brief(row[feature]) for row in wells] for feature in features_of(wells)
            },
            "grades": {
                feature: [grade.grade, grade.reason]
                for feature in features_of(wells)
                if (grade := graded.of_wells(int(named["Metadata_Magnification"]), feature))
            },
        }
        for named, wells in plates
    ]


def _range(
    plates: Sequence[Plate], of: Mapping[str, str | float], feature: str
) -> tuple[float, float]:
    """The lowest and the highest finite value at one magnification; nan for none."""
    values = [
        float(row[feature])
        for named, wells in plates
        if named["Metadata_Magnification"] == of["Metadata_Magnification"]
        for row in wells
        if math.isfinite(float(row[feature]))
    ]
    return (min(values), max(values)) if values else (math.nan, math.nan)


def _well(row: Row, numbers: Mapping[str, int], feature: str, low: float, high: float) -> Well:
    name, value = str(row["Metadata_Well"]), float(row[feature])
    words = " · ".join(filter(None, (name, figure(value), given(row))))
    fill = ""
    if math.isfinite(value):
        share = (value - low) / (high - low) if high > low else 0.5
        fill = "#" + _COLOURS[round(255 * share)].tobytes().hex()
    mark = _MARKS.get(str(row.get("Metadata_Role", "")), "")
    return Well(numbers[name], mark, words, fill)


def _brief(value: str | float) -> float | None:
    """A value as short as it may be; None where JSON has no number for it."""
    number = float(value)
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() else float(f"{number:.6g}")
