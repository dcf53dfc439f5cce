"""Bright objects, and where those that touch are parted (CellProfiler's IdentifyPrimaryObjects)."""

import numpy as np
from centrosome.cpmorphology import binary_shrink, fill_labeled_holes, is_local_maximum, strel_disk
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import watershed

from adipocyte.evaluation.cellprofiler.labelling import Labels, consecutive, on_frame
from adipocyte.evaluation.cellprofiler.parameters import Detection

EIGHT = np.ones((3, 3), dtype=bool)


def foreground(bright: NDArray[np.bool_], detection: Detection) -> NDArray[np.bool_]:
    """The *bright* pixels (Y, X), with holes filled that are smaller than the square of the largest diameter."""
    holes, _ = ndimage.label(~bright)
    small = np.bincount(holes.ravel()) < detection.diameter_px[1] ** 2
    small[0] = False
    return bright | (small & ~on_frame(holes))[holes]


def part_by_shape(mask: NDArray[np.bool_], detection: Detection) -> Labels:
    """Part a *mask* (Y, X) at its waists: one object for each place that is far from the edge."""
    distance_px = ndimage.distance_transform_edt(mask)
    # CellProfiler's own way to have a single highest pixel: the same noise each time, for which its seed and generator are needed.
    distance_px += np.random.RandomState(0).uniform(0, 0.001, mask.shape)
    return _part(mask, distance_px, distance_px.max() - distance_px, detection)


def part_by_brightness(
    mask: NDArray[np.bool_], image: NDArray[np.float64], detection: Detection
) -> Labels:
    """Part a *mask* (Y, X) along the dark seams of an *image* (Y, X)."""
    return _part(mask, _smoothed(image, detection.smoothing_px), 1 - image, detection)


def of_right_size(labels: Labels, detection: Detection) -> Labels:
    """Without the objects that are smaller or larger in area than disks of the diameters; the rest keep their numbers."""
    low, high = (np.pi * diameter_px**2 / 4 for diameter_px in detection.diameter_px)
    areas = np.bincount(labels.ravel())
    return np.where((areas >= low) & (areas <= high), np.arange(len(areas)), 0).astype(np.int32)[
        labels
    ]


def finished(labels: Labels) -> Labels:
    """With their holes filled, numbered from 1 without gaps."""
    return consecutive(fill_labeled_holes(labels))


def _smoothed(image: NDArray[np.float64], filter_px: float) -> NDArray[np.float64]:
    """A Gaussian of sigma filter / 2.35, cut off at half the filter, of full weight up to the image's edge."""
    sigma_px, reach_px = filter_px / 2.35, max(int(filter_px / 2), 1)
    weights = (
        np.exp(-0.5 * (np.arange(-reach_px, reach_px + 1) / sigma_px) ** 2)
        / np.sqrt(2 * np.pi)
        / sigma_px
    )

    def spread(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        return ndimage.convolve1d(
            ndimage.convolve1d(pixels, weights, axis=0, mode="constant"),
            weights,
            axis=1,
            mode="constant",
        )

    return spread(image) / spread(np.ones(image.shape))


def _part(
    mask: NDArray[np.bool_],
    height: NDArray[np.float64],
    depth: NDArray[np.float64],
    detection: Detection,
) -> Labels:
    """Flood *depth* inside the *mask*, from the peaks of *height*."""
    pieces, _ = ndimage.label(mask, EIGHT)
    markers, _ = ndimage.label(_peaks(height, pieces, detection), EIGHT)
    return -watershed(depth, -markers, connectivity=EIGHT, mask=mask).astype(np.int32)


def _peaks(height: NDArray[np.float64], pieces: Labels, detection: Detection) -> NDArray[np.bool_]:
    """One pixel for each peak of *height* that no higher pixel of its piece is near; large objects are looked at from afar."""
    smallest_px = detection.diameter_px[0]
    zoom = min(10 / smallest_px, 1)
    if zoom == 1:
        apart_px = (
            smallest_px / 1.5 if detection.suppression_px is None else detection.suppression_px
        )
        return binary_shrink(_local_maxima(height, pieces, apart_px))
    apart_px = 7 if detection.suppression_px is None else detection.suppression_px * zoom + 0.5
    places = np.mgrid[tuple(slice(0, side * zoom) for side in height.shape)] / zoom
    far_pieces = ndimage.map_coordinates(pieces, places, order=0)
    maxima = _local_maxima(ndimage.map_coordinates(height, places), far_pieces, apart_px)
    back = np.mgrid[tuple(slice(0, side) for side in height.shape)] / (
        height.shape[0] / maxima.shape[0]
    )
    return binary_shrink(ndimage.map_coordinates(maxima.astype(np.float64), back) > 0.5)


def _local_maxima(
    height: NDArray[np.float64], pieces: Labels, apart_px: float
) -> NDArray[np.bool_]:
    return is_local_maximum(height, pieces, strel_disk(max(1, apart_px - 0.5))) & (height > 0)
