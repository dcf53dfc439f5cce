"""From a raw plate to a prepared store, field by field."""

import hashlib
import json
import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tqdm import tqdm

from adipocyte.config import MAGNIFICATIONS, N_Z_PLANES, TARGETS
from adipocyte.errors import PlateError, StoreError
from adipocyte.imaging.histograms import N_COUNTS, counts_histogram, mean_and_std, median
from adipocyte.imaging.masks import nuclei_mask
from adipocyte.imaging.normalisation import REPORT_SCALINGS
from adipocyte.plate.reader import FieldFiles, FieldKey, read_field, scan_plate
from adipocyte.store.manifest import Manifest, read_manifest, write_manifest
from adipocyte.store.paths import HISTOGRAMS, plate_path
from adipocyte.store.reader import BRIGHTFIELD, Store
from adipocyte.store.split import split_wells
from adipocyte.store.writer import create_plates, write_field

Histograms = dict[str, NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True)
class Masking:
    """How nuclei masks are made: see `imaging.masks.nuclei_mask`. Lengths in pixels at 20x; they grow with the magnification."""

    threshold: float
    superpixel_px: int
    smallest_px: int


def prepare(
    plate: Path,
    folder: Path,
    *,
    masking: Masking,
    normalisation: str,
    validation_wells: tuple[str, ...],
    test_wells: tuple[str, ...],
    seed: int,
) -> Store:
    """Prepare the raw *plate* into *folder* and open it. A whole store of the same plate and settings is left as it is.

    The work goes on beside *folder*, which is replaced when it is done; the plate is only read. *normalisation* is "plate"
    (brightfield constants measured on the training wells) or "report" (Table 3.1).

    Raises PlateError and ImageError for what is wrong with the plate, ConfigError for wells that it does not have, StoreError
    when *folder* holds anything but a store.
    """
    files = scan_plate(plate)
    targets = _common_targets(files)
    split = split_wells([field.key.well for field in files], validation_wells, test_wells, seed)
    settings = {"masking": vars(masking), "normalisation": normalisation, "split": {part: list(wells) for part, wells in split.items()}}
    source = {"plate": str(plate.resolve()), "files": _fingerprint(files)}
    if _is_prepared(folder, source, settings):
        return Store(folder)

    _check_trained(files, split["train"])

    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shapes, histograms, content = _write_fields(partial, files, targets, masking, split["train"])
    save_file(histograms, partial / HISTOGRAMS)
    manifest = Manifest(
        digest=hashlib.sha256(content + json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16],
        source=source,
        settings=settings,
        n_z_planes=N_Z_PLANES,
        targets=targets,
        split=split,
        fields=shapes,
        scalings=_scalings(histograms, normalisation),
        medians=_by_channel({name: median(histogram) for name, histogram in histograms.items()}),
    )
    _check_medians(manifest)
    write_manifest(partial, manifest)
    _replace(folder, partial)
    return Store(folder)


def _write_fields(
    folder: Path, files: list[FieldFiles], targets: tuple[str, ...], masking: Masking, training_wells: tuple[str, ...]
) -> tuple[dict[FieldKey, tuple[int, int]], Histograms, bytes]:
    """Write every field. Returns their shapes, the training wells' histograms by "20/A1" and a hash of all pixels."""
    create_plates(folder, [field.key for field in files])
    shapes: dict[FieldKey, tuple[int, int]] = {}
    histograms: Histograms = defaultdict(lambda: np.zeros(N_COUNTS, dtype=np.int64))
    content = hashlib.sha256()
    for field_files in tqdm(files, desc="preprocess", unit="field"):
        key, field = field_files.key, read_field(field_files, targets)
        write_field(folder, key, field, _mask(field.targets["A1"], key.magnification, masking))
        shapes[key] = field.planes.shape[1:]
        content.update(f"{key} {shapes[key]}".encode())
        for image in (field.planes, *field.targets.values()):
            content.update(np.ascontiguousarray(image))
        if key.well in training_wells:
            for channel, image in {BRIGHTFIELD: field.planes, **field.targets}.items():
                histograms[f"{key.magnification}/{channel}"] += counts_histogram(image)
    return shapes, dict(histograms), content.digest()


def _common_targets(files: list[FieldFiles]) -> tuple[str, ...]:
    """All targets that any field has; `read_field` then names the first field that lacks one."""
    targets = tuple(target for target in TARGETS if any(target in field.targets for field in files))
    if "A1" not in targets:
        found = f"only {', '.join(targets)}" if targets else "no stain at all"
        raise PlateError(f"the plate has {found}: training needs at least A1 (nuclei, channel C01), from which the masks are made")
    return targets


def _fingerprint(files: list[FieldFiles]) -> str:
    """Names, sizes and times of the plate's files: enough to tell that nothing changed, without opening them."""
    stats = [(path.name, path.lstat()) for field in files for path in field.paths.values()]
    return hashlib.sha256(repr([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]).encode()).hexdigest()[:16]


def _is_prepared(folder: Path, source: dict[str, str], settings: dict[str, Any]) -> bool:
    if not folder.exists():
        return False
    if not folder.is_dir() or not _is_ours({path.name for path in folder.iterdir() if not path.name.startswith(".")}):
        raise StoreError(f"{folder} holds something that is no prepared store: name another folder with -P store=<folder>, or remove it")
    try:
        manifest = read_manifest(folder)
    except StoreError:
        return False
    return manifest.source == source and manifest.settings == settings


def _is_ours(names: set[str]) -> bool:
    """Whether a folder that holds *names* is empty or a store: what is replaced must hold nothing else."""
    own = {"manifest.json", HISTOGRAMS}
    return not names or own <= names <= own | {plate_path(Path(), magnification).name for magnification in MAGNIFICATIONS}


def _mask(nuclei: NDArray[np.uint16], magnification: int, masking: Masking) -> NDArray[np.bool_]:
    zoom = magnification / 20
    smallest_px = round(masking.smallest_px * zoom**2)
    return nuclei_mask(nuclei, threshold=masking.threshold, superpixel_px=masking.superpixel_px * zoom, smallest_px=smallest_px)


def _check_trained(files: list[FieldFiles], training_wells: tuple[str, ...]) -> None:
    trained = {field.key.magnification for field in files if field.key.well in training_wells}
    for magnification in sorted({field.key.magnification for field in files} - trained):
        raise PlateError(
            f"no training well has a field at {magnification}x: every magnification needs one. Choose the split with "
            "-P validation_wells=… -P test_wells=…"
        )


def _check_medians(manifest: Manifest) -> None:
    for magnification, medians in manifest.medians.items():
        for channel, counts in medians.items():
            if not counts:
                raise PlateError(
                    f"the median of {channel} at {magnification}x is 0 counts over the training wells, so MAE / median, which "
                    "chooses networks, has no value: give the plate as the camera wrote it, without background subtracted"
                )


def _scalings(histograms: Histograms, normalisation: str) -> dict[str, dict[str, tuple[float, float]]]:
    scalings = _by_channel({name: mean_and_std(histogram) for name, histogram in histograms.items()})
    if normalisation == "report":
        for magnification, channels in scalings.items():
            constants = REPORT_SCALINGS[int(magnification)]
            channels[BRIGHTFIELD] = (constants.mean, constants.std)
    return scalings


def _by_channel(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """{"20/A1": value} → {"20": {"A1": value}}."""
    nested: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, value in values.items():
        magnification, channel = name.split("/")
        nested[magnification][channel] = value
    return dict(nested)


def _replace(folder: Path, partial: Path) -> None:
    old = folder.with_name(folder.name + ".old.partial")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
