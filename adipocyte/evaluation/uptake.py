"""What the error of a painted image would be, had its well taken up more or less stain.

Wells differ in this, nothing in brightfield shows it, and it is a good part of each error: errors
that are to be learnt from are those that a painting would have in any well.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

# Natural logarithms of the factors on what is stained, for which errors are known.
UPTAKES = np.linspace(-0.5, 0.5, 41)
_DARK_PERCENT = 1  # of the pixels of an image: so bright are all of them without stain
_EVERY_PX = 2  # along each side, of which errors are taken
_LEAST_ERROR = 1e-4  # has a logarithm


def uptake(image: NDArray[np.uint16], truth: NDArray[np.uint16]) -> float:
    """The logarithm of how much more stain there is in the *truth* than in a painted *image*.

    Both are (Y, X) in counts; what is above the dark pixels counts as stain, and 1 count at least.
    """
    there, painted = (one.mean() - np.percentile(one, _DARK_PERCENT) for one in (truth, image))
    return float(np.log(max(there, 1)) - np.log(max(painted, 1)))


def errors_by_uptake(image: NDArray[np.uint16], truth: NDArray[np.uint16]) -> NDArray[np.float64]:
    """MAE in counts of a painted *image*, had the *truth* so much more stain as UPTAKES say.

    Both are (Y, X) in counts; returns an error for each of UPTAKES.
    """
    every = slice(None, None, _EVERY_PX)
    painted, there = (one[every, every].astype(np.float32) for one in (image, truth))
    dark = np.float32(np.percentile(truth, _DARK_PERCENT))
    there -= dark
    factors = np.exp(UPTAKES).astype(np.float32)
    return np.array([np.abs(painted - (dark + f * there)).mean(dtype=float) for f in factors])


def error_in_any(errors: NDArray[np.float64], own: float, uptakes: Mapping[str, float]) -> float:
    """The geometric mean of an image's *errors* with the *uptakes* of all wells, by their names.

    *errors* are those by UPTAKES, in any unit; *own* is the uptake of its well.
    """
    in_each = np.interp(np.array([*uptakes.values()]) - own, UPTAKES, errors)
    return float(np.exp(np.log(np.maximum(in_each, _LEAST_ERROR)).mean()))
