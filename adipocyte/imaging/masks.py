"""Nuclei masks from the nuclei stain: superpixels inside a threshold mask (maskSLIC).

Irving 2016, "SLIC in a defined mask", arXiv 1606.09518; report, section 2.1. The implementation is
`skimage.segmentation.slic(mask=…)`.
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
    """Separate nuclei from background in a nuclei stain.

    image: (Y, X) in counts. *threshold* is in means of the image (the report's is 2), and
    *superpixel_px* is the side of a superpixel. The pixels above the threshold, with a rim, are
    divided into superpixels. A superpixel stays if its mean is above the threshold, so a hot pixel
    or a grain of noise disappears with the dark rim around it. An opening removes everything that
    is narrower than two rims; then pieces and holes with an area under *smallest_px* are removed.
    Returns (Y, X).
    """
    limit = threshold * image.mean()
    rim_px = max(1, round(_RIM * superpixel_px))
    region = ndimage.binary_dilation(image > limit, iterations=rim_px)
    # Clipped at white, because one hot pixel would otherwise raise the mean of its superpixel and
    # flatten the edges of its neighbours.
    brightness = np.minimum(image, _WHITE * limit, dtype=np.float32)
    labels = superpixels(brightness, region, superpixel_px)
    areas = np.bincount(labels[region], minlength=1)
    sums = np.bincount(labels[region], weights=brightness[region], minlength=1)
    means = sums / np.maximum(areas, 1)
    # A few pixels are in no superpixel; their own brightness decides.
    kept = np.where(labels > 0, (means > limit)[labels], image > limit)
    mask = ndimage.binary_opening(kept, iterations=rim_px)
    mask = remove_small_holes(mask, max_size=max(smallest_px - 1, 0))
    return remove_small_objects(mask, max_size=max(smallest_px - 1, 0))


def superpixels(
    brightness: NDArray[np.float32], region: NDArray[np.bool_], superpixel_px: float
) -> NDArray[np.int32]:
    """Divide a *region* of an image into superpixels that follow the image's edges.

    brightness, region: (Y, X). The superpixels are about *superpixel_px* wide. Returns their labels
    (Y, X), from 1; 0 outside the region, and for a few pixels that no superpixel reaches. The image
    is divided block by block, because the time of SLIC's seeding is quadratic in superpixels.
    """
    labels = np.zeros(brightness.shape, dtype=np.int32)
    side_px, n = max(1, round(_BLOCK * superpixel_px)), 0
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
        # A seed without pixels does no harm. The warning has no category of its own, so its text
        # must tell; test_masks.py holds that text.
        warnings.filterwarnings("ignore", "One of the clusters is empty", UserWarning)
        return slic(
            brightness,
            n_segments=max(1, round(region.sum() / superpixel_px**2)),
            compactness=_COMPACTNESS,
            max_num_iter=_N_ITERATIONS,
            sigma=_SMOOTHING * superpixel_px,  # so that superpixels follow edges, not noise
            mask=region,
            channel_axis=None,
            enforce_connectivity=False,
        )
