"""Whole validation fields through a network in training: its metrics, and a picture."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from adipocyte.domain import BRIGHTFIELD, WHOLE, FieldKey, Window
from adipocyte.imaging.grey import comparison
from adipocyte.imaging.resizing import joined, resized
from adipocyte.networks.tiles import predict_field, segment_field
from adipocyte.store.reader import Store
from adipocyte.training.patches import Masks

_PREVIEW_PX = 384


class FeatureMetric(Protocol):
    """Measures painted validation fields by CellProfiler's features.

    `evaluation.training_metric`, a floor above this one, has the class.
    """

    keys: frozenset[FieldKey]

    def __call__(self, painted: Mapping[FieldKey, Mapping[str, NDArray[np.uint16]]]) -> float:
        """The feature metric of the fields `keys`, painted (Y, X) in counts, by target."""


def source_of(
    store: Store, key: FieldKey, masks: Masks | None, finest_um_per_px: float = 0.0
) -> NDArray[np.float32]:
    """The channels of a field that a network sees, (C, Y, X) in network units.

    These are the planes, and with *masks* the nuclei mask after them. Pixels are joined where they
    are finer than *finest_um_per_px*, which takes no masks.
    """
    n = store.n_joined(key.magnification, finest_um_per_px)
    planes = store.field_scaling(key, BRIGHTFIELD).normalise(joined(store.planes(key), n))
    if masks is None:
        return planes
    return np.concatenate([planes, masks(key, WHOLE)[None].astype(np.float32)])


def validate_generator(
    generator: nn.Module,
    store: Store,
    targets: Sequence[str],
    masks: Masks | None,
    features: FeatureMetric | None = None,
    finest_um_per_px: float = 0.0,
) -> tuple[dict[str, float], NDArray[np.uint8]]:
    """Paint the *targets* of every validation field that has one of them, in its own pixels.

    The *generator* sees none that are finer than *finest_um_per_px*.
    Returns metrics and a picture. val_mae is in counts, val_pixel_metric is the challenge's: MAE /
    median of the target. Both are over all fields and targets, for each target ("val_mae_A2") and
    for each magnification ("val_mae_20x", "val_mae_A2_20x"); val_mae_units is in the network units
    of each field, where the level of its stain makes no difference. With *features* there are
    val_feature_metric and its mean with the pixel metric, val_combined_metric. The picture has a
    row for each target, of the first field that has it: brightfield, truth, prediction, error.
    """
    errors: dict[str, list[float]] = defaultdict(list)
    pictures, measured = {}, {}
    for key in store.keys("validation", targets):
        outputs = predict_field(generator, source_of(store, key, masks, finest_um_per_px))
        valid, painted = store.valid(key), {}
        for target, seen in zip(targets, outputs, strict=True):
            output = resized(seen, store.shape(key))
            painted[target] = store.scaling(key.magnification, target).denormalise(output)
            if target not in store.targets(key):
                continue
            truth = store.target(key, target)
            mae = float(np.abs(painted[target][valid].astype(np.int32) - truth[valid]).mean())
            pixel_metric = mae / store.median(key.magnification, target)
            normalised = store.field_scaling(key, target).normalise(truth)
            errors["val_mae_units"].append(float(np.abs(output - normalised)[valid].mean()))
            for suffix in _suffixes(target, key.magnification):
                errors[f"val_mae{suffix}"].append(mae)
                errors[f"val_pixel_metric{suffix}"].append(pixel_metric)
            if target not in pictures:
                pictures[target] = _picture(store, key, truth, painted[target])
        if features and key in features.keys:
            measured[key] = painted
    metrics = {name: float(np.mean(values)) for name, values in errors.items()}
    if features:
        metrics["val_feature_metric"] = features(measured)
        both = metrics["val_pixel_metric"] + metrics["val_feature_metric"]
        metrics["val_combined_metric"] = both / 2
    return metrics, np.concatenate([pictures[target] for target in targets])


def _suffixes(target: str, magnification: int) -> tuple[str, ...]:
    return "", f"_{magnification}x", f"_{target}", f"_{target}_{magnification}x"


def validate_segmenter(
    segmenter: nn.Module, store: Store
) -> tuple[dict[str, float], NDArray[np.uint8]]:
    """Segment every validation field that has a mask.

    Returns metrics and a picture. val_dice and val_iou compare with the maskSLIC masks, the pixels
    of all fields together, over all and for each magnification. The picture shows the first field:
    brightfield, mask, prediction, difference.
    """
    counts: dict[str, NDArray[np.int64]] = defaultdict(lambda: np.zeros(3, dtype=np.int64))
    pictures = []
    for key in store.keys("validation", ("A1",)):
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
