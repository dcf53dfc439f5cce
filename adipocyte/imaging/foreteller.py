"""The error that is to be expected of a painted field, and so whether to believe it.

It is foretold from what the field and its painting look like (see `appearance`), as good fields and
spoilt ones of the validation wells have taught (see `evaluation.foretelling`). A field that looks
unlike the good ones is trusted less than its expected error says.
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
_REACH = 12.0  # standard deviations: an error is foretold as if nothing were further off than this
_RIDGE = 0.03
# The power of the strangeness that counts as error. A larger one refuses more of the wrong fields,
# and more of the others (see benchmarks/believing.py).
_STRANGE = 0.15
_NARROWEST = 0.1  # standard deviations of all parts: no less is taken to be usual in good ones
_UNLIKE = "it is unlike the fields that the model was tested on"
_FARTHEST = 1.5  # times the largest strangeness of what taught; beyond it nothing can be foretold
# With fewer wells what is expected says nothing of a new one (docs/uncertainty.md, "Few wells").
FEWEST_BELIEVED = 6


@dataclass(frozen=True)
class Foreteller:
    """Foretells the error of a painted field at a `magnification`.

    `predictors` (P,) names what it looks at, of which `centres` and `scales` (P,) are the median of
    good fields and the spread of all. `weights` by target are of 1 and of each predictor, (1 + P,);
    they give the logarithm of MAE over the training wells' median. `usual` by target is the median
    error of good fields. `precision` (P, P) is the inverse covariance of their predictors, in
    `scales`, so that good fields of a well that was not among them are usual. A field is doubted,
    or refused, when its `risk` lies above `doubted` or `refused`; so are the shares of good fields
    DOUBTED and REFUSED at most, or more where there were few. `farthest` is the largest strangeness
    of a field that taught. It has learnt from `n_parts` parts of fields of `n_wells` wells; with
    fewer than FEWEST_BELIEVED every field is doubted that is not refused.
    """

    magnification: int
    predictors: list[str]
    centres: list[float]
    scales: list[float]
    weights: dict[str, list[float]]
    usual: dict[str, float]
    precision: list[list[float]]
    doubted: float
    refused: float
    farthest: float
    n_parts: int
    n_wells: int

    def __call__(self, appearance: Measures, warnings: Sequence[str] = ()) -> Trust:
        """The trust in a field of an *appearance*; *warnings* are what is said of it already."""
        errors, risk = self.errors(appearance), self.risk(appearance)
        ratios = self._ratios(errors)
        worst = max(ratios, key=lambda target: ratios[target])
        found = (
            f"the error of {worst} is expected to be {_digits(ratios[worst])} times the usual one, "
            f"{errors[worst]:.0%} of its median"
        )
        if self.strangeness(appearance) > _FARTHEST * self.farthest:
            return Trust(Verdict.NO, "it looks like nothing that the model was tested on", errors)
        for verdict, limit in ((Verdict.NO, self.refused), (Verdict.CARE, self.doubted)):
            if risk > limit:
                unlike = "" if ratios[worst] > limit else f"{_UNLIKE}; "
                return Trust(verdict, unlike + found, errors)
        if warnings:
            return Trust(Verdict.CARE, "it is unlike the training wells", errors)
        if self.n_wells < FEWEST_BELIEVED:
            few = f"it was tested on {self.n_wells} wells, {FEWEST_BELIEVED} are needed to say yes"
            return Trust(Verdict.CARE, f"the model cannot be sure of any field: {few}", errors)
        return Trust(Verdict.YES, "", errors)

    def errors(self, appearance: Measures) -> dict[str, float]:
        """The error that is to be expected of each target, MAE over the training wells' median."""
        terms = _terms(self._standard(appearance)[None])[0]
        return {
            target: float(np.exp(terms @ np.array(weights)))
            for target, weights in self.weights.items()
        }

    def strangeness(self, appearance: Measures) -> float:
        """How far a field is from the good ones: about 1 for those of a new well, and never less.

        It is Mahalanobis' distance (Mahalanobis 1936, "On the generalised distance in statistics")
        over the square root of P.
        """
        standard = self._standard(appearance)
        square = standard @ np.array(self.precision) @ standard / len(standard)
        return float(np.sqrt(max(square, 1)))

    def risk(self, appearance: Measures) -> float:
        """The largest expected error, in parts of the usual one; more where the field is strange.

        What is expected of a field says the less, the less it is like those that taught. How much
        less, no field has taught: a power of its strangeness is multiplied with the error.
        """
        largest = max(self._ratios(self.errors(appearance)).values(), default=1.0)
        return largest * self.strangeness(appearance) ** _STRANGE

    def _standard(self, appearance: Measures) -> NDArray[np.float64]:
        """(P,); what is not known of a field is taken to be as usual."""
        values = np.array([appearance.get(name, np.nan) for name in self.predictors])
        return np.nan_to_num((values - np.array(self.centres)) / np.array(self.scales))

    def _ratios(self, errors: Mapping[str, float]) -> dict[str, float]:
        return {target: error / self.usual[target] for target, error in errors.items()}


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
    judged = []
    for well in sorted({field.well for field in fields}):
        by_others = _taught(magnification, [field for field in fields if field.well != well])
        here = [field for field in fields if field.well == well and field.is_good]
        judged += [(by_others, field.appearance) for field in here]
    # Few wells look more alike than others will look like them.
    usual = float(np.median([one.strangeness(appearance) for one, appearance in judged]))
    risks = np.sort([_less_strange(one, usual).risk(appearance) for one, appearance in judged])
    found = _less_strange(_taught(magnification, fields), usual)
    return dataclasses.replace(
        found,
        doubted=max(_above(risks, DOUBTED), LEAST_DOUBTED),
        refused=max(_above(risks, REFUSED), LEAST_REFUSED),
        farthest=max(found.strangeness(field.appearance) for field in fields),
    )


def _less_strange(foreteller: Foreteller, times: float) -> Foreteller:
    """The same, to which fields are so many *times* less strange."""
    precision = np.array(foreteller.precision) / times**2
    return dataclasses.replace(foreteller, precision=precision.tolist())


def _taught(magnification: int, fields: Sequence[Painted]) -> Foreteller:
    """What *fields* teach, without limits."""
    good = [field for field in fields if field.is_good]
    predictors = sorted({name for field in good for name in field.appearance})
    targets = sorted({target for field in good for target in field.errors})
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
    return Foreteller(
        magnification,
        predictors,
        centres.tolist(),
        scales.tolist(),
        {target: _fit(standard, errors[target]).tolist() for target in targets},
        {target: float(np.nanmedian(errors[target][is_good])) for target in targets},
        _precision(standard[is_good]).tolist(),
        doubted=np.inf,
        refused=np.inf,
        farthest=np.inf,
        n_parts=len(fields),
        n_wells=len({field.well for field in fields}),
    )


def _fit(standard: NDArray[np.float64], errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of 1 and of the predictors, by ridge regression of the logarithms of *errors*.

    Those that are not known are left out.
    """
    known = errors > 0
    terms = _terms(standard[known])
    ridge = _RIDGE * np.eye(terms.shape[1])
    ridge[0, 0] = 0
    n = max(int(known.sum()), 1)
    logs = np.log(errors[known])
    return np.linalg.lstsq(terms.T @ terms / n + ridge, terms.T @ logs / n)[0]


def _terms(standard: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 and each predictor: (N, P) to (N, 1 + P)."""
    return np.pad(np.clip(standard, -_REACH, _REACH), ((0, 0), (1, 0)), constant_values=1)


def _precision(standard: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse covariance of good fields, (N, P) to (P, P).

    The covariance of few fields is drawn towards that of predictors of their own (Ledoit and Wolf
    2004, "A well-conditioned estimator for large-dimensional covariance matrices").
    """
    from sklearn.covariance import ledoit_wolf

    n_predictors = standard.shape[1]
    covariance = _NARROWEST**2 * np.eye(n_predictors)
    if len(standard) > 1:
        covariance += ledoit_wolf(standard)[0]
    return np.linalg.inv(covariance)


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
} | {
    "weights": {...: [NUMBER]},
    "usual": {...: NUMBER},
    "precision": [[NUMBER]],
}


def from_json(content: Any) -> list[Foreteller]:
    """Raises ValueError when *content* is not as `to_json` makes it."""
    require_form(content, [_FORM], "the list")
    found = [Foreteller(**{name: one[name] for name in _FORM}) for one in content]
    for one in found:
        n = len(one.predictors)
        is_whole = (
            len(one.centres) == len(one.scales) == len(one.precision) == n
            and {len(row) for row in one.precision} == {n}
            and {len(weights) for weights in one.weights.values()} == {1 + n}
            and one.weights.keys() == one.usual.keys()
        )
        if not is_whole or min(one.scales) <= 0 or min(one.usual.values()) <= 0:
            raise ValueError("the numbers of a foreteller do not belong together")
    return found
