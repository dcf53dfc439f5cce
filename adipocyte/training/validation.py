"""Whole validation fields through a network in training: the numbers that choose the best one, and a picture."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from adipocyte.domain import BRIGHTFIELD, WHOLE, FieldKey
from adipocyte.imaging.grey import comparison
from adipocyte.networks.tiles import predict_field, segment_field
from adipocyte.store.reader import Store
from adipocyte.training.patches import Masks

_PREVIEW_PX = 384


class FeatureMetric(Protocol):
    """Measures painted validation fields by CellProfiler's features (see `evaluation.selection`, which stands above this floor)."""

    keys: frozenset[FieldKey]

    def __call__(self, painted: Mapping[FieldKey, NDArray[np.uint16]]) -> float:
        """The feature metric of the fields `keys`, painted (Y, X) in counts."""


def source_of(store: Store, key: FieldKey, masks: Masks | None) -> NDArray[np.float32]:
    """What a network sees of a field: normalised planes (Z, Y, X), and the nuclei mask as one more channel where *masks* is given."""
    planes = store.scaling(key.magnification, BRIGHTFIELD).normalise(store.planes(key))
    return (
        planes
        if masks is None
        else np.concatenate([planes, masks(key, WHOLE)[None].astype(np.float32)])
    )


def validate_generator(
    generator: nn.Module,
    store: Store,
    target: str,
    masks: Masks | None,
    features: FeatureMetric | None = None,
) -> tuple[dict[str, float], NDArray[np.uint8]]:
    """Paint every validation field.

    Returns metrics: val_mae in counts and val_pixel_metric (MAE / median of the target, the challenge's), over all fields and
    for each magnification ("val_mae_20x"), and with *features* val_feature_metric and its mean with the pixel metric,
    val_combined_metric; and a picture of the first field: brightfield, truth, prediction, error.
    """
    errors: dict[str, list[float]] = defaultdict(list)
    measured = {}
    picture = None
    for key in store.keys("validation"):
        prediction = store.scaling(key.magnification, target).denormalise(
            predict_field(generator, source_of(store, key, masks))
        )
        truth, valid = store.target(key, target), store.valid(key)
        mae = float(np.abs(prediction[valid].astype(np.int32) - truth[valid]).mean())
        _note(errors, "val_mae", key, mae)
        _note(errors, "val_pixel_metric", key, mae / store.median(key.magnification, target))
        if features and key in features.keys:
            measured[key] = prediction
        if picture is None:
            window = _centre(truth.shape)
            picture = comparison(
                store.planes(key)[(store.manifest.n_z_planes // 2, *window)],
                truth[window],
                prediction[window],
            )
    metrics = {name: float(np.mean(values)) for name, values in errors.items()}
    if features:
        metrics["val_feature_metric"] = features(measured)
        metrics["val_combined_metric"] = (
            metrics["val_pixel_metric"] + metrics["val_feature_metric"]
        ) / 2
    return metrics, picture


def validate_segmenter(
    segmenter: nn.Module, store: Store
) -> tuple[dict[str, float], NDArray[np.uint8]]:
    """Segment every validation field.

    Returns metrics: val_dice and val_iou against the maskSLIC masks, pixels of all fields together, over all and for each
    magnification; and a picture of the first field: brightfield, mask, prediction, difference.
    """
    counts: dict[str, NDArray[np.int64]] = defaultdict(lambda: np.zeros(3, dtype=np.int64))
    picture = None
    for key in store.keys("validation"):
        truth, prediction = store.mask(key), segment_field(segmenter, source_of(store, key, None))
        valid = store.valid(key)
        overlap = np.array(
            [(truth & prediction)[valid].sum(), truth[valid].sum(), prediction[valid].sum()]
        )
        for suffix in ("", f"_{key.magnification}x"):
            counts[suffix] += overlap
        if picture is None:
            window = _centre(truth.shape)
            images = (
                store.planes(key)[(store.manifest.n_z_planes // 2, *window)],
                truth[window],
                prediction[window],
            )
            picture = comparison(*(image.astype(np.uint16) for image in images))
    metrics = {}
    for suffix, (both, true, predicted) in counts.items():
        metrics[f"val_dice{suffix}"] = float(2 * both / max(true + predicted, 1))
        metrics[f"val_iou{suffix}"] = float(both / max(true + predicted - both, 1))
    return metrics, picture


def _note(errors: dict[str, list[float]], name: str, key: FieldKey, value: float) -> None:
    errors[name].append(value)
    errors[f"{name}_{key.magnification}x"].append(value)


def _centre(shape: tuple[int, int]) -> tuple[slice, slice]:
    starts = [max(0, (side - _PREVIEW_PX) // 2) for side in shape]
    return tuple(slice(start, start + _PREVIEW_PX) for start in starts)
