"""Discriminators: the report's plain CNN with 3x3 kernels (section 4.1.2 and Table 4.1), and the PatchGAN of pix2pix."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class Discriminator(nn.Module):
    """Scores how real an image looks for its condition.

    *kind* "cnn": four 3x3 convolutions, each halving the sides, and one score for a patch. *kind* "patchgan": 4x4 convolutions, three
    halvings, and a score for every 70 x 70 pixels (Isola et al. 2017, "Image-to-image translation with conditional adversarial
    networks", 6.1.2). *condition_channels* is what the generator sees: 7 z-planes, or 8 with the mask. *width* is the number of
    channels of the first convolution; every further one doubles them. *norm* steadies the layers: "none", "batch" normalisation of
    all but the first, or "spectral" normalisation of every weight (Miyato et al. 2018).
    """

    def __init__(self, condition_channels: int, width: int, kind: str = "cnn", norm: str = "none") -> None:
        super().__init__()
        kernel_size, strides = {"cnn": (3, (2, 2, 2, 2)), "patchgan": (4, (2, 2, 2, 1))}[kind]
        bounded = spectral_norm if norm == "spectral" else _as_it_is
        widths = [condition_channels + 1, width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = []
        for i, ((narrow, wide), stride) in enumerate(zip(pairwise(widths), strides, strict=True)):
            layers.append(bounded(nn.Conv2d(narrow, wide, kernel_size, stride, padding=1)))
            if i > 0 and norm == "batch":
                layers.append(nn.BatchNorm2d(wide))
            layers.append(nn.LeakyReLU(0.2))
        self.features = nn.Sequential(*layers)
        if kind == "cnn":
            self.score = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), bounded(nn.Linear(widths[-1], 1)))
        else:
            self.score = bounded(nn.Conv2d(widths[-1], 1, kernel_size, padding=1))

    def forward(self, condition: Tensor, image: Tensor) -> Tensor:
        """condition: (N, C, Y, X); image: (N, 1, Y, X). Returns scores, (N, 1) or PatchGAN's (N, 1, Y / 8 - 2, X / 8 - 2)."""
        return self.score(self.features(torch.cat([condition, image], dim=1)))


def _as_it_is(layer: nn.Module) -> nn.Module:
    return layer
