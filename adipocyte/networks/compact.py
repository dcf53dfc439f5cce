"""A small U-Net whose finest level has half of the image's side."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pixel_shuffle, pixel_unshuffle, relu

WIDTHS = (32, 64, 128, 256)  # channels at a half, a quarter, an eighth, a sixteenth of each side
_BLOCK_PX = 2


class CompactUNet(nn.Module):
    """From (N, *in_channels*, Y, X) to (N, *out_channels*, Y, X); Y and X are multiples of 16.

    Each block of 2 x 2 pixels becomes one place with four times the channels, and at the end pixels
    again (Shi et al. 2016, "Real-time single image and video super-resolution using an efficient
    sub-pixel convolutional neural network", equation 4, and its inverse). Between them lies a U-Net
    (Ronneberger et al. 2015) whose encoder is of residual blocks (He et al. 2016, figure 2).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.stem = _unit(_BLOCK_PX**2 * in_channels, WIDTHS[0])
        self.encoder = nn.ModuleList([_Residual(WIDTHS[0], WIDTHS[0])])
        self.encoder.extend(_Residual(fine, coarse, stride=2) for fine, coarse in pairwise(WIDTHS))
        self.decoder = nn.ModuleList(
            nn.Sequential(_unit(coarse + fine, fine), _unit(fine, fine))
            for coarse, fine in pairwise(reversed(WIDTHS))
        )
        self.head = nn.Conv2d(WIDTHS[0], _BLOCK_PX**2 * out_channels, kernel_size=3, padding=1)

    def forward(self, source: Tensor) -> Tensor:
        features = self.stem(pixel_unshuffle(source, _BLOCK_PX))
        levels = []
        for block in self.encoder:
            features = block(features)
            levels.append(features)
        for block, fine in zip(self.decoder, levels[-2::-1], strict=True):
            coarse = interpolate(features, scale_factor=2, mode="nearest")
            features = block(torch.cat([coarse, fine], dim=1))
        return pixel_shuffle(self.head(features), _BLOCK_PX)


class _Residual(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            _unit(in_channels, out_channels, stride),
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.around = nn.Sequential()
        if stride > 1:
            self.around = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, features: Tensor) -> Tensor:
        return relu(self.around(features) + self.convolutions(features))


def _unit(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
