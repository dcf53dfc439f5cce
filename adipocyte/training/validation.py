"""Whole validation fields through a network in training: its metrics, and a picture."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from adipocyte.domain import BRIGHTFIELD, WHOLE, FieldKey, Window
from adipocyte.imaging.grey import comparison
from adipocyte.networks.tiles import predict_field, segment_field
from adipocyte.store.reader import Store
from adipocyte.training.patches import Masks

_PREVIEW_PX = 384


class FeatureMetric(Protocol):
    """Measures painted validation fields by CellProfiler's features.

    `evaluation.training_metric`, a floor above this one, has the class.
    """

    keys: frozenset[FieldKey]

    def __call__(self, painted: Mapping[FieldKey, NDArray[np.uint16]]) -> float:
        """The feature metric of the fields `keys`, painted (Y, X) in counts."""


def source_of(store: Store, key: FieldKey, masks: Masks | None) -> NDArray[np.float32]:
    """The channels of a field that a network sees, (C, Y, X) in network units.

    These are the planes, and with *masks* the nuclei mask after them.
    """
    planes = store.scaling(key.magnification, BRIGHTFIELD).normalise(store.planes(key))
    if masks is None:
        return planes
    return np.concatenate([planes, masks(key, WHOLE)[None].astype(np.float32)])


def validate_generator(
    generator: nn.Module,
    store: Store,
    target: str,
    masks: Masks | None,
    features: FeatureMetric | None = None,
) -> tuple[dict[str, float], NDArray[np.uint8]]:
    """Paint every validation field.

    Returns metrics and a picture. val_mae is in counts, val_pixel_metric is the challenge's: MAE /
    median of the target. Both are over all fields and for each magnification ("val_mae_20x"). With
    *features* there are val_feature_metric and its mean with the pixel metric, val_combined_metric.
    The picture shows the first field: brightfield, truth, prediction, error.
    """
    errors: dict[str, list[float]] = defaultdict(list)
    pictures, measured = [], {}
    for key in store.keys("validation"):
        scaling = store.scaling(key.magnification, target)
        prediction = scaling.denormalise(predict_field(generator, source_of(store, key, masks)))
        truth, valid = store.target(key, target), store.valid(key)
        mae = float(np.abs(prediction[valid].astype(np.int32) - truth[valid]).mean())
        pixel_metric = mae / store.median(key.magnification, target)
        for suffix in ("", f"_{key.magnification}x"):
            errors[f"val_mae{suffix}"].append(mae)
            errors[f"val_pixel_metric{suffix}"].append(pixel_metric)
        if features and key in features.keys:
            measured[key] = prediction
        if not pictures:
            pictures.append(_picture(store, key, truth, prediction))
    metrics = {name: float(np.mean(values)) for name, values in errors.items()}
    if features:
        metrics["val_feature_metric"] = features(measured)
        both = metrics["val_pixel_metric"] + metrics["val_feature_metric"]
        metrics["val_combined_metric"] = both / 2
    return metrics, pictures[0]


def validate_segmenter(
    segmenter: nn.Module, store: Store
) -> tuple[dict[str, float], NDArray[np.uint8]]:
    """Segment every validation field.

    Returns metrics and a picture. val_dice and val_iou compare with the maskSLIC masks, the pixels
    of all fields together, over all and for each magnification. The picture shows the first field:
    brightfield, mask, prediction, difference.
    """
    counts: dict[str, NDArray[np.int64]] = defaultdict(lambda: np.zeros(3, dtype=np.int64))
    pictures = []
    for key in store.keys("validation"):
        truth, prediction = store.mask(key), segment_field(segmenter, source_of(store, key, None))
        valid = store.valid(key)
        images = (truth & prediction, truth, prediction)
        overlap = np.array([image[valid].sum() for image in images])
        for suffix in ("", f"_{key.magnification}x"):
            counts[suffix] += overlap
        if not pictures:
            pictures.append(_picture(store, key, truth, prediction))
    metrics = {}
    for suffix, (both, true, predicted) in counts.items():
        metrics[f"val_dice{suffix}"] = float(2 * both / max(true + predicted, 1))
        metrics[f"val_iou{suffix}"] = float(both / max(true + predicted - both, 1))
    return metrics, pictures[0]


def _picture(store: Store, key: FieldKey, truth: NDArray, prediction: NDArray) -> NDArray[np.uint8]:
    """The middle of a field: brightfield, truth, prediction and their difference."""
    window = _centre(truth.shape)
    brightfield = store.plane(key, store.manifest.n_z_planes // 2)
    images = (brightfield[window], truth[window], prediction[window])
    return comparison(*(image.astype(np.uint16) for image in images))


def _centre(shape: tuple[int, ...]) -> Window:
    rows, columns = (max(0, (side - _PREVIEW_PX) // 2) for side in shape)
    return slice(rows, rows + _PREVIEW_PX), slice(columns, columns + _PREVIEW_PX)
