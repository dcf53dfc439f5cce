"""Find bright objects and part those that touch (CellProfiler's IdentifyPrimaryObjects)."""

import numpy as np
from centrosome.cpmorphology import binary_shrink, fill_labeled_holes, is_local_maximum, strel_disk
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import watershed

from adipocyte.evaluation.cellprofiler.labelling import Labels, consecutive, on_frame
from adipocyte.evaluation.cellprofiler.parameters import Detection

EIGHT = np.ones((3, 3), dtype=bool)


def foreground(bright: NDArray[np.bool_], detection: Detection) -> NDArray[np.bool_]:
    """The *bright* pixels (Y, X), with holes below the square of the largest diameter filled."""
    holes, _ = ndimage.label(~bright)
    small = np.bincount(holes.ravel()) < detection.diameter_px[1] ** 2
    small[0] = False
    return bright | (small & ~on_frame(holes))[holes]


def part_by_shape(mask: NDArray[np.bool_], detection: Detection) -> Labels:
    """Part a *mask* (Y, X) at its waists: one object for each place that is far from the edge."""
    distance_px = ndimage.distance_transform_edt(mask)
    # CellProfiler's own way to have a single highest pixel. Its seed and generator give its noise.
    distance_px += np.random.RandomState(0).uniform(0, 0.001, mask.shape)
    return _part(mask, distance_px, distance_px.max() - distance_px, detection)


def part_by_brightness(
    mask: NDArray[np.bool_], image: NDArray[np.float64], detection: Detection
) -> Labels:
    """Part a *mask* (Y, X) along the dark seams of an *image* (Y, X)."""
    return _part(mask, _smoothed(image, detection.smoothing_px), 1 - image, detection)


def of_right_size(labels: Labels, detection: Detection) -> Labels:
    """Drop objects with an area below or above that of disks of the two diameters.

    The others keep their numbers.
    """
    low, high = (np.pi * diameter_px**2 / 4 for diameter_px in detection.diameter_px)
    areas = np.bincount(labels.ravel())
    numbers = np.where((areas >= low) & (areas <= high), np.arange(len(areas)), 0)
    return numbers.astype(np.int32)[labels]


def finished(labels: Labels) -> Labels:
    """Fill the objects' holes and renumber them from 1 without gaps."""
    return consecutive(fill_labeled_holes(labels))


def _smoothed(image: NDArray[np.float64], filter_px: float) -> NDArray[np.float64]:
    """Smooth with a Gaussian of sigma filter / 2.35, cut off at half the filter.

    Near the image's edge the weights inside the image are scaled up to a sum of 1.
    """
    sigma_px, reach_px = filter_px / 2.35, max(int(filter_px / 2), 1)
    gaussian = np.exp(-0.5 * (np.arange(-reach_px, reach_px + 1) / sigma_px) ** 2)
    weights = gaussian / np.sqrt(2 * np.pi) / sigma_px

    def spread(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        for axis in (0, 1):
            pixels = ndimage.convolve1d(pixels, weights, axis=axis, mode="constant")
        return pixels

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
    """One pixel for each peak of *height* without a higher pixel of its piece near it.

    The peaks of objects larger than 10 pixels are found on a smaller image.
    """
    smallest_px, apart_px = detection.diameter_px[0], detection.suppression_px
    zoom = min(10 / smallest_px, 1)
    if zoom == 1:
        apart_px = smallest_px / 1.5 if apart_px is None else apart_px
        return binary_shrink(_local_maxima(height, pieces, apart_px))
    apart_px = 7 if apart_px is None else apart_px * zoom + 0.5
    places = np.mgrid[tuple(slice(0, side * zoom) for side in height.shape)] / zoom
    small_pieces = ndimage.map_coordinates(pieces, places, order=0)
    maxima = _local_maxima(ndimage.map_coordinates(height, places), small_pieces, apart_px)
    step = height.shape[0] / maxima.shape[0]
    back = np.mgrid[tuple(slice(0, side) for side in height.shape)] / step
    return binary_shrink(ndimage.map_coordinates(maxima.astype(np.float64), back) > 0.5)


def _local_maxima(
    height: NDArray[np.float64], pieces: Labels, apart_px: float
) -> NDArray[np.bool_]:
    return is_local_maximum(height, pieces, strel_disk(max(1, apart_px - 0.5))) & (height > 0)
