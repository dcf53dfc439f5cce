"""The feature metric of a target in training, on a few validation fields: what may choose the best epoch besides pixels."""

from collections.abc import Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from adipocyte.domain import TARGETS, FieldKey
from adipocyte.errors import ConfigError
from adipocyte.evaluation.cellprofiler.features import SMALLEST_PX, measure
from adipocyte.evaluation.fields import spread
from adipocyte.store.reader import Store


class TrainingFeatureMetric:
    """Measures painted *target* images of at most *n_fields* validation fields of each magnification; the other stains are the true ones.

    Raises ConfigError when a stain is missing or a field is too small for the features.
    """

    def __init__(self, store: Store, target: str, n_fields: int) -> None:
        self.keys = frozenset(spread(store.keys("validation"), n_fields))
        self._store, self._target = store, target
        advice = "choose by pixels, -P select=pixels"
        if store.manifest.targets != TARGETS:
            raise ConfigError(
                f"the features need all three stains, the store has {', '.join(store.manifest.targets)}: {advice}"
            )
        for key, images in self._stains.items():
            if min(images[target].shape) < SMALLEST_PX:
                shape = " x ".join(map(str, images[target].shape))
                raise ConfigError(
                    f"field {key} has {shape} pixels to measure, the features need {SMALLEST_PX} a side: {advice}"
                )

    def __call__(self, painted: Mapping[FieldKey, NDArray[np.uint16]]) -> float:
        """The feature metric of the fields `keys`, painted (Y, X) in counts, weighted by fields over magnifications.

        A feature that the truth gives but the painting does not counts as 0: a network that paints no nuclei must not be chosen for it.
        """
        metrics = []
        for magnification in sorted({key.magnification for key in self.keys}):
            keys = sorted(key for key in self.keys if key.magnification == magnification)
            found = [
                self._measure(key, {self._target: painted[key][self._store.valid(key)]})
                for key in keys
            ]
            metrics += [
                _feature_metric(_table([self._truth[key] for key in keys]), _table(found))
            ] * len(keys)
        return float(np.mean(metrics))

    @cached_property
    def _stains(self) -> dict[FieldKey, dict[str, NDArray[np.uint16]]]:
        """The true stains, in brightfield's frame as they are trained on."""
        return {
            key: {
                target: self._store.target(key, target, self._store.valid(key))
                for target in TARGETS
            }
            for key in sorted(self.keys)
        }

    @cached_property
    def _truth(self) -> dict[FieldKey, dict[str, float]]:
        return {key: self._measure(key, {}) for key in sorted(self.keys)}

    def _measure(self, key: FieldKey, painted: dict[str, NDArray[np.uint16]]) -> dict[str, float]:
        return measure(self._stains[key] | painted, key.magnification).features


def _table(features: list[dict[str, float]]) -> NDArray[np.float64]:
    return np.array([list(field.values()) for field in features])


def _feature_metric(truth: NDArray[np.float64], painted: NDArray[np.float64]) -> float:
    """Mean over features of mean |p - t| / median(t), from (fields, features) tables; without features that are no number in the truth."""
    medians = np.median(truth, axis=0)
    usable = np.isfinite(truth).all(axis=0) & (medians != 0)
    errors = np.abs(np.nan_to_num(painted) - truth).mean(axis=0)
    return float(np.mean(errors[usable] / np.abs(medians[usable])))
