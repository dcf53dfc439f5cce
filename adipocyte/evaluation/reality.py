"""How likely each painted nucleus and droplet is real, learnt on wells not trained on.

A painted object is real when it overlaps an object of the truth with an intersection over union of
REAL_IOU or more. A logistic regression on what the table of objects says of it anyway gives a
score; isotonic regression on scores of wells that were left out makes it a probability.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations_with_replacement
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, minimize
from scipy.special import expit
from scipy.stats import rankdata

from adipocyte.evaluation.cellprofiler.features import Measured
from adipocyte.evaluation.cellprofiler.labelling import Labels
from adipocyte.evaluation.cellprofiler.objects import AREA, KINDS, Table
from adipocyte.system.forms import NUMBER, require_form

REAL_IOU = 0.3
PROBABILITY = "Probability_Real"
FEWEST = 50  # real ones, and invented ones, from which a probability can be learnt
# What is known of an object; those after the first two are positive and go in as logarithms.
PREDICTORS = {
    "Nuclei": (
        "AreaShape_FormFactor",
        "AreaShape_Solidity",
        AREA,
        "Intensity_MeanIntensity_Hoechst",
        "Intensity_StdIntensity_Hoechst",
        "Intensity_MeanIntensity_Bodipy",
        "Intensity_MeanIntensity_CellTrackerRed",
    ),
    "LipidDroplets": (
        "AreaShape_FormFactor",
        "AreaShape_Solidity",
        AREA,
        "Intensity_MeanIntensity_Bodipy",
        "Intensity_StdIntensity_Bodipy",
    ),
}
# The objects of the truth, those at the frame too, that a painted one may be.
_TRUE = {"Nuclei": "nuclei", "LipidDroplets": "Lipid_droplets_final_segmentation"}
_N_SHAPES = 2
_RIDGE = 1e-3
_MOST_KNOTS = 64
_LEAST, _MOST = 0.01, 0.99  # no probability is nearer to 0 and 1
N_BINS = 10


class Candidates(NamedTuple):
    """Painted objects: their `predictors`, (N, P), and whether each `is_real`, (N,)."""

    predictors: NDArray[np.float32]
    is_real: NDArray[np.bool_]


@dataclass(frozen=True)
class Reality:
    """Gives the objects of a `table` at a `magnification` a probability of being real.

    `means` and `scales`, (P,), bring predictors to one size; `weights` are of 1, of each predictor
    and of each product of two; `scores` and `probabilities`, (K,) and rising, are the calibration.
    """

    magnification: int
    table: str
    means: list[float]
    scales: list[float]
    weights: list[float]
    scores: list[float]
    probabilities: list[float]

    def __call__(self, table: Table) -> NDArray[np.float64]:
        """The probability of each object of a *table*, (N,)."""
        return self.probabilities_of(predictors_of(self.table, table))

    def probabilities_of(self, predictors: NDArray[np.floating]) -> NDArray[np.float64]:
        """The probability of objects of which *predictors*, (N, P), are known, (N,)."""
        standard = (predictors - np.array(self.means)) / np.array(self.scales)
        scores = _terms(standard) @ np.array(self.weights)
        return np.interp(scores, self.scores, self.probabilities)


class Reliability(NamedTuple):
    """How far probabilities can be taken at their word, over `n` objects.

    `bins` are (mean probability, share of real ones, number) of objects of like probability; `ece`
    is the expected calibration error (Naeini et al. 2015), `auc` the area under the ROC.
    """

    n: int
    ece: float
    auc: float
    bins: list[tuple[float, float, int]]


def candidates(
    truth: Measured, painted: Measured, tables: Mapping[str, Table]
) -> dict[str, Candidates]:
    """The painted nuclei and droplets of a field, whose *tables* are those of the painting."""
    return {
        table: Candidates(
            predictors_of(table, tables[table]).astype(np.float32),
            best_overlaps(painted.labels[KINDS[table]], truth.labels[_TRUE[table]]) >= REAL_IOU,
        )
        for table in PREDICTORS
    }


def best_overlaps(objects: Labels, others: Labels) -> NDArray[np.float64]:
    """For each of the *objects*, from 1, its best intersection over union with one of the *others*.

    Both are (Y, X); returns (N,).
    """
    sizes_px, other_px = np.bincount(objects.ravel()), np.bincount(others.ravel())
    shared = (objects > 0) & (others > 0)
    codes, both_px = np.unique(
        objects[shared].astype(np.int64) * len(other_px) + others[shared], return_counts=True
    )
    first, second = np.divmod(codes, len(other_px))
    best = np.zeros(len(sizes_px))
    np.maximum.at(best, first, both_px / (sizes_px[first] + other_px[second] - both_px))
    return best[1:]


def predictors_of(name: str, table: Table) -> NDArray[np.float64]:
    """What is known of each object of a *table*, (N, P): shapes, then logarithms of sizes."""
    columns = np.stack([table[column] for column in PREDICTORS[name]], axis=1).astype(np.float64)
    columns[:, _N_SHAPES:] = np.log(np.maximum(columns[:, _N_SHAPES:], 1e-6))
    return np.clip(np.nan_to_num(columns, nan=0.0, posinf=2.0), -20, 20)


def learn(
    magnification: int, table: str, found: Sequence[Candidates], wells: Sequence[str]
) -> Reality | None:
    """Learn from the *found* objects of fields of these *wells*; None from too few.

    Scores are calibrated by models that did not see their well, or their field where all are of one
    well; a single field cannot be learnt from.
    """
    predictors = np.concatenate([one.predictors for one in found]).astype(np.float64)
    is_real = np.concatenate([one.is_real for one in found])
    groups = list(wells) if len(set(wells)) > 1 else [str(at) for at in range(len(found))]
    of_object = np.repeat(groups, [len(one.is_real) for one in found])
    if min(is_real.sum(), (~is_real).sum()) < FEWEST or len(set(groups)) < 2:
        return None
    means, spreads = predictors.mean(axis=0), predictors.std(axis=0)
    scales = np.where(spreads > 0, spreads, 1.0)
    terms = _terms((predictors - means) / scales)
    left_out = np.zeros(len(is_real))
    for group in sorted(set(groups)):
        inside = of_object == group
        left_out[inside] = terms[inside] @ _fit(terms[~inside], is_real[~inside])
    scores, probabilities = _calibrate(left_out, is_real)
    return Reality(
        magnification,
        table,
        means.tolist(),
        scales.tolist(),
        _fit(terms, is_real).tolist(),
        scores.tolist(),
        probabilities.tolist(),
    )


def reliability(probabilities: NDArray[np.float64], is_real: NDArray[np.bool_]) -> Reliability:
    """Compare *probabilities*, (N,), with what `is_real`, in N_BINS classes of equal width."""
    n, n_real = len(is_real), int(is_real.sum())
    at = np.minimum((probabilities * N_BINS).astype(int), N_BINS - 1)
    counts = np.bincount(at, minlength=N_BINS)
    totals = np.bincount(at, probabilities, N_BINS), np.bincount(at, is_real, N_BINS)
    bins = [
        (float(p / count), float(real / count), int(count))
        for p, real, count in zip(*totals, counts, strict=True)
        if count
    ]
    ece = sum(count * abs(p - share) for p, share, count in bins) / n if n else np.nan
    auc = np.nan
    if 0 < n_real < n:
        ranks = rankdata(probabilities)[is_real].sum()  # Mann & Whitney 1947
        auc = (ranks - n_real * (n_real + 1) / 2) / (n_real * (n - n_real))
    return Reliability(n, float(ece), float(auc), bins)


def to_json(realities: Iterable[Reality]) -> list[dict[str, Any]]:
    """For a file, as `from_json` reads it."""
    return [asdict(one) for one in realities]


def from_json(content: Any) -> list[Reality]:
    """Raises ValueError when *content* is not as `to_json` makes it."""
    form = {field.name: [NUMBER] for field in dataclasses.fields(Reality)}
    require_form(content, [form | {"magnification": int, "table": str}], "the objects")
    found = [Reality(**{name: one[name] for name in form}) for one in content]
    for one in found:
        _require_fitting(one)
    return found


def _require_fitting(one: Reality) -> None:
    """Raise ValueError when the numbers of a reality do not belong together."""
    n = len(PREDICTORS.get(one.table, ()))
    n_terms = 1 + n + n * (n + 1) // 2
    sizes = (len(one.means), len(one.scales), len(one.weights))
    is_curve = len(one.scores) == len(one.probabilities) > 0
    if not n or sizes != (n, n, n_terms) or not is_curve or 0 in one.scales:
        raise ValueError(f"the objects of {one.table!r:.40} are not as expected")


def _terms(standard: NDArray[np.float64]) -> NDArray[np.float64]:
    """1, each predictor, and each product of two, (N, T)."""
    pairs = combinations_with_replacement(range(standard.shape[1]), 2)
    products = [standard[:, i] * standard[:, j] for i, j in pairs]
    return np.column_stack([np.ones(len(standard)), standard, *products])


def _fit(terms: NDArray[np.float64], is_real: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weights of the logistic regression of least mean loss, with a small ridge, (T,)."""

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scores = terms @ weights
        value = np.logaddexp(0, scores).mean() - scores[is_real].sum() / len(scores)
        slope = terms.T @ (expit(scores) - is_real) / len(scores)
        return value + _RIDGE * weights @ weights, slope + 2 * _RIDGE * weights

    return minimize(loss, np.zeros(terms.shape[1]), jac=True, method="L-BFGS-B").x


def _calibrate(
    scores: NDArray[np.float64], is_real: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The rising curve from scores to the share of real objects, (K,) each."""
    order = np.argsort(scores, kind="stable")
    rising = isotonic_regression(is_real[order].astype(np.float64)).x
    # Means of equally many objects, of which a curve through points is made.
    parts = np.array_split(np.arange(len(order)), min(_MOST_KNOTS, len(order)))
    knots = np.array([scores[order][part].mean() for part in parts])
    shares = np.clip([rising[part].mean() for part in parts], _LEAST, _MOST)
    keep = np.concatenate([[True], np.diff(knots) > 0])
    return knots[keep], shares[keep]
