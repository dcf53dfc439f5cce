"""How fast a GAN trains, as JSON: patches per second of a step and of the loader, and what precision, layout and logging make of it.

python -m benchmarks.training [--check]

No MLflow is needed; where there is one, the cost of logging is measured too. The batch of `report` is cut to 4 patches on a CPU, which
hardly changes patches per second. `--check` exits 1 and names the figure where a required one is missed.
"""

import argparse
import dataclasses
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

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
from adipocyte.system.machine import has_bf16
from adipocyte.training.augmentations import Augmenter
from adipocyte.training.collapse import discriminator_metrics
from adipocyte.training.device import make_fabric, update
from adipocyte.training.generator import build_discriminator, generator_spec, scores_of, weighted
from adipocyte.training.journal import SEND_EVERY, Journal
from adipocyte.training.patches import Patches, patch_loader

AT_LEAST = {
    "fast.loader_2_workers_to_step": 1.0,  # the loader is never the limit
    "fast.bf16_channels_last_to_float32": 1.8,  # where the processor computes in bf16
    "report.bf16_channels_last_to_float32": 1.8,
}
AT_MOST = {"fast.logging_share": 0.02}


def seconds(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The fastest of a few goes at each, by turns: what the machine's other guests add is not ours."""
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
    painter = build_unet(spec).to(fabric.device, memory_format=layout)
    judge = build_discriminator(config, spec.in_channels).to(fabric.device, memory_format=layout)
    generator, g_optimizer = fabric.setup(painter, torch.optim.Adam(painter.parameters(), lr=1e-5))
    discriminator, d_optimizer = fabric.setup(judge, torch.optim.Adam(judge.parameters(), lr=1e-5))
    source = torch.randn(config.batch, 7, config.patch_px, config.patch_px, device=fabric.device)
    real = torch.randn(config.batch, 1, config.patch_px, config.patch_px, device=fabric.device)

    def step() -> None:
        fake = generator(source)
        on_real, on_fake = discriminator(source, real), discriminator(source, fake.detach())
        update(fabric, judge, d_optimizer, discriminator_loss(on_real, on_fake), 0)
        discriminator_metrics(on_real, on_fake)
        losses = {"mae": l1_loss(fake, real), "spectral": spectral_loss(fake, real)}
        losses["adversarial"] = adversarial_loss(scores_of(fabric, judge, source, fake))
        update(fabric, painter, g_optimizer, weighted(losses, config), 0)

    return step


def noise_store(folder: Path) -> Store:
    """Four wells of noise, 512 x 512 pixels, which no compression makes smaller: the slowest store to read."""
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
    """Patches per second that a loader gives to a trainer who takes them as fast as they come, once its workers have started."""
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
    """Print the figures; with --check, tell whether they are what is required."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    figures = measure(given.repeats)
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else platform.processor() or platform.machine()
    )
    machine = {
        "device": device,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(
        json.dumps(
            {
                "machine": machine,
                "figures": {name: round(value, 4) for name, value in figures.items()},
            },
            indent=1,
        )
    )
    if not given.check:
        return 0
    native = has_bf16()
    missed = [
        f"{name} is {figures[name]:.3f}, at least {least} is required"
        for name, least in AT_LEAST.items()
        if figures[name] < least
    ]
    missed = [line for line in missed if native or "bf16" not in line]
    missed += [
        f"{name} is {figures[name]:.4f}, at most {most} is allowed"
        for name, most in AT_MOST.items()
        if figures.get(name, 0) > most
    ]
    print("\n".join(missed), file=sys.stderr)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
