"""The feature metric during training, on a few validation fields: it may choose the best epoch."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from adipocyte.domain import TARGETS, FieldKey, as_in_challenge
from adipocyte.errors import ConfigError
from adipocyte.evaluation.cellprofiler.features import measure, smallest_px
from adipocyte.evaluation.fields import spread
from adipocyte.evaluation.metric import relative_errors
from adipocyte.store.reader import Store

Features = Mapping[str, float]  # of one field, by CellProfiler's names


class TrainingFeatureMetric:
    """Measures painted *targets* of some validation fields, *n_fields* of each magnification.

    The other stains are the true ones. Raises ConfigError when a stain is missing or a field is too
    small for the features.
    """

    def __init__(self, store: Store, targets: Sequence[str], n_fields: int) -> None:
        whole = [key for key in store.keys("validation") if store.targets(key) == TARGETS]
        self.keys = frozenset(spread(whole, n_fields))
        self._store = store
        advice = "choose by pixels, -P select=pixels"
        if store.manifest.targets != TARGETS:
            found = ", ".join(store.manifest.targets)
            raise ConfigError(f"the features need all three stains, the store has {found}", advice)
        if not whole:
            raise ConfigError("no validation field has all three stains", advice)
        for key, images in self._stains.items():
            least = smallest_px(as_in_challenge(key.magnification, store.um_per_px(key))[1])
            if min(images[targets[0]].shape) < least:
                shape = " x ".join(map(str, images[targets[0]].shape))
                raise ConfigError(
                    f"field {key} has {shape} pixels to measure, the features need {least} a side",
                    advice,
                )

    def __call__(self, painted: Mapping[FieldKey, Mapping[str, NDArray[np.uint16]]]) -> float:
        """The feature metric of the fields `keys`, painted (Y, X) in counts, by target.

        It is the mean over magnifications, weighted by fields.
        """
        metrics = []
        for magnification in sorted({key.magnification for key in self.keys}):
            keys = sorted(key for key in self.keys if key.magnification == magnification)
            found = [self._measure(key, self._valid(key, painted[key])) for key in keys]
            metrics += [feature_metric([self._truth[key] for key in keys], found)] * len(keys)
        return float(np.mean(metrics))

    def _valid(
        self, key: FieldKey, images: Mapping[str, NDArray[np.uint16]]
    ) -> dict[str, NDArray[np.uint16]]:
        window = self._store.valid(key)
        return {target: image[window] for target, image in images.items()}

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
    def _truth(self) -> dict[FieldKey, Features]:
        return {key: self._measure(key, {}) for key in sorted(self.keys)}

    def _measure(self, key: FieldKey, painted: dict[str, NDArray[np.uint16]]) -> Features:
        um_per_px = self._store.um_per_px(key)
        return measure(self._stains[key] | painted, key.magnification, um_per_px).features


def feature_metric(truth: Sequence[Features], painted: Sequence[Features]) -> float:
    """The official feature metric of one magnification, except where a painting lacks features.

    A feature that every true field has counts as 0 where a painting has no number, because a
    network that paints no nuclei must not be chosen for that. `metric.score` leaves such features
    out.
    """
    true, found = (np.array([list(field.values()) for field in of]) for of in (truth, painted))
    errors = relative_errors(true, np.abs(np.nan_to_num(found) - true).mean(axis=0))
    return float(np.mean(errors[np.isfinite(true).all(axis=0) & ~np.isnan(errors)]))
