"""How fast a plate is prepared and read.

OMP_NUM_THREADS=1 python -m benchmarks.data [--check]

Four full 20x fields, mirrored from simulated ones of 512 pixels with fresh noise. The temporary
folder needs about 1.2 GB and must lie on a disk, not in memory.
"""

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.exposure import match_histograms

from adipocyte.config import PreprocessConfig
from adipocyte.domain import FieldKey, Window
from adipocyte.imaging.histograms import counts_histogram, match_histogram
from adipocyte.imaging.masks import nuclei_mask
from adipocyte.imaging.normalisation import REPORT_SCALINGS
from adipocyte.plate.fields import RawField, write_field
from adipocyte.preparation.prepare import prepare
from adipocyte.simulation import simulate_field
from adipocyte.store.reader import Store
from benchmarks.report import parser, report

AT_MOST = {"mask_s": 2.5, "prepare_peak_mb": 2000}  # the mask on one core
AT_LEAST = {"matching_to_scikit_image": 10}
SHAPE_PX = (2154, 2554)
WELLS = ("B03", "B04", "C02", "C03")
PATCH_PX, N_PATCHES = 256, 100
WORKERS = 2
_SHIPPED = PreprocessConfig(plate=Path())
MASKING: dict[str, Any] = {
    "threshold": _SHIPPED.mask_threshold,
    "superpixel_px": _SHIPPED.mask_superpixel_px,
    "smallest_px": _SHIPPED.mask_smallest_px,
}


def full_field(seed: int, n_planes: int = 7) -> RawField:
    """A field of the real size and density of nuclei: a simulated one, mirrored, with new noise."""
    field, random = simulate_field(20, (512, 512), seed=seed), np.random.default_rng(seed)

    def spread(image: NDArray[np.uint16]) -> NDArray[np.uint16]:
        mirrored = np.pad(
            image,
            [(0, side - own) for side, own in zip(SHAPE_PX, image.shape, strict=True)],
            mode="symmetric",
        )
        noise = random.normal(0, 8, SHAPE_PX).astype(np.float32)
        return np.clip(mirrored + noise, 0, 65535).astype(np.uint16)

    planes = np.stack([spread(plane) for plane in field.planes[:n_planes]])
    return RawField(planes, {target: spread(image) for target, image in field.targets.items()})


def seconds(run: Callable[[], object], repeats: int = 3) -> float:
    """The fastest of a few runs: what the machine's other guests add is not ours."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def measure_pixels() -> dict[str, float]:
    """Masks, normalisation and histogram matching of one field, the last beside scikit-image's."""
    field, other = full_field(0), full_field(1, n_planes=1)
    image, reference = field.targets["A1"], other.targets["A1"]
    histogram = counts_histogram(reference)
    matching_s = seconds(lambda: match_histogram(image, histogram), repeats=7)
    matching_an_image_s = seconds(
        lambda: match_histogram(image, counts_histogram(reference)), repeats=7
    )
    scikit_image_s = seconds(lambda: match_histograms(image, reference), repeats=7)
    return {
        "mask_s": seconds(lambda: nuclei_mask(image, **MASKING)),
        "normalise_7_planes_s": seconds(lambda: REPORT_SCALINGS[20].normalise(field.planes)),
        "matching_s": matching_s,
        "matching_scikit_image_s": scikit_image_s,
        "matching_to_scikit_image": scikit_image_s
        / matching_s,  # as in use: the reference is a histogram
        "matching_an_image_to_scikit_image": scikit_image_s
        / matching_an_image_s,  # both count the reference's pixels
    }


def write_plate(plate: Path) -> None:
    """Write a field in each of WELLS."""
    for seed, well in enumerate(WELLS):
        write_field(plate, FieldKey(20, well, 1), full_field(seed))


def prepare_plate(plate: Path, folder: Path) -> tuple[float, float]:
    """Prepare *plate* into *folder*: seconds, and the most memory of it and its workers, in MB."""
    start = time.perf_counter()
    prepare(
        PreprocessConfig(
            plate=plate,
            store=folder,
            validation_wells="B03",
            test_wells="B04",
            workers=WORKERS,
        )
    )
    took_s = time.perf_counter() - start
    own, workers = (
        resource.getrusage(who).ru_maxrss / 1024
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return took_s, own + WORKERS * workers


def apart(run: Callable[..., Any], *given: Any) -> Any:
    """What *run* returns from a process of its own, whose memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(run, *given).result()


def make_cold(folder: Path) -> list[Path]:
    """Drop every file under *folder* from the system's memory, and list them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return files


def measure_preparing(plate: Path, folder: Path) -> dict[str, float]:
    """Preparing *plate* into *folder*, beside only reading its bytes, both from a cold disk."""
    files = make_cold(plate)
    start = time.perf_counter()
    for path in files:
        path.read_bytes()
    reading_s = time.perf_counter() - start
    make_cold(plate)
    preparing_s, peak_mb = apart(prepare_plate, plate, folder)
    return {
        "prepare_fields_per_s": len(WELLS) / preparing_s,
        "reading_fields_per_s": len(WELLS) / reading_s,
        "prepare_s_per_field": preparing_s / len(WELLS),
        "prepare_to_reading_s": preparing_s / reading_s,
        "prepare_peak_mb": peak_mb,
    }


def draw_windows(store: Store) -> list[tuple[FieldKey, Window]]:
    """Random patches of the training wells."""
    random, keys = np.random.default_rng(0), store.keys("train")
    windows = []
    for _ in range(N_PATCHES):
        top, left = (int(random.integers(side - PATCH_PX + 1)) for side in SHAPE_PX)
        windows.append(
            (keys[random.integers(len(keys))], np.s_[top : top + PATCH_PX, left : left + PATCH_PX])
        )
    return windows


def read_store(folder: Path, windows: list[tuple[FieldKey, Window]]) -> None:
    """What training reads: all channels and the mask."""
    store = Store(folder)
    for key, window in windows:
        store.planes_and_targets(key, ["A2"], window)
        store.mask(key, window)


def read_arrays(folder: Path, windows: list[tuple[FieldKey, Window]]) -> None:
    """The same from plain arrays that are mapped into memory."""
    arrays = {key: np.load(folder / f"{key}.npy", mmap_mode="r") for key, _ in windows}
    for key, window in windows:
        np.array(arrays[key][(slice(None), *window)])


def write_arrays(folder: Path, prepared: Path) -> None:
    """Each training field as one (C, Y, X) array, its mask the last channel."""
    store = Store(prepared)
    folder.mkdir()
    for key in store.keys("train"):
        targets = [store.target(key, target) for target in store.manifest.targets]
        np.save(
            folder / f"{key}.npy",
            np.stack([*store.planes(key), *targets, store.mask(key).astype(np.uint16)]),
        )


def measure_patches(prepared: Path, arrays: Path) -> dict[str, float]:
    """Patches per second, cold and warm, from the store and from plain arrays."""
    write_arrays(arrays, prepared)
    windows, figures = draw_windows(Store(prepared)), {}
    for name, read, folder in (("store", read_store, prepared), ("array", read_arrays, arrays)):
        make_cold(folder)
        figures[f"{name}_patches_per_s_cold"] = N_PATCHES / seconds(
            lambda read=read, folder=folder: read(folder, windows), repeats=1
        )
        figures[f"{name}_patches_per_s_warm"] = N_PATCHES / seconds(
            lambda read=read, folder=folder: read(folder, windows)
        )
    for state in ("cold", "warm"):
        figures[f"store_to_array_{state}"] = (
            figures[f"store_patches_per_s_{state}"] / figures[f"array_patches_per_s_{state}"]
        )
    return figures


def measure() -> dict[str, float]:
    """Every figure, all from this one run."""
    with tempfile.TemporaryDirectory() as scratch:
        plate, prepared, arrays = (Path(scratch) / name for name in ("plate", "prepared", "arrays"))
        apart(write_plate, plate)
        figures = measure_preparing(
            plate, prepared
        )  # first: a new process inherits the peak of the one that starts it
        figures |= measure_patches(prepared, arrays)
    return figures | measure_pixels()


def main() -> int:
    """Print the figures; with --check, compare them with what is required."""
    check = parser(__doc__).parse_args().check
    return report(measure(), check, at_most=AT_MOST, at_least=AT_LEAST, shape_px=SHAPE_PX)


if __name__ == "__main__":
    sys.exit(main())
