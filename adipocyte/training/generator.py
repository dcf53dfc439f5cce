"""Training one generator, with or without a discriminator (report, sections 4 and 5)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.functional import l1_loss
from torch.optim.swa_utils import PARAM_LIST, AveragedModel, get_ema_multi_avg_fn

from adipocyte.config import GeneratorConfig
from adipocyte.errors import ConfigError
from adipocyte.networks.discriminator import Discriminator
from adipocyte.networks.losses import (
    adversarial_loss,
    bright_mae,
    discriminator_loss,
    spectral_loss,
)
from adipocyte.networks.start import Start, start_from
from adipocyte.networks.unet import UNetSpec, build_unet, require_batch
from adipocyte.store.reader import Store
from adipocyte.system.machine import arithmetic
from adipocyte.training.augmentations import Augmenter
from adipocyte.training.collapse import collapse_warning, discriminator_metrics
from adipocyte.training.device import make_fabric, placed, update
from adipocyte.training.loop import Loop
from adipocyte.training.mask_sources import PredictedMasks, training_masks
from adipocyte.training.microscope import changes_of
from adipocyte.training.muon import MUON
from adipocyte.training.patches import Patches, epoch_steps, patch_loader
from adipocyte.training.state import STATE, Parts
from adipocyte.training.tracker import Tracker
from adipocyte.training.validation import FeatureMetric, validate_generator

WARM_UP = 0.05  # of all steps
WEIGHT_DECAY = 1.5  # of Muon; measured, docs/measurements/training.md
LONG_STEPS = 2500  # beyond so many the rate is lower; measured there, too
SELECTED_BY = {
    "pixels": "val_pixel_metric",
    "features": "val_feature_metric",
    "mean": "val_combined_metric",
    "units": "val_mae_units",
}


@dataclass(frozen=True)
class Raw:
    """Networks and optimizers as they are built, before Fabric wraps them.

    `average` is the moving average of the generator, None when none is kept.
    """

    generator: nn.Module
    discriminator: nn.Module
    average: AveragedModel | None
    g_optimizer: torch.optim.Optimizer
    d_optimizer: torch.optim.Optimizer

    @property
    def shown(self) -> nn.Module:
        """The generator that is validated and kept."""
        return self.average.module if self.average else self.generator

    def follow(self) -> None:
        """Let the moving average, if any, take up the generator's new weights."""
        if self.average:
            self.average.update_parameters(self.generator)

    @property
    def parts(self) -> Parts:
        """All of it, by its name in a state."""
        parts: dict[str, nn.Module | torch.optim.Optimizer] = {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "generator_optimizer": self.g_optimizer,
            "discriminator_optimizer": self.d_optimizer,
        }
        return parts | {"average": self.average} if self.average else parts


def train_generator(
    store: Store,
    config: GeneratorConfig,
    segmenter: Path | None,
    folder: Path,
    tracker: Tracker,
    features: FeatureMetric | None = None,
    start: Start | None = None,
) -> dict[str, float]:
    """Train on *store* and write the best generator by `config.select` into *folder*/network.

    *segmenter* is the folder of the network whose masks the generator sees, if it sees any.
    *features* measures the feature metric, which select=features and select=mean need. The network
    begins with the weights of *start*, if that is given, and at a lower rate; the optimizer is
    fresh. A state in *folder* is resumed. Returns the metrics of the best generator.

    Raises StoreError when the store has no such target; ConfigError when a generator that sees
    masks comes without a segmenter or another with one, when a patch is larger than a field, when
    the encoder or its weights cannot be had, or when *start* is another kind of network or paints
    none of the targets; BundleError when segmenter, start or state is damaged;
    DivergedError when a loss or gradient is not a finite number; StoppedError after SIGTERM or
    Ctrl-C; OutputError, an OSError, when the disk is full. *folder* then keeps the last good state.
    """
    check_request(store, config, segmenter, features)
    fabric = make_fabric(config.precision)
    masks = PredictedMasks(segmenter, store, "validation", fabric.device) if segmenter else None
    judged_on = (store, config.targets, masks, features, config.finest_um_per_px)
    patches = generator_patches(store, config, segmenter, fabric.device)

    torch.manual_seed(config.seed)
    spec = generator_spec(config, store.manifest.n_z_planes)
    raw = build_networks(fabric, config, spec, *_beginning(folder, config, start))
    loop = Loop(
        fabric,
        config,
        folder,
        tracker,
        parts=raw.parts,
        shown=raw.shown,
        score=lambda metrics: -metrics[SELECTED_BY[config.select]],
        n_steps=n_steps_of(config, store),
    )
    generator, g_optimizer = fabric.setup(raw.generator, raw.g_optimizer)
    discriminator, d_optimizer = fabric.setup(raw.discriminator, raw.d_optimizer)
    batches = patch_loader(fabric, patches, config.batch, config.workers, loop.steps_left)

    for epoch in loop.epochs():
        raw.generator.train()
        raw.discriminator.train()
        for step in loop.steps(f"generator of {config.target}"):
            set_rates(config, rate_factor(step, loop.n_steps, config), g_optimizer, d_optimizer)
            planes, real, mask = next(batches)
            source = torch.cat([planes, mask], dim=1) if segmenter else planes  # (N, 7 or 8, Y, X)
            fake = generator(source)
            real = completed(real, fake)
            measured = {}

            # Discriminator first. `detach`: its loss must not reach the generator.
            if config.discriminator != "none":
                on_real, on_fake = discriminator(source, real), discriminator(source, fake.detach())
                d_loss = discriminator_loss(on_real, on_fake)
                norm = update(fabric, raw.discriminator, d_optimizer, d_loss, config.clip_norm)
                measured = {"d_loss": d_loss, "d_gradient": norm}
                measured |= discriminator_metrics(on_real, on_fake)

            # Then the generator, scored by the discriminator just updated.
            losses = painting_losses(fake, real, config)
            if config.discriminator != "none":
                on_fake = scores_of(fabric, raw.discriminator, source, fake)
                losses["adversarial"] = adversarial_loss(on_fake)
            g_loss = weighted(losses, config)
            norm = update(fabric, raw.generator, g_optimizer, g_loss, config.clip_norm)
            raw.follow()
            loop.note({"g_loss": g_loss, "g_gradient": norm, **losses, **measured})

        raw.shown.eval()
        with fabric.autocast():
            found = validate_generator(raw.shown, *judged_on)
        if warning := collapse_warning(loop.end_epoch(*found), epoch + 1):
            tracker.warning(warning)
    return loop.finish(spec)


def _beginning(
    folder: Path, config: GeneratorConfig, start: Start | None
) -> tuple[str, Start | None]:
    """What a generator is built with: encoder weights, *start*, or neither before a state.

    Raises ConfigError when *config* names a start that is not given, or the other way round.
    """
    if (folder / STATE).is_file():
        return "none", None
    if config.names_start != (start is not None):
        raise ConfigError(
            f"a training with start={config.start!r} was given {start.source if start else 'none'}",
            "give train_gan the address and the network of it, or neither",
        )
    return ("none", start) if start else (config.encoder_weights, None)


def check_request(
    store: Store,
    config: GeneratorConfig,
    segmenter: Path | None,
    features: FeatureMetric | None,
) -> None:
    """Raise StoreError or ConfigError when `train_generator` cannot train on what it is given."""
    for target in config.targets:
        store.require_target(target)
    if config.sees_mask != (segmenter is not None):
        raise ConfigError(
            f"{config.target} was to be trained with the segmenter {segmenter}",
            "A1 needs the folder of a segmenter unless mask_source=none, and no other target "
            "takes one",
        )
    finer = [
        magnification
        for magnification in store.magnifications
        if store.n_joined(magnification, config.finest_um_per_px) > 1
    ]
    if config.sees_mask and finer:
        raise ConfigError(
            "a network that sees a nuclei mask sees the pixels of the microscope, which are to be "
            f"joined at {finer[0]}x",
            "-P finest_um_per_px=0, or -P mask_source=none",
        )
    if config.needs_features != (features is not None):
        raise ConfigError(
            f"select={config.select} {'takes no' if features else 'needs a'} feature metric",
            "give one for features and mean",
        )


def generator_patches(
    store: Store, config: GeneratorConfig, segmenter: Path | None, device: torch.device
) -> Patches:
    """The patches that a generator learns from, with the masks that *config* asks for."""
    masks = training_masks(store, config.mask_source, segmenter, device)
    augmenter = Augmenter(config.patch_px, config.augment_p, config.rotate_deg)
    return Patches(
        store,
        config.targets,
        masks,
        augmenter,
        patch_px=config.patch_px,
        seed=config.seed,
        changes=changes_of(config.augmentations),
        finest_um_per_px=config.finest_um_per_px,
    )


def n_steps_of(config: GeneratorConfig, store: Store) -> int:
    """The steps of an epoch."""
    return config.epoch_steps or epoch_steps(
        store, config.patch_px, config.batch, config.finest_um_per_px
    )


def generator_spec(config: GeneratorConfig, n_z_planes: int) -> UNetSpec:
    """How to build the generator: with an output for each target, and a channel for the mask.

    Under wide_convolutions=auto that of A1 alone has one 5x5 convolution, others have ten
    (Table 4.2).
    """
    wide: str = config.wide_convolutions
    if wide == "auto":
        wide = "last" if config.targets == ("A1",) else "all"
    return UNetSpec(
        encoder=config.encoder,
        in_channels=n_z_planes + config.sees_mask,
        out_channels=len(config.targets),
        wide_convolutions=wide,
        architecture=config.architecture,
    )


def build_networks(
    fabric: Fabric,
    config: GeneratorConfig,
    spec: UNetSpec,
    encoder_weights: str,
    start: Start | None = None,
) -> Raw:
    """Build what a training changes, on the device of *fabric*; the generator as *start* has it.

    Under schedule=cosine Muon moves the kernels of convolutions, in directions made orthogonal, and
    AdamW the rest (Jordan et al. 2024; Liu et al. 2025, "Muon is scalable for LLM training",
    arXiv 2502.16982, section 2.2).
    """
    network = build_unet(spec, encoder_weights)
    share = max(1, config.batch // fabric.world_size)
    require_batch(network, spec.in_channels, share, config.patch_px)
    if start:
        start_from(start, network, spec, config.targets, config.sees_mask)
    generator = placed(fabric, network, compiled=config.compile)
    discriminator = placed(fabric, build_discriminator(config, spec.in_channels))
    average = None
    if config.ema:
        average = AveragedModel(generator, multi_avg_fn=averaging(config), use_buffers=True)
    muon = MUON[arithmetic(config.precision, fabric.device)]
    modern = partial(muon, nesterov=True, weight_decay=WEIGHT_DECAY)
    optimizer = {"lambda": torch.optim.Adam, "cosine": modern}[config.schedule]
    return Raw(
        generator,
        discriminator,
        average,
        optimizer(generator.parameters(), lr=config.largest_rate),
        torch.optim.Adam(discriminator.parameters(), lr=config.discriminator_learning_rate),
    )


def build_discriminator(config: GeneratorConfig, condition_channels: int) -> Discriminator:
    """The discriminator of *config*; with "none" one that is never called."""
    kind = "cnn" if config.discriminator == "none" else config.discriminator
    return Discriminator(condition_channels, config.discriminator_width, kind, len(config.targets))


def averaging(
    config: GeneratorConfig,
) -> Callable[[PARAM_LIST, PARAM_LIST, Tensor | int], None]:
    """How a moving average takes up new weights: with the decay `config.ema`.

    Under schedule=cosine its horizon grows with the steps, to a ninth of those so far, until it is
    that of `config.ema`, because the first weights are worth nothing.
    """
    if config.schedule == "lambda":
        return get_ema_multi_avg_fn(config.ema)

    def update(averages: PARAM_LIST, weights: PARAM_LIST, n: Tensor | int) -> None:
        get_ema_multi_avg_fn(min(config.ema, (1 + int(n)) / (10 + int(n))))(averages, weights, n)

    return update


def set_rates(
    config: GeneratorConfig,
    factor: float,
    g_optimizer: torch.optim.Optimizer,
    d_optimizer: torch.optim.Optimizer,
) -> None:
    """Set the learning rates to the largest of *config*, multiplied with *factor*."""
    for group in g_optimizer.param_groups:
        group["lr"] = config.largest_rate * factor
    for group in d_optimizer.param_groups:
        group["lr"] = config.discriminator_learning_rate * factor


def rate_factor(step: int, n_steps: int, config: GeneratorConfig) -> float:
    """What the learning rates are multiplied with at a *step*, of *n_steps* in each epoch.

    "lambda" (Table 5.1): 1 for `constant_epochs`, then linearly to 0 at `epochs`. "cosine":
    linearly to 1 over the first twentieth of all steps, then half a cosine wave down to 0
    (Loshchilov and Hutter 2017, "SGDR", equation 5, without restarts); all of it lower where
    there are more than LONG_STEPS.
    """
    if config.schedule == "lambda":
        falling = max(config.epochs - config.constant_epochs, 1)
        return min(1.0, (config.epochs - step // n_steps) / falling)
    n_all = config.epochs * n_steps
    part, longer = (step + 1) / n_all, max(1.0, n_all / LONG_STEPS)
    highest = longer ** (-2 / 3)
    if part < WARM_UP:
        return highest * part / WARM_UP
    return highest * (1 + math.cos(math.pi * (part - WARM_UP) / (1 - WARM_UP))) / 2


def scores_of(fabric: Fabric, discriminator: nn.Module, source: Tensor, fake: Tensor) -> Tensor:
    """The *discriminator*'s scores of *fake*, for the generator's loss.

    The discriminator does not learn from them, so its own gradients are not computed.
    """
    discriminator.requires_grad_(False)
    with fabric.autocast():
        scores = discriminator(source, fake)
    discriminator.requires_grad_(True)
    return scores


def completed(real: Tensor, fake: Tensor) -> Tensor:
    """Replace the stains that a field lacks, nan in *real*, by what is painted, *fake*.

    They then cost nothing, and no gradient comes from them. Both images are (N, C, Y, X).
    """
    return torch.where(real.isnan(), fake.detach().to(real.dtype), real)


def painting_losses(fake: Tensor, real: Tensor, config: GeneratorConfig) -> dict[str, Tensor]:
    """How far *fake* is from *real*, (N, C, Y, X) each, by the names of the losses."""
    losses = {"mae": l1_loss(fake, real)}
    if config.bright_weight:
        losses["bright_mae"] = bright_mae(fake, real, config.bright_weight)
    if config.spectral_weight:
        losses["spectral"] = spectral_loss(fake, real)
    return losses


def weighted(losses: dict[str, Tensor], config: GeneratorConfig) -> Tensor:
    """The generator's loss: MAE, spectral and, with a discriminator, adversarial (report, 5.3).

    Each has its weight. Where bright pixels weigh more, the plain MAE is measured for comparison
    only.
    """
    weights = {
        "mae": 0.0 if "bright_mae" in losses else config.mae_weight,
        "bright_mae": config.mae_weight,
        "spectral": config.spectral_weight,
        "adversarial": config.adversarial_weight,
    }
    return torch.stack([weights[name] * loss.float() for name, loss in losses.items()]).sum()
