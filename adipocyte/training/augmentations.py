"""Augmentations of the stacked input, target and mask: the report's five (section 3.2), through Albumentations."""

import os

os.environ.setdefault(
    "NO_ALBUMENTATIONS_UPDATE", "1"
)  # it would ask the network for a newer version at every import

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

cv2.setNumThreads(
    0
)  # the network has the other cores; and a worker forked while OpenCV has threads of its own may wait for them for ever

WINDOW = (
    1.25  # side of the window that a patch is cut from, in patches: room to rotate and to resize
)


class Augmenter:
    """Random rotation, resize and crop, flips and transpose, each with probability *p*.

    *patch_px* is the side of what comes out; *rotate_deg* the limit of the rotation, in degrees.
    """

    def __init__(self, patch_px: int, p: float, rotate_deg: float) -> None:
        size = (patch_px, patch_px)
        self._transform = A.Compose(
            [
                A.Rotate(limit=rotate_deg, border_mode=cv2.BORDER_REFLECT_101, p=p),
                A.RandomResizedCrop(size, scale=(0.4, 1.0), ratio=(0.8, 1.25), p=p),
                A.RandomCrop(
                    *size
                ),  # whatever was not resized; leaves a patch of the right size alone
                A.VerticalFlip(p=p),
                A.HorizontalFlip(p=p),
                A.Transpose(p=p),
            ]
        )

    def __call__(self, stack: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
        """Augment a (Z + 2, Y, X) window: planes, target, mask, all moved alike.

        Returns (Z + 2, patch_px, patch_px); the same seed gives the same result.
        """
        self._transform.set_random_seed(seed)
        augmented = self._transform(image=np.ascontiguousarray(stack.transpose(1, 2, 0)))["image"]
        return np.ascontiguousarray(augmented.transpose(2, 0, 1))
