"""Networks and losses of others, small, from their papers: for benchmarks.peers alone.

Images are (N, C, Y, X), in the units of the store's networks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, l1_loss, softplus

Norm = Callable[[int], nn.Module]


def _convolved(n_in: int, n_out: int, norm: Norm, act: nn.Module, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(n_in, n_out, 3, stride, 1), norm(n_out), act)


class FNet(nn.Module):
    """Ounkomol et al. 2018, "Label-free prediction of three-dimensional fluorescence images from
    transmitted-light microscopy", supplementary figure 1, in two dimensions: two convolutions at
    each of five levels, the first of 32 channels, and strided ones between them.
    """

    def __init__(self, n_in: int, n_out: int, n_levels: int = 4, width: int = 32) -> None:
        super().__init__()
        self.first = _twice(n_in, width)
        self.level = _FNetLevel(width, n_levels)
        self.head = nn.Conv2d(width, n_out, 3, padding=1)

    def forward(self, source: Tensor) -> Tensor:
        return self.head(self.level(self.first(source)))


def _twice(n_in: int, n_out: int) -> nn.Sequential:
    first, second = (_convolved(n, n_out, nn.BatchNorm2d, nn.ReLU()) for n in (n_in, n_out))
    return nn.Sequential(first, second)


class _FNetLevel(nn.Module):
    """All that lies below a level, joined with what came in; (N, width, Y, X) stays so."""

    def __init__(self, width: int, n_levels: int) -> None:
        super().__init__()
        down, up = (
            nn.Conv2d(width, width, 2, stride=2),
            nn.ConvTranspose2d(2 * width, width, 2, stride=2),
        )
        self.down = nn.Sequential(down, nn.BatchNorm2d(width), nn.ReLU())
        self.wider = _twice(width, 2 * width)
        self.deeper = _FNetLevel(2 * width, n_levels - 1) if n_levels > 1 else nn.Identity()
        self.up = nn.Sequential(up, nn.BatchNorm2d(width), nn.ReLU())
        self.join = _twice(2 * width, width)

    def forward(self, features: Tensor) -> Tensor:
        above = self.up(self.deeper(self.wider(self.down(features))))
        return self.join(torch.cat([features, above], dim=1))


class Pix2Pix(nn.Module):
    """Isola et al. 2017, appendix 6.1.1: a U-Net of eight halvings, for patches of 256 pixels.

    Normalised for each image, as the paper's batches of one are.
    """

    WIDTHS = (64, 128, 256, 512, 512, 512, 512, 512)

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(self.WIDTHS):
            before = [nn.LeakyReLU(0.2)] if i else []
            convolution = nn.Conv2d(self.WIDTHS[i - 1] if i else n_in, width, 4, 2, 1)
            after = [nn.InstanceNorm2d(width)] if 0 < i < len(self.WIDTHS) - 1 else []
            self.downs.append(nn.Sequential(*before, convolution, *after))
        for i in reversed(range(len(self.WIDTHS))):
            joined = 1 if i == len(self.WIDTHS) - 1 else 2
            width = self.WIDTHS[i - 1] if i else n_out
            convolution = nn.ConvTranspose2d(joined * self.WIDTHS[i], width, 4, 2, 1)
            after = [nn.InstanceNorm2d(width)] if i else []
            dropped = [nn.Dropout(0.5)] if i > 4 else []
            self.ups.append(nn.Sequential(nn.ReLU(), convolution, *after, *dropped))

    def forward(self, source: Tensor) -> Tensor:
        levels = [source]
        for down in self.downs:
            levels.append(down(levels[-1]))
        features = levels.pop()
        for up in self.ups[:-1]:
            features = torch.cat([up(features), levels.pop()], dim=1)
        return self.ups[-1](features)


class SoftMatter(nn.Module):
    """Helgadottir et al. 2021, "Extracting quantitative biological information from bright-field
    cell images using deep learning", figure 2: a U-Net of strided convolutions, with two
    convolutions at each level and a residual block at its base. One network paints all stains.
    """

    def __init__(self, n_in: int, n_out: int, breadth: int = 16, depth: int = 5) -> None:
        super().__init__()
        widths = [breadth * 2**i for i in range(depth)]
        self.encoder, self.downs = nn.ModuleList(), nn.ModuleList()
        self.ups, self.decoder = nn.ModuleList(), nn.ModuleList()
        for narrow, wide in zip([n_in, *widths[:-2]], widths[:-1], strict=True):
            self.encoder.append(nn.Sequential(_leaky(narrow, wide), _leaky(wide, wide)))
            self.downs.append(_leaky(wide, wide, stride=2))
        self.base_in = nn.Conv2d(widths[-2], widths[-1], 1)
        base = [
            nn.Conv2d(widths[-1], widths[-1], 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(widths[-1], widths[-1], 3, padding=1),
        ]
        self.base = nn.Sequential(*base)
        for narrow, wide in zip(widths[-2::-1], widths[:0:-1], strict=True):
            self.ups.append(_leaky(wide, narrow))
            self.decoder.append(nn.Sequential(_leaky(2 * narrow, narrow), _leaky(narrow, narrow)))
        self.head = nn.Sequential(
            _leaky(breadth, breadth),
            _leaky(breadth, breadth // 2),
            nn.Conv2d(breadth // 2, n_out, 1),
        )

    def forward(self, source: Tensor) -> Tensor:
        levels, features = [], source
        for level, down in zip(self.encoder, self.downs, strict=True):
            levels.append(level(features))
            features = down(levels[-1])
        features = self.base_in(features)
        features = torch.relu(features + self.base(features))
        for up, level in zip(self.ups, self.decoder, strict=True):
            features = up(interpolate(features, scale_factor=2))
            features = level(torch.cat([features, levels.pop()], dim=1))
        return self.head(features)


def _leaky(n_in: int, n_out: int, stride: int = 1) -> nn.Sequential:
    return _convolved(n_in, n_out, nn.InstanceNorm2d, nn.LeakyReLU(0.2), stride)


class DenseUNet(nn.Module):
    """Wieslander et al. 2021, "Learning to see colours", the challenge's winners (Haste): densely
    connected blocks of four convolutions that add 12 channels each, and pixel shuffle.

    With *privileged*, a second decoder finds the nuclei; its features are added to those that
    paint, and its mask is the last output channel.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_halvings: int,
        *,
        privileged: bool = False,
        width: int = 48,
        growth: int = 12,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(n_in, width, 3, padding=1)
        self.encoder, self.downs, joined = nn.ModuleList(), nn.ModuleList(), []
        for _ in range(n_halvings):
            self.encoder.append(_Dense(width, growth))
            width += 4 * growth
            joined.insert(0, width)
            squeeze = [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 1)]
            self.downs.append(nn.Sequential(*squeeze, nn.Dropout2d(0.2), nn.MaxPool2d(2)))
        self.base, self.added = _Dense(width, growth), 4 * growth
        self.painting = _DenseDecoder(self.added, joined, growth, n_out)
        self.finding = _DenseDecoder(self.added, joined, growth, 1) if privileged else None

    def forward(self, source: Tensor) -> Tensor:
        levels, features = [], self.stem(source)
        for level, down in zip(self.encoder, self.downs, strict=True):
            levels.insert(0, level(features))
            features = down(levels[0])
        features = self.base(features)[:, -self.added :]
        if self.finding is None:
            return self.painting(features, levels)[0]
        mask, found = self.finding(features, levels)
        return torch.cat([self.painting(features, levels, found)[0], mask], dim=1)


class _Dense(nn.Module):
    """Four convolutions, each of all that came before it; returns all, 4 * growth channels more."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(width + i * growth),
                nn.ReLU(),
                nn.Conv2d(width + i * growth, growth, 3, padding=1),
                nn.Dropout(0.2),
            )
            for i in range(4)
        )

    def forward(self, features: Tensor) -> Tensor:
        for layer in self.layers:
            features = torch.cat([features, layer(features)], dim=1)
        return features


class _DenseDecoder(nn.Module):
    """Returns its image, and the features of each level, which another decoder can take up."""

    def __init__(self, width: int, joined: list[int], growth: int, n_out: int) -> None:
        super().__init__()
        self.ups, self.levels = nn.ModuleList(), nn.ModuleList()
        for skipped in joined:
            narrow = 4 * growth
            self.ups.append(
                nn.Sequential(
                    nn.Conv2d(width, 4 * narrow, 3, padding=1), nn.ReLU(), nn.PixelShuffle(2)
                )
            )
            self.levels.append(
                nn.Sequential(nn.Conv2d(narrow + skipped, narrow, 1), _Dense(narrow, growth))
            )
            width = 2 * narrow
        self.head = nn.Conv2d(width, n_out, 1)

    def forward(
        self, features: Tensor, levels: list[Tensor], added: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        passed = []
        for i, (up, level) in enumerate(zip(self.ups, self.levels, strict=True)):
            features = level(torch.cat([up(features), levels[i]], dim=1))
            features = features + added[i] if added else features
            passed.append(features)
        return self.head(features), passed


class UNeXt2(nn.Module):
    """Liu et al. 2025, "Robust virtual staining of landmark organelles with Cytoland" (VisCy), in
    its smallest size: a ConvNeXt V2 encoder and a decoder of pixel shuffles, down to full size.
    """

    def __init__(self, n_in: int, n_out: int, encoder: str = "convnextv2_atto") -> None:
        super().__init__()
        self.encoder: Any = timm.create_model(encoder, in_chans=n_in, features_only=True)
        widths = self.encoder.feature_info.channels()  # at a quarter of each side, an eighth, …
        self.ups, self.joins = nn.ModuleList(), nn.ModuleList()
        for wide, narrow in zip(widths[:0:-1], widths[-2::-1], strict=True):
            self.ups.append(nn.Sequential(nn.Conv2d(wide, 4 * narrow, 1), nn.PixelShuffle(2)))
            self.joins.append(
                nn.Sequential(
                    nn.Conv2d(2 * narrow, narrow, 1), _ConvNeXt(narrow), _ConvNeXt(narrow)
                )
            )
        self.head = nn.Sequential(
            nn.Conv2d(widths[0], 16 * n_out, 3, padding=1), nn.PixelShuffle(4)
        )

    def forward(self, source: Tensor) -> Tensor:
        *levels, features = self.encoder(source)
        for up, join in zip(self.ups, self.joins, strict=True):
            features = join(torch.cat([up(features), levels.pop()], dim=1))
        return self.head(features)


class _ConvNeXt(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(width, width, 7, padding=3, groups=width),
            nn.GroupNorm(1, width),
            nn.Conv2d(width, 4 * width, 1),
            nn.GELU(),
            nn.Conv2d(4 * width, width, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        return features + self.block(features)


def gradient_mae(fake: Tensor, real: Tensor) -> Tensor:
    """How much the sizes of the steps between neighbours differ (Wieslander et al. 2021)."""
    return (
        l1_loss(fake.diff(dim=-1).abs(), real.diff(dim=-1).abs())
        + l1_loss(fake.diff(dim=-2).abs(), real.diff(dim=-2).abs())
    ) / 2


def structural_dissimilarity(fake: Tensor, real: Tensor) -> Tensor:
    """(1 - MS-SSIM) / 2 (Wang et al. 2003), at the three scales that 128 pixels have room for."""
    similar = torch.ones((), device=real.device)
    for scale, weight in enumerate((0.3, 0.4, 0.3)):
        structure, luminance = _similarity(fake, real)
        similar = similar * structure.clamp(min=1e-3) ** weight
        if scale == 2:
            similar = similar * luminance.clamp(min=1e-3) ** weight
        fake, real = avg_pool2d(fake, 2), avg_pool2d(real, 2)
    return (1 - similar) / 2


def _similarity(fake: Tensor, real: Tensor, span: float = 6.0) -> tuple[Tensor, Tensor]:
    """The mean structure and luminance of SSIM, in windows of 7 pixels."""

    def mean(image: Tensor) -> Tensor:
        return avg_pool2d(image, 7, stride=1)

    fake_mean, real_mean = mean(fake), mean(real)
    covariance = mean(fake * real) - fake_mean * real_mean
    variances = mean(fake.square()) + mean(real.square())
    variances = variances - fake_mean.square() - real_mean.square()
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    luminance = (2 * fake_mean * real_mean + c1) / (fake_mean.square() + real_mean.square() + c1)
    return ((2 * covariance + c2) / (variances + c2)).mean(), luminance.mean()


def foreground_mae(fake: Tensor, real: Tensor, thresholds: Tensor) -> Tensor:
    """Mean absolute error above Otsu's *thresholds*, (C, 1, 1), and a soft Dice of what lies there.

    Kalinin et al. 2025, "Foreground-aware virtual staining" (Spotlight), arXiv 2507.05383, but for
    their squares, which rare bright pixels would rule.
    """
    bright = (real > thresholds).float()
    error = ((fake - real).abs() * bright).sum() / bright.sum().clamp(min=1)
    soft = torch.sigmoid(10 * (fake - thresholds))
    both, all_ = (soft * bright).sum((2, 3)), (soft + bright).sum((2, 3))
    return error + (1 - (2 * both + 1) / (all_ + 1)).mean()


@dataclass
class Rival:
    """A discriminator in training, and what its scores weigh in the loss of the generator.

    *kind* is "least squares", "relativistic" (Jolicoeur-Martineau 2018, equation 13) or
    "cross-entropy" (pix2pix).
    """

    network: nn.Module
    optimizer: torch.optim.Optimizer
    weight: float
    kind: str = "least squares"

    def against(self, source: Tensor, real: Tensor, fake: Tensor) -> Tensor:
        """One step of the discriminator; returns the weighted loss of the generator."""
        self.network.requires_grad_(True)
        self.optimizer.zero_grad()
        loss = self._loss(self.network(source, real), self.network(source, fake.detach()))
        loss.backward()
        self.optimizer.step()
        self.network.requires_grad_(False)
        on_fake = self.network(source, fake)
        if self.kind == "relativistic":  # the same loss, with the two exchanged
            return self.weight * self._loss(on_fake, self.network(source, real))
        if self.kind == "cross-entropy":
            return self.weight * softplus(-on_fake.float()).mean()
        return self.weight * _least(on_fake, 1.0)

    def _loss(self, on_real: Tensor, on_fake: Tensor) -> Tensor:
        if self.kind == "cross-entropy":
            return (softplus(-on_real.float()).mean() + softplus(on_fake.float()).mean()) / 2
        if self.kind == "relativistic":
            real, fake = on_real - on_fake.mean(), on_fake - on_real.mean()
            return (_least(real, 1.0) + _least(fake, -1.0)) / 2
        return (_least(on_real, 1.0) + _least(on_fake, 0.0)) / 2


def _least(scores: Tensor, due: float) -> Tensor:
    return (scores.float() - due).square().mean()
