"""How well painted values follow true ones, and how sure that is: r and error, drawn anew.

Correlation and error are made of sums over fields, so that a sample of fields, or of whole wells,
is a weighted sum and a thousand samples of hundreds of features one matrix product.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

N_DRAWS = 1000
FEWEST_WELLS = 3  # from which whole wells are drawn; with fewer, fields
FEWEST_PAIRS = 4  # from which a correlation says something
_NOTHING = 1e-12  # of a variance that is 1 in the truth
_LEVEL_PERCENT = (2.5, 97.5)


class Figures(NamedTuple):
    """Pearson's `r` and the relative `error` of a feature, each with its 95 % interval, or nan."""

    r: float = np.nan
    r_low: float = np.nan
    r_high: float = np.nan
    error: float = np.nan
    error_low: float = np.nan
    error_high: float = np.nan


def samples(wells: Sequence[str], seed: int) -> NDArray[np.int64]:
    """How often each field counts in each of N_DRAWS samples, (draws, fields).

    Drawn with replacement are whole wells, or single fields where there are fewer than
    FEWEST_WELLS; nothing is drawn from a single field.
    """
    rng, names = np.random.default_rng(seed), sorted(set(wells))
    groups = [names.index(well) for well in wells]
    if len(names) < FEWEST_WELLS:
        groups = list(range(len(wells)))
    n = max(groups) + 1
    if n < 2:
        return np.empty((0, len(wells)), np.int64)
    return rng.multinomial(n, np.full(n, 1 / n), N_DRAWS)[:, groups]


def sums_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """What r and error are made of, of each field: (fields, 7, features).

    *values* are true and painted, (2, fields, features); pairs without two finite ones count for
    nothing. The relative error is |painted - true| over the |median| of all true values.
    """
    both = np.logical_and(*np.isfinite(values))
    truth = np.where(both, values[0], np.nan)
    middle, spread, scale = (_of_columns(of, truth) for of in (np.mean, np.std, np.median))
    # Centred, or the squares would lose what differs.
    centred = (values - middle) / np.where(spread > 0, spread, 1)
    true, painted = np.where(both, centred, 0)
    deviations = np.abs(np.where(both, values[1] - values[0], 0))
    relative = np.divide(
        deviations, np.abs(scale), out=np.full_like(deviations, np.nan), where=scale != 0
    )
    parts = [both, true, painted, true * true, painted * painted, true * painted, relative]
    return np.stack(parts, axis=1).astype(np.float64)


def figures_of(sums: NDArray[np.float64], draws: NDArray[np.int64]) -> list[Figures]:
    """r and error of each feature, with their intervals over the *draws* of fields."""
    [r], [error] = _r_and_error(sums.sum(axis=0, keepdims=True))
    drawn_r, drawn_error = _r_and_error(np.tensordot(draws, sums, 1))
    columns = [r, *interval(drawn_r), error, *interval(drawn_error)]
    return [Figures(*map(float, of_feature)) for of_feature in zip(*columns, strict=True)]


def r_over_groups(values: NDArray[np.float64], groups: Sequence[str]) -> NDArray[np.float64]:
    """Pearson's r of each feature over the means of *groups* of fields, such as wells, (features,).

    *values* are true and painted, (2, fields, features), of which those finite in both count.
    """
    both = np.logical_and(*np.isfinite(values))
    is_in = np.array(sorted(set(groups)))[:, None] == np.array(groups)
    n_each = is_in @ both.astype(np.float64)
    with np.errstate(invalid="ignore"):  # a group in which a feature has no value
        means = (is_in @ np.where(both, values, 0)) / n_each
    [r], _ = _r_and_error(sums_of(means).sum(axis=0, keepdims=True))
    return r


def interval(drawn: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends of the 95 % interval of each column of *drawn*, if more than half of it are numbers."""
    low, high = np.full((2, drawn.shape[1]), np.nan)
    enough = 2 * np.isfinite(drawn).sum(axis=0) > max(len(drawn), 1)
    if enough.any():
        low[enough], high[enough] = np.nanpercentile(drawn[:, enough], _LEVEL_PERCENT, axis=0)
    return low, high


def _r_and_error(totals: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pearson's r and the relative error of sums over fields, (samples, 7, features)."""
    n, true, painted, true2, painted2, product, relative = totals.swapaxes(0, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance, painted_variance = true2 / n - (true / n) ** 2, painted2 / n - (painted / n) ** 2
        covariance = product / n - true / n * (painted / n)
        varies = (n >= FEWEST_PAIRS) & (variance > _NOTHING) & (painted_variance > _NOTHING)
        r = np.where(varies, covariance / np.sqrt(variance * painted_variance), np.nan)
        return np.clip(r, -1, 1), np.where(n > 0, relative / n, np.nan)


def _of_columns(
    of: Callable[[NDArray[np.float64]], float], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """A statistic of the finite values of each column; 0 where there is none."""
    finite = (column[np.isfinite(column)] for column in values.T)
    return np.array([float(of(column)) if column.size else 0.0 for column in finite])
