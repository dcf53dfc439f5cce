"""What wells were given and what it did: droplets by treatment, controls and doses."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from adipocyte.domain import TARGET_COLOURS
from adipocyte.evaluation.cellprofiler.objects import DIAMETER
from adipocyte.evaluation.cellprofiler.wells import SHARES
from adipocyte.evaluation.report.charts import INK, svg
from adipocyte.measuring.plate_map import Role, written
from adipocyte.measuring.screen import Row, best_first, by_plate, logistic, title

Plate = tuple[Mapping[str, str | float], Sequence[Row]]  # what names it, and its wells
MOST_CONDITIONS = 12
MOST_COMPOUNDS = 20
MOST_CURVES = 6
_WIDEST = 1e6  # an interval of an EC50, its end by its beginning, that still says something
_PLACES = {"Row_p": "rows", "Column_p": "columns", "Edge_p": "edge and middle"}
_MEDIAN = f"LipidDroplets_Median_{DIAMETER}"
_FIRST_SHARE = next(iter(SHARES))


@dataclass(frozen=True)
class Condition:
    """Wells of one treatment: the `shares` of droplets by class of diameter, the wells' mean.

    `median_um` is the mean of the wells' median diameters.
    """

    name: str
    n_wells: int
    shares: list[float]
    median_um: float


@dataclass(frozen=True)
class Droplets:
    """The conditions of a plate that are shown, of `n_all`, and the `classes` of diameters."""

    title: str
    classes: list[str]
    conditions: list[Condition]
    n_all: int


@dataclass(frozen=True)
class Place:
    """How many of `n` features have p < 0.05 between places, and how many would by chance."""

    name: str
    n: int
    n_small: int
    expected: float


@dataclass(frozen=True)
class Controls:
    """The features of a plate, best first, and how places change them."""

    title: str
    rows: list[Row]
    places: list[Place]


@dataclass(frozen=True)
class DoseCurve:
    """The curve of a feature; `ec50` and `interval` are written with their units."""

    feature: str
    r2: float
    ec50: str
    interval: str
    chart: Markup


@dataclass(frozen=True)
class Compound:
    """The best curves of a compound on one plate, of `n_all`."""

    title: str
    name: str
    curves: list[DoseCurve]
    n_all: int


def given(row: Row) -> str:
    """What a well was given, for people; "" where nobody said."""
    role = str(row.get("Metadata_Role", ""))
    if not role:
        return ""
    dose, unit = float(row["Metadata_Concentration"]), str(row["Metadata_Unit"])
    amount = written(dose, unit) if unit else ""
    what = " ".join(filter(None, (str(row["Metadata_Compound"]), amount)))
    return what if role == Role.TREATED else ", ".join(filter(None, (role, what)))


def droplets(plate: Mapping[str, str | float], wells: Sequence[Row]) -> Droplets:
    """The diameters of droplets by condition, or by well without a plate map."""
    has_map = "Metadata_Role" in wells[0]
    groups: dict[tuple[int, str, float, str], list[Row]] = {}
    for row in wells:
        if math.isfinite(float(row[_FIRST_SHARE])):
            groups.setdefault(_condition(row, has_map), []).append(row)
    conditions = {key: _of_condition(key[-1], rows) for key, rows in sorted(groups.items())}
    classes = [
        f"{low:g}–{high:g} µm" if math.isfinite(high) else f"from {low:g} µm"
        for low, high in SHARES.values()
    ]
    return Droplets(title(plate), classes, _spread(conditions), len(conditions))


def controls(rows: Sequence[Row]) -> list[Controls]:
    """The table of controls, by plate."""
    return [
        Controls(
            title(plate),
            best_first(group),
            [
                _place(name, [float(row[column]) for row in group])
                for column, name in _PLACES.items()
            ],
        )
        for plate, group in by_plate(rows)
    ]


def n_compounds(rows: Sequence[Row]) -> int:
    """How many compounds have a curve, counted plate by plate; *rows* as in `doses`."""
    return len(_curves(rows))


def doses(rows: Sequence[Row], wells: Sequence[Row]) -> list[Compound]:
    """The curves of every compound, those with the best first; *rows* are of the table of doses."""
    curves = _curves(rows)
    of_plates = {title(plate): group for plate, group in by_plate(wells)}
    best = sorted(curves, key=lambda name: (-float(curves[name][0]["R2"]), name))
    return [
        Compound(
            *name,
            [_curve(row, name, of_plates[name[0]]) for row in _unlike(curves[name])[:MOST_CURVES]],
            len(curves[name]),
        )
        for name in best[:MOST_COMPOUNDS]
    ]


def _curves(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """The fitted curves by plate and compound, the best first."""
    found: dict[tuple[str, str], list[Row]] = {}
    fitted = [row for row in rows if math.isfinite(float(row["R2"]))]
    for row in sorted(fitted, key=lambda row: -float(row["R2"])):
        found.setdefault((title(row), str(row["Metadata_Compound"])), []).append(row)
    return found


def _unlike(rows: Sequence[Row]) -> list[Row]:
    """The *rows* without those whose curve an earlier one has: areas in pixels and in µm², say."""
    found: dict[tuple[str, ...], Row] = {}
    for row in rows:
        found.setdefault(tuple(f"{row[one]:.4g}" for one in ("R2", "EC50", "Hill")), row)
    return list(found.values())


def _condition(row: Row, has_map: bool) -> tuple[int, str, float, str]:
    """By what wells are ordered and put together, its name last: controls are first."""
    if not has_map:
        return 0, "", 0.0, str(row["Metadata_Well"])
    role = str(row["Metadata_Role"])
    if not role:
        return len(Role), "", 0.0, "not in the plate map"
    dose = float(row["Metadata_Concentration"])
    place = list(Role).index(Role(role))
    return place, str(row["Metadata_Compound"]), dose if math.isfinite(dose) else 0.0, given(row)


def _of_condition(name: str, wells: Sequence[Row]) -> Condition:
    shares = [float(np.mean([row[share] for row in wells])) for share in SHARES]
    return Condition(name, len(wells), shares, float(np.mean([row[_MEDIAN] for row in wells])))


def _spread(conditions: Mapping[tuple[int, str, float, str], Condition]) -> list[Condition]:
    """At most MOST_CONDITIONS, controls first, and of the others small and large droplets alike."""
    if len(conditions) <= MOST_CONDITIONS:
        return list(conditions.values())
    treated = list(Role).index(Role.TREATED)
    has_controls = any(place > 0 for place, *_ in conditions)
    first = [one for (place, *_), one in conditions.items() if has_controls and place < treated]
    first = first[: MOST_CONDITIONS // 2]
    others = [one for one in conditions.values() if one not in first]
    others.sort(key=lambda one: one.median_um)
    places = np.linspace(0, len(others) - 1, MOST_CONDITIONS - len(first)).round().astype(int)
    return first + [others[place] for place in places]


def _place(name: str, ps: Sequence[float]) -> Place:
    finite = [p for p in ps if math.isfinite(p)]
    return Place(name, len(finite), sum(p < 0.05 for p in finite), 0.05 * len(finite))


def _curve(row: Row, name: tuple[str, ...], wells: Sequence[Row]) -> DoseCurve:
    unit, feature = str(row["Metadata_Unit"]), str(row["Feature"])
    low, high = float(row["EC50_low"]), float(row["EC50_high"])
    bounded = low > 0 and high / low < _WIDEST
    points = [
        (float(well["Metadata_Concentration"]), float(well[feature]))
        for well in wells
        if well["Metadata_Role"] == Role.TREATED
        and well["Metadata_Compound"] == row["Metadata_Compound"]
        and float(well["Metadata_Concentration"]) > 0
    ]
    return DoseCurve(
        feature,
        float(row["R2"]),
        written(float(row["EC50"]), unit),
        f"{written(low, unit)} to {written(high, unit)}"
        if bounded
        else "interval too wide to tell",
        _chart(f"{' '.join(name)}: {feature}", row, points),
    )


def _chart(name: str, row: Row, points: Sequence[tuple[float, float]]) -> Markup:
    """Values of wells by dose, and the curve."""
    dose, values = np.array(points).T
    bottom, top, ec50, hill = (float(row[one]) for one in ("Bottom", "Top", "EC50", "Hill"))
    along = np.geomspace(dose.min() / 1.5, dose.max() * 1.5, 100)

    def draw(axes: Axes) -> None:
        curve = logistic(np.log10(along), bottom, top, math.log10(ec50), hill)
        axes.plot(along, curve, color=TARGET_COLOURS["A1"], linewidth=2)
        axes.scatter(dose, values, s=22, color=TARGET_COLOURS["A3"], linewidths=0, zorder=3)
        axes.set_xscale("log")
        if along[0] < ec50 < along[-1]:
            axes.axvline(ec50, color=INK, linewidth=1, dashes=(4, 3))
        axes.xaxis.set_major_locator(LogLocator(numticks=5))
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda one, _: written(one, str(row["Metadata_Unit"])))
        )
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.grid()
        axes.set_axisbelow(True)

    return svg(name, 330, 210, draw)
