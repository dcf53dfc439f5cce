"""Boosted decision trees, as numbers that a JSON file can hold."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adipocyte.system.forms import NUMBER, require_form

_N_TREES, _DEPTH = 100, 4
_RATE = 0.1
_SMALLEST_LEAF = 40  # cases
_SHARE = 0.5  # of the cases that each tree learns from
_N_SPLITS, _N_LEAVES = 2**_DEPTH - 1, 2**_DEPTH


@dataclass(frozen=True)
class Trees:
    """T trees, each whole to its last level, that add up to a score of the log odds.

    `predictors` and `thresholds`, (T, 15) each, are the splits of a tree, level by level: a case
    whose predictor is at most the threshold goes to the left. `leaves`, (T, 16), are what the trees
    add to `start`, from left to right.
    """

    start: float
    predictors: list[list[int]]
    thresholds: list[list[float]]
    leaves: list[list[float]]

    def __call__(self, cases: NDArray[np.floating]) -> NDArray[np.float64]:
        """The score of each of the *cases*, (N, P), of which P things are known: (N,)."""
        known, rows = cases.astype(np.float32), np.arange(len(cases))
        scores = np.full(len(cases), self.start)
        splits = zip(self.predictors, self.thresholds, self.leaves, strict=True)
        for predictors, thresholds, leaves in (map(np.array, tree) for tree in splits):
            at = np.zeros(len(cases), dtype=np.intp)
            for _ in range(_DEPTH):
                at = 2 * at + 1 + (known[rows, predictors[at]] > thresholds[at])
            scores += leaves[at - _N_SPLITS]
        return scores


def grow(cases: NDArray[np.floating], is_true: NDArray[np.bool_]) -> Trees:
    """Learn from *cases*, (N, P), which of them are true, (N,); no trees where all or none are.

    Friedman 2002, "Stochastic gradient boosting". The same cases give the same trees.
    """
    from sklearn.ensemble import GradientBoostingClassifier  # only where trees grow

    share = float(np.clip(is_true.mean(), 1e-6, 1 - 1e-6))
    start = float(np.log(share / (1 - share)))
    if is_true.all() or not is_true.any():
        return Trees(start, [], [], [])
    boosted = GradientBoostingClassifier(
        n_estimators=_N_TREES,
        max_depth=_DEPTH,
        learning_rate=_RATE,
        min_samples_leaf=_SMALLEST_LEAF,
        subsample=_SHARE,
        random_state=0,
    ).fit(cases.astype(np.float32), is_true)
    whole = [_whole(one.tree_) for one in boosted.estimators_[:, 0]]
    predictors, thresholds, leaves = map(list, zip(*whole, strict=True))
    return Trees(start, predictors, thresholds, leaves)


def _whole(tree: Any) -> tuple[list[int], list[float], list[float]]:
    """Splits and leaves of scikit-learn's *tree*; below an early leaf all leaves are as it is."""
    level: list[int] = [0]
    predictors: list[int] = []
    thresholds: list[float] = []
    for _ in range(_DEPTH):
        below: list[int] = []
        for node in level:
            is_leaf = tree.children_left[node] < 0
            predictors.append(0 if is_leaf else int(tree.feature[node]))
            thresholds.append(0.0 if is_leaf else float(tree.threshold[node]))
            sides = tree.children_left[node], tree.children_right[node]
            below += [node, node] if is_leaf else sides
        level = below
    return predictors, thresholds, [_RATE * float(tree.value[node, 0, 0]) for node in level]


def from_json(content: Any, n_predictors: int) -> Trees:
    """Trees of *n_predictors* from what `dataclasses.asdict` makes of them.

    Raises ValueError when *content* is something else.
    """
    splits, leaves = (NUMBER,) * _N_SPLITS, (NUMBER,) * _N_LEAVES
    form = {"start": NUMBER, "predictors": [(int,) * _N_SPLITS], "thresholds": [splits]}
    require_form(content, form | {"leaves": [leaves]}, "the trees")
    trees = Trees(**{field.name: content[field.name] for field in dataclasses.fields(Trees)})
    n_trees = {len(trees.predictors), len(trees.thresholds), len(trees.leaves)}
    known = all(0 <= at < n_predictors for one in trees.predictors for at in one)
    if len(n_trees) > 1 or not known:
        raise ValueError("the trees are not as expected")
    return trees
