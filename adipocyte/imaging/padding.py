"""Padding, because a network can only halve an image whose sides are multiples of its stride."""

import numpy as np
from numpy.typing import NDArray


def pad_to_multiple(image: NDArray, multiple: int) -> NDArray:
    """Mirror *image* at its lower and right edge until its sides are multiples of *multiple*.

    image: (…, Y, X). Returns *image* itself, not a copy, if its sides are multiples already.
    """
    height, width = image.shape[-2:]
    if not (height % multiple or width % multiple):
        return image  # a copy of a full field's planes would take 150 MB
    extra = [(0, 0)] * (image.ndim - 2) + [(0, -height % multiple), (0, -width % multiple)]
    return np.pad(image, extra, mode="symmetric")
