"""How fast the report's four networks, and the one of recipe=shared, paint a full field.

    python -m benchmarks.staining [--check]    # 8 to 17 minutes on two cores, 34 without bf16

The published way (report, section 6.1, and its code): crops of 1024 pixels at a stride of 512,
one at a time, eager float32, channels first, nothing folded; the same weights, in the same run.
The limit is the best matrix product seen at any time of the run, in the arithmetic that
precision=auto takes. FLOP are those of the networks' convolutions on the field padded to multiples
of 32 pixels, two for each multiplication with its addition.
"""

import ctypes
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from adipocyte.config import GeneratorConfig, build
from adipocyte.domain import N_Z_PLANES, SEGMENTER, TARGETS
from adipocyte.networks.files import load_network
from adipocyte.networks.quantisation import measure_ranges
from adipocyte.networks.unet import DIVISOR, build_unet
from adipocyte.staining.bundle import NetworkEntry
from adipocyte.staining.stainer import Stainer
from adipocyte.system.machine import DTYPES, arithmetic, fastest_device, usable_cores
from adipocyte.training.generator import generator_spec
from benchmarks.painting import REPORT, noise, resident_mb
from benchmarks.report import parser, report
from tests.support.bundles import make_bundle, unet_specs

FIELD_PX = (2154, 2554)
PADDED_PX = (FIELD_PX[0] + -FIELD_PX[0] % DIVISOR) * (FIELD_PX[1] + -FIELD_PX[1] % DIVISOR)
CROP_PX, STRIDE_PX = 1024, 512
NETWORKS = (SEGMENTER, "A1", "A2", "A3")
AT_LEAST = {
    "plate.share_of_peak": 0.85,
    "plate.times_published": 6.5,
    "plate.times_published_equal_tiling": 2.0,
    "shared.times_fewer_flop": 20,
    "shared_plate.times_faster": 12,
}

DEVICE = fastest_device()


def finished() -> None:
    """Wait for what a GPU still computes."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def seconds(function: Callable[[], object], n: int) -> float:
    """The shortest of *n* times."""
    took = []
    for _ in range(n):
        start = time.perf_counter()
        function()
        finished()
        took.append(time.perf_counter() - start)
    return min(took)


def peak_gflops(dtype: torch.dtype) -> float:
    """The best matrix product, in 10^9 FLOP/s."""
    best = 0.0
    for side in (1024, 2048, 4096) if DEVICE.type == "cpu" else (4096, 8192, 16384):
        left, right = (torch.randn(side, side, device=DEVICE).to(dtype) for _ in range(2))
        left @ right
        best = max(
            best, 2 * side**3 / seconds(lambda left=left, right=right: left @ right, 5) / 1e9
        )
    return best


def flop_per_px(network: nn.Module, in_channels: int) -> float:
    """Of the convolutions, for each pixel of the input."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros((1, in_channels, 512, 512), device=next(network.parameters()).device))
    return counter.get_total_flops() / 512**2


@contextmanager
def timed(stainer: Stainer) -> Generator[dict[str, float]]:
    """Seconds that each network takes of the paintings inside the block."""
    took_s = dict.fromkeys(stainer.predictors, 0.0)
    predictors = dict(stainer.predictors)

    def watch(name: str) -> Callable:
        def run(source: np.ndarray) -> np.ndarray:
            start = time.perf_counter()
            painted = predictors[name](source)
            took_s[name] += time.perf_counter() - start
            return painted

        return run

    for name, predictor in predictors.items():
        stainer.predictors[name] = replace(predictor, predict=watch(name))
    yield took_s
    stainer.predictors.update(predictors)


def measure_ours(
    bundle: Path, planes: np.ndarray, flop: float, compiled: bool, precision: str = "auto"
) -> dict[str, float]:
    """A field in one piece: the whole chain, and each network on a crop of the published way."""
    start = time.perf_counter()
    stainer = Stainer(bundle, memory_mb=np.inf, compiled=compiled, precision=precision)
    loaded_s = time.perf_counter() - start
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back
    before_mb, start = resident_mb("VmRSS"), time.perf_counter()
    stainer.stain(planes, 20)
    first_s, peak_mb = time.perf_counter() - start, resident_mb("VmHWM") - before_mb
    best_s, networks_s = np.inf, np.inf
    for _ in range(3):
        with timed(stainer) as took_s:
            best_s = min(best_s, seconds(lambda: stainer.stain(planes, 20), 1))
        networks_s = min(networks_s, sum(took_s.values()))
    crop = np.random.default_rng(0).standard_normal((8, CROP_PX, CROP_PX), dtype=np.float32)
    crop_s = 0.0
    for predict in stainer.predictors.values():
        source = crop[: predict.in_channels]
        predict(source)
        crop_s += seconds(lambda predict=predict, source=source: predict(source), 3)
    return {
        "loaded_s": loaded_s,
        "first_field_s": first_s,
        "field_s": best_s,
        "networks_s": networks_s,
        "gflops": flop / networks_s / 1e9,
        "crop_s": crop_s,
        "peak_mb": peak_mb,
        "predicted_mb": stainer.memory_needed_mb(planes.shape[1:]),
    }


def measure_published(networks: dict[str, tuple[int, nn.Module]]) -> dict[str, float]:
    """All crops of one field through all networks."""
    starts = [[*range(0, side - CROP_PX, STRIDE_PX), side - CROP_PX] for side in FIELD_PX]
    crops = list(itertools.product(*starts))
    field = torch.randn((1, 8, *FIELD_PX))
    start = time.perf_counter()
    with torch.inference_mode():
        for (y, x), (in_channels, network) in tqdm(
            list(itertools.product(crops, networks.values())), desc="published", unit="crop"
        ):
            network(
                field[:, :in_channels, y : y + CROP_PX, x : x + CROP_PX].to(DEVICE).contiguous()
            ).cpu()
    return {"crops": len(crops), "field_s": time.perf_counter() - start}


def measure_shared(folder: Path, planes: np.ndarray) -> dict[str, float]:
    """A field through the one network of recipe=shared, by "shared.figure"."""
    spec = generator_spec(build(GeneratorConfig, {"target": "all", "recipe": "shared"}), N_Z_PLANES)
    network = build_unet(spec).eval()
    # Of other random weights than the bundle's, because the time does not depend on the values.
    ranges = measure_ranges(network, [np.ones((spec.in_channels, 256, 256), np.float32)])
    entry = NetworkEntry(TARGETS, sees_mask=False, ranges=ranges)
    bundle = make_bundle(folder, {entry.name: spec}, networks={entry.name: entry})
    flop = PADDED_PX * flop_per_px(network, spec.in_channels)
    figures = {"shared.tflop": flop / 1e12}
    figures["shared.parameters"] = sum(weights.numel() for weights in network.parameters())
    for way, compiled, precision in (
        ("request", False, "auto"),
        ("plate", True, "auto"),
        ("int8", True, "int8"),
    ):
        measured = measure_ours(bundle, planes, flop, compiled, precision)
        figures |= {f"shared_{way}.{name}": value for name, value in measured.items()}
    return figures


def measure(folder: Path) -> dict[str, float]:
    """All figures, by "way.figure"."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(usable_cores())
    bundle = make_bundle(folder / "bundle", unet_specs("resnet152", REPORT))
    planes = noise(*FIELD_PX)
    loaded = {name: load_network(bundle / name, DEVICE) for name in NETWORKS}
    published = {name: (spec.in_channels, network) for name, (spec, network) in loaded.items()}
    flop = PADDED_PX * sum(
        flop_per_px(network, in_channels) for in_channels, network in published.values()
    )
    dtype = DTYPES[arithmetic("auto", DEVICE)]  # in the other a product may take minutes
    peaks = [peak_gflops(dtype)]
    figures = {"field.tflop": flop / 1e12}
    figures |= {f"published.{name}": value for name, value in measure_published(published).items()}
    del loaded, published
    for way, compiled in (("request", False), ("plate", True)):
        figures |= {
            f"{way}.{name}": value
            for name, value in measure_ours(bundle, planes, flop, compiled).items()
        }
        peaks.append(peak_gflops(dtype))
    figures |= measure_shared(folder / "shared", planes)
    figures["shared_int8.times_plate"] = (
        figures["shared_plate.field_s"] / figures["shared_int8.field_s"]
    )
    figures["shared.times_fewer_flop"] = figures["field.tflop"] / figures["shared.tflop"]
    figures["peak.gflops"] = max(peaks)
    for way in ("request", "plate"):
        figures[f"{way}.share_of_peak"] = figures[f"{way}.gflops"] / figures["peak.gflops"]
        figures[f"{way}.times_published"] = figures["published.field_s"] / figures[f"{way}.field_s"]
        shared_s = figures[f"shared_{way}.field_s"]
        figures[f"shared_{way}.times_faster"] = figures[f"{way}.field_s"] / shared_s
        figures[f"shared_{way}.share_of_peak"] = (
            figures[f"shared_{way}.gflops"] / figures["peak.gflops"]
        )
        equal_s = figures["published.crops"] * figures[f"{way}.crop_s"]
        figures[f"{way}.times_published_equal_tiling"] = figures["published.field_s"] / equal_s
    return figures


def about() -> dict[str, Any]:
    """What computes, for the report."""
    gpu = {"gpu": torch.cuda.get_device_name()} if DEVICE.type == "cuda" else {}
    machine = {"threads": torch.get_num_threads(), "precision": arithmetic("auto", DEVICE)}
    return {"torch": torch.__version__, **machine, **gpu}


def main() -> int:
    """Print the figures; with --check, compare them with what is required on a CPU."""
    check = parser(__doc__).parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(Path(folder))
    return report(measured, check, at_least=AT_LEAST, **about())


if __name__ == "__main__":
    sys.exit(main())
