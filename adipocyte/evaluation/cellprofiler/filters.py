"""The pixel filters of the pipelines, on (Y, X) images."""

from collections.abc import Callable

import cv2
import numpy as np
from centrosome.filter import circular_average_filter
from numpy.typing import NDArray
from skimage.filters import rank
from skimage.morphology import disk, octagon

N_RANKS = 255
OCTAGON = octagon(3, 1)  # of radius 2: a square of 5 pixels without its corners


def stretch(image: NDArray[np.floating]) -> NDArray[np.float64]:
    """Scale the darkest pixel to 0, the brightest to 1; only clip a constant image to [0, 1].

    It is computed in the image's own dtype, as CellProfiler does.
    """
    low, high = image.min(), image.max()
    if low == high:
        return np.clip(image, 0, 1).astype(np.float64)
    return ((image - low) / (high - low)).astype(np.float64)


def speckles(image: NDArray[np.floating]) -> NDArray[np.float32]:
    """The structures brighter than their surroundings and narrower than about 10 pixels.

    They are the image less its opening with a disk of radius 5.
    """
    return (image - _over_disk(cv2.dilate, _over_disk(cv2.erode, image))).astype(np.float32)


def _over_disk(
    extreme: Callable[..., NDArray], image: NDArray[np.floating]
) -> NDArray[np.floating]:
    """The minimum or maximum over a disk of radius 5. Edges are mirrored, as in SciPy's filters."""
    padded = cv2.copyMakeBorder(image, 5, 5, 5, 5, cv2.BORDER_REFLECT)
    return extreme(padded, disk(5))[5:-5, 5:-5]


def ranks(image: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """Rank an image's values, joining the rarest to their lower neighbours.

    Values are joined until at most N_RANKS are left. Returns (Y, X) ranks and the value of each.

    CellProfiler leaves open which of equally rare values is joined, because its `numpy.argsort`
    orders ties by the processor's widest vectors. Here NumPy's plain introsort always orders them,
    as in CellProfiler 4.0: `longdouble` is a type that NumPy has no vectorised sort for.
    """
    values, found = np.unique(image, return_inverse=True)
    found = found.reshape(image.shape)
    while len(values) > N_RANKS:
        counts = np.bincount(found.ravel())
        rarest = np.argsort(counts.astype(np.longdouble))[: len(values) + 1 - N_RANKS]
        rare = np.zeros(len(values) + 1, dtype=bool)
        rare[rarest] = True
        # One of two neighbours must stay, so that the image keeps something of both.
        joined = rare[:-1] & ((np.arange(len(values)) & 2 == 0) | ~rare[1:])
        joined[0] = False
        found = (np.cumsum(~joined) - 1)[found]
        values = values[~joined]
    return found, values


def median(image: NDArray[np.floating]) -> NDArray[np.floating]:
    """Median over OCTAGON of the image in `ranks`.

    At the image's edge, of an even number of pixels, it is the lower of the middle two.
    """
    found, values = ranks(image)
    top = np.uint8(len(values) - 1)
    # Upside down, because scikit-image takes the upper of the middle two.
    return values[top - rank.median(top - found.astype(np.uint8), OCTAGON)]


def blur(image: NDArray[np.floating]) -> NDArray[np.float32]:
    """Mean over a disk of radius 6."""
    return circular_average_filter(image, 6).astype(np.float32)
