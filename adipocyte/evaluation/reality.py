"""How likely each painted nucleus and droplet is real, learnt on wells not trained on.

A painted object is real when it overlaps an object of the truth with an intersection over union of
REAL_IOU or more. Boosted trees give a score, from shape and brightness and from what is painted
around it; isotonic regression on scores of wells that were left out makes it a probability.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import isotonic_regression
from scipy.stats import rankdata

from adipocyte.domain import TARGETS
from adipocyte.evaluation import trees
from adipocyte.evaluation.cellprofiler.features import Measured
from adipocyte.evaluation.cellprofiler.labelling import Labels
from adipocyte.evaluation.cellprofiler.measurements import brightness
from adipocyte.evaluation.cellprofiler.objects import KINDS
from adipocyte.evaluation.trees import Trees
from adipocyte.imaging.resizing import resized, shape_at
from adipocyte.system.forms import NUMBER, require_form

REAL_IOU = 0.3
PROBABILITY = "Probability_Real"
FEWEST = 50  # real ones, and invented ones, from which a probability can be learnt
# The objects that have a probability, with the stain that shows them; and those of the truth, at
# the frame too, that a painted one may be.
OWN_STAIN = {"Nuclei": "A1", "LipidDroplets": "A2"}
_TRUE = {"Nuclei": "nuclei", "LipidDroplets": "Lipid_droplets_final_segmentation"}
# What is known of an object: its shape; mean and spread of each stain in it; how bright its own
# stain is around it, and how much detail that has in it.
_SHAPES = ("Area", "FormFactor", "Solidity")
N_PREDICTORS = len(_SHAPES) + 2 * len(TARGETS) + 2
_AROUND_UM = 12.0  # a side of the square whose mean is taken
_DETAIL_UM = 0.5  # of the Laplacian of Gaussian
_MOST_OBJECTS = 20_000  # that trees learn from
_MOST_FOLDS = 5
_MOST_KNOTS = 64
_LEAST, _MOST = 0.01, 0.99  # no probability is nearer to 0 and 1
N_BINS = 10

Predictors = Mapping[str, NDArray[np.float32]]  # of each object (N, N_PREDICTORS), by table


class Candidates(NamedTuple):
    """Painted objects: their `predictors`, (N, N_PREDICTORS), and whether each `is_real`, (N,)."""

    predictors: NDArray[np.float32]
    is_real: NDArray[np.bool_]


@dataclass(frozen=True)
class Reality:
    """Gives the objects of a `table` at a `magnification` a probability of being real.

    The trees give a score; `scores` and `probabilities`, (K,) and rising, are the calibration.
    """

    magnification: int
    table: str
    trees: Trees
    scores: list[float]
    probabilities: list[float]

    def __call__(self, predictors: NDArray[np.floating]) -> NDArray[np.float64]:
        """The probability of objects of which *predictors*, (N, N_PREDICTORS), are known, (N,)."""
        return np.interp(self.trees(predictors), self.scores, self.probabilities)


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
    truth: Measured, painted: Measured, images: Mapping[str, NDArray[np.uint16]]
) -> dict[str, Candidates]:
    """The painted nuclei and droplets of a field, whose painted *images* are (Y, X), by target."""
    return {
        table: Candidates(
            predictors,
            best_overlaps(painted.labels[KINDS[table]], truth.labels[_TRUE[table]]) >= REAL_IOU,
        )
        for table, predictors in predictors_of(painted, images).items()
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


def predictors_of(
    measured: Measured, images: Mapping[str, NDArray[np.uint16]]
) -> dict[str, NDArray[np.float32]]:
    """What is known of each nucleus and droplet, (N, N_PREDICTORS), by table.

    *images* by target, (Y, X) in counts, are those that were *measured*. What a stain would tell
    that is not among them is 0.
    """
    shape_px = shape_at(measured.shape_px, measured.zoom)
    seen = {one: resized(image, shape_px).astype(np.float32) for one, image in images.items()}
    return {
        table: _of_kind(KINDS[table], measured, seen, target)
        for table, target in OWN_STAIN.items()
        if KINDS[table] in measured.labels
    }


def _of_kind(
    kind: str, measured: Measured, seen: Mapping[str, NDArray[np.float32]], own: str
) -> NDArray[np.float32]:
    """The predictors of the objects of a *kind*, which the stain *own* of those *seen* shows."""
    labels, um_per_px = measured.labels[kind], measured.um_per_px
    columns = [measured.objects[kind][f"AreaShape_{name}"] for name in _SHAPES]
    for target in TARGETS:
        columns += _light(labels, seen.get(target))
    around = detail = None
    if own in seen:
        side_px = 2 * round(_AROUND_UM / um_per_px / 2) + 1
        around = ndimage.uniform_filter(seen[own], side_px)
        detail = ndimage.gaussian_laplace(seen[own], _DETAIL_UM / um_per_px)
    columns += [_light(labels, around)[0], _light(labels, detail)[1]]
    # A droplet that is a line has an infinite form factor.
    return np.nan_to_num(np.stack(columns, axis=1), posinf=1e6).astype(np.float32)


def _light(
    labels: Labels, image: NDArray[np.float32] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and spread of an *image* in each of the objects, 0 without one; (N,) each."""
    if image is None:
        return np.zeros(labels.max()), np.zeros(labels.max())
    found = brightness(labels, image)
    return found["MeanIntensity"], found["StdIntensity"]


def learn(
    magnification: int, table: str, found: Sequence[Candidates], wells: Sequence[str]
) -> Reality | None:
    """Learn from the *found* objects of fields of these *wells*; None from too few.

    Scores are calibrated by trees that did not see their well, or their field where all are of one
    well; a single field cannot be learnt from.
    """
    predictors = np.concatenate([one.predictors for one in found])
    is_real = np.concatenate([one.is_real for one in found])
    groups = list(wells) if len(set(wells)) > 1 else [str(at) for at in range(len(found))]
    of_object = np.repeat(groups, [len(one.is_real) for one in found])
    if min(is_real.sum(), (~is_real).sum()) < FEWEST or len(set(groups)) < 2:
        return None
    random = np.random.default_rng(0)
    fold_of = {group: at % _MOST_FOLDS for at, group in enumerate(sorted(set(groups)))}
    folds = np.array([fold_of[group] for group in of_object])
    left_out = np.zeros(len(is_real))
    for fold in sorted({*fold_of.values()}):
        inside = folds == fold
        left_out[inside] = _grown(predictors[~inside], is_real[~inside], random)(predictors[inside])
    scores, probabilities = _calibrate(left_out, is_real)
    grown = _grown(predictors, is_real, random)
    return Reality(magnification, table, grown, scores.tolist(), probabilities.tolist())


def _grown(
    predictors: NDArray[np.floating], is_real: NDArray[np.bool_], random: np.random.Generator
) -> Trees:
    """Trees that have learnt from objects, from no more than _MOST_OBJECTS of them."""
    if len(is_real) > _MOST_OBJECTS:
        drawn = random.choice(len(is_real), _MOST_OBJECTS, replace=False)
        predictors, is_real = predictors[drawn], is_real[drawn]
    return trees.grow(predictors, is_real)


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
    curve = {"scores": [NUMBER], "probabilities": [NUMBER]}
    form = {"magnification": int, "table": str, "trees": dict, **curve}
    require_form(content, [form], "the objects")
    found = []
    for one in content:
        if one["table"] not in OWN_STAIN or not len(one["scores"]) == len(one["probabilities"]) > 0:
            raise ValueError(f"the objects of {one['table']!r:.40} are not as expected")
        grown = trees.from_json(one["trees"], N_PREDICTORS)
        found.append(
            Reality(one["magnification"], one["table"], grown, one["scores"], one["probabilities"])
        )
    return found


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
