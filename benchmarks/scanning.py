"""How fast a plate is scanned before any work: files a second, and memory.

    python -m benchmarks.scanning [--check] [--files 100000] [--latency_ms 0]    # minutes

A plate of tiny TIFFs in the challenge's layout, ten for each field. Each way has a process of its
own: `sequential` reads one header after the other, `parallel` is the scan as it is, listing and
comparing included. A network disk answers later than this one: `--latency_ms` waits so long before
each file is opened.
"""

import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from io import BufferedReader
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from adipocyte.domain import ROWS, FieldKey
from adipocyte.plate import tiff
from adipocyte.plate.fields import RawField, write_field
from adipocyte.plate.layouts.auto import AUTO, list_plate
from adipocyte.plate.scan import scan_plate
from benchmarks.report import parser, report

FILES_OF_FIELD = 10
N_COLUMNS, N_WELLS = 48, 1536
AT_LEAST = {"parallel_to_sequential": 0.7}  # on a disk that answers at once nothing is gained
AT_MOST = {"parallel_mb_for_100000_files": 600}


def write_plate(plate: Path, n_files: int) -> None:
    """Write *n_files* TIFFs, which have the same bytes, under the challenge's names."""
    noise = np.random.default_rng(0).integers(0, 65536, (8, 8), dtype=np.uint16)
    planes, stains = np.stack([noise] * 7), dict.fromkeys(("A1", "A2", "A3"), noise)
    write_field(plate, FieldKey(20, "B03", 1), RawField(planes, stains))
    files = {path.name: path.read_bytes() for path in (plate / "20x_images").iterdir()}
    for number in range(1, n_files // FILES_OF_FIELD):
        row, column = divmod(number % N_WELLS, N_COLUMNS)
        well, fov = f"{ROWS[row]}{column + 1:02d}", 2 + number // N_WELLS
        for name, content in files.items():
            renamed = name.replace("_B03_", f"_{well}_").replace("F001", f"F{fov:03d}")
            (plate / "20x_images" / renamed).write_bytes(content)


def wait_before_opening(latency_ms: float) -> None:
    """Let every file of a plate be opened that much later, in this process."""
    opened = tiff.open_regular

    def late(path: Path) -> BufferedReader:
        time.sleep(latency_ms / 1000)
        return opened(path)

    if latency_ms:
        vars(tiff)[opened.__name__] = late


def sequential(plate: Path) -> int:
    """Read one header after the other. Returns how many."""
    paths = [image.path for image in list_plate(plate, AUTO).images]
    return len([tiff.read_header(path) for path in paths])


def parallel(plate: Path) -> int:
    """Scan a plate. Returns how many files its fields have."""
    scanned = scan_plate(plate)
    if scanned.problems:
        raise SystemExit(f"the plate has {len(scanned.problems)} problems: {scanned.problems[0]}")
    return sum(len(files.paths) for files in scanned.fields)


WAYS = {"sequential": sequential, "parallel": parallel}


def measure(way: str, plate: Path, latency_ms: float) -> dict[str, float]:
    """Files a second of a *way*, and how much memory it takes beyond the process itself, in MB."""
    wait_before_opening(latency_ms)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    n_files = WAYS[way](plate)
    seconds = time.perf_counter() - start
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    return {
        f"{way}_files_per_s": n_files / seconds,
        f"{way}_s": seconds,
        f"{way}_mb_for_100000_files": grown_kb / 1000 * 100_000 / n_files,
    }


def main() -> int:
    """Write a plate and scan it both ways, each in a process of its own."""
    made = parser(__doc__)
    made.add_argument("--files", type=int, default=100_000, help="how many TIFFs (100000)")
    made.add_argument("--latency_ms", type=float, default=0, help="before each is opened (0)")
    args = made.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        plate = Path(folder) / "plate"
        write_plate(plate, args.files)
        for way in WAYS:
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                figures |= process.submit(measure, way, plate, args.latency_ms).result()
    figures["parallel_to_sequential"] = (
        figures["parallel_files_per_s"] / figures["sequential_files_per_s"]
    )
    about = {"files": args.files, "latency_ms": args.latency_ms}
    return report(figures, args.check, at_least=AT_LEAST, at_most=AT_MOST, **about)


if __name__ == "__main__":
    sys.exit(main())
