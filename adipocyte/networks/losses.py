"""Losses as pure functions (report, 5.3)."""

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss


def discriminator_loss(on_real: Tensor, on_fake: Tensor) -> Tensor:
    """Least squares: ((D(real) - 1)² + D(fake)²) / 2, so that a perfect discriminator has loss 0.

    The scores may have any shape. Mao et al. 2017, "Least squares generative adversarial networks",
    equation 9.
    """
    real, fake = torch.ones_like(on_real), torch.zeros_like(on_fake)
    return (mse_loss(on_real, real) + mse_loss(on_fake, fake)) / 2


def adversarial_loss(on_fake: Tensor) -> Tensor:
    """(D(fake) - 1)²: 0 for a generator whose images the discriminator takes for real."""
    return mse_loss(on_fake, torch.ones_like(on_fake))


def bright_mae(fake: Tensor, real: Tensor, most: float) -> Tensor:
    """Mean absolute error in which bright pixels weigh more; images are in network units.

    A pixel at or below its channel's mean weighs 1, a brighter one 1 more for each standard
    deviation above the mean, up to 1 + *most*. Otherwise a network that leaves nuclei out, which
    cover a tenth of a field, loses little. The images have any shape; returns a scalar.
    """
    weight = 1 + real.clamp(0, most)
    return (l1_loss(fake, real, reduction="none") * weight).mean()


def spectral_loss(fake: Tensor, real: Tensor) -> Tensor:
    """Mean absolute difference of the spectra of each pair, in parts of the real spectrum's peak.

    Images are (N, C, Y, X); returns a scalar. Durall et al. 2020, "Watch your up-convolution",
    arXiv 2003.01826, section 3, but differentiable and for a whole batch. The paper divides each
    spectrum by its own zero frequency, which vanishes in images of mean zero. The real peak never
    vanishes, and dividing by it shows a fake of too little power.
    """
    real_spectrum = azimuthal_spectrum(real)
    peak = real_spectrum.amax(dim=1, keepdim=True).clamp(min=1e-3)
    return ((azimuthal_spectrum(fake) - real_spectrum).abs() / peak).mean()


def azimuthal_spectrum(image: Tensor) -> Tensor:
    """The azimuthally averaged power spectrum, log(1 + power): (N, C, Y, X) to (N * C, R).

    Ring r averages the power at distances [r, r + 1) from zero frequency. There are
    R = min(Y, X) // 2 rings.
    """
    image = image.float().flatten(0, 1)  # Fourier transforms know no bf16
    power = torch.fft.fftshift(torch.fft.fft2(image, norm="ortho").abs().square(), dim=(-2, -1))
    height, width = image.shape[-2:]
    rings, areas = _rings(height, width, image.device)
    n_rings = min(height, width) // 2
    sums = torch.zeros(len(image), len(areas), device=image.device)
    sums = sums.index_add(1, rings, power.flatten(1))
    return torch.log1p((sums / areas)[:, :n_rings])


@cache
def _rings(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The ring of each pixel of a shifted spectrum, (Y * X,), and the number of pixels of each.

    A pixel's ring is its distance from zero frequency, rounded down. Both are made on the CPU and
    kept, because asking a GPU how many rings there are would wait for all of its work.
    """
    y, x = torch.arange(height) - height // 2, torch.arange(width) - width // 2
    rings = (y[:, None].square() + x[None, :].square()).sqrt().long().flatten()
    return rings.to(device), torch.bincount(rings).to(device)
