"""Discriminators: the report's plain CNN (section 4.1.2, Table 4.1) and the PatchGAN of pix2pix."""

from itertools import pairwise

import torch
from torch import Tensor, nn


class Discriminator(nn.Module):
    """Scores how real an image looks for its condition.

    *kind* "cnn": four 3x3 convolutions, each halving the sides, and one score for a patch. *kind*
    "patchgan": 4x4 convolutions, three halvings, and a score for every 70 x 70 pixels (Isola et al.
    2017, "Image-to-image translation with conditional adversarial networks", 6.1.2).
    *condition_channels* is the number of channels that the generator sees: 7 z-planes, and the mask
    for A1; *image_channels* is the number of stains in an image. *width* is the number of channels
    of the first convolution; each further one doubles it.
    """

    def __init__(
        self, condition_channels: int, width: int, kind: str = "cnn", image_channels: int = 1
    ) -> None:
        super().__init__()
        kernel_size, strides = {"cnn": (3, (2, 2, 2, 2)), "patchgan": (4, (2, 2, 2, 1))}[kind]
        widths = [condition_channels + image_channels, width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = []
        for (narrow, wide), stride in zip(pairwise(widths), strides, strict=True):
            layers.append(nn.Conv2d(narrow, wide, kernel_size, stride, padding=1))
            layers.append(nn.LeakyReLU(0.2))
        self.features = nn.Sequential(*layers)
        self.score: nn.Module
        if kind == "cnn":
            pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten()
            self.score = nn.Sequential(*pooled, nn.Linear(widths[-1], 1))
        else:
            self.score = nn.Conv2d(widths[-1], 1, kernel_size, padding=1)

    def forward(self, condition: Tensor, image: Tensor) -> Tensor:
        """Score *image*, (N, image_channels, Y, X), for its *condition*, (N, C, Y, X).

        Returns (N, 1), or PatchGAN's (N, 1, Y / 8 - 2, X / 8 - 2).
        """
        return self.score(self.features(torch.cat([condition, image], dim=1)))
