"""The report's five augmentations (section 3.2) of stacked input, targets and mask."""

import os

# Otherwise Albumentations asks the internet for a newer version at every import.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

# The network needs the other cores. And a worker that is forked while OpenCV runs threads may wait
# for them for ever.
cv2.setNumThreads(0)

# Side in patches of the window that a patch is cut from: room to rotate and to resize.
WINDOW = 1.25


class Augmenter:
    """Random rotation, resize and crop, flips and transpose, each with probability *p*.

    *patch_px* is the side of the result; *rotate_deg* limits the rotation, in degrees.
    """

    def __init__(self, patch_px: int, p: float, rotate_deg: float) -> None:
        self._transform = A.Compose(transforms(patch_px, p, rotate_deg))

    def __call__(self, stack: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
        """Augment a (C, Y, X) window: planes, targets and mask, all in the same way.

        Returns (C, patch_px, patch_px); the same seed gives the same result.
        """
        self._transform.set_random_seed(seed)
        augmented = self._transform(image=np.ascontiguousarray(stack.transpose(1, 2, 0)))["image"]
        return np.ascontiguousarray(augmented.transpose(2, 0, 1))


def transforms(
    patch_px: int, p: float, rotate_deg: float
) -> list[A.BasicTransform | A.BaseCompose]:
    """The augmentations in order, and the crop of windows that none of them has resized."""
    size = (patch_px, patch_px)
    return [
        A.Rotate(limit=rotate_deg, border_mode=cv2.BORDER_REFLECT_101, p=p),
        A.RandomResizedCrop(size, scale=(0.4, 1.0), ratio=(0.8, 1.25), p=p),
        A.RandomCrop(*size),
        A.VerticalFlip(p=p),
        A.HorizontalFlip(p=p),
        A.Transpose(p=p),
    ]
