"""The error that is to be expected of a painted field, and so whether to believe it.

It is foretold from what the field and its painting look like (see `appearance`), as good fields and
spoilt ones of the validation wells have taught (see `evaluation.foretelling`).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adipocyte.imaging.quality import Measures
from adipocyte.imaging.trust import Trust, Verdict
from adipocyte.system.forms import NUMBER, require_form

REFUSED = 0.05  # the share of good fields that may be refused
DOUBTED = 0.1  # and the share that may be refused or doubted
# Times the usual error; with less no field is refused or doubted, however few wells taught.
LEAST_REFUSED, LEAST_DOUBTED = 1.5, 1.25
_REACH = 5.0  # standard deviations: nothing is taken to be further off than this
_RIDGE = 0.06
_FARTHEST = 1.5  # times the largest distance of what taught; beyond it nothing can be foretold


@dataclass(frozen=True)
class Foreteller:
    """Foretells the error of a painted field at a `magnification`.

    `predictors` (P,) names what it looks at, of which `centres` and `scales` (P,) are the median of
    good fields and the spread of all. `weights` by target are of 1, of each predictor and of each
    product of two, (1 + P + P (P + 1) / 2,); they give the logarithm of MAE over the training
    wells' median. `usual` by target is the median error of good fields. A field is doubted, or
    refused, when the largest error, in parts of the usual one, lies above `doubted` or `refused`;
    so are the shares of good fields DOUBTED and REFUSED at most, or more where there were few.
    `farthest` is the largest distance, in `scales`, of a field that taught. It has learnt from
    `n_parts` parts of fields of `n_wells` wells.
    """

    magnification: int
    predictors: list[str]
    centres: list[float]
    scales: list[float]
    weights: dict[str, list[float]]
    usual: dict[str, float]
    doubted: float
    refused: float
    farthest: float
    n_parts: int
    n_wells: int

    def __call__(self, appearance: Measures, warnings: Sequence[str] = ()) -> Trust:
        """The trust in a field of an *appearance*; *warnings* are what is said of it already."""
        standard = self._standard(appearance)
        errors = self._errors(standard)
        ratios = {target: error / self.usual[target] for target, error in errors.items()}
        worst = max(ratios, key=lambda target: ratios[target])
        found = (
            f"the error of {worst} is expected to be {_digits(ratios[worst])} times the usual one, "
            f"{errors[worst]:.0%} of its median"
        )
        if _distance(standard) > _FARTHEST * self.farthest:
            return Trust(Verdict.NO, "it looks like nothing that the model was tested on", errors)
        if ratios[worst] > self.refused:
            return Trust(Verdict.NO, found, errors)
        if ratios[worst] > self.doubted:
            return Trust(Verdict.CARE, found, errors)
        if warnings:
            return Trust(Verdict.CARE, "it is unlike the training wells", errors)
        return Trust(Verdict.YES, "", errors)

    def _standard(self, appearance: Measures) -> NDArray[np.float64]:
        """(P,); what is not known of a field is taken to be as usual."""
        values = np.array([appearance.get(name, np.nan) for name in self.predictors])
        return np.nan_to_num((values - np.array(self.centres)) / np.array(self.scales))

    def _errors(self, standard: NDArray[np.float64]) -> dict[str, float]:
        terms = _terms(standard[None])[0]
        return {
            target: float(np.exp(terms @ np.array(weights)))
            for target, weights in self.weights.items()
        }


@dataclass(frozen=True)
class Painted:
    """A painted field of a `well`: its `appearance`, and its `errors` by target, as in `Trust`.

    It `is_good`, or it was spoilt on purpose.
    """

    well: str
    is_good: bool
    appearance: Measures
    errors: dict[str, float]


def learn(magnification: int, fields: Sequence[Painted]) -> Foreteller:
    """Learn from good and spoilt *fields* of two wells or more.

    Each is judged by what the other wells taught. Every target has good fields.
    """
    predictors = sorted({name for field in fields if field.is_good for name in field.appearance})
    targets = sorted({target for field in fields for target in field.errors})
    values = np.array([[one.appearance.get(n, np.nan) for n in predictors] for one in fields])
    is_good = np.array([field.is_good for field in fields])
    centres = np.nan_to_num(np.nanmedian(values[is_good], axis=0))
    standard = np.nan_to_num(values - centres)
    scales = standard.std(axis=0)
    scales[scales < 1e-6] = 1.0
    standard /= scales
    errors = {
        target: np.array([field.errors.get(target, np.nan) for field in fields])
        for target in targets
    }
    usual = {target: float(np.nanmedian(errors[target][is_good])) for target in targets}
    wells = [field.well for field in fields]
    ratios = _left_out(standard, errors, wells) / np.array([*usual.values()])[:, None]
    worst = np.sort(ratios.max(axis=0)[is_good])
    return Foreteller(
        magnification,
        predictors,
        centres.tolist(),
        scales.tolist(),
        {target: _fit(standard, errors[target]).tolist() for target in targets},
        usual,
        doubted=max(_above(worst, DOUBTED), LEAST_DOUBTED),
        refused=max(_above(worst, REFUSED), LEAST_REFUSED),
        farthest=max(map(_distance, standard)),
        n_parts=len(fields),
        n_wells=len(set(wells)),
    )


def _left_out(
    standard: NDArray[np.float64], errors: Mapping[str, NDArray], wells: Sequence[str]
) -> NDArray[np.float64]:
    """The errors (T, N) that are expected of fields by what other *wells* taught."""
    expected = np.empty((len(errors), len(standard)))
    for well in sorted(set(wells)):
        inside = np.array(wells) == well
        for at, of_target in enumerate(errors.values()):
            weights = _fit(standard[~inside], of_target[~inside])
            expected[at, inside] = np.exp(_terms(standard[inside]) @ weights)
    return expected


def _fit(standard: NDArray[np.float64], errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of the terms, by ridge regression of the logarithms of *errors* that are known."""
    known = errors > 0
    terms = _terms(standard[known])
    ridge = _RIDGE * np.eye(terms.shape[1])
    ridge[0, 0] = 0
    n = max(int(known.sum()), 1)
    logs = np.log(errors[known])
    return np.linalg.lstsq(terms.T @ terms / n + ridge, terms.T @ logs / n)[0]


def _terms(standard: NDArray[np.float64]) -> NDArray[np.float64]:
    """1, each predictor, and each product of two: (N, P) to (N, 1 + P + P (P + 1) / 2).

    Products of two different ones are smaller, because there are so many of them.
    """
    near, n = np.clip(standard, -_REACH, _REACH), standard.shape[1]
    first, second = np.triu_indices(n, 1)
    products = near[:, first] * near[:, second] / np.sqrt(n)
    return np.column_stack([np.ones(len(near)), near, near**2, products])


def _distance(standard: NDArray[np.float64]) -> float:
    """How far a field (P,) is from the middle of the good ones: the root mean square."""
    return float(np.sqrt(np.mean(np.square(standard))))


def _above(ordered: NDArray[np.float64], share: float) -> float:
    """What a new one of the kind exceeds with a probability of *share* at most, if it may be.

    Of n in rising order the one of rank (n + 1)(1 - share), rounded up (Vovk et al. 2005,
    "Algorithmic learning in a random world", proposition 2.3); the largest where that is beyond n.
    """
    rank = int(np.ceil((len(ordered) + 1) * (1 - share)))
    return float(ordered[min(rank, len(ordered)) - 1])


def _digits(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}"


def to_json(foretellers: Sequence[Foreteller]) -> list[dict[str, Any]]:
    """For a file, as `from_json` reads it."""
    return [asdict(one) for one in foretellers]


_FORM = {
    field.name: {list[str]: [str], list[float]: [NUMBER], float: NUMBER}.get(field.type, field.type)
    for field in dataclasses.fields(Foreteller)
} | {"weights": {...: [NUMBER]}, "usual": {...: NUMBER}}


def from_json(content: Any) -> list[Foreteller]:
    """Raises ValueError when *content* is not as `to_json` makes it."""
    require_form(content, [_FORM], "the list")
    found = [Foreteller(**{name: one[name] for name in _FORM}) for one in content]
    for one in found:
        n = len(one.predictors)
        n_terms = 1 + n + n * (n + 1) // 2
        is_whole = (
            len(one.centres) == len(one.scales) == n
            and {len(weights) for weights in one.weights.values()} == {n_terms}
            and one.weights.keys() == one.usual.keys()
        )
        if not is_whole or min(one.scales) <= 0 or min(one.usual.values()) <= 0:
            raise ValueError("the numbers of a foreteller do not belong together")
    return found
