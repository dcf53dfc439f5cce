"""Images with larger or smaller pixels, as another objective would have taken them."""

from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Number = TypeVar("Number", np.uint16, np.float32)


def resized(image: NDArray[Number], shape_px: tuple[int, int]) -> NDArray[Number]:
    """An image (Y, X), in counts or network units, with *shape_px*, (Y, X), over the same view.

    A smaller one has the means of what its pixels cover, so that noise and fine structure do not
    alias; a larger one is interpolated by cubics, counts cut off at 0 and 65535.
    """
    if image.shape == shape_px:
        return image
    way = cv2.INTER_AREA if shape_px < image.shape else cv2.INTER_CUBIC
    return cv2.resize(image, shape_px[::-1], interpolation=way).astype(image.dtype, copy=False)


def resized_stack(stack: NDArray[Number], shape_px: tuple[int, int]) -> NDArray[Number]:
    """A *stack* (C, Y, X) whose images are `resized`."""
    return np.stack([resized(image, shape_px) for image in stack])


def joined(stack: NDArray[Number], n: int) -> NDArray[Number]:
    """A *stack* (C, Y, X) whose pixels are the means of *n* by *n*, as many as come nearest."""
    if n == 1:
        return stack
    return resized_stack(stack, joined_shape(stack.shape[1:], n))


def joined_shape(shape_px: tuple[int, ...], n: int) -> tuple[int, int]:
    """The (Y, X) of a stack or image of *shape_px*, (Y, X), once *n* by *n* pixels are joined."""
    height, width = shape_px
    return shape_at((height, width), 1 / n)


def shape_at(shape_px: tuple[int, int], zoom: float) -> tuple[int, int]:
    """The (Y, X) of an image of *shape_px* whose pixels are taken *zoom* times as fine."""
    height, width = (max(1, round(side * zoom)) for side in shape_px)
    return height, width
