"""What a field and its painting look like, in numbers from which their error can be foretold."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from adipocyte.imaging.limits import on_scales
from adipocyte.imaging.quality import Measures, cut_blocks

_BRIGHT_PERCENT = 99


def measure_appearance(light: Measures, images: Mapping[str, NDArray[np.uint16]]) -> Measures:
    """What is known of a field once it is painted.

    light: what `quality.measure_quality` says of the brightfield planes. images: (Y, X) by target,
    in counts as the networks paint them, before intensities are set; sides of 64 pixels or more.
    Returns those measures of *light* that have limits, ratios as natural logarithms, and, on the
    same blocks of each image, as natural logarithms of counts:

    - `A1_level` and `A1_evenness`: mean and standard deviation of the logarithms
    - `A1_bright`: the 99th percentile; `A1_spread`: the standard deviation
    - `A1_gradient`: the mean difference of neighbours; `A1_detail`: the root mean square of the
      Laplacian
    - `A1_A2_r`: Pearson's correlation of two images; 0 where one is constant
    """
    found = on_scales(light)
    blocks = {target: cut_blocks(image[None])[0] for target, image in images.items()}
    for target, one in blocks.items():
        found |= {f"{target}_{name}": value for name, value in _of_image(one).items()}
    for (first, one), (second, other) in combinations(blocks.items(), 2):
        found[f"{first}_{second}_r"] = _correlation(one, other)
    return found


def _of_image(blocks: NDArray[np.float32]) -> Measures:
    """Of (rows, columns, Y, X) blocks."""
    logs = np.log(np.maximum(blocks, 1))
    down, across = np.diff(blocks, axis=2), np.diff(blocks, axis=3)
    curved = np.diff(down, axis=2)[..., 1:-1] + np.diff(across, axis=3)[:, :, 1:-1]
    gradient = (np.abs(down).mean() + np.abs(across).mean()) / 2
    return {
        "level": float(logs.mean()),
        "evenness": float(logs.std()),
        "bright": float(np.log1p(np.percentile(blocks, _BRIGHT_PERCENT))),
        "spread": float(np.log1p(blocks.std())),
        "gradient": float(np.log1p(gradient)),
        "detail": float(np.log1p(np.sqrt(np.square(curved).mean()))),
    }


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    one, other = one - one.mean(), other - other.mean()
    scale = np.sqrt(np.square(one).mean() * np.square(other).mean())
    return float((one * other).mean() / scale) if scale > 0 else 0.0
