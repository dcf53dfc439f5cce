"""Lipid droplets: small ones and big ones, each found in an image of its own, then joined."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label

from adipocyte.evaluation.cellprofiler import primary
from adipocyte.evaluation.cellprofiler.filters import blur, median, speckles, stretch
from adipocyte.evaluation.cellprofiler.labelling import Labels
from adipocyte.evaluation.cellprofiler.parameters import Detection, Parameters
from adipocyte.evaluation.cellprofiler.thresholds import above, global_threshold

LARGE_FROM = 0.4


def find_droplets(bodipy: NDArray[np.float32], parameters: Parameters) -> tuple[Labels, Labels]:
    """Small and big droplets of the lipid stain: "lipid_droplets" and "big_droplets"."""
    large = np.clip(stretch(blur(bodipy)) - LARGE_FROM, 0, 1)
    fine = stretch(median(speckles(bodipy)))
    everything = stretch(np.clip((stretch(bodipy) + fine + large) / 3, 0, 1))
    return _detect(everything, parameters.small_droplets), _detect(large, parameters.big_droplets)


def _detect(image: NDArray[np.float64], detection: Detection) -> Labels:
    threshold = global_threshold(image, detection.threshold_factor, detection.threshold_at_least)
    mask = primary.foreground(above(image, threshold, detection.threshold_smoothing), detection)
    return primary.finished(primary.part_by_brightness(mask, image, detection))


def merge(big: Labels, small: Labels) -> Labels:
    """One set of droplets, "Lipid_droplets_final_segmentation".

    This is CellProfiler's CombineObjects, "Merge". A droplet that does not overlap one of the other
    size stays as it is. The pixels of all others go to the nearest big droplet among them.
    """
    both = (big > 0) & (small > 0)
    disputed_big, disputed_small = _objects_with(both, big), _objects_with(both, small)
    joined = np.where((small > 0) & ~disputed_small, small + big.max(), 0)
    joined = np.where((big > 0) & ~disputed_big, big, joined)
    if disputed_big.any():
        y, x = ndimage.distance_transform_edt(
            ~disputed_big, return_distances=False, return_indices=True
        )
        disputed = disputed_big | disputed_small
        joined[disputed] = big[y[disputed], x[disputed]]
    return label(joined, connectivity=2).astype(np.int32)


def _objects_with(pixels: NDArray[np.bool_], labels: Labels) -> NDArray[np.bool_]:
    """The whole objects, (Y, X), that have one of the *pixels*."""
    return (np.bincount(labels[pixels], minlength=labels.max() + 1) > 0)[labels]
