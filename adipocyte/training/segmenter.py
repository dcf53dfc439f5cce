"""Training the segmenter: brightfield planes to a nuclei mask (report, 2.1.1)."""

from pathlib import Path

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from adipocyte.config import SegmenterConfig
from adipocyte.networks.unet import UNetSpec, build_unet, require_batch
from adipocyte.store.reader import Store
from adipocyte.training.augmentations import Augmenter
from adipocyte.training.device import make_fabric, placed, update
from adipocyte.training.loop import Loop
from adipocyte.training.patches import Patches, epoch_steps, patch_loader
from adipocyte.training.state import starting_weights
from adipocyte.training.tracker import Tracker
from adipocyte.training.validation import validate_segmenter


def train_segmenter(
    store: Store, config: SegmenterConfig, folder: Path, tracker: Tracker
) -> dict[str, float]:
    """Train on *store* and write the network with the best val_dice into *folder*/network.

    A state in *folder* is resumed. Returns the metrics of the best network. Raises ConfigError when
    a patch is larger than a field, or when the encoder or its weights cannot be had; BundleError,
    DivergedError, StoppedError and OutputError as `train_generator` does.
    """
    fabric = make_fabric(config.precision)
    augmenter = Augmenter(config.patch_px, config.augment_p, config.rotate_deg)
    patches = Patches(
        store, (), (store.mask,), augmenter, patch_px=config.patch_px, seed=config.seed
    )

    torch.manual_seed(config.seed)
    spec = UNetSpec(
        encoder=config.encoder,
        in_channels=store.manifest.n_z_planes,
        architecture=config.architecture,
    )
    weights = starting_weights(folder, config.encoder_weights)
    network = build_unet(spec, weights)
    require_batch(
        network, spec.in_channels, max(1, config.batch // fabric.world_size), config.patch_px
    )
    network = placed(fabric, network, compiled=config.compile)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    loop = Loop(
        fabric,
        config,
        folder,
        tracker,
        parts={"segmenter": network, "segmenter_optimizer": optimizer},
        shown=network,
        score=lambda metrics: metrics["val_dice"],
        n_steps=config.epoch_steps or epoch_steps(store, config.patch_px, config.batch),
    )
    segmenter, optimizer = fabric.setup(network, optimizer)
    batches = patch_loader(fabric, patches, config.batch, config.workers, loop.steps_left)

    for _ in loop.epochs():
        network.train()
        for _ in loop.steps("segmenter"):
            planes, _, mask = next(batches)
            loss = binary_cross_entropy_with_logits(segmenter(planes), mask)
            gradient = update(fabric, network, optimizer, loss, config.clip_norm)
            loop.note({"loss": loss, "gradient": gradient})

        network.eval()
        with fabric.autocast():
            metrics, picture = validate_segmenter(network, store)
        loop.end_epoch(metrics, picture)
    return loop.finish(spec)
