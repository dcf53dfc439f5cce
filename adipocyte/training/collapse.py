"""Whether discriminator or generator is winning.

The report's training collapsed (section 5.5): "the generator never learns to fool the
discriminator".
"""

import torch
from torch import Tensor

WON = 0.95  # share of patches


def discriminator_metrics(on_real: Tensor, on_fake: Tensor) -> dict[str, Tensor]:
    """How well a discriminator told a batch, from its scores of real and of painted patches.

    Scores are (N, …), one or more for each patch. Returns scalars: d_real and d_fake, the mean
    scores; d_gap, their difference; d_accuracy, the share of patches whose mean score lies on the
    right side of one half.
    """
    real, fake = (scores.detach().float().flatten(1).mean(dim=1) for scores in (on_real, on_fake))
    right = torch.cat([real > 0.5, fake < 0.5]).float()
    return {
        "d_real": real.mean(),
        "d_fake": fake.mean(),
        "d_gap": real.mean() - fake.mean(),
        "d_accuracy": right.mean(),
    }


def collapse_warning(means: dict[str, float], epoch: int) -> str:
    """A sentence when the discriminator won the *epoch* with these mean metrics, else ""."""
    accuracy = means.get("train_d_accuracy", 0.0)
    if accuracy < WON:
        return ""
    return (
        f"in epoch {epoch} the discriminator told {accuracy:.1%} of the patches right "
        f"(gap of its scores {means['train_d_gap']:.2f}): it has won and teaches the generator "
        "little. See docs/training.md, or train with -P recipe=stable"
    )
