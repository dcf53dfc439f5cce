"""What a plate with controls and doses says: how well each feature tells them apart."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.stats import kruskal, mannwhitneyu, t

from adipocyte.domain import TIMEPOINT, row_and_column
from adipocyte.measuring.plate_map import Role, Treatment

Row = Mapping[str, str | float]  # of the table of wells
MAD_TO_SD = 1.4826  # of a normal distribution
_OF_PLATE = ("Metadata_Plate", "Metadata_Magnification", TIMEPOINT)
FEWEST_PLACES = 8  # wells without treatment, from which an effect of places is told
FEWEST_DOSES = 4  # as many as a curve has parameters
_LEVEL = 0.95


@dataclass(frozen=True)
class Curve:
    """A dose-response curve y = bottom + (top - bottom) / (1 + (ec50 / x) ** hill).

    `low` and `high` bound the EC50, in the unit of the doses, with 95 % confidence; `r2` is the
    share of the values' variance that the curve explains. All are nan where none can be fitted.
    """

    bottom: float
    top: float
    ec50: float
    hill: float
    low: float
    high: float
    r2: float


def features_of(wells: Sequence[Row]) -> list[str]:
    """The columns of a table of wells that are measured."""
    return [name for name in wells[0] if not name.startswith("Metadata_")]


def best_first(controls: Sequence[Row]) -> list[Row]:
    """Features that tell the controls apart best first; last where Z' does not say."""

    def apart(row: Row) -> float:
        z_prime = float(row["Z_prime"])
        return -math.inf if math.isnan(z_prime) else z_prime

    return sorted(controls, key=apart, reverse=True)


def control_rows(
    wells: Sequence[Row], treatments: Mapping[str, Treatment]
) -> list[dict[str, str | float]]:
    """A row for each plate, magnification and feature: how well controls are told apart.

    `Z_prime` and `SSMD` compare the positive with the negative controls, `Row_p`, `Column_p` and
    `Edge_p` are the chance of such differences between places if there were none, among wells that
    were not treated: negative controls and those that the map leaves out. `Replicates_r` is the
    correlation of pairs of wells with the same treatment.
    """
    rows = []
    for of_plate, group in by_plate(wells):
        names = [str(row["Metadata_Well"]) for row in group]
        given = [treatments.get(name) for name in names]
        for feature in features_of(group):
            values = np.array([row[feature] for row in group], dtype=np.float64)
            negative, positive = (
                values[[one is not None and one.role is role for one in given]]
                for role in (Role.NEGATIVE, Role.POSITIVE)
            )
            untreated = [one is None or one.role is Role.NEGATIVE for one in given]
            rows.append(
                {
                    **of_plate,
                    "Feature": feature,
                    "Negative_Median": _median(negative),
                    "Negative_MAD": mad(negative),
                    "Positive_Median": _median(positive),
                    "Positive_MAD": mad(positive),
                    "Z_prime": z_prime(negative, positive),
                    "SSMD": ssmd(negative, positive),
                    **place_effects(
                        values[untreated],
                        [name for name, one in zip(names, untreated, strict=True) if one],
                        names,
                    ),
                    "Replicates_r": replicates_r(values, given),
                }
            )
    return rows


def dose_rows(
    wells: Sequence[Row], treatments: Mapping[str, Treatment]
) -> list[dict[str, str | float]]:
    """The curve of each compound of FEWEST_DOSES or more, by plate, magnification and feature."""
    rows = []
    for of_plate, group in by_plate(wells):
        doses: dict[str, list[tuple[float, Row]]] = {}
        for row in group:
            one = treatments.get(str(row["Metadata_Well"]))
            if one and one.role is Role.TREATED and one.concentration > 0:
                doses.setdefault(one.compound, []).append((one.concentration, row))
        units = {one.compound: one.unit for one in treatments.values() if one.unit}
        for compound, given in sorted(doses.items()):
            dose = np.array([concentration for concentration, _ in given])
            if len(set(dose)) < FEWEST_DOSES:
                continue
            for feature in features_of(group):
                values = np.array([row[feature] for _, row in given], dtype=np.float64)
                curve = fit_curve(dose, values)
                rows.append(
                    {
                        **of_plate,
                        "Metadata_Compound": compound,
                        "Metadata_Unit": units[compound],
                        "Feature": feature,
                        "EC50": curve.ec50,
                        "EC50_low": curve.low,
                        "EC50_high": curve.high,
                        "Hill": curve.hill,
                        "Bottom": curve.bottom,
                        "Top": curve.top,
                        "R2": curve.r2,
                    }
                )
    return rows


def mad(values: NDArray[np.float64]) -> float:
    """The median absolute deviation of the finite values, as a standard deviation; nan of none."""
    finite = values[np.isfinite(values)]
    return MAD_TO_SD * _median(np.abs(finite - _median(finite))) if finite.size else math.nan


def z_prime(negative: NDArray[np.float64], positive: NDArray[np.float64]) -> float:
    """1 - 3 (sd+ + sd-) / |m+ - m-|, with medians and MADs; nan where both medians are one, or
    neither group varies, as counts of a few wells may not.

    Zhang, Chung & Oldenburg 1999, "A simple statistical parameter for use in evaluation and
    validation of high throughput screening assays", with robust estimates (Birmingham et al. 2009).
    """
    apart = abs(_median(positive) - _median(negative))
    spread = mad(positive) + mad(negative)
    return 1 - 3 * spread / apart if apart > 0 and spread > 0 else math.nan


def ssmd(negative: NDArray[np.float64], positive: NDArray[np.float64]) -> float:
    """(m+ - m-) / sqrt(sd+² + sd-²), with medians and MADs; nan where nothing varies.

    Zhang 2007, "A pair of new statistical parameters for quality control in RNA interference
    high-throughput screening assays", equation 7, robust.
    """
    spread = math.hypot(mad(positive), mad(negative))
    return (_median(positive) - _median(negative)) / spread if spread > 0 else math.nan


def place_effects(
    values: NDArray[np.float64], names: Sequence[str], plate: Sequence[str]
) -> dict[str, float]:
    """The p of rows and of columns (Kruskal & Wallis 1952) and of the edge (Mann & Whitney 1947).

    *values* are of the wells *names*; the edge is that of all wells of the *plate* that were
    imaged. nan with fewer than FEWEST_PLACES finite values, or none elsewhere.
    """
    finite = np.isfinite(values)
    values, names = values[finite], [name for name, one in zip(names, finite, strict=True) if one]
    if len(values) < FEWEST_PLACES or np.ptp(values) == 0:
        return dict.fromkeys(("Row_p", "Column_p", "Edge_p"), math.nan)
    places = [row_and_column(name) for name in names]
    rows, columns = zip(*map(row_and_column, plate), strict=True)
    # Rows are ordered A to Z, then AA to AF.
    first, last = (pick(rows, key=lambda row: (len(row), row)) for pick in (min, max))
    outside = np.array(
        [row in (first, last) or column in (min(columns), max(columns)) for row, column in places]
    )
    edge = math.nan
    if outside.any() and not outside.all():
        edge = float(mannwhitneyu(values[outside], values[~outside]).pvalue)
    return {
        "Row_p": _between(values, [row for row, _ in places]),
        "Column_p": _between(values, [column for _, column in places]),
        "Edge_p": edge,
    }


def replicates_r(values: NDArray[np.float64], given: Sequence[Treatment | None]) -> float:
    """Pearson's r over all ordered pairs of wells of one treatment; nan for under three groups.

    Each pair counts in both orders, so that the order of wells makes no difference; this is the
    intraclass correlation of Fisher (1925, section 38) where all groups have one size.
    """
    groups: dict[tuple[str, float], list[float]] = {}
    for value, one in zip(values, given, strict=True):
        if one and one.role is Role.TREATED and np.isfinite(value):
            groups.setdefault((one.compound, one.concentration), []).append(float(value))
    repeated = [group for group in groups.values() if len(group) > 1]
    pairs = np.array(
        [
            (first, second)
            for group in repeated
            for i, first in enumerate(group)
            for j, second in enumerate(group)
            if i != j
        ]
    )
    if len(repeated) < 3 or np.ptp(pairs) == 0:
        return math.nan
    return float(np.corrcoef(pairs.T)[0, 1])


def fit_curve(dose: NDArray[np.float64], values: NDArray[np.float64]) -> Curve:
    """The four-parameter logistic curve of least squares; *dose* > 0, (N,) each.

    The EC50 is sought within a decade beyond the doses, the slope up to 10; the interval is from
    the fit's covariance, on the logarithm of the dose, with Student's t. All nan where fewer than
    FEWEST_DOSES doses have a finite value, nothing varies or the fit does not end.
    """
    none = Curve(*[math.nan] * 7)
    finite = np.isfinite(values)
    dose, values = np.log10(dose[finite]), values[finite]
    if len(np.unique(dose)) < FEWEST_DOSES or np.ptp(values) == 0:
        return none
    low, high, middle = float(values.min()), float(values.max()), float(np.median(dose))
    scale = high - low
    units = (values - low) / scale  # so that the fit knows no unit
    rises = np.polyfit(dose, units, 1)[0] >= 0
    start = (0.0, 1.0, middle, 1.0) if rises else (1.0, 0.0, middle, 1.0)
    bounds = ((-1, -1, dose.min() - 1, 0.1), (2, 2, dose.max() + 1, 10))
    try:
        with warnings.catch_warnings():
            # Values that leave the interval open: it is infinite then.
            warnings.simplefilter("ignore", OptimizeWarning)
            found, covariance = curve_fit(logistic, dose, units, start, bounds=bounds, maxfev=5000)
    except RuntimeError:
        return none
    bottom, top, log_ec50, hill = map(float, found)
    left = float(((units - logistic(dose, *found)) ** 2).sum())
    freedom = len(units) - len(found)
    reach = math.inf
    if freedom > 0 and math.isfinite(covariance[2, 2]):
        reach = float(t.ppf((1 + _LEVEL) / 2, freedom)) * math.sqrt(covariance[2, 2])
    return Curve(
        bottom=low + scale * bottom,
        top=low + scale * top,
        ec50=10**log_ec50,
        hill=hill,
        low=_power(log_ec50 - reach),
        high=_power(log_ec50 + reach),
        r2=1 - left / float(((units - units.mean()) ** 2).sum()),
    )


def logistic(
    log_dose: NDArray[np.float64], bottom: float, top: float, log_ec50: float, hill: float
) -> NDArray[np.float64]:
    """The curve at doses, (N,), given as logarithms of 10. Returns (N,)."""
    return bottom + (top - bottom) / (1 + 10 ** (hill * (log_ec50 - log_dose)))


def _power(exponent: float) -> float:
    """10 to the *exponent*; 0 and infinity where it is beyond what a number holds."""
    return 10.0**exponent if abs(exponent) < 300 else (0.0 if exponent < 0 else math.inf)


def _median(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else math.nan


def _between(values: NDArray[np.float64], groups: Sequence[str | int]) -> float:
    named = sorted(set(groups), key=str)
    samples = [values[[group == name for group in groups]] for name in named]
    return float(kruskal(*samples).pvalue) if len(samples) > 1 else math.nan


def by_plate(rows: Sequence[Row]) -> list[tuple[dict[str, str | float], list[Row]]]:
    """The rows of each plate, magnification and time, of any table, with what names them."""
    groups: dict[tuple[tuple[str, str | float], ...], list[Row]] = {}
    for row in rows:
        of_plate = tuple((name, row[name]) for name in _OF_PLATE if name in row)
        groups.setdefault(of_plate, []).append(row)
    return [(dict(of_plate), group) for of_plate, group in groups.items()]


def title(plate: Mapping[str, str | float]) -> str:
    """A plate's name for people, with its magnification, and its time where there are several."""
    time = f", time {plate[TIMEPOINT]}" if TIMEPOINT in plate else ""
    return f"{plate['Metadata_Plate']}, {plate['Metadata_Magnification']}x{time}"
