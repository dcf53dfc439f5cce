"""Images with larger or smaller pixels, as another objective would have taken them."""

import cv2
import numpy as np
from numpy.typing import NDArray


def resized(image: NDArray[np.uint16], shape_px: tuple[int, int]) -> NDArray[np.uint16]:
    """An image (Y, X) in counts with *shape_px*, (Y, X), over the same view.

    A smaller one has the means of what its pixels cover, so that noise and fine structure do not
    alias; a larger one is interpolated by cubics, cut off at 0 and 65535.
    """
    if image.shape == shape_px:
        return image
    way = cv2.INTER_AREA if shape_px < image.shape else cv2.INTER_CUBIC
    return cv2.resize(image, shape_px[::-1], interpolation=way).astype(np.uint16, copy=False)


def shape_at(shape_px: tuple[int, int], zoom: float) -> tuple[int, int]:
    """The (Y, X) of an image of *shape_px* whose pixels are taken *zoom* times as fine."""
    height, width = (max(1, round(side * zoom)) for side in shape_px)
    return height, width
