"""Nuclei masks from the nuclei stain: superpixels inside a threshold mask (maskSLIC).

Irving 2016, "SLIC in a defined mask", arXiv 1606.09518, through `skimage.segmentation.slic(mask=…)`; report, section 2.1.
"""

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import remove_small_holes, remove_small_objects
from skimage.segmentation import slic

_RIM_PX = 2
_COMPACTNESS = 0.1
_BLOCK_PX = 256


def nuclei_mask(image: NDArray[np.uint16], *, threshold: float, superpixel_px: float, smallest_px: int) -> NDArray[np.bool_]:
    """Tell nuclei from ground in a nuclei stain.

    image: (Y, X) in counts. *threshold* is in means of the image (the report's is 2), *superpixel_px* the side of a superpixel.
    The thresholded pixels, with a rim, are cut into superpixels; a superpixel stays when its own mean passes the threshold, so
    that a hot pixel or a grain of noise goes with the dark rim around it. Then pieces and holes under *smallest_px* of area go.
    Returns (Y, X).
    """
    limit = threshold * image.mean()
    region = ndimage.binary_dilation(image > limit, iterations=_RIM_PX)
    kept = np.zeros_like(region)
    for y in range(0, image.shape[0], _BLOCK_PX):
        for x in range(0, image.shape[1], _BLOCK_PX):
            block = np.s_[y : y + _BLOCK_PX, x : x + _BLOCK_PX]
            kept[block] = _bright_superpixels(image[block], region[block], limit, superpixel_px)
    mask = ndimage.binary_opening(kept, iterations=_RIM_PX)
    mask = remove_small_holes(mask, max_size=max(smallest_px - 1, 0))
    return remove_small_objects(mask, max_size=max(smallest_px - 1, 0))


def _bright_superpixels(image: NDArray[np.uint16], region: NDArray[np.bool_], limit: float, superpixel_px: float) -> NDArray[np.bool_]:
    """The pixels of *region* whose superpixel's mean passes *limit*. All (Y, X), a block: SLIC's seeding is quadratic in superpixels."""
    if not region.any():
        return region
    brightness = np.log1p(image.astype(np.float32))  # on a log scale the edges of a faint nucleus count as much as a bright one's
    n_segments = max(1, round(region.sum() / superpixel_px**2))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "One of the clusters is empty")  # a seed without pixels costs nothing
        labels = slic(brightness, n_segments, _COMPACTNESS, mask=region, channel_axis=None, enforce_connectivity=False)
    areas = np.bincount(labels.ravel())
    means = np.bincount(labels.ravel(), weights=image.ravel()) / np.maximum(areas, 1)
    return (means > limit)[labels] & region
