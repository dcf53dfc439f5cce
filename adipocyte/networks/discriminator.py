"""The discriminator: a plain CNN with 3x3 kernels (report, 4.1.2 and Table 4.1)."""

from itertools import pairwise

import torch
from torch import Tensor, nn


class Discriminator(nn.Module):
    """Scores how real an image looks for its condition, one number for a patch.

    *condition_channels* is what the generator sees: 7 z-planes, or 8 with the mask. *width* is the number of channels of the
    first of four convolutions, each of which halves the sides and (but for the first) doubles the channels.
    """

    def __init__(self, condition_channels: int, width: int) -> None:
        super().__init__()
        widths = [condition_channels + 1, width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = []
        for i, (narrow, wide) in enumerate(pairwise(widths)):
            layers += [nn.Conv2d(narrow, wide, kernel_size=3, stride=2, padding=1)]
            layers += [nn.BatchNorm2d(wide)] * (i > 0) + [nn.LeakyReLU(0.2)]
        self.features = nn.Sequential(*layers)
        self.score = nn.Linear(widths[-1], 1)

    def forward(self, condition: Tensor, image: Tensor) -> Tensor:
        """condition: (N, C, Y, X); image: (N, 1, Y, X). Returns (N, 1)."""
        features = self.features(torch.cat([condition, image], dim=1))
        return self.score(features.mean(dim=(2, 3)))
