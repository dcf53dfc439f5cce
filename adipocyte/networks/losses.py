"""Losses as pure functions (report, 5.3)."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss


def discriminator_loss(on_real: Tensor, on_fake: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Least squares: ((D(real) - 1)² + D(fake)²) / 2. Scores of any one shape; a perfect discriminator has loss 0.

    Mao et al. 2017, "Least squares generative adversarial networks", equation 9. With *label_smoothing* s the aims are 1 - s and s.
    """
    aims = torch.full_like(on_real, 1 - label_smoothing), torch.full_like(on_fake, label_smoothing)
    return (mse_loss(on_real, aims[0]) + mse_loss(on_fake, aims[1])) / 2


def adversarial_loss(on_fake: Tensor) -> Tensor:
    """(D(fake) - 1)²: 0 for a generator whose images the discriminator takes for real."""
    return mse_loss(on_fake, torch.ones_like(on_fake))


def r1_penalty(discriminator: Callable[[Tensor, Tensor], Tensor], condition: Tensor, real: Tensor) -> Tensor:
    """The squared norm of the scores' gradient at the real images, halved, on average over the batch: a scalar.

    *condition*: (N, C, Y, X); *real*: (N, 1, Y, X). Mescheder et al. 2018, "Which training methods for GANs do actually converge?",
    equation 9; scores of many places in an image count by their mean.
    """
    real = real.detach().requires_grad_()
    scores = discriminator(condition, real).flatten(1).mean(dim=1)
    (gradient,) = torch.autograd.grad(scores.sum(), real, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean() / 2


def segmentation_loss(logits: Tensor, mask: Tensor, kind: str) -> Tensor:
    """How far *logits* are from a *mask* of 0 and 1, both (N, 1, Y, X): "bce", "dice" or "bce+dice"."""
    parts = {"bce": binary_cross_entropy_with_logits, "dice": dice_loss}
    return torch.stack([parts[part](logits, mask) for part in kind.split("+")]).sum()


def dice_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Soft Dice: 1 - 2 Σ p m / (Σ p + Σ m) over the whole batch, p the probabilities: 0 for a perfect answer, 1 for the worst.

    Milletari et al. 2016, "V-Net", section 3, with plain sums below. One is added to both, so that no nuclei and none seen is perfect.
    """
    probability = logits.float().sigmoid()
    return 1 - (2 * (probability * mask).sum() + 1) / (probability.sum() + mask.sum() + 1)


def spectral_loss(fake: Tensor, real: Tensor) -> Tensor:
    """Mean absolute difference of the spectra of each pair, in parts of the real one's peak: (N, 1, Y, X) to a scalar.

    Durall et al. 2020, "Watch your up-convolution", arXiv 2003.01826, section 3, but differentiable and for a whole batch. The
    paper divides each spectrum by its own zero frequency, which is nothing in images of mean zero; the real peak never vanishes
    and lets a fake of too little power show.
    """
    real_spectrum = azimuthal_spectrum(real)
    peak = real_spectrum.amax(dim=1, keepdim=True).clamp(min=1e-3)
    return ((azimuthal_spectrum(fake) - real_spectrum).abs() / peak).mean()


def azimuthal_spectrum(image: Tensor) -> Tensor:
    """The azimuthally averaged power spectrum on a log scale, log(1 + power): (N, 1, Y, X) to (N, R).

    Ring r averages the power at distances [r, r + 1) from zero frequency; there are R = min(Y, X) // 2 rings.
    """
    image = image.float().squeeze(1)  # Fourier transforms know no bf16
    power = torch.fft.fftshift(torch.fft.fft2(image, norm="ortho").abs().square(), dim=(-2, -1))
    height, width = image.shape[-2:]
    rings, areas = _rings(height, width, image.device)
    n_rings = min(height, width) // 2
    sums = torch.zeros(len(image), len(areas), device=image.device).index_add(1, rings, power.flatten(1))
    return torch.log1p((sums / areas)[:, :n_rings])


@cache
def _rings(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The ring of each pixel of a shifted spectrum, (Y * X,): its distance from zero frequency, rounded down; and each ring's pixels.

    Made on the CPU and kept: on a GPU, asking how many rings there are would wait for all work under way.
    """
    y, x = torch.arange(height) - height // 2, torch.arange(width) - width // 2
    rings = (y[:, None].square() + x[None, :].square()).sqrt().long().flatten()
    return rings.to(device), torch.bincount(rings).to(device)
