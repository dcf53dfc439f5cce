"""How much memory painting a field takes, beside the prediction, and how fast a bundle loads.

    python -m benchmarks.painting [case …]

Each case runs in a process of its own, with random networks: ResNet-18 as in the fast recipe, and
the report's four of ResNet-152. Measured is the peak of resident memory (VmHWM, reset after the
bundle is loaded) above what was resident then. The temporary folder needs about 1.7 GB. Without
arguments all cases run but `10000`, a field of 10,000 x 10,000 pixels that takes half an hour.
"""

import argparse
import ctypes
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from adipocyte.domain import SEGMENTER
from adipocyte.staining.stainer import Stainer
from tests.support.bundles import NARROW, make_bundle, unet_specs

REPORT = {SEGMENTER: "none", "A1": "last", "A2": "all", "A3": "all"}  # 5x5 convolutions, Table 4.2
BUNDLES = {  # encoder, 5x5 convolutions, storage
    "resnet18": ("resnet18", NARROW, "float32"),
    "resnet152": ("resnet152", REPORT, "float32"),
    "resnet152-bfloat16": ("resnet152", REPORT, "bfloat16"),
}
# The bundle, the field's (Y, X), how it is painted.
CASES: dict[str, tuple[str, tuple[int, int], dict[str, Any]]] = {
    "18-512": ("resnet18", (512, 512), {}),
    "18-1024": ("resnet18", (1024, 1024), {}),
    "18-full": ("resnet18", (2154, 2554), {}),
    "18-full-tiles": ("resnet18", (2154, 2554), {"tile_px": 1536}),
    "18-full-A2": ("resnet18", (2154, 2554), {"targets": ["A2"]}),
    "18-1024-tta": ("resnet18", (1024, 1024), {"tta": True, "targets": ["A2"]}),
    "152-512": ("resnet152", (512, 512), {}),
    "152-1024": ("resnet152", (1024, 1024), {}),
    "152-1536-tiles": ("resnet152", (1536, 1536), {"tile_px": 1152, "targets": ["A2"]}),
    "152-512-bfloat16": ("resnet152-bfloat16", (512, 512), {}),
    "10000": ("resnet18", (10_000, 10_000), {"tile_px": 2048, "targets": ["A2"]}),
}


def resident_mb(name: str) -> float:
    """`VmRSS` (now) or `VmHWM` (at most) of this process, in MB of 10^6 bytes."""
    [kib] = re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kib) * 1024 / 1e6


def noise(height: int, width: int) -> np.ndarray:
    """A stack of the size of a field, (7, *height*, *width*) in counts."""
    cell = np.random.default_rng(0).integers(1000, 3000, (7, 500, 500), dtype=np.uint16)
    return np.tile(cell, (1, -(-height // 500), -(-width // 500)))[:, :height, :width].copy()


def measure(case: str, folder: Path) -> None:
    """Print one case's line."""
    bundle, (height, width), options = CASES[case]
    start = time.perf_counter()
    stainer = Stainer(folder / bundle, memory_mb=np.inf)
    loaded_s = time.perf_counter() - start
    planes = noise(height, width)
    predicted = stainer.memory_needed_mb((height, width), **options)
    ctypes.CDLL(None).malloc_trim(0)  # what loading left unused would hide what painting takes
    Path("/proc/self/clear_refs").write_text("5")
    before, start = resident_mb("VmRSS"), time.perf_counter()
    stainer.stain(planes, 20, intensities="matching", **options)
    took_s, measured = time.perf_counter() - start, resident_mb("VmHWM") - before
    print(
        f"{case:17s} loaded in {loaded_s:4.1f} s, predicted {predicted:5.0f} MB, "
        f"measured {measured:5.0f} MB ({predicted / measured:.2f}), "
        f"painted in {took_s:.0f} s",
        flush=True,
    )


def main() -> None:
    """Make the bundles that the cases need, and measure each in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="case", help=", ".join(CASES))
    parser.add_argument(
        "--folder", type=Path, help="measure the case with the bundles there, in this process"
    )
    arguments = parser.parse_args()
    cases = arguments.cases or [case for case in CASES if case != "10000"]
    if unknown := set(cases) - set(CASES):
        parser.error(f"there is no case {', '.join(sorted(unknown))}, only {', '.join(CASES)}")
    if arguments.folder:
        for case in cases:
            measure(case, arguments.folder)
        return
    with tempfile.TemporaryDirectory() as scratch:
        for bundle in {CASES[case][0] for case in cases}:
            encoder, wide, storage = BUNDLES[bundle]
            make_bundle(Path(scratch) / bundle, unet_specs(encoder, wide), storage=storage)
        for case in cases:
            subprocess.run(
                [sys.executable, "-m", "benchmarks.painting", case, "--folder", scratch], check=True
            )


if __name__ == "__main__":
    main()
