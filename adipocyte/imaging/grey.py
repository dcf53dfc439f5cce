"""Images for people: counts as 8-bit grey, alone or side by side."""

import numpy as np
from numpy.typing import NDArray

_GAP_PX = 4


def to_grey(image: NDArray, low: float, high: float) -> NDArray[np.uint8]:
    """Map *low*…*high* (in the image's own units) to black…white. (Y, X) to (Y, X)."""
    scaled = (image.astype(np.float32) - low) / max(high - low, 1e-6)
    return np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def display_range(image: NDArray) -> tuple[float, float]:
    """The 1st and 99.5th percentile of an image, in its own units: for black and white."""
    low, high = np.percentile(image, [1, 99.5])
    return float(low), float(high)


def comparison(
    brightfield: NDArray[np.uint16], truth: NDArray[np.uint16], prediction: NDArray[np.uint16]
) -> NDArray[np.uint8]:
    """Brightfield, truth, prediction and the absolute error, from left to right.

    All images are (Y, X) in counts. Returns (Y, 4 X + gaps). Truth, prediction and error have the
    truth's scale, so that people can compare their brightness.
    """
    low, high = display_range(truth)
    error = np.abs(truth.astype(np.int32) - prediction)
    panels = [
        to_grey(brightfield, *display_range(brightfield)),
        to_grey(truth, low, high),
        to_grey(prediction, low, high),
        to_grey(error, 0, high - low),
    ]
    gap = np.full((len(truth), _GAP_PX), 255, dtype=np.uint8)
    return np.concatenate([part for panel in panels for part in (panel, gap)][:-1], axis=1)
