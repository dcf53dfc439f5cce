"""Augmentations of the stacked input, target and mask: the report's five (section 3.2), through Albumentations, and more on request."""

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for a newer version at every import

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

cv2.setNumThreads(0)  # the network has the other cores; and a worker forked while OpenCV has threads of its own may wait for them for ever

WINDOW = 1.25  # side of the window that a patch is cut from, in patches: room to rotate and to resize
_GAIN = 0.1  # standard deviation of the logarithm of an exposure
_OFFSET = 0.1  # standard deviation of a change of brightness, in standard deviations of brightfield


class Augmenter:
    """Random resize and crop, flips, rotation and transpose, each with probability *p*; *more* adds distortions and exposure.

    *patch_px* is the side of what comes out; *rotate_deg* the limit of the rotation, in degrees.
    """

    def __init__(self, patch_px: int, p: float, rotate_deg: float, more: bool = False) -> None:
        size = (patch_px, patch_px)
        further = [
            A.ElasticTransform(alpha=60, sigma=8, border_mode=cv2.BORDER_REFLECT_101, p=p),
            A.GridDistortion(distort_limit=0.2, border_mode=cv2.BORDER_REFLECT_101, p=p),
        ]
        self._transform = A.Compose(
            [
                A.Rotate(limit=rotate_deg, border_mode=cv2.BORDER_REFLECT_101, p=p),
                *(further if more else []),
                A.RandomResizedCrop(size, scale=(0.4, 1.0), ratio=(0.8, 1.25), p=p),
                A.RandomCrop(*size),  # whatever was not resized; leaves a patch of the right size alone
                A.VerticalFlip(p=p),
                A.HorizontalFlip(p=p),
                A.Transpose(p=p),
            ]
        )
        self._exposure_p = p if more else 0.0

    def __call__(self, stack: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
        """Augment a (Z + 2, Y, X) window: planes, target, mask, all moved alike. The same seed, the same result.

        Returns (Z + 2, patch_px, patch_px). Exposure changes the planes alone.
        """
        self._transform.set_random_seed(seed)
        augmented = self._transform(image=np.ascontiguousarray(stack.transpose(1, 2, 0)))["image"]
        augmented = np.ascontiguousarray(augmented.transpose(2, 0, 1))
        random = np.random.default_rng(seed)
        if random.random() < self._exposure_p:
            gain, offset = np.exp(random.normal(0, _GAIN)), random.normal(0, _OFFSET)
            augmented[:-2] = augmented[:-2] * np.float32(gain) + np.float32(offset)
        return augmented
