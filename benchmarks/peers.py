r"""Our recipe beside those of others, its losses and its encoders beside each other, at equal time.

    mlflow run . -e demo                      # makes a plate and its store
    OMP_NUM_THREADS=1 python -m benchmarks.peers peers --store demo/store --out peers [--check]
    OMP_NUM_THREADS=1 python -m benchmarks.peers losses --store demo/store --out peers
    OMP_NUM_THREADS=1 python -m benchmarks.peers encoders --store demo/store --out peers

Each way of training has the same processor time, that of the reading of its patches included; what
paints one stain with a network shares it out. The networks and losses of others are written from
their papers (benchmarks/others.py); patches and their augmentation are ours for all, arithmetic is
bf16 where the processor has it. The test wells are judged by the official metric, in every way of
intensities that the product knows; "combined" is that of the best way, for each recipe its own.

The way lite0_imagenet starts from the encoder's weights in the safetensors file that LITE0 names.

Each training leaves <out>/<way>-<seed>.json. Those that exist are not repeated. Then come the
table, as Markdown, the learning curves, and the figures as JSON.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from skimage.filters import threshold_otsu
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, l1_loss, mse_loss
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from adipocyte.config import GeneratorConfig, SegmenterConfig, build
from adipocyte.domain import SEGMENTER, TARGETS, UM_PER_PX, FieldKey, Intensities, table_key
from adipocyte.evaluation.fields import FieldPaths
from adipocyte.evaluation.judge import judge
from adipocyte.evaluation.painting import TRUTH, cross_calibrated
from adipocyte.imaging.histograms import match_histogram
from adipocyte.networks.discriminator import Discriminator
from adipocyte.networks.files import save_network
from adipocyte.networks.losses import bright_mae, spectral_loss
from adipocyte.networks.tiles import predict_field
from adipocyte.networks.unet import UNetSpec, build_unet
from adipocyte.plate.tiff import write_image
from adipocyte.store.reader import Store
from adipocyte.system.files import write_json
from adipocyte.system.machine import DTYPES, arithmetic
from adipocyte.training.augmentations import Augmenter
from adipocyte.training.device import make_fabric
from adipocyte.training.generator import (
    WEIGHT_DECAY,
    averaging,
    build_networks,
    generator_spec,
    painting_losses,
    rate_factor,
    weighted,
)
from adipocyte.training.mask_sources import PredictedMasks, training_masks
from adipocyte.training.muon import MUON
from adipocyte.training.patches import Batch, Masks, Patches
from adipocyte.training.validation import source_of
from benchmarks import others
from benchmarks.comparison import spread
from benchmarks.others import Rival
from benchmarks.report import parser, report

PEERS = {
    "shared": "ours: one compact U-Net, Muon",
    "report": "the report's: segmenter, three GANs (ResNet-18)",
    "fast": "the report's, small",
    "fnet": "FNet, squared error (Ounkomol 2018)",
    "pix2pix": "pix2pix with PatchGAN (Isola 2017)",
    "softmatter": "Soft Matter Lab's GAN (Helgadottir 2021)",
    "haste": "Haste's DenseUNets (Wieslander 2021)",
    "unext2": "UNeXt2-like (VisCy, Liu 2025)",
}
LOSSES = {
    "shared": "bright pixels weigh up to threefold (kept)",
    "mae": "plain MAE",
    "gradient": "kept, and the image gradient",
    "ssim": "kept, and MS-SSIM",
    "spectral": "kept, and the spectral loss",
    "foreground": "Otsu's foreground and Dice (Spotlight)",
    "patchgan": "kept, and PatchGAN at .01",
    "relativistic": "kept, and relativistic least squares at .01",
    "privileged": "kept, and a nuclei mask to find (Haste)",
    "drawn": "kept, the richer in nuclei of two patches",
}
ENCODERS = {
    "shared": "compact (kept)",
    "resnet18": "ResNet-18 from nothing",
    "resnet34": "ResNet-34 from nothing",
    "convnext": "ConvNeXt atto from nothing",
    "lite0": "EfficientNet-Lite0 from nothing",
    "lite0_imagenet": "EfficientNet-Lite0 from ImageNet",
}
GROUPS = {"peers": PEERS, "losses": LOSSES, "encoders": ENCODERS}
AT_MOST = {"combined_to_report": 0.8, "combined_to_best_peer": 1.0}
N_POINTS = 8  # of a learning curve
ARITHMETIC = arithmetic("auto", torch.device("cpu"))
DTYPE = DTYPES[ARITHMETIC]

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # of the output, the true stains and the mask
Rate = Callable[[float], float]  # what the learning rate is multiplied with, by the part of time


@dataclass
class Learner:
    """A network in training, what it paints, and the processor time that it took, in seconds."""

    targets: tuple[str, ...]
    network: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Loss
    batches: Iterator[Batch]
    rate: Rate = lambda _: 1.0
    average: AveragedModel | None = None
    rival: Rival | None = None
    masks: dict[str, Masks] = field(default_factory=dict)  # by part of the split, where it sees any
    used_s: float = 0.0
    n_steps: int = 0

    def __post_init__(self) -> None:
        self._optimizers = [self.optimizer, *([self.rival.optimizer] if self.rival else [])]
        self._bases = [optimizer.param_groups[0]["lr"] for optimizer in self._optimizers]

    @property
    def shown(self) -> nn.Module:
        return self.average.module if self.average else self.network

    def step(self, part: float) -> None:
        """One step, when a *part* of the time is over."""
        start = time.process_time()
        for optimizer, base in zip(self._optimizers, self._bases, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = base * self.rate(part)
        planes, real, mask = next(self.batches)
        source = torch.cat([planes, mask], dim=1) if self.masks else planes
        with torch.autocast("cpu", DTYPE, enabled=DTYPE is torch.bfloat16):
            output = self.network(source)
            loss = self.loss(output.float(), real, mask)
            if self.rival:
                loss = loss + self.rival.against(source, real, output[:, : len(self.targets)])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.average:
            self.average.update_parameters(self.network)
        self.n_steps += 1
        self.used_s += time.process_time() - start


def batches(
    store: Store,
    targets: tuple[str, ...],
    *,
    seed: int,
    px: int = 128,
    batch: int = 8,
    masks: tuple[Masks, ...] | None = None,
    augment_p: float = 0.7,
    rotate_deg: float = 180.0,
) -> Iterator[Batch]:
    """Endless batches of *px* pixels; masks are of the true stain where no others are given."""
    augmenter = Augmenter(px, augment_p, rotate_deg)
    masks = (store.mask,) if masks is None else masks
    patches = Patches(store, targets, masks, augmenter, patch_px=px, seed=seed)
    for start in count(0, batch):
        parts = zip(*(patches[i] for i in range(start, start + batch)), strict=True)
        planes, real, mask = (torch.stack(part) for part in parts)
        yield planes.contiguous(memory_format=torch.channels_last), real, mask


def richer(pairs: Iterator[Batch]) -> Iterator[Batch]:
    """Of each two batches, the patches that have more nuclei."""
    for first in pairs:
        second = next(pairs)
        more = (first[2].mean((1, 2, 3)) >= second[2].mean((1, 2, 3)))[:, None, None, None]
        planes, real, mask = (torch.where(more, a, b) for a, b in zip(first, second, strict=True))
        yield planes.contiguous(memory_format=torch.channels_last), real, mask


def laid_out(network: nn.Module) -> nn.Module:
    """*network*, channels last."""
    return network.to(memory_format=torch.channels_last)


# Ours, and the report's. Each yields what learns next, and for which share of the time.

Phases = Iterator[tuple[float, list[Learner]]]


def ours(
    store: Store,
    seed: int,
    folder: Path,
    *,
    settings: dict[str, Any] | None = None,
    loss: Loss | None = None,
    rival: str = "",
    drawn: bool = False,
    n_more: int = 0,
    encoder: str = "",
) -> Phases:
    """recipe=shared, with another *loss*, against a *rival* or with another *encoder*.

    *n_more* outputs are not painted; *drawn* patches are rich in nuclei.
    """
    config = build(
        GeneratorConfig, {"target": "all", "recipe": "shared", "seed": seed} | (settings or {})
    )
    spec = replace(
        generator_spec(config, store.manifest.n_z_planes), out_channels=len(TARGETS) + n_more
    )
    network = laid_out(encoded(encoder, spec.in_channels) if encoder else build_unet(spec))
    read = batches(store, TARGETS, seed=seed)

    def kept(fake: Tensor, real: Tensor, _: Tensor) -> Tensor:
        return weighted(painting_losses(fake, real, config), config)

    yield (
        1.0,
        [
            Learner(
                TARGETS,
                network,
                MUON[ARITHMETIC](
                    network.parameters(),
                    lr=config.learning_rate,
                    nesterov=True,
                    weight_decay=WEIGHT_DECAY,
                ),
                loss or kept,
                richer(read) if drawn else read,
                partial(rate_at, config),
                AveragedModel(network, multi_avg_fn=averaging(config), use_buffers=True),
                rival_of(spec.in_channels, len(TARGETS), 0.01, rival) if rival else None,
            )
        ],
    )


def encoded(encoder: str, n_in: int) -> nn.Module:
    """A U-Net on one of the ENCODERS. ImageNet's weights lie in the file that LITE0 names."""
    name = {"convnext": "tu-convnext_atto", "lite0": "tu-tf_efficientnet_lite0"}.get(
        encoder, encoder
    )
    if encoder == "lite0_imagenet":
        spec = UNetSpec(encoder="tu-tf_efficientnet_lite0", in_channels=n_in, out_channels=3)
        return build_unet(spec, os.environ["LITE0"])
    return build_unet(UNetSpec(encoder=name, in_channels=n_in, out_channels=len(TARGETS)))


def rate_at(config: GeneratorConfig, part: float) -> float:
    """The factor of *config*'s schedule when a *part* of the time is over."""
    n_steps = 1000
    return rate_factor(int(part * config.epochs * n_steps), n_steps, config)


def published(store: Store, seed: int, folder: Path, *, recipe: str) -> Phases:
    """A segmenter, then a GAN for each stain, as *recipe* has them, with the small encoder."""
    small = {"encoder": "resnet18", "encoder_weights": "none", "recipe": recipe, "seed": seed}
    config = build(SegmenterConfig, small)
    spec = UNetSpec(encoder=config.encoder, in_channels=store.manifest.n_z_planes)
    network = laid_out(build_unet(spec))
    yield (
        0.25,
        [
            Learner(
                (),
                network,
                torch.optim.Adam(network.parameters(), lr=config.learning_rate),
                lambda found, _, mask: binary_cross_entropy_with_logits(found, mask),
                batches(store, (), seed=seed, **_reading(config)),
            )
        ],
    )
    save_network(folder / SEGMENTER, spec, network)
    yield 0.75, [adversarial(store, target, small, folder / SEGMENTER) for target in TARGETS]


def _reading(config: SegmenterConfig | GeneratorConfig) -> dict[str, Any]:
    return {
        "px": config.patch_px,
        "batch": config.batch,
        "augment_p": config.augment_p,
        "rotate_deg": config.rotate_deg,
    }


def adversarial(store: Store, target: str, small: dict[str, Any], segmenter: Path) -> Learner:
    """The GAN of one stain; that of the nuclei sees the masks of the *segmenter*."""
    config = build(GeneratorConfig, small | {"target": target})
    cpu = torch.device("cpu")
    spec = generator_spec(config, store.manifest.n_z_planes)
    raw = build_networks(make_fabric("auto"), config, spec, "none")
    masks: tuple[Masks, ...] | None = None
    seen: dict[str, Masks] = {}
    if config.sees_mask:
        masks = training_masks(store, config.mask_source, segmenter, cpu)
        parts = ("validation", "test")
        seen = {part: PredictedMasks(segmenter, store, part, cpu) for part in parts}
    return Learner(
        (target,),
        raw.generator,
        raw.g_optimizer,
        lambda fake, real, _: weighted(painting_losses(fake, real, config), config),
        batches(store, (target,), seed=config.seed, masks=masks, **_reading(config)),
        partial(rate_at, config),
        raw.average,
        Rival(raw.discriminator, raw.d_optimizer, config.adversarial_weight),
        seen,
    )


def rival_of(
    n_in: int, n_out: int, weight: float, kind: str, width: int = 32, lr: float = 2e-4
) -> Rival:
    """A PatchGAN in training, by Adam as pix2pix has it."""
    network = laid_out(Discriminator(n_in, width, "patchgan", n_out))
    optimizer = torch.optim.Adam(network.parameters(), lr=lr, betas=(0.5, 0.999))
    return Rival(network, optimizer, weight, kind)


# The others'.


def fnet(store: Store, seed: int, folder: Path) -> Phases:
    """A network for each stain, squared error."""
    yield 1.0, [_fnet(store, seed, target) for target in TARGETS]


def _fnet(store: Store, seed: int, target: str) -> Learner:
    network = laid_out(others.FNet(store.manifest.n_z_planes, 1))
    return Learner(
        (target,),
        network,
        torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.5, 0.999)),
        lambda fake, real, _: mse_loss(fake, real),
        batches(store, (target,), seed=seed),
    )


def pix2pix(store: Store, seed: int, folder: Path) -> Phases:
    """A network for each stain, and PatchGAN; batches of one patch."""
    yield 1.0, [_pix2pix(store, seed, target) for target in TARGETS]


def _pix2pix(store: Store, seed: int, target: str) -> Learner:
    n_in = store.manifest.n_z_planes
    network = laid_out(others.Pix2Pix(n_in, 1))
    return Learner(
        (target,),
        network,
        torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999)),
        lambda fake, real, _: 100 * l1_loss(fake, real),
        batches(store, (target,), seed=seed, px=256, batch=1),
        falling,
        rival=rival_of(n_in, 1, 1.0, "cross-entropy", width=64),
    )


def falling(part: float) -> float:
    """Constant for half of the time, then linearly to 0."""
    return min(1.0, 2 * (1 - part))


def softmatter(store: Store, seed: int, folder: Path) -> Phases:
    """The paper weighs errors in counts; here the mean absolute error weighs ten times as much."""
    n_in = store.manifest.n_z_planes
    network = laid_out(others.SoftMatter(n_in, len(TARGETS)))
    yield (
        1.0,
        [
            Learner(
                TARGETS,
                network,
                torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999)),
                lambda fake, real, _: 10 * l1_loss(fake, real),
                batches(store, TARGETS, seed=seed),
                rival=rival_of(n_in, len(TARGETS), 1.0, "least squares", width=16),
            )
        ],
    )


def haste(store: Store, seed: int, folder: Path) -> Phases:
    """Nuclei with the mask as privileged information, lipids against a relativistic discriminator
    and with image gradients, cytoplasm by MAE alone.
    """
    n_in = store.manifest.n_z_planes

    def nuclei(found: Tensor, real: Tensor, mask: Tensor) -> Tensor:
        finding = binary_cross_entropy_with_logits(found[:, 1:], mask)
        return l1_loss(found[:, :1], real) + 0.05 * finding

    def lipids(fake: Tensor, real: Tensor, _: Tensor) -> Tensor:
        return l1_loss(fake, real) + 5 * others.gradient_mae(fake, real)

    yield (
        1.0,
        [
            _dense(store, seed, "A1", others.DenseUNet(n_in, 1, 5, privileged=True), nuclei),
            _dense(
                store,
                seed,
                "A2",
                others.DenseUNet(n_in, 1, 4),
                lipids,
                rival_of(n_in, 1, 5e-4, "relativistic", lr=1e-5),
            ),
            _dense(
                store,
                seed,
                "A3",
                others.DenseUNet(n_in, 1, 4),
                lambda fake, real, _: l1_loss(fake, real),
            ),
        ],
    )


def _dense(
    store: Store, seed: int, target: str, network: nn.Module, loss: Loss, rival: Rival | None = None
) -> Learner:
    network = laid_out(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    read = batches(store, (target,), seed=seed)
    return Learner((target,), network, optimizer, loss, read, rival=rival)


def unext2(store: Store, seed: int, folder: Path) -> Phases:
    """One network; half MAE, half structural dissimilarity; warm-up and cosine."""
    network = laid_out(others.UNeXt2(store.manifest.n_z_planes, len(TARGETS)))
    config = build(GeneratorConfig, {"target": "all", "recipe": "shared"})
    yield (
        1.0,
        [
            Learner(
                TARGETS,
                network,
                torch.optim.AdamW(network.parameters(), lr=1e-3),
                lambda fake, real, _: (
                    0.5 * l1_loss(fake, real) + 0.5 * others.structural_dissimilarity(fake, real)
                ),
                batches(store, TARGETS, seed=seed),
                partial(rate_at, config),
            )
        ],
    )


def beside(more: Callable[[Tensor, Tensor], Tensor], weight: float) -> Loss:
    """The loss that is kept, and *more* with a *weight*."""
    return lambda fake, real, _: bright_mae(fake, real, 2.0) + weight * more(fake, real)


def foreground(store: Store, seed: int, folder: Path) -> Phases:
    """recipe=shared with Spotlight's loss."""
    thresholds = torch.tensor([otsu(store, target) for target in TARGETS])[:, None, None]

    def loss(fake: Tensor, real: Tensor, _: Tensor) -> Tensor:
        return others.foreground_mae(fake, real, thresholds)

    return ours(store, seed, folder, loss=loss)


def otsu(store: Store, target: str) -> float:
    """Otsu's threshold of the training wells, in network units."""
    magnification = store.magnifications[0]
    histogram = store.histogram(magnification, target)
    count_ = threshold_otsu(hist=(histogram, np.arange(len(histogram))))
    return float(store.scaling(magnification, target).normalise(np.array([count_], np.uint16))[0])


def privileged(found: Tensor, real: Tensor, mask: Tensor) -> Tensor:
    """The loss that is kept, and how well the last output finds the nuclei."""
    finding = binary_cross_entropy_with_logits(found[:, len(TARGETS) :], mask)
    return bright_mae(found[:, : len(TARGETS)], real, 2.0) + 0.05 * finding


WAYS: dict[str, Callable[[Store, int, Path], Phases]] = {
    "shared": ours,
    "report": partial(published, recipe="report"),
    "fast": partial(published, recipe="fast"),
    "fnet": fnet,
    "pix2pix": pix2pix,
    "softmatter": softmatter,
    "haste": haste,
    "unext2": unext2,
    "mae": partial(ours, settings={"bright_weight": 0.0}),
    "gradient": partial(ours, loss=beside(others.gradient_mae, 0.5)),
    "ssim": partial(ours, loss=beside(others.structural_dissimilarity, 0.5)),
    "spectral": partial(ours, loss=beside(spectral_loss, 0.1)),
    "foreground": foreground,
    "patchgan": partial(ours, rival="least squares"),
    "relativistic": partial(ours, rival="relativistic"),
    "privileged": partial(ours, loss=privileged, n_more=1),
    "drawn": partial(ours, drawn=True),
    **{name: partial(ours, encoder=name) for name in ENCODERS if name != "shared"},
}


# Training, painting, judging.


def train(
    way: str, store: Store, seed: int, seconds: float, folder: Path
) -> tuple[list[Learner], list[tuple[float, float]]]:
    """What learnt in processor *seconds*, and (seconds, validation pixel metric) on the way."""
    torch.manual_seed(seed)
    learners, curve, over_s = [], [], 0.0
    for share, learners in WAYS[way](store, seed, folder):
        phase_s = share * seconds
        noted = 0
        while (used_s := sum(learner.used_s for learner in learners)) < phase_s:
            least = min(learners, key=lambda learner: learner.used_s)
            least.shown.train()
            least.network.train()
            least.step(used_s / phase_s)
            due = int(used_s / phase_s * N_POINTS)
            if due > noted and learners[0].targets:
                noted = due
                curve.append((over_s + used_s, validated(learners, store)))
        over_s += phase_s
    curve.append((over_s, validated(learners, store)))
    return learners, curve


def validated(learners: list[Learner], store: Store) -> float:
    """The pixel metric on the validation fields, as painted."""
    found = []
    for key in store.keys("validation"):
        for target, image in painted(learners, store, key, "validation").items():
            valid, truth = store.valid(key), store.target(key, target)
            mae = np.abs(image[valid].astype(np.int32) - truth[valid]).mean()
            found.append(mae / store.median(key.magnification, target))
    return float(np.mean(found))


def painted(
    learners: list[Learner], store: Store, key: FieldKey, part: str
) -> dict[str, NDArray[np.uint16]]:
    """A field of a *part* of the split in counts, (Y, X) by target, as the networks paint it."""
    images = {}
    for learner in learners:
        network = learner.shown.eval()
        with torch.autocast("cpu", DTYPE, enabled=DTYPE is torch.bfloat16):
            outputs = predict_field(network, source_of(store, key, learner.masks.get(part)))
        for target, output in zip(learner.targets, outputs, strict=False):  # a mask may follow
            images[target] = store.scaling(key.magnification, target).denormalise(output)
    return images


def judged(learners: list[Learner], store: Store, folder: Path) -> dict[str, Any]:
    """The test fields' metrics: by way of intensities, and r of what is painted."""
    fields, correlations = [], {target: [] for target in TARGETS}
    histograms = {
        table_key(magnification, target): store.histogram(magnification, target)
        for magnification in store.magnifications
        for target in TARGETS
    }
    for key in store.keys("test"):
        images = painted(learners, store, key, "test")
        valid = store.valid(key)
        truth = {target: store.target(key, target)[valid] for target in TARGETS}
        plain = {target: image[valid] for target, image in images.items()}
        matched = {
            target: match_histogram(image, histograms[table_key(key.magnification, target)])
            for target, image in plain.items()
        }
        for target in TARGETS:
            pair = truth[target].ravel(), plain[target].ravel()
            correlations[target].append(np.corrcoef(*pair)[0, 1])
        ways = {TRUTH: truth, Intensities.NONE: plain, Intensities.MATCHING: matched}
        paths = {way: written(folder / way, key, found) for way, found in ways.items()}
        fields.append(FieldPaths(key, paths.pop(TRUTH), paths, UM_PER_PX[key.magnification]))
    fields = cross_calibrated(fields, histograms, folder)
    scores = judge(fields, Intensities.NONE, feature_fields=99, workers=0, seed=0).scores
    return {
        "r": {target: float(np.mean(found)) for target, found in correlations.items()},
        "scores": {
            way: {
                "pixel": score.pixel_metric,
                "feature": score.feature_metric,
                "combined": score.combined_metric,
                "n_left_out": score.n_left_out,
            }
            for way, score in scores.items()
        },
    }


def written(folder: Path, key: FieldKey, images: dict[str, NDArray[np.uint16]]) -> dict[str, Path]:
    """The files of a field's *images*, by target."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {
        target: folder / f"{key.well}-{key.fov}{key.time_mark}-{target}.tif" for target in images
    }
    for target, path in paths.items():
        write_image(path, images[target])
    return paths


def run(way: str, seed: int, store: Path, seconds: float, out: Path) -> None:
    """One training, judged, into <out>/<way>-<seed>.json."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        opened = Store(store)
        learners, curve = train(way, opened, seed, seconds, Path(scratch))
        found = {
            "curve": curve,
            "n_steps": [learner.n_steps for learner in learners],
            "n_weights": sum(
                weight.numel() for learner in learners for weight in learner.network.parameters()
            ),
            **judged(learners, opened, Path(scratch)),
        }
    write_json(out / f"{way}-{seed}.json", found)


def best(found: dict[str, Any]) -> dict[str, float]:
    """The scores in the way of intensities with the lowest combined metric."""
    fewest = min(score["n_left_out"] for score in found["scores"].values())
    whole = [score for score in found["scores"].values() if score["n_left_out"] == fewest]
    return min(whole, key=lambda score: score["combined"])


def table(ways: dict[str, str], results: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: one line for each way, mean and range over the seeds."""
    lines = [
        "| way | r, A1 / A2 / A3 | pixel metric, as painted | combined metric, best way |",
        "|---|---|---|---|",
    ]
    for way, runs in results.items():
        r = " / ".join(f"{statistics.mean(run['r'][t] for run in runs):.3f}" for t in TARGETS)
        pixel = spread([run["scores"][Intensities.NONE]["pixel"] for run in runs])
        combined = spread([best(run)["combined"] for run in runs])
        lines.append(f"| {ways[way]} | {r} | {pixel} | {combined} |")
    return "\n".join(lines)


def draw(ways: dict[str, str], results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """The validation pixel metric over the processor time; a line for each seed."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(10, 4), constrained_layout=True)
    for number, (way, runs) in enumerate(results.items()):
        for run in runs:
            axis.plot(
                *zip(*run["curve"], strict=True),
                color=f"C{number}",
                linewidth=1.2,
                label=ways[way] if run is runs[0] else None,
            )
    axis.set(xlabel="processor time (s)", ylabel="validation pixel metric", yscale="log")
    axis.grid(alpha=0.3, which="both")
    axis.set_ylim(top=3)  # a GAN begins at a hundred
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> int:
    """Train what is missing, then print table and figures."""
    line = parser(__doc__)
    line.add_argument("group", choices=GROUPS)
    line.add_argument("--store", type=Path, required=True)
    line.add_argument("--out", type=Path, required=True)
    line.add_argument("--seconds", type=float, default=240, help="of processor time, each")
    line.add_argument("--seeds", default="0,1,2")
    line.add_argument("--workers", type=int, default=os.cpu_count())
    line.add_argument("--ways", default="", help="some of the group, comma-separated")
    given = line.parse_args()
    ways = {
        way: about
        for way, about in GROUPS[given.group].items()
        if way in (given.ways or way).split(",")
    }
    seeds = [int(seed) for seed in given.seeds.split(",")]
    given.out.mkdir(parents=True, exist_ok=True)
    missing = [
        (way, seed)
        for seed in seeds
        for way in ways
        if not (given.out / f"{way}-{seed}.json").exists()
    ]
    with ProcessPoolExecutor(given.workers, get_context("spawn")) as pool:
        running = [
            pool.submit(run, way, seed, given.store, given.seconds, given.out)
            for way, seed in missing
        ]
        for done in tqdm(as_completed(running), total=len(running), unit="training"):
            done.result()
    results = {
        way: [json.loads((given.out / f"{way}-{seed}.json").read_text()) for seed in seeds]
        for way in ways
    }
    print(table(ways, results))
    draw(ways, results, given.out / f"{given.group}.png")
    means = {
        way: statistics.mean(best(found)["combined"] for found in runs)
        for way, runs in results.items()
    }
    measured = {f"combined.{way}": mean for way, mean in means.items()}
    ours_, theirs = means.get("shared"), [means[way] for way in ways if way != "shared"]
    if given.group == "peers" and ours_ and theirs:
        measured["combined_to_best_peer"] = ours_ / min(theirs)
    if ours_ and "report" in means:
        measured["combined_to_report"] = ours_ / means["report"]
    return report(measured, given.check, at_most=AT_MOST, seconds=given.seconds, seeds=seeds)


if __name__ == "__main__":
    sys.exit(main())
