"""How fast a GAN trains: patches per second of a step and of the loader.

python -m benchmarks.training [--check]
python -m benchmarks.training --gpu      # report, stable and the segmenter as a GPU can train them

It needs no MLflow; with MLflow it also measures the cost of logging. The batch of `report` is cut
to 4 patches on a CPU, which hardly changes patches per second.
"""

import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.nn.functional import binary_cross_entropy_with_logits, l1_loss
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from adipocyte.config import GeneratorConfig, PreprocessConfig, SegmenterConfig, build
from adipocyte.domain import FieldKey
from adipocyte.networks.losses import adversarial_loss, discriminator_loss, spectral_loss
from adipocyte.networks.unet import UNetSpec, build_unet
from adipocyte.plate.fields import RawField, write_field
from adipocyte.preparation.prepare import prepare
from adipocyte.store.reader import Store
from adipocyte.system.machine import fastest_arithmetic, fastest_device
from adipocyte.training.augmentations import Augmenter
from adipocyte.training.collapse import discriminator_metrics
from adipocyte.training.device import make_fabric, update
from adipocyte.training.generator import build_discriminator, generator_spec, scores_of, weighted
from adipocyte.training.journal import SEND_EVERY, Journal
from adipocyte.training.patches import Patches, patch_loader
from benchmarks.report import parser, report
from benchmarks.staining import about

AT_LEAST = {
    "fast.loader_2_workers_to_step": 1.0,  # the loader is never the limit
    "fast.bf16_channels_last_to_float32": 1.8,  # where the processor computes in bf16
    "report.bf16_channels_last_to_float32": 1.8,
}
AT_MOST = {"fast.logging_share": 0.02}


def seconds(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The fastest of a few tries of each, by turns: the machine has other guests."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()  # the first is never like the others
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    return {name: min(found) for name, found in times.items()}


def gan_step(
    config: GeneratorConfig,
    fabric: Fabric,
    layout: torch.memory_format,
    *,
    compiled: bool = False,
    fused: bool = False,
) -> Callable[[], object]:
    """One step of `train_generator` on a batch that is already there.

    *compiled* is the setting `compile`; *fused* takes Adam's fused kernel.
    """
    torch.manual_seed(0)
    spec = generator_spec(config, 7)
    raw_generator = build_unet(spec).to(fabric.device).to(memory_format=layout)
    if compiled:
        raw_generator.compile()
    average = None
    if config.ema:
        average = AveragedModel(
            raw_generator, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True
        )
    raw_discriminator = (
        build_discriminator(config, spec.in_channels).to(fabric.device).to(memory_format=layout)
    )
    generator, g_optimizer = fabric.setup(
        raw_generator, torch.optim.Adam(raw_generator.parameters(), lr=1e-5, fused=fused)
    )
    discriminator, d_optimizer = fabric.setup(
        raw_discriminator,
        torch.optim.Adam(raw_discriminator.parameters(), lr=1e-5, fused=fused),
    )
    source = torch.randn(config.batch, 7, config.patch_px, config.patch_px, device=fabric.device)
    real = torch.randn(config.batch, 1, config.patch_px, config.patch_px, device=fabric.device)

    def step() -> None:
        fake = generator(source)
        on_real, on_fake = discriminator(source, real), discriminator(source, fake.detach())
        update(fabric, raw_discriminator, d_optimizer, discriminator_loss(on_real, on_fake), 0)
        discriminator_metrics(on_real, on_fake)
        losses = {"mae": l1_loss(fake, real), "spectral": spectral_loss(fake, real)}
        losses["adversarial"] = adversarial_loss(scores_of(fabric, raw_discriminator, source, fake))
        update(fabric, raw_generator, g_optimizer, weighted(losses, config), 0)
        if average:
            average.update_parameters(raw_generator)

    return step


def segmenter_step(
    config: SegmenterConfig, fabric: Fabric, layout: torch.memory_format
) -> Callable[[], object]:
    """One step of `train_segmenter` on a batch that is already there."""
    torch.manual_seed(0)
    network = build_unet(UNetSpec(encoder=config.encoder, in_channels=7))
    network = network.to(fabric.device).to(memory_format=layout)
    segmenter, optimizer = fabric.setup(network, torch.optim.Adam(network.parameters(), lr=1e-5))
    shape = (config.batch, 1, config.patch_px, config.patch_px)
    planes = torch.randn(shape, device=fabric.device).repeat(1, 7, 1, 1)
    mask = (torch.rand(shape, device=fabric.device) < 0.2).float()

    def step() -> None:
        loss = binary_cross_entropy_with_logits(segmenter(planes), mask)
        update(fabric, network, optimizer, loss, 0)

    return step


def noise_store(folder: Path) -> Store:
    """Four wells of noise, 512 x 512 pixels: nothing compresses it, so reading is slowest."""
    random = np.random.default_rng(0)
    for well in ("B03", "B04", "C02", "C03"):
        planes = random.integers(500, 4000, (7, 512, 512), dtype=np.uint16)
        write_field(
            folder / "plate",
            FieldKey(20, well, 1),
            RawField(planes, {"A1": planes[0], "A2": planes[1]}),
        )
    config = PreprocessConfig(
        plate=folder / "plate",
        store=folder / "store",
        align="none",
        validation_wells="B03",
        test_wells="B04",
    )
    return prepare(config)


def loader_pace(store: Store, config: GeneratorConfig, workers: int, n_steps: int) -> float:
    """Patches per second of a loader whose patches are taken at once, after its workers' start."""
    augmenter = Augmenter(config.patch_px, config.augment_p, config.rotate_deg)
    patches = Patches(
        store,
        ("A2",),
        (lambda key, window: np.zeros(store.shape(key), bool)[window],),
        augmenter,
        patch_px=config.patch_px,
        seed=0,
    )
    batches = patch_loader(
        make_fabric("32"), patches, config.batch, workers, range(n_steps + 2 * max(workers, 1))
    )
    for _ in range(2 * max(workers, 1)):  # what was read ahead while the workers started
        next(batches)
    start = time.perf_counter()
    for _ in range(n_steps):
        next(batches)
    return n_steps * config.batch / (time.perf_counter() - start)


def logging_s(folder: Path) -> float:
    """Seconds for each step that its records take, on their way into MLflow's SQLite file."""
    import mlflow

    from adipocyte.delivery.runs.tracker import MlflowTracker

    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    names = [
        "g_loss",
        "d_loss",
        "mae",
        "spectral",
        "adversarial",
        "g_gradient",
        "d_gradient",
        "d_real",
        "d_fake",
        "d_gap",
        "d_accuracy",
    ]
    with mlflow.start_run() as run:
        journal, step = Journal(MlflowTracker(run), {}), 0

        def fifty_steps() -> None:
            nonlocal step
            for _ in range(SEND_EVERY):
                step += 1
                journal.note(step, {name: torch.tensor(1.0) for name in names})

        return seconds({"logging": fifty_steps}, repeats=5)["logging"] / SEND_EVERY


def measure(repeats: int) -> dict[str, float]:
    """Every figure, all from this one run."""
    figures: dict[str, float] = {}
    on_gpu = torch.cuda.is_available()
    fast, report = (
        build(GeneratorConfig, {"target": "A2", "recipe": recipe}) for recipe in ("fast", "report")
    )
    if not on_gpu:
        report = dataclasses.replace(report, batch=4)
    with tempfile.TemporaryDirectory() as scratch:
        store = noise_store(Path(scratch))
        for config in (fast, report):
            plain = gan_step(config, make_fabric("32"), torch.contiguous_format)
            native = gan_step(config, make_fabric("auto"), torch.channels_last)
            found = seconds({"plain": plain, "native": native}, repeats)
            name = config.recipe
            figures[f"{name}.step_s"] = found["native"]
            figures[f"{name}.step_patches_per_s"] = config.batch / found["native"]
            figures[f"{name}.step_float32_s"] = found["plain"]
            figures[f"{name}.bf16_channels_last_to_float32"] = found["plain"] / found["native"]
            for workers in (1, 2):
                figures[f"{name}.loader_{workers}_workers_patches_per_s"] = loader_pace(
                    store, config, workers, n_steps=800 // config.batch
                )
            figures[f"{name}.loader_2_workers_to_step"] = (
                figures[f"{name}.loader_2_workers_patches_per_s"]
                / figures[f"{name}.step_patches_per_s"]
            )
            del plain, native
        if find_spec("mlflow"):
            figures["logging_s"] = logging_s(Path(scratch))
            figures["fast.logging_share"] = figures["logging_s"] / figures["fast.step_s"]
    return figures


def gpu_pace(step: Callable[[], object], batch: int, n_steps: int = 10) -> dict[str, float]:
    """The pace of steps that follow each other as in a training, their memory, the first one."""
    start = time.perf_counter()
    step()
    torch.cuda.synchronize()
    first_s = time.perf_counter() - start
    torch.cuda.reset_peak_memory_stats()

    def steps() -> None:
        for _ in range(n_steps):
            step()

    step_s = seconds({"steps": steps}, repeats=4)["steps"] / n_steps
    return {
        "step_ms": 1e3 * step_s,
        "patches_per_s": batch / step_s,
        "memory_gb": torch.cuda.max_memory_allocated() / 1e9,
        "first_step_s": first_s,
    }


def measure_gpu() -> dict[str, float]:
    """Steps on a GPU in its arithmetics and engines, and the loader by its number of processes."""
    first, last = torch.contiguous_format, torch.channels_last
    report, stable = (
        build(GeneratorConfig, {"target": "A2", "recipe": recipe})
        for recipe in ("report", "stable")
    )
    segmenter = build(SegmenterConfig, {"recipe": "report"})
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        store = noise_store(Path(scratch))
        for workers in sorted({1, 2, 4, 8, os.cpu_count() or 1}):
            pace = loader_pace(store, report, workers, n_steps=8 * workers + 16)
            figures[f"loader_{workers}_workers_patches_per_s"] = pace
    gan, segment = partial(gan_step, report), partial(segmenter_step, segmenter)
    cases: dict[str, tuple[Callable[..., Callable[[], object]], int, str, torch.memory_format]] = {
        "report.float32": (gan, report.batch, "32", first),
        "report.precision_32": (gan, report.batch, "32", last),
        "report.auto": (gan, report.batch, "auto", last),
        "report.fused_adam": (partial(gan, fused=True), report.batch, "auto", last),
        "report.compiled": (partial(gan, compiled=True), report.batch, "auto", last),
        "stable.auto": (partial(gan_step, stable), stable.batch, "auto", last),
        "segmenter.float32": (segment, segmenter.batch, "32", first),
        "segmenter.precision_32": (segment, segmenter.batch, "32", last),
        "segmenter.auto": (segment, segmenter.batch, "auto", last),
    }
    for name, (make, batch, precision, layout) in cases.items():
        # PyTorch computes convolutions of float32 in TF32 unless told not to.
        torch.backends.cudnn.allow_tf32 = not name.endswith("float32")
        found = gpu_pace(make(fabric=make_fabric(precision), layout=layout), batch)
        figures |= {f"{name}.{figure}": value for figure, value in found.items()}
        torch.cuda.empty_cache()
    return figures


def main() -> int:
    """Print the figures; with --check, compare them with what is required."""
    arguments = parser(__doc__)
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--gpu", action="store_true", help="measure training on a GPU instead")
    given = arguments.parse_args()
    if given.gpu and not torch.cuda.is_available():
        arguments.error("--gpu needs an NVIDIA GPU, and there is none")
    native = fastest_arithmetic(fastest_device().type) == "bf16"
    at_least = {name: least for name, least in AT_LEAST.items() if native or "bf16" not in name}
    measured = measure_gpu() if given.gpu else measure(given.repeats)
    return report(measured, given.check, at_most=AT_MOST, at_least=at_least, **about())


if __name__ == "__main__":
    sys.exit(main())
