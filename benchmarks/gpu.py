"""One full field on a GPU: the report's four networks, and what the processor does beside them.

    python -m benchmarks.gpu networks                   # 3 minutes: every arithmetic and engine
    python -m benchmarks.gpu tuned [--mode default]     # A2 alone; cuDNN and Inductor try kernels
    python -m benchmarks.gpu processor                  # a minute; the networks are stand-ins
    python -m benchmarks.gpu shared                     # 2 minutes: processes share the GPU

All but `processor` need an NVIDIA GPU. Networks have random weights and see a field that lies on
the GPU already; their times are the medians of the GPU's own. FLOP are those of the convolutions,
as in benchmarks/staining.py.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx, nn

from adipocyte.domain import BRIGHTFIELD, SEGMENTER, TARGETS, FieldKey
from adipocyte.imaging import limits, quality
from adipocyte.imaging.padding import pad_to_multiple
from adipocyte.networks.files import load_network
from adipocyte.networks.predictor import fold
from adipocyte.networks.unet import DIVISOR
from adipocyte.plate.fields import RawField, read_field, write_field
from adipocyte.plate.scan import scan_plate
from adipocyte.plate.tiff import encode_image
from adipocyte.staining.stainer import Stainer
from benchmarks.data import full_field
from benchmarks.painting import REPORT
from benchmarks.report import parser, report
from benchmarks.staining import (
    DEVICE,
    FIELD_PX,
    NETWORKS,
    about,
    finished,
    flop_per_px,
    measure_published,
    peak_gflops,
    timed,
)
from tests.support.bundles import make_bundle, random_network, spec, unet_specs

PADDED_PX = (FIELD_PX[0] + -FIELD_PX[0] % DIVISOR, FIELD_PX[1] + -FIELD_PX[1] % DIVISOR)
N_KERNELS = 14  # that a profile shows
Networks = Mapping[str, Callable[[Tensor], Tensor]]


def gpu_ms(run: Callable[[], object], repeats: int = 9) -> float:
    """Milliseconds by the GPU's own clock, the median after three runs that warm it up."""
    for _ in range(3):
        run()
    took = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        took.append(begin.elapsed_time(end))
    return statistics.median(took)


def wall_ms(run: Callable[[], object], repeats: int = 9) -> float:
    """Milliseconds until the GPU has finished too, the median after three runs to warm up."""
    took = []
    for _ in range(3 + repeats):
        start = time.perf_counter()
        run()
        finished()
        took.append(1e3 * (time.perf_counter() - start))
    return statistics.median(took[3:])


def ceilings() -> dict[str, float]:
    """What the card can do: the best matrix products, and a copy's bytes read and written."""
    figures = {"ceiling.bf16_tflops": peak_gflops(torch.bfloat16) / 1e3}
    for name, allowed in (("tf32", True), ("float32", False)):
        torch.backends.cuda.matmul.allow_tf32 = allowed
        figures[f"ceiling.{name}_tflops"] = peak_gflops(torch.float32) / 1e3
    source = torch.randn(2**30, device=DEVICE)
    aim = torch.empty_like(source)
    figures["ceiling.copy_tb_per_s"] = 2 * source.nbytes / gpu_ms(lambda: aim.copy_(source)) / 1e9
    return figures


def chain(networks: Networks, planes: Tensor) -> dict[str, Tensor]:
    """All four networks on planes (1, 7, Y, X); A1 sees the segmenter's mask."""
    logits = networks[SEGMENTER](planes)
    sources = dict.fromkeys(TARGETS, planes)
    sources["A1"] = torch.cat([planes, (logits > 0).to(planes.dtype)], dim=1)
    return {target: networks[target](source) for target, source in sources.items()}


def captured(networks: Networks, planes: Tensor) -> Callable[[], dict[str, Tensor]]:
    """The chain as one CUDA graph, to be replayed."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            chain(networks, planes)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        painted = chain(networks, planes)

    def replay() -> dict[str, Tensor]:
        graph.replay()
        return painted

    return replay


def fuse_activations(network: fx.GraphModule) -> fx.GraphModule:
    """Let convolutions of a folded *network* add bias and skip and apply ReLU: cuDNN's kernels.

    The network is used up.
    """
    modules, graph = dict(network.named_modules()), network.graph

    def is_convolution(node: Any) -> bool:
        is_module = isinstance(node, fx.Node) and node.op == "call_module"
        return is_module and isinstance(modules[node.target], nn.Conv2d) and len(node.users) == 1

    for relu in list(graph.nodes):
        if relu.op != "call_module" or not isinstance(modules[relu.target], nn.ReLU):
            continue
        (before,) = relu.args
        is_sum = before.op == "call_function" and before.target.__name__ in ("add", "iadd")
        terms = before.args if is_sum and len(before.users) == 1 else (before,)
        producer = next(filter(is_convolution, terms), None)
        if producer is None:
            continue
        layer = modules[producer.target]
        if layer.bias is None:
            layer.bias = nn.Parameter(torch.zeros(layer.out_channels))
        others = [term for term in terms if term is not producer]
        with graph.inserting_before(relu):
            names = (f"{producer.target}.{name}" for name in ("weight", "bias"))
            weight, bias = map(graph.get_attr, names)
            how = (layer.stride, layer.padding, layer.dilation, layer.groups)
            given = (producer.args[0], weight)
            if others:
                fused = graph.call_function(
                    torch.cudnn_convolution_add_relu, (*given, others[0], 1.0, bias, *how)
                )
            else:
                fused = graph.call_function(torch.cudnn_convolution_relu, (*given, bias, *how))
        relu.replace_all_uses_with(fused)
        for gone in dict.fromkeys((relu, before, producer)):
            graph.erase_node(gone)
    graph.lint()
    network.recompile()
    return network


def load_folded(bundle: Path, *, fused: bool = False) -> dict[str, nn.Module]:
    """The four networks of *bundle* on the GPU: bf16, channels last, folded."""
    networks = {name: fold(load_network(bundle / name)[1]) for name in NETWORKS}
    if fused:
        # `fold` leaves only a U-Net++ untraced.
        traced = {name: cast(fx.GraphModule, network) for name, network in networks.items()}
        networks = {name: fuse_activations(network) for name, network in traced.items()}
    return {
        name: network.requires_grad_(False)
        .to(DEVICE, torch.bfloat16)
        .to(memory_format=torch.channels_last)
        for name, network in networks.items()
    }


class Ways:
    """Figures of ways to run the chain on a field of noise, and each way's distance from float32.

    The first way that is timed must be the one in float32.
    """

    def __init__(self, field_tflop: float, peak_tflops: float) -> None:
        torch.manual_seed(0)
        self.planes = torch.randn(1, 7, *PADDED_PX, device=DEVICE)
        self.figures = {"field.tflop": field_tflop}
        self._peak_tflops, self._truth = peak_tflops, dict[str, Tensor]()

    def add(
        self,
        name: str,
        networks: Networks,
        dtype: torch.dtype = torch.bfloat16,
        layout: torch.memory_format = torch.channels_last,
        *,
        graph: bool = False,
    ) -> None:
        """Time one way, with *graph* as one CUDA graph."""
        planes = self.planes.to(dtype, memory_format=layout)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with torch.inference_mode():
            run = captured(networks, planes) if graph else partial(chain, networks, planes)
            painted = run()
            ms = gpu_ms(run, repeats=5 if dtype == torch.float32 else 9)
        tflops = 1e3 * self.figures["field.tflop"] / ms
        found = {
            "ms": ms,
            "tflops": tflops,
            "share_of_bf16_peak": tflops / self._peak_tflops,
            "memory_gb": (torch.cuda.max_memory_allocated() - before) / 1e9,
            "reserved_gb": torch.cuda.memory_reserved() / 1e9,
        }
        images = {target: painted[target].float().cpu() for target in ("A2", "A3")}
        self._truth = self._truth or images
        for target, truth in self._truth.items():
            found[f"{target}_error"] = float((images[target] - truth).norm() / truth.norm())
        self.figures |= {f"{name}.{figure}": value for figure, value in found.items()}

    def add_each(self, name: str, networks: Networks) -> None:
        """Time each network of a way by itself, in bf16."""
        planes = self.planes.to(torch.bfloat16, memory_format=torch.channels_last)
        seen = dict.fromkeys(NETWORKS, planes) | {"A1": torch.cat([planes, planes[:, :1]], dim=1)}
        with torch.inference_mode():
            for one, source in seen.items():
                self.figures[f"{name}.{one}_ms"] = gpu_ms(partial(networks[one], source))


def kernels(network: Callable[[Tensor], Tensor], planes: Tensor) -> dict[str, float]:
    """Milliseconds of the kernels that a network spends most of its time in, and of all."""
    from torch.profiler import ProfilerActivity, profile

    with (
        torch.inference_mode(),
        profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen,
    ):
        network(planes)
        torch.cuda.synchronize()
    events = [event for event in seen.key_averages() if event.device_type.name == "CUDA"]
    events.sort(key=lambda event: -event.self_device_time_total)
    figures = {"all": sum(event.self_device_time_total for event in events) / 1e3}
    for event in events[:N_KERNELS]:
        figures[f"{event.count} x {event.key[:110]}"] = event.self_device_time_total / 1e3
    return figures


def copies() -> dict[str, float]:
    """How long a field takes to the GPU and back: as `Predict` does it, and as plain counts."""
    random = np.random.default_rng(0)
    source = torch.from_numpy(random.standard_normal((1, 8, *PADDED_PX), dtype=np.float32))
    converted = partial(source.to, DEVICE, torch.bfloat16, memory_format=torch.channels_last)
    result = torch.randn(PADDED_PX, device=DEVICE, dtype=torch.bfloat16)
    counts = torch.from_numpy(random.integers(500, 4000, (7, *FIELD_PX), dtype=np.int16))
    pinned = counts.pin_memory()
    return {
        "to_gpu_as_predict_does_ms": wall_ms(converted),
        "back_as_predict_does_ms": wall_ms(lambda: result.float().cpu().numpy()),
        "counts_to_gpu_ms": wall_ms(lambda: counts.to(DEVICE)),
        "pinned_counts_to_gpu_ms": wall_ms(lambda: pinned.to(DEVICE, non_blocking=True)),
    }


def whole_ms(networks: Networks) -> float:
    """Milliseconds from counts in pinned memory to counts there, all arithmetic on the GPU."""
    random = np.random.default_rng(0)
    counts = random.integers(500, 4000, (7, *FIELD_PX), dtype=np.int16)
    pinned = torch.from_numpy(counts).pin_memory()
    images = torch.empty((3, *FIELD_PX), dtype=torch.int16).pin_memory()
    tables = torch.arange(65536, dtype=torch.int32, device=DEVICE).to(torch.int16)
    (height, width), (below, right) = FIELD_PX, np.subtract(PADDED_PX, FIELD_PX)

    def field() -> None:
        planes = pinned.to(DEVICE, non_blocking=True).to(torch.int32).bitwise_and_(0xFFFF).float()
        planes = planes.mul_(1 / 500).sub_(4)
        planes = torch.cat([planes, planes[:, -below:].flip(1)], dim=1)
        planes = torch.cat([planes, planes[:, :, -right:].flip(2)], dim=2)[None]
        painted = chain(networks, planes.to(torch.bfloat16, memory_format=torch.channels_last))
        for image, target in zip(images, TARGETS, strict=True):
            found = painted[target][0, 0, :height, :width].float().mul_(300).add_(1000)
            found = found.clamp_(0, 65535).round_().to(torch.int32)
            # The ranks that matching takes; the table made from them takes microseconds.
            torch.bincount(found.flatten(), minlength=65536).cumsum(0)
            image.copy_(tables[found], non_blocking=True)

    with torch.inference_mode():
        return wall_ms(field)


def measure_stainer(bundle: Path, compiled: bool) -> dict[str, float]:
    """`Stainer.stain` as it is, and how much of it is spent in `Predict`: copies and networks."""
    stainer, n = Stainer(bundle, memory_mb=np.inf, compiled=compiled), 3
    planes = np.random.default_rng(0).integers(1000, 3000, (7, *FIELD_PX), dtype=np.uint16)
    stainer.stain(planes, 20)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with timed(stainer) as took_s:
        start = time.perf_counter()
        for _ in range(n):
            stainer.stain(planes, 20)
        field_s = (time.perf_counter() - start) / n
    return {
        "field_ms": 1e3 * field_s,
        "predict_ms": 1e3 * sum(took_s.values()) / n,
        "memory_gb": (torch.cuda.max_memory_allocated() - before) / 1e9,
        "predicted_gb": stainer.memory_needed_mb(FIELD_PX) / 1e3,
    }


def add_unfolded(ways: Ways, networks: dict[str, nn.Module]) -> None:
    """The ways of networks as they were trained, from float32 to bf16; *networks* are used up."""
    first, last = torch.contiguous_format, torch.channels_last
    torch.backends.cudnn.allow_tf32 = False
    ways.add("float32_channels_first", networks, torch.float32, first)
    torch.backends.cudnn.allow_tf32 = True
    ways.add("tf32_channels_first", networks, torch.float32, first)
    for network in networks.values():
        network.to(memory_format=last)
    ways.add("tf32", networks, torch.float32)
    for network in networks.values():
        network.to(torch.bfloat16)
    ways.add("bf16_not_folded", networks)


def measure_networks(folder: Path) -> dict[str, float]:
    """Every way of running the networks."""
    bundle = make_bundle(folder / "bundle", unet_specs("resnet152", REPORT))
    figures = ceilings()
    loaded = {name: load_network(bundle / name, DEVICE) for name in NETWORKS}
    channels = {name: spec.in_channels for name, (spec, _) in loaded.items()}
    plain = {name: network.requires_grad_(False) for name, (_, network) in loaded.items()}
    flop = sum(flop_per_px(network, channels[name]) for name, network in plain.items())
    ways = Ways(flop * PADDED_PX[0] * PADDED_PX[1] / 1e12, figures["ceiling.bf16_tflops"])
    published = measure_published({name: (channels[name], plain[name]) for name in NETWORKS})
    figures["published.field_s"] = published["field_s"]
    add_unfolded(ways, plain)
    del loaded, plain

    folded = load_folded(bundle)
    planes = ways.planes.to(torch.bfloat16, memory_format=torch.channels_last)
    compiled = {name: torch.compile(folded[name], dynamic=False) for name in NETWORKS}
    with torch.inference_mode():
        for name, network in compiled.items():
            start = time.perf_counter()
            network(torch.cat([planes, planes[:, :1]], dim=1) if name == "A1" else planes)
            torch.cuda.synchronize()
            figures[f"compiled.{name}_compiling_s"] = time.perf_counter() - start
    fused = load_folded(bundle, fused=True)
    ways_of: dict[str, Networks] = {"folded": folded, "compiled": compiled, "fused": fused}
    for way, networks in ways_of.items():
        ways.add(way, networks)
        ways.add(f"{way}_graph", networks, graph=True)
        ways.add_each(way, networks)
        figures[f"{way}.whole_ms"] = whole_ms(networks)
        if way != "fused":
            found = kernels(networks["A2"], planes)
            figures |= {f"{way}.A2: {kernel}": ms for kernel, ms in found.items()}
    figures |= {f"copies.{name}": ms for name, ms in copies().items()}
    for way, is_compiled in (("request", False), ("plate", True)):
        found = measure_stainer(bundle, is_compiled)
        figures |= {f"{way}.{name}": value for name, value in found.items()}
    return figures | ways.figures


def measure_tuned(mode: str) -> dict[str, float]:
    """A2 by torch.compile in a *mode* of its, while cuDNN tries its algorithms."""
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    network = fold(random_network(spec("A2", "resnet152", wide_convolutions="all")))
    network.requires_grad_(False).to(DEVICE, torch.bfloat16).to(memory_format=torch.channels_last)
    planes = torch.randn(1, 7, *PADDED_PX, device=DEVICE, dtype=torch.bfloat16)
    planes = planes.to(memory_format=torch.channels_last)
    compiled = torch.compile(network, dynamic=False, mode=mode)
    with torch.inference_mode():
        start = time.perf_counter()
        compiled(planes)
        torch.cuda.synchronize()
        compiling_s = time.perf_counter() - start
        return {"compiling_s": compiling_s, "ms": gpu_ms(partial(compiled, planes))}


# In processes of their own, each on one core.


def stainer_on(core: int, folder: Path, on_gpu: bool) -> Stainer:
    """A stainer for this process, bound to *core*; if not *on_gpu*, its networks take no time."""
    import cv2

    os.sched_setaffinity(0, (core,))
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    stainer = Stainer(folder / "bundle", memory_mb=np.inf)
    if not on_gpu:
        for name, predictor in stainer.predictors.items():
            stainer.predictors[name] = replace(predictor, predict=lambda source: source[:1])
    return stainer


def paint(core: int, folder: Path, on_gpu: bool, n_fields: int, barrier: Barrier) -> float:
    """Seconds for each of *n_fields* that this process decodes, paints, encodes and writes."""
    stainer, out = stainer_on(core, folder, on_gpu), folder / f"core-{core}"
    [files] = scan_plate(folder / "plate", targets=()).fields
    out.mkdir(exist_ok=True)
    start = 0.0
    for i in range(n_fields + 2):
        if i == 2:  # the first fields are never like the others
            barrier.wait()
            start = time.perf_counter()
        images = stainer.stain(read_field(files, ()).planes, 20, intensities="matching").images
        for target, image in images.items():
            (out / f"{target}.tif").write_bytes(encode_image(image))
    return (time.perf_counter() - start) / n_fields


def parts(core: int, folder: Path) -> dict[str, float]:
    """Milliseconds of each part of a field that the processor does."""
    stainer = stainer_on(core, folder, on_gpu=False)
    [files] = scan_plate(folder / "plate", targets=()).fields
    planes = read_field(files, ()).planes
    light, of_training = stainer.manifest.scaling(20, BRIGHTFIELD), stainer.manifest.limits["20"]
    padded = pad_to_multiple(planes, DIVISOR)
    source = np.empty((len(padded) + 1, *padded.shape[1:]), dtype=np.float32)
    painted = light.normalise(planes[0])
    scalings = {target: stainer.manifest.scaling(20, target) for target in TARGETS}
    counts = {target: scaling.denormalise(painted) for target, scaling in scalings.items()}

    def normalise() -> None:
        counts = pad_to_multiple(planes, DIVISOR)
        fresh = np.empty((len(counts) + 1, *counts.shape[1:]), dtype=np.float32)
        light.normalise(counts, out=fresh[:-1])

    def write() -> None:
        for target, image in counts.items():
            (folder / f"{target}.tif").write_bytes(encode_image(image))

    runs: dict[str, Callable[[], object]] = {
        "decode": lambda: read_field(files, ()),
        "pad_and_normalise": normalise,
        "mask": lambda: np.copyto(source[-1], pad_to_multiple(painted > 0, DIVISOR)),
        "to_counts": lambda: [scalings[target].denormalise(painted) for target in TARGETS],
        "match_histograms": lambda: stainer.rescale(counts, 20, "matching"),
        "quality": lambda: limits.flags(quality.measure_quality(planes), of_training),
        "encode_and_write": write,
    }
    return {f"{name}_ms": wall_ms(run) for name, run in runs.items()}


def measure_processes(folder: Path, on_gpu: bool) -> dict[str, float]:
    """Fields a second of several processes; without the GPU also the parts of a field."""
    numbers, n_fields = ((1, 2, 4), 12) if on_gpu else ((1, 2), 6)
    planes = full_field(0).planes[:, : FIELD_PX[0], : FIELD_PX[1]]
    write_field(folder / "plate", FieldKey(20, "B03", 1), RawField(planes, {}))
    make_bundle(folder / "bundle", unet_specs("resnet152" if on_gpu else "resnet18", REPORT))
    cores, context = sorted(os.sched_getaffinity(0)), get_context("spawn")
    figures: dict[str, float] = {}
    for n in numbers:
        with ExitStack() as stack:
            barrier = stack.enter_context(context.Manager()).Barrier(n)
            pool = stack.enter_context(ProcessPoolExecutor(n, mp_context=context))
            given = (folder, on_gpu, n_fields, barrier)
            waiting = [pool.submit(paint, cores[i % len(cores)], *given) for i in range(n)]
            field_s = [future.result() for future in waiting]
            figures[f"{n}_processes.fields_per_s"] = sum(1 / took for took in field_s)
            figures[f"{n}_processes.field_ms"] = 1e3 * statistics.mean(field_s)
            if not on_gpu and n == 1:
                figures |= pool.submit(parts, cores[0], folder).result()
    return figures


def main() -> int:
    """Print the figures of what was asked for."""
    arguments = parser(__doc__)
    arguments.add_argument("what", choices=("networks", "tuned", "processor", "shared"))
    arguments.add_argument("--mode", default="max-autotune-no-cudagraphs", help="torch.compile's")
    given = arguments.parse_args()
    if given.what != "processor" and DEVICE.type != "cuda":
        arguments.error(f"{given.what} needs an NVIDIA GPU, and there is none")
    # Plate and images lie in memory, so that no disk is measured.
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:
        if given.what == "networks":
            measured = measure_networks(Path(scratch))
        elif given.what == "tuned":
            measured = measure_tuned(given.mode)
        else:
            measured = measure_processes(Path(scratch), on_gpu=given.what == "shared")
    return report(measured, given.check, **about())


if __name__ == "__main__":
    sys.exit(main())
