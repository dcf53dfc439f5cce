"""Training the segmenter: brightfield planes to a nuclei mask (report, 2.1.1)."""

from pathlib import Path

import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm import tqdm

from adipocyte.config import SegmenterConfig
from adipocyte.networks.files import save_network
from adipocyte.networks.unet import UNetSpec, build_unet
from adipocyte.store.reader import Store
from adipocyte.training.augmentations import Augmenter
from adipocyte.training.device import make_fabric
from adipocyte.training.patches import Patches, epoch_steps, patch_loader
from adipocyte.training.tracker import Tracker
from adipocyte.training.validation import validate_segmenter


def train_segmenter(store: Store, config: SegmenterConfig, folder: Path, tracker: Tracker) -> dict[str, float]:
    """Train on *store*, keeping the network with the best val_dice in *folder*. Returns that network's metrics.

    Raises ConfigError when a patch is larger than a field, or the encoder or its weights are not to be had.
    """
    torch.manual_seed(config.seed)
    spec = UNetSpec(encoder=config.encoder, in_channels=store.manifest.n_z_planes)
    segmenter = build_unet(spec, config.encoder_weights).to(memory_format=torch.channels_last)
    fabric = make_fabric(config.precision)
    segmenter, optimizer = fabric.setup(segmenter, torch.optim.Adam(segmenter.parameters(), lr=config.learning_rate))

    n_steps = config.epoch_steps or epoch_steps(store, config.patch_px, config.batch)
    augmenter = Augmenter(config.patch_px, config.augment_p, config.rotate_deg)
    n_patches = config.epochs * n_steps * config.batch
    patches = Patches(store, None, store.mask, augmenter, n=n_patches, patch_px=config.patch_px, seed=config.seed)
    batches = iter(fabric.setup_dataloaders(patch_loader(patches, config.batch, config.workers)))

    best: dict[str, float] = {}
    for epoch in range(config.epochs):
        segmenter.train()
        total = 0.0
        for _ in tqdm(range(n_steps), desc=f"segmenter, epoch {epoch + 1} of {config.epochs}", unit="step"):
            planes, _, mask = next(batches)
            loss = binary_cross_entropy_with_logits(segmenter(planes), mask)
            optimizer.zero_grad()
            fabric.backward(loss)
            optimizer.step()
            total += loss.item()

        segmenter.eval()
        metrics, picture = validate_segmenter(segmenter, store)
        tracker.metrics({"train_loss": total / n_steps, **metrics}, epoch + 1)
        tracker.picture("preview", picture, epoch + 1)
        if not best or metrics["val_dice"] > best["val_dice"]:
            best = {**metrics, "best_epoch": epoch + 1}
            save_network(folder, spec, segmenter.module)
    return best
