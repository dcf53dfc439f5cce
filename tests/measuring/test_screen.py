"""Controls, places and doses: the figures of known distributions and curves."""

import math

import numpy as np
import pytest
from scipy.stats import median_abs_deviation, norm

from adipocyte.measuring.plate_map import Role, Treatment
from adipocyte.measuring.screen import (
    control_rows,
    dose_rows,
    fit_curve,
    mad,
    place_effects,
    replicates_r,
    ssmd,
    z_prime,
)

DOSES = np.repeat(np.logspace(-9, -5, 9), 3)
NAMES = [f"{row}{column:02d}" for row in "ABCDEF" for column in range(1, 9)]


def logistic(dose, bottom, top, ec50, hill):
    return bottom + (top - bottom) / (1 + (ec50 / dose) ** hill)


def well(name: str, value: float) -> dict[str, str | float]:
    return {
        "Metadata_Plate": "P",
        "Metadata_Magnification": 20,
        "Metadata_Well": name,
        "Cells_Mean_X": value,
    }


def test_controls_of_normal_distributions_give_the_textbooks_figures():
    quantiles = norm.ppf(np.linspace(0.001, 0.999, 999))
    negative, positive = 10 + quantiles, 30 + 2 * quantiles
    assert z_prime(negative, positive) == pytest.approx(1 - 3 * 3 / 20, abs=0.01)
    assert ssmd(negative, positive) == pytest.approx(20 / math.sqrt(5), rel=0.01)
    assert mad(positive) == pytest.approx(median_abs_deviation(positive, scale="normal"), rel=1e-4)


def test_one_wild_well_moves_robust_figures_little():
    random = np.random.default_rng(0)
    negative, positive = random.normal(10, 1, 16), random.normal(30, 1, 16)
    wild = np.append(positive, 1e6)
    assert z_prime(negative, wild) == pytest.approx(z_prime(negative, positive), abs=0.05)


def test_without_controls_or_spread_there_is_no_figure():
    none, same = np.array([]), np.array([1.0, 1.0])
    assert math.isnan(z_prime(none, same))
    assert math.isnan(ssmd(same, same))
    assert math.isnan(z_prime(np.array([np.nan, np.nan]), same))
    assert math.isnan(z_prime(same, same + 1))


def test_values_that_leave_the_interval_open_are_fitted_without_a_warning(recwarn):
    curve = fit_curve(DOSES[::3], (DOSES[::3] > 1e-6).astype(float))
    assert curve.low <= curve.ec50 <= curve.high
    assert not recwarn.list


@pytest.mark.parametrize(
    ("bottom", "top", "ec50", "hill"),
    [(10, 50, 1e-7, 1.0), (50, 10, 3e-8, 2.0), (0.1, 0.5, 1e-6, 0.7), (-4000, 2000, 2e-7, 1.5)],
)
def test_a_curve_without_noise_is_found_again(bottom, top, ec50, hill):
    curve = fit_curve(DOSES, logistic(DOSES, bottom, top, ec50, hill))
    assert curve.ec50 == pytest.approx(ec50, rel=1e-3)
    assert curve.hill == pytest.approx(hill, rel=1e-2)
    assert sorted((curve.bottom, curve.top)) == pytest.approx(sorted((bottom, top)), rel=1e-2)
    assert curve.r2 == pytest.approx(1)


def test_intervals_hold_the_true_dose_as_often_as_they_say():
    random = np.random.default_rng(0)
    held = []
    for _ in range(200):
        noisy = logistic(DOSES, 10, 50, 1e-7, 1.2) + random.normal(0, 3, len(DOSES))
        curve = fit_curve(DOSES, noisy)
        held.append(curve.low <= 1e-7 <= curve.high)
        assert curve.low < curve.ec50 < curve.high
        assert 0.9 < curve.r2 < 1
    assert 0.9 < np.mean(held) < 0.99


@pytest.mark.parametrize(
    "values",
    [np.full(27, 3.0), np.full(27, np.nan), np.r_[np.arange(9.0), np.full(18, np.nan)]],
    ids=["flat", "nan", "three doses"],
)
def test_where_nothing_can_be_fitted_there_is_no_curve(values):
    curve = fit_curve(DOSES, values)
    assert all(math.isnan(value) for value in vars(curve).values())


@pytest.mark.parametrize(
    ("effect", "told"),
    [
        (lambda row, column: 0, set()),
        (lambda row, column: 3 * row, {"Row_p"}),
        (lambda row, column: 3 * column, {"Column_p"}),
        (lambda row, column: 5 * (row in (0, 5) or column in (0, 7)), {"Edge_p"}),
    ],
    ids=["none", "rows", "columns", "edge"],
)
def test_effects_of_places_are_told(effect, told):
    random = np.random.default_rng(2)
    values = np.array([effect(i // 8, i % 8) + random.normal() for i in range(len(NAMES))])
    found = place_effects(values, NAMES, NAMES)
    assert {name for name, p in found.items() if p < 0.001} >= told
    if not told:
        assert min(found.values()) > 0.01


def test_too_few_wells_tell_nothing_of_places():
    found = place_effects(np.arange(7.0), NAMES[:7], NAMES)
    assert all(math.isnan(p) for p in found.values())


def test_replicates_agree_as_their_spread_says():
    given = [Treatment(Role.TREATED, f"c{i // 2}", 1e-6, "M") for i in range(400)]
    random = np.random.default_rng(0)
    of_compound = np.repeat(random.normal(0, 1, 200), 2)
    values = of_compound + random.normal(0, 0.5, 400)
    assert replicates_r(values, given) == pytest.approx(1 / 1.25, abs=0.05)
    assert replicates_r(of_compound, given) == pytest.approx(1)
    assert math.isnan(replicates_r(values[:4], given[:4]))


def test_a_plate_gives_a_row_for_each_feature_and_a_curve_for_each_compound():
    wells, given = [], {}
    for i, dose in enumerate(DOSES):
        wells.append(well(NAMES[i], float(logistic(dose, 1, 9, 1e-7, 1))))
        given[NAMES[i]] = Treatment(Role.TREATED, "x", float(dose), "M")
    for i in range(30, 48):
        role = Role.POSITIVE if i % 2 else Role.NEGATIVE
        wells.append(well(NAMES[i], (9 if i % 2 else 1) + 0.01 * i))
        given[NAMES[i]] = Treatment(role)
    [controls] = control_rows(wells, given)
    assert controls["Feature"] == "Cells_Mean_X"
    assert controls["Z_prime"] > 0.8
    assert controls["Replicates_r"] == pytest.approx(1)
    [curve] = dose_rows(wells, given)
    assert (curve["Metadata_Compound"], curve["Metadata_Unit"]) == ("x", "M")
    assert curve["EC50"] == pytest.approx(1e-7, rel=0.01)
    few = {name: one for name, one in given.items() if not 0 < one.concentration < 1e-8}
    few = {n: o for n, o in few.items() if not o.concentration > 1e-7}
    assert dose_rows(wells, few) == []
