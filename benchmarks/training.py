"""How fast a GAN trains: patches per second of a step and of the loader.

python -m benchmarks.training [--check]

It needs no MLflow; with MLflow it also measures the cost of logging. The batch of `report` is cut
to 4 patches on a CPU, which hardly changes patches per second.
"""

import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.nn.functional import l1_loss

from adipocyte.config import GeneratorConfig, PreprocessConfig, build
from adipocyte.domain import FieldKey
from adipocyte.networks.losses import adversarial_loss, discriminator_loss, spectral_loss
from adipocyte.networks.unet import build_unet
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
    config: GeneratorConfig, fabric: Fabric, layout: torch.memory_format
) -> Callable[[], object]:
    """One step of `train_generator` on a batch that is already there."""
    torch.manual_seed(0)
    spec = generator_spec(config, 7)
    raw_generator = build_unet(spec).to(fabric.device).to(memory_format=layout)
    raw_discriminator = (
        build_discriminator(config, spec.in_channels).to(fabric.device).to(memory_format=layout)
    )
    generator, g_optimizer = fabric.setup(
        raw_generator, torch.optim.Adam(raw_generator.parameters(), lr=1e-5)
    )
    discriminator, d_optimizer = fabric.setup(
        raw_discriminator, torch.optim.Adam(raw_discriminator.parameters(), lr=1e-5)
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
        "A2",
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


def main() -> int:
    """Print the figures; with --check, compare them with what is required."""
    arguments = parser(__doc__)
    arguments.add_argument("--repeats", type=int, default=5)
    given = arguments.parse_args()
    about: dict[str, Any] = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        about["gpu"] = torch.cuda.get_device_name()
    native = fastest_arithmetic(fastest_device().type) == "bf16"
    at_least = {name: least for name, least in AT_LEAST.items() if native or "bf16" not in name}
    measured = measure(given.repeats)
    return report(measured, given.check, at_most=AT_MOST, at_least=at_least, **about)


if __name__ == "__main__":
    sys.exit(main())
