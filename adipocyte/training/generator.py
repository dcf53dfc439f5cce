"""Training one generator against its discriminator (report, sections 4 and 5)."""

from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.functional import l1_loss
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from adipocyte.config import GeneratorConfig
from adipocyte.errors import ConfigError
from adipocyte.networks.discriminator import Discriminator
from adipocyte.networks.losses import (
    adversarial_loss,
    discriminator_loss,
    spectral_loss,
)
from adipocyte.networks.unet import UNetSpec, build_unet
from adipocyte.store.reader import Store
from adipocyte.training.augmentations import Augmenter
from adipocyte.training.collapse import collapse_warning, discriminator_figures
from adipocyte.training.device import make_fabric, placed, update
from adipocyte.training.loop import Loop
from adipocyte.training.mask_sources import PredictedMasks, training_masks
from adipocyte.training.patches import Patches, epoch_steps, patch_loader
from adipocyte.training.state import starting_weights
from adipocyte.training.tracker import Tracker
from adipocyte.training.validation import FeatureMetric, validate_generator

SELECTED_BY = {
    "pixels": "val_pixel_metric",
    "features": "val_feature_metric",
    "mean": "val_combined_metric",
}


def train_generator(
    store: Store,
    config: GeneratorConfig,
    segmenter: Path | None,
    folder: Path,
    tracker: Tracker,
    features: FeatureMetric | None = None,
) -> dict[str, float]:
    """Train on *store*; in the end the generator that was best by `config.select` goes to *folder*/network. Returns its metrics.

    *segmenter* is the folder of the network whose masks A1's generator sees; A2 and A3 need none. *features* measures the feature metric,
    which all choices but select=pixels need. A state in *folder* is taken up where it was left. Raises StoreError when the store has no
    such target; ConfigError when A1 comes without a segmenter or another target with one, a patch is larger than a field, or the encoder or
    its weights are not to be had; BundleError when segmenter or state is damaged; DivergedError when a loss or gradient is no longer a
    number; StoppedError after SIGTERM or Ctrl-C; OSError when the disk is full. *folder* then keeps the last good state.
    """
    store.require_target(config.target)
    if (config.target == "A1") != (segmenter is not None):
        raise ConfigError(
            f"A1 needs the folder of a segmenter and no other target does; got {segmenter} for {config.target}"
        )
    if (config.select != "pixels") != (features is not None):
        raise ConfigError(
            f"select={config.select} {'takes no' if features else 'needs a'} feature metric: give one for features and mean"
        )
    fabric = make_fabric(config.precision)
    validation_masks = (
        PredictedMasks(segmenter, store, "validation", fabric.device) if segmenter else None
    )
    masks = training_masks(store, config.mask_source, segmenter, fabric.device)
    augmenter = Augmenter(config.patch_px, config.augment_p, config.rotate_deg)
    patches = Patches(
        store, config.target, masks, augmenter, patch_px=config.patch_px, seed=config.seed
    )

    torch.manual_seed(config.seed)
    spec = generator_spec(config, store.manifest.n_z_planes)
    raw_generator = placed(
        fabric,
        build_unet(spec, starting_weights(folder, config.encoder_weights)),
        compiled=config.compile,
    )
    raw_discriminator = placed(fabric, build_discriminator(config, spec.in_channels))
    average = (
        AveragedModel(
            raw_generator, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True
        )
        if config.ema
        else None
    )
    shown = average.module if average else raw_generator
    g_optimizer = torch.optim.Adam(raw_generator.parameters(), lr=config.learning_rate)
    d_optimizer = torch.optim.Adam(
        raw_discriminator.parameters(), lr=config.discriminator_learning_rate
    )
    parts = {
        "generator": raw_generator,
        "discriminator": raw_discriminator,
        "generator_optimizer": g_optimizer,
        "discriminator_optimizer": d_optimizer,
    }
    loop = Loop(
        fabric,
        config,
        folder,
        tracker,
        parts=parts | ({"average": average} if average else {}),
        shown=shown,
        score=lambda metrics: -metrics[SELECTED_BY[config.select]],
        n_steps=config.epoch_steps or epoch_steps(store, config.patch_px, config.batch),
    )
    generator, g_optimizer = fabric.setup(raw_generator, g_optimizer)
    discriminator, d_optimizer = fabric.setup(raw_discriminator, d_optimizer)
    batches = patch_loader(fabric, patches, config.batch, config.workers, loop.steps_left)

    for epoch in loop.epochs():
        set_rate(g_optimizer, config.learning_rate * rate_factor(epoch, config))
        set_rate(d_optimizer, config.discriminator_learning_rate * rate_factor(epoch, config))
        raw_generator.train()
        raw_discriminator.train()
        for _ in loop.steps(config.target):
            planes, real, mask = next(batches)
            source = torch.cat([planes, mask], dim=1) if segmenter else planes  # (N, 7 or 8, Y, X)
            fake = generator(source)
            measured = {}

            # Discriminator first. `detach`: its loss must not reach the generator.
            if config.discriminator != "none":
                on_real, on_fake = discriminator(source, real), discriminator(source, fake.detach())
                d_loss = discriminator_loss(on_real, on_fake)
                d_gradient = update(
                    fabric, raw_discriminator, d_optimizer, d_loss, config.clip_norm
                )
                measured = {
                    "d_loss": d_loss,
                    "d_gradient": d_gradient,
                    **discriminator_figures(on_real, on_fake),
                }

            # Then the generator, judged by the discriminator just updated.
            losses = {"mae": l1_loss(fake, real), "spectral": spectral_loss(fake, real)}
            if config.discriminator != "none":
                losses["adversarial"] = adversarial_loss(
                    opinion(fabric, raw_discriminator, source, fake)
                )
            g_loss = weighted(losses, config)
            g_gradient = update(fabric, raw_generator, g_optimizer, g_loss, config.clip_norm)
            if average:
                average.update_parameters(raw_generator)
            loop.note({"g_loss": g_loss, "g_gradient": g_gradient, **losses, **measured})

        shown.eval()
        with fabric.autocast():
            metrics, picture = validate_generator(
                shown, store, config.target, validation_masks, features
            )
        means = loop.end_epoch(metrics, picture)
        if warning := collapse_warning(means, epoch + 1):
            tracker.warning(warning)
    return loop.finish(spec)


def generator_spec(config: GeneratorConfig, n_z_planes: int) -> UNetSpec:
    """A1 sees the mask as one channel more; under "auto" it has one 5x5 convolution, A2 and A3 have ten (Table 4.2)."""
    is_nuclei = config.target == "A1"
    wide = {"auto": "last" if is_nuclei else "all"}.get(
        config.wide_convolutions, config.wide_convolutions
    )
    return UNetSpec(
        encoder=config.encoder,
        in_channels=n_z_planes + is_nuclei,
        wide_convolutions=wide,
        architecture=config.architecture,
    )


def build_discriminator(config: GeneratorConfig, condition_channels: int) -> Discriminator:
    """The discriminator of *config*; with "none" one that nobody asks."""
    kind = "cnn" if config.discriminator == "none" else config.discriminator
    return Discriminator(condition_channels, config.discriminator_width, kind)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Let *optimizer* go on at a learning *rate*."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def rate_factor(epoch: int, config: GeneratorConfig) -> float:
    """The Lambda policy (Table 5.1): 1 for `constant_epochs`, then linearly to 0 at `epochs`."""
    falling = max(config.epochs - config.constant_epochs, 1)
    return min(1.0, (config.epochs - epoch) / falling)


def opinion(fabric: Fabric, discriminator: nn.Module, source: Tensor, fake: Tensor) -> Tensor:
    """The scores of *fake*, by a discriminator that is not to learn from them: its own gradients are not computed."""
    discriminator.requires_grad_(False)
    with fabric.autocast():
        scores = discriminator(source, fake)
    discriminator.requires_grad_(True)
    return scores


def weighted(losses: dict[str, Tensor], config: GeneratorConfig) -> Tensor:
    """The generator's loss: MAE, spectral and, once there is a discriminator, adversarial, each with its weight (report, 5.3)."""
    weights = {
        "mae": config.mae_weight,
        "spectral": config.spectral_weight,
        "adversarial": config.adversarial_weight,
    }
    return torch.stack([weights[name] * loss.float() for name, loss in losses.items()]).sum()
