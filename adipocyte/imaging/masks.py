"""Nuclei masks from the nuclei stain: superpixels inside a threshold mask (maskSLIC).

Irving 2016, "SLIC in a defined mask", arXiv 1606.09518, through `skimage.segmentation.slic(mask=…)`; report, section 2.1.
"""

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import remove_small_holes, remove_small_objects
from skimage.segmentation import slic

_WHITE = 1.3  # in thresholds
_COMPACTNESS = 0.1
_N_ITERATIONS = 5
_RIM, _SMOOTHING, _BLOCK = 0.2, 0.1, 12  # in superpixels


def nuclei_mask(
    image: NDArray[np.uint16], *, threshold: float, superpixel_px: float, smallest_px: int
) -> NDArray[np.bool_]:
    """Tell nuclei from ground in a nuclei stain.

    image: (Y, X) in counts. *threshold* is in means of the image (the report's is 2), *superpixel_px* the side of a superpixel.
    The thresholded pixels, with a rim, are cut into superpixels; a superpixel stays when its own mean passes the threshold, so
    that a hot pixel or a grain of noise goes with the dark rim around it. An opening takes what is narrower than two rims, then
    pieces and holes under *smallest_px* of area go. Returns (Y, X).
    """
    limit = threshold * image.mean()
    rim_px = max(1, round(_RIM * superpixel_px))
    region = ndimage.binary_dilation(image > limit, iterations=rim_px)
    # Brighter than white is white: else one hot pixel would lift its whole superpixel, and flatten the edges of its neighbours.
    brightness = np.minimum(image, _WHITE * limit, dtype=np.float32)
    labels = superpixels(brightness, region, superpixel_px)
    areas = np.bincount(labels[region], minlength=1)
    means = np.bincount(labels[region], weights=brightness[region], minlength=1) / np.maximum(
        areas, 1
    )
    # The few pixels that no superpixel reaches are judged by their own brightness.
    kept = np.where(labels > 0, (means > limit)[labels], image > limit)
    mask = ndimage.binary_opening(kept, iterations=rim_px)
    mask = remove_small_holes(mask, max_size=max(smallest_px - 1, 0))
    return remove_small_objects(mask, max_size=max(smallest_px - 1, 0))


def superpixels(
    brightness: NDArray[np.float32], region: NDArray[np.bool_], superpixel_px: float
) -> NDArray[np.int32]:
    """Cut the *region* of an image, both (Y, X), into superpixels about *superpixel_px* wide that follow its edges.

    Returns their labels (Y, X), from 1; 0 outside, and for the few pixels that no superpixel reaches. Blocks are cut one by one, for
    SLIC's seeding is quadratic in superpixels.
    """
    labels = np.zeros(brightness.shape, dtype=np.int32)
    side_px, n = round(_BLOCK * superpixel_px), 0
    for y in range(0, labels.shape[0], side_px):
        for x in range(0, labels.shape[1], side_px):
            block = np.s_[y : y + side_px, x : x + side_px]
            if region[block].any():
                own = _slic(brightness[block], region[block], superpixel_px)
                labels[block] = np.where(own > 0, own + n, 0)
                n += own.max()
    return labels


def _slic(
    brightness: NDArray[np.float32], region: NDArray[np.bool_], superpixel_px: float
) -> NDArray[np.int64]:
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "One of the clusters is empty"
        )  # a seed without pixels costs nothing
        return slic(
            brightness,
            n_segments=max(1, round(region.sum() / superpixel_px**2)),
            compactness=_COMPACTNESS,
            max_num_iter=_N_ITERATIONS,
            sigma=_SMOOTHING * superpixel_px,  # edges are followed, not grains
            mask=region,
            channel_axis=None,
            enforce_connectivity=False,
        )
