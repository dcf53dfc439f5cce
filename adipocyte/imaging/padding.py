"""Room around an image, so that its sides suit a network's halvings."""

import numpy as np
from numpy.typing import NDArray


def pad_to_multiple(image: NDArray, multiple: int) -> NDArray:
    """Mirror a (…, Y, X) image at its lower and right edge until both sides are multiples of *multiple*, in pixels."""
    height, width = image.shape[-2:]
    if not (height % multiple or width % multiple):
        return image  # a full field's planes take 150 MB: no copy without need
    extra = [(0, 0)] * (image.ndim - 2) + [(0, -height % multiple), (0, -width % multiple)]
    return np.pad(image, extra, mode="symmetric")
