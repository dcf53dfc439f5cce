"""Preparing one field: read, masked, measured, written."""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adipocyte.domain import BRIGHTFIELD, FieldKey
from adipocyte.errors import ImageError, PlateError
from adipocyte.imaging import quality
from adipocyte.imaging.histograms import counts_histogram
from adipocyte.imaging.masks import nuclei_mask
from adipocyte.plate.fields import FieldFiles, RawField, read_field
from adipocyte.plate.problems import Problem, problem_of
from adipocyte.preparation.progress import (
    RECORD_FORMAT,
    FieldRecord,
    keep_records,
    read_record,
    remove_record,
    write_record,
)
from adipocyte.store.paths import field_path
from adipocyte.store.writer import write_field


@dataclass(frozen=True, kw_only=True)
class Masking:
    """How nuclei masks are made: see `imaging.masks.nuclei_mask`. Lengths in pixels at 20x; they grow with the magnification."""

    threshold: float
    superpixel_px: int
    smallest_px: int


@dataclass(frozen=True)
class FieldTask:
    """One field to prepare into *folder*, the store in the making, and a name for what it is made from."""

    folder: Path
    files: FieldFiles
    masking: Masking
    made_from: str

    def record(self) -> FieldRecord | None:
        """What was measured in the field, or None while it is not finished."""
        return read_record(self.folder, self.files.key, self.made_from)


def made_from(files: FieldFiles, masking: Masking) -> str:
    """A name for a field's files, by names, sizes and times, and for what is made of them."""
    named = [
        RECORD_FORMAT,
        str(files.key),
        [file_fingerprint(path) for path in files.paths],
        asdict(masking),
    ]
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:16]


def file_fingerprint(path: Path) -> tuple[str, int, int]:
    """Name, size and time of a file: enough to tell that nothing changed, without opening it."""
    if not path.exists():
        return str(path), 0, 0
    stat = path.stat()
    return path.name, stat.st_size, stat.st_mtime_ns


def prepare_field(task: FieldTask) -> Problem | None:
    """Write one field and its mask into the store, its record last. Returns what kept it from being prepared, if anything did."""
    key = task.files.key
    remove_record(
        task.folder, key
    )  # of other files or settings: it must not speak for the pixels that are written now
    try:
        field = read_field(task.files, tuple(task.files.targets))
        figures = quality.measure_quality(field.planes, field.targets)
    except (ImageError, PlateError) as error:
        return problem_of(key, error)
    if made_from(task.files, task.masking) != task.made_from:
        return Problem(
            str(key),
            "changed while it was prepared",
            "run the same command again, once nobody writes to the plate",
        )
    shutil.rmtree(field_path(task.folder, key), ignore_errors=True)
    write_field(
        task.folder, key, field, _mask(field.targets["A1"], key.magnification, task.masking)
    )
    record = FieldRecord(
        made_from=task.made_from,
        content=_content(field),
        shape=field.planes.shape[1:],
        quality=figures,
    )
    write_record(task.folder, key, record, _histograms(field))
    return None


def keep_only(folder: Path, keys: set[FieldKey]) -> None:
    """Remove every field of a store in the making but *keys*: what an interrupted preparation of another plate has left."""
    kept = {field_path(folder, key) for key in keys}
    kept |= {part for path in kept for part in path.parents}
    for level in ("*.zarr", "*.zarr/?", "*.zarr/?/*", "*.zarr/?/*/*"):
        for path in folder.glob(level):
            if path.is_dir() and path not in kept:
                shutil.rmtree(path)
    keep_records(folder, keys)


def _mask(nuclei: NDArray[np.uint16], magnification: int, masking: Masking) -> NDArray[np.bool_]:
    zoom = magnification / 20
    smallest_px = round(masking.smallest_px * zoom**2)
    return nuclei_mask(
        nuclei,
        threshold=masking.threshold,
        superpixel_px=masking.superpixel_px * zoom,
        smallest_px=smallest_px,
    )


def _content(field: RawField) -> str:
    content = hashlib.sha256(repr(field.planes.shape).encode())
    for image in (*field.planes, *field.targets.values()):
        content.update(np.ascontiguousarray(image))
    return content.hexdigest()


def _histograms(field: RawField) -> dict[str, NDArray[np.int64]]:
    brightfield = sum(
        counts_histogram(plane) for plane in field.planes
    )  # plane by plane: counting takes eight bytes a pixel
    return {
        BRIGHTFIELD: brightfield,
        **{target: counts_histogram(image) for target, image in field.targets.items()},
    }
