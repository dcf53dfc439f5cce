"""Shape and brightness of objects, by CellProfiler's names.

Every function gives one value for each label, in order, from 1.
"""

from typing import cast

import numpy as np
from centrosome.cpmorphology import convex_hull_ijv
from numpy.typing import NDArray
from scipy import ndimage

from adipocyte.evaluation.cellprofiler.labelling import Labels

SHAPES = ("Area", "Compactness", "FormFactor", "MeanRadius", "Perimeter", "Solidity")
BRIGHTNESS = ("IntegratedIntensity", "MeanIntensity", "StdIntensity")


def shapes(labels: Labels) -> dict[str, NDArray[np.float64]]:
    """SHAPES of each object of (Y, X) labels, in pixels.

    FormFactor, 4 pi A / P², is infinite for a line or a point, whose perimeter is 0.
    """
    area: NDArray[np.float64] = np.bincount(labels.ravel())[1:].astype(np.float64)
    perimeter = perimeters(labels)
    with np.errstate(divide="ignore"):
        form_factor = 4 * np.pi * area / perimeter**2
    return {
        "Area": area,
        "Compactness": perimeter**2 / np.maximum(4 * np.pi * area, 1),
        "FormFactor": form_factor,
        "MeanRadius": mean_radii(labels),
        "Perimeter": perimeter,
        "Solidity": area / hull_areas(labels),
    }


def brightness(labels: Labels, image: NDArray[np.floating]) -> dict[str, NDArray[np.float64]]:
    """BRIGHTNESS of each object of (Y, X) labels in an image (Y, X)."""
    inside = labels > 0
    objects, pixels = labels[inside], image[inside].astype(np.float64)
    n = labels.max() + 1
    area = np.bincount(objects, minlength=n)[1:]
    total = _sums(objects, pixels, n)
    mean = total / area
    spread = _sums(objects, (pixels - mean[objects - 1]) ** 2, n)
    return {
        "IntegratedIntensity": total,
        "MeanIntensity": mean,
        "StdIntensity": np.sqrt(spread / area),
    }


def perimeters(labels: Labels) -> NDArray[np.float64]:
    """Length in pixels of each object's outline, through the middle of its outermost pixels.

    This is the estimator of `skimage.measure.perimeter` (Benkrid and Crookes) for all objects at
    once. An outermost pixel has a 4-neighbour that is not the object's; its weight depends on how
    many of its 4-neighbours and of its diagonal neighbours are outermost too.
    """
    padded = np.pad(labels, 1)
    flat, width = padded.ravel(), padded.shape[1]
    beside, across = (1, -1, width, -width), (width + 1, width - 1, -width + 1, -width - 1)
    places = np.flatnonzero(flat)
    outermost = np.zeros(flat.size, dtype=bool)
    outermost[places] = np.any([flat[places + step] != flat[places] for step in beside], axis=0)
    places = np.flatnonzero(outermost)

    def n_outermost(steps: tuple[int, ...]) -> NDArray[np.int64]:
        own = [outermost[places + step] & (flat[places + step] == flat[places]) for step in steps]
        return np.sum(own, axis=0)

    lengths = np.zeros((5, 5))  # by the two numbers of neighbours
    lengths[[2, 3, 2, 3, 2, 3], [0, 0, 1, 1, 2, 2]] = 1
    lengths[[0, 1], [2, 3]] = np.sqrt(2)
    lengths[[1, 1], [1, 2]] = (1 + np.sqrt(2)) / 2
    weights = lengths[n_outermost(beside), n_outermost(across)]
    return _sums(flat[places], weights, labels.max() + 1)


def mean_radii(labels: Labels) -> NDArray[np.float64]:
    """Mean distance in pixels of each object's pixels from the nearest that is not its own."""
    radii = []
    for number, place in enumerate(ndimage.find_objects(labels), start=1):
        own = np.pad(labels[place] == number, 1)
        radii.append(ndimage.distance_transform_edt(own)[own].mean())
    return np.array(radii)


def hull_areas(labels: Labels) -> NDArray[np.int64]:
    """How many pixels' centres lie in each object's convex hull, by the even-odd rule.

    The hull is around the middles of the pixels' four sides. A centre on the hull's edge counts on
    one side only, as in the scikit-image of CellProfiler 4. Later versions count it on both, which
    changes the spread of Solidity by up to two thirds.
    """
    n = int(labels.max())
    if n == 0:
        return np.zeros(0, dtype=np.int64)
    y, x = np.nonzero(_row_ends(labels))
    numbers = labels[y, x]
    # In half pixels, and with one added, all middles are whole numbers from 0: nothing is rounded.
    sides = ((1, 0), (-1, 0), (0, 1), (0, -1))
    middles = [np.column_stack([2 * y + 1 + dy, 2 * x + 1 + dx, numbers]) for dy, dx in sides]
    points = np.concatenate(middles).astype(np.int32)
    hull, n_corners = convex_hull_ijv(points, np.arange(1, n + 1))
    starts = np.cumsum(n_corners) - n_corners
    following = np.arange(len(hull)) + 1
    following[starts + n_corners - 1] = starts
    return _columns_inside(hull[:, 0], hull[:, 1:] - 1, hull[following, 1:] - 1, n)


def _row_ends(labels: Labels) -> NDArray[np.bool_]:
    """The first and last pixels of objects in each row."""
    padded = np.pad(labels, ((0, 0), (1, 1)))
    return (labels > 0) & ((labels != padded[:, :-2]) | (labels != padded[:, 2:]))


def _columns_inside(
    numbers: NDArray[np.int64], begin: NDArray[np.int64], end: NDArray[np.int64], n: int
) -> NDArray[np.int64]:
    """How many pixels' centres each of *n* hulls holds.

    Edge i of hull numbers[i] leads from begin[i] to end[i], (y, x) in half pixels, around the hull.
    In every column that an edge spans, the pixels above it are counted, and those above the edge on
    the other side are subtracted.
    """
    direction = np.sign(end[:, 1] - begin[:, 1])
    left, right = np.minimum(begin[:, 1], end[:, 1]), np.maximum(begin[:, 1], end[:, 1])
    # Rounded up. A column where two edges meet belongs to the right one.
    first, after = -(-left // 2), -(-right // 2)
    spans = after - first
    edge = np.repeat(np.arange(len(numbers)), spans)
    column = np.arange(len(edge)) + np.repeat(first - np.cumsum(spans) + spans, spans)
    run, rise = (end[edge] - begin[edge]).T[::-1]
    # Where the edge crosses the column, in pixels times twice the run. These are whole numbers, so
    # that a centre on the edge is exactly on it.
    crossing = begin[edge, 0] * run + rise * (2 * column - begin[edge, 1])
    n_above = -(-crossing * np.sign(run) // (2 * np.abs(run)))
    return np.abs(_sums(numbers[edge], direction[edge] * n_above, n + 1)).astype(np.int64)


def _sums(
    numbers: NDArray[np.integer], weights: NDArray[np.floating | np.integer], n: int
) -> NDArray[np.float64]:
    """The sum of the *weights* of each number from 1 to *n* - 1."""
    # With weights, bincount gives float64; NumPy declares integers.
    return cast(NDArray[np.float64], np.bincount(numbers, weights=weights, minlength=n)[1:])
