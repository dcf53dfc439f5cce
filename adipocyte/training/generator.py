"""Training one generator against its discriminator (report, sections 4 and 5)."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import l1_loss
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from adipocyte.config import GeneratorConfig
from adipocyte.errors import ConfigError
from adipocyte.networks.discriminator import Discriminator
from adipocyte.networks.files import load_network, save_network
from adipocyte.networks.losses import adversarial_loss, discriminator_loss, spectral_loss
from adipocyte.networks.unet import UNetSpec, build_unet
from adipocyte.networks.whole_field import segment_field
from adipocyte.plate.reader import FieldKey
from adipocyte.store.reader import Store, Window
from adipocyte.training.augmentations import Augmenter
from adipocyte.training.device import make_fabric
from adipocyte.training.patches import Patches, epoch_steps, patch_loader
from adipocyte.training.tracker import Tracker
from adipocyte.training.validation import source_of, validate_generator


def train_generator(store: Store, config: GeneratorConfig, segmenter: Path | None, folder: Path, tracker: Tracker) -> dict[str, float]:
    """Train on *store*, keeping the generator with the best val_pixel_metric in *folder*. Returns that network's metrics.

    *segmenter* is the folder of the network whose masks A1's generator sees; A2 and A3 need none. Raises StoreError when the
    store has no such target, BundleError when the segmenter is damaged, ConfigError when A1 comes without a segmenter or another
    target with one, a patch is larger than a field, or the encoder or its weights are not to be had.
    """
    store.require_target(config.target)
    if (config.target == "A1") != (segmenter is not None):
        raise ConfigError(f"A1 needs the folder of a segmenter and no other target does; got {segmenter} for {config.target}")
    torch.manual_seed(config.seed)
    fabric = make_fabric(config.precision)
    validation_masks = PredictedMasks(segmenter, store, "validation", fabric.device) if segmenter else None
    if segmenter and config.mask_source == "predicted":
        training_masks = PredictedMasks(segmenter, store, "train", fabric.device)
    else:
        training_masks = store.mask

    spec = generator_spec(config, store.manifest.n_z_planes)
    generator = build_unet(spec, config.encoder_weights).to(memory_format=torch.channels_last)
    discriminator = Discriminator(spec.in_channels, config.discriminator_width).to(memory_format=torch.channels_last)
    g_optimizer = torch.optim.Adam(generator.parameters(), lr=config.learning_rate)
    d_optimizer = torch.optim.Adam(discriminator.parameters(), lr=config.discriminator_learning_rate)
    generator, g_optimizer = fabric.setup(generator, g_optimizer)
    discriminator, d_optimizer = fabric.setup(discriminator, d_optimizer)
    schedules = [LambdaLR(optimizer, lambda epoch: rate_factor(epoch, config)) for optimizer in (g_optimizer, d_optimizer)]

    n_steps = config.epoch_steps or epoch_steps(store, config.patch_px, config.batch)
    augmenter = Augmenter(config.patch_px, config.augment_p, config.rotate_deg)
    n_patches = config.epochs * n_steps * config.batch
    patches = Patches(store, config.target, training_masks, augmenter, n=n_patches, patch_px=config.patch_px, seed=config.seed)
    batches = iter(fabric.setup_dataloaders(patch_loader(patches, config.batch, config.workers)))

    best: dict[str, float] = {}
    for epoch in range(config.epochs):
        generator.train()
        discriminator.train()
        totals: dict[str, float] = {}
        for _ in tqdm(range(n_steps), desc=f"{config.target}, epoch {epoch + 1} of {config.epochs}", unit="step"):
            planes, real, mask = next(batches)
            source = torch.cat([planes, mask], dim=1) if segmenter else planes  # (N, 7 or 8, Y, X)
            fake = generator(source)

            # Discriminator first. `detach`: its loss must not reach the generator.
            d_loss = discriminator_loss(discriminator(source, real), discriminator(source, fake.detach()))
            d_optimizer.zero_grad()
            fabric.backward(d_loss)
            d_optimizer.step()

            # Then the generator, judged by the discriminator just updated.
            parts = {
                "mae": l1_loss(fake, real),
                "spectral": spectral_loss(fake, real),
                "adversarial": adversarial_loss(discriminator(source, fake)),
            }
            g_loss = weighted(parts, config)
            g_optimizer.zero_grad()
            fabric.backward(g_loss)
            g_optimizer.step()
            for name, value in {"g_loss": g_loss, "d_loss": d_loss, **parts}.items():
                totals[name] = totals.get(name, 0.0) + value.item()
        for schedule in schedules:
            schedule.step()

        generator.eval()
        metrics, picture = validate_generator(generator, store, config.target, validation_masks)
        tracker.metrics({**{f"train_{name}": total / n_steps for name, total in totals.items()}, **metrics}, epoch + 1)
        tracker.picture("preview", picture, epoch + 1)
        if not best or metrics["val_pixel_metric"] < best["val_pixel_metric"]:
            best = {**metrics, "best_epoch": epoch + 1}
            save_network(folder, spec, generator.module)
    return best


def generator_spec(config: GeneratorConfig, n_z_planes: int) -> UNetSpec:
    """A1 sees the mask as one channel more; under "auto" it has one 5x5 convolution, A2 and A3 have ten (Table 4.2)."""
    is_nuclei = config.target == "A1"
    wide = {"auto": "last" if is_nuclei else "all"}.get(config.wide_convolutions, config.wide_convolutions)
    return UNetSpec(encoder=config.encoder, in_channels=n_z_planes + is_nuclei, wide_convolutions=wide)


def rate_factor(epoch: int, config: GeneratorConfig) -> float:
    """The Lambda policy (Table 5.1): 1 for `constant_epochs`, then linearly to 0 at `epochs`."""
    falling = max(config.epochs - config.constant_epochs, 1)
    return min(1.0, (config.epochs - epoch) / falling)


def weighted(parts: dict[str, Tensor], config: GeneratorConfig) -> Tensor:
    """The generator's loss: MAE, spectral and adversarial, each with its weight (report, 5.3)."""
    return config.mae_weight * parts["mae"] + config.spectral_weight * parts["spectral"] + config.adversarial_weight * parts["adversarial"]


class PredictedMasks:
    """The masks that the network in the folder *segmenter* sees in each field of a *part*, held in memory at a bit a pixel.

    Calling it gives the mask of a field in a window, (Y, X), as `Store.mask` does. Raises BundleError when the network is damaged.
    """

    def __init__(self, segmenter: Path, store: Store, part: str, device: torch.device) -> None:
        network = load_network(segmenter, device)[1]
        self._widths = {key: store.shape(key)[1] for key in store.keys(part)}
        self._packed: dict[FieldKey, NDArray[np.uint8]] = {}
        for key in tqdm(store.keys(part), desc=f"nuclei masks, {part}", unit="field"):
            self._packed[key] = np.packbits(segment_field(network, source_of(store, key, None)), axis=1)

    def __call__(self, key: FieldKey, window: Window) -> NDArray[np.bool_]:
        return np.unpackbits(self._packed[key], axis=1, count=self._widths[key])[window].astype(bool)
