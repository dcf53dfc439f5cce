"""Shape and brightness of objects, by CellProfiler's names. Every function gives one value for each label, in order, from 1."""

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
    area = np.bincount(labels.ravel())[1:].astype(np.float64)
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
    total = np.bincount(objects, weights=pixels, minlength=n)[1:]
    mean = total / area
    spread = np.bincount(objects, weights=(pixels - mean[objects - 1]) ** 2, minlength=n)[1:]
    return {
        "IntegratedIntensity": total,
        "MeanIntensity": mean,
        "StdIntensity": np.sqrt(spread / area),
    }


def perimeters(labels: Labels) -> NDArray[np.float64]:
    """Length in pixels of each object's outline, through the middle of its outermost pixels.

    The estimator of `skimage.measure.perimeter` (Benkrid and Crookes), for all objects at once: an outermost pixel, one with a
    4-neighbour that is not the object's, counts by how many of its 4- and its diagonal neighbours are outermost too.
    """
    padded = np.pad(labels, 1)
    flat, width = padded.ravel(), padded.shape[1]
    beside, across = (1, -1, width, -width), (width + 1, width - 1, -width + 1, -width - 1)
    places = np.flatnonzero(flat)
    outermost = np.zeros(flat.size, dtype=bool)
    outermost[places] = np.any([flat[places + step] != flat[places] for step in beside], axis=0)
    places = np.flatnonzero(outermost)
    n_beside, n_across = (
        np.sum(
            [outermost[places + step] & (flat[places + step] == flat[places]) for step in steps],
            axis=0,
        )
        for steps in (beside, across)
    )
    lengths = np.zeros((5, 5))  # by the two numbers of neighbours
    lengths[[2, 3, 2, 3, 2, 3], [0, 0, 1, 1, 2, 2]] = 1
    lengths[[0, 1], [2, 3]] = np.sqrt(2)
    lengths[[1, 1], [1, 2]] = (1 + np.sqrt(2)) / 2
    return np.bincount(
        flat[places], weights=lengths[n_beside, n_across], minlength=labels.max() + 1
    )[1:]


def mean_radii(labels: Labels) -> NDArray[np.float64]:
    """Mean distance in pixels of an object's pixels to what is not the object."""
    radii = []
    for number, place in enumerate(ndimage.find_objects(labels), start=1):
        own = np.pad(labels[place] == number, 1)
        radii.append(ndimage.distance_transform_edt(own)[own].mean())
    return np.array(radii)


def hull_areas(labels: Labels) -> NDArray[np.int64]:
    """How many pixels' centres lie in each object's convex hull, by the even-odd rule.

    The hull is around the middles of the pixels' four sides. A centre on the hull's edge counts on one side only, as in the scikit-image
    of CellProfiler 4; later ones count both, which moves the spread of Solidity by up to two thirds.
    """
    n = int(labels.max())
    if n == 0:
        return np.zeros(0, dtype=np.int64)
    y, x = np.nonzero(_row_ends(labels))
    numbers = labels[y, x]
    # In half pixels all middles are whole numbers, from 0 where one is added: nothing is rounded.
    sides = ((1, 0), (-1, 0), (0, 1), (0, -1))
    middles = np.concatenate(
        [np.column_stack([2 * y + 1 + dy, 2 * x + 1 + dx, numbers]) for dy, dx in sides]
    )
    hull, n_corners = convex_hull_ijv(middles.astype(np.int32), np.arange(1, n + 1))
    starts = np.cumsum(n_corners) - n_corners
    following = np.arange(len(hull)) + 1
    following[starts + n_corners - 1] = starts
    return _columns_inside(hull[:, 0], hull[:, 1:] - 1, hull[following, 1:] - 1, n)


def _row_ends(labels: Labels) -> NDArray[np.bool_]:
    """The pixels that an object begins or ends with in a row."""
    padded = np.pad(labels, ((0, 0), (1, 1)))
    return (labels > 0) & ((labels != padded[:, :-2]) | (labels != padded[:, 2:]))


def _columns_inside(
    numbers: NDArray[np.int64], begin: NDArray[np.int64], end: NDArray[np.int64], n: int
) -> NDArray[np.int64]:
    """How many pixels' centres each of *n* hulls holds, from its edges, (edge, yx) in half pixels, going round, and whose they are.

    In every column of pixels that an edge spans, the pixels above it are counted, and those above the far edge taken away.
    """
    direction = np.sign(end[:, 1] - begin[:, 1])
    left, right = np.minimum(begin[:, 1], end[:, 1]), np.maximum(begin[:, 1], end[:, 1])
    first, after = (
        -(-left // 2),
        -(-right // 2),
    )  # of two edges that meet in a column, the right one has it
    spans = after - first
    edge = np.repeat(np.arange(len(numbers)), spans)
    column = np.arange(len(edge)) + np.repeat(first - np.cumsum(spans) + spans, spans)
    run, rise = (end[edge] - begin[edge]).T[::-1]
    # Where the edge crosses the column, in pixels times twice the run: whole numbers, so that a centre on the edge is seen to be on it.
    crossing = begin[edge, 0] * run + rise * (2 * column - begin[edge, 1])
    n_above = -(-crossing * np.sign(run) // (2 * np.abs(run)))
    return np.abs(
        np.bincount(numbers[edge], weights=direction[edge] * n_above, minlength=n + 1)[1:]
    ).astype(np.int64)
