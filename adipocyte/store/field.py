"""Preparing one field: read, masked, measured, written."""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adipocyte.errors import ImageError, PlateError
from adipocyte.imaging import quality
from adipocyte.imaging.histograms import counts_histogram
from adipocyte.imaging.masks import nuclei_mask
from adipocyte.plate.reader import FieldFiles, RawField, read_field
from adipocyte.plate.scan import Problem, problem_of
from adipocyte.store.paths import field_path
from adipocyte.store.reader import BRIGHTFIELD
from adipocyte.store.records import Record, read_record, write_record
from adipocyte.store.writer import write_field


@dataclass(frozen=True, kw_only=True)
class Masking:
    """How nuclei masks are made: see `imaging.masks.nuclei_mask`. Lengths in pixels at 20x; they grow with the magnification."""

    threshold: float
    superpixel_px: int
    smallest_px: int


@dataclass(frozen=True)
class FieldTask:
    """One field to prepare into *folder*, the store in the making."""

    folder: Path
    files: FieldFiles
    masking: Masking

    @property
    def made_from(self) -> str:
        """A name for the field's files, by names, sizes and times, and for what is made of them."""
        masking = json.dumps(asdict(self.masking), sort_keys=True)
        return hashlib.sha256(repr([file_fingerprint(path) for path in self.files.paths] + [masking]).encode()).hexdigest()[:16]

    def record(self) -> Record | None:
        """What was measured in the field, or None while it is not finished."""
        return read_record(self.folder, self.files.key, self.made_from)


def file_fingerprint(path: Path) -> tuple[str, int, int]:
    """Name, size and time of a file: enough to tell that nothing changed, without opening it."""
    stat = path.stat()
    return path.name, stat.st_size, stat.st_mtime_ns


def prepare_field(task: FieldTask) -> Problem | None:
    """Write one field and its mask into the store, its record last. Returns what kept it from being prepared, if anything did."""
    key, made_from = task.files.key, task.made_from
    try:
        field = read_field(task.files, tuple(task.files.targets))
        figures = quality.field_figures(field.planes, field.targets)
    except (ImageError, PlateError) as error:
        return problem_of(key, error)
    shutil.rmtree(field_path(task.folder, key), ignore_errors=True)
    write_field(task.folder, key, field, _mask(field.targets["A1"], key.magnification, task.masking))
    record = Record(made_from=made_from, content=_content(field), shape=field.planes.shape[1:], quality=figures)
    write_record(task.folder, key, record, _histograms(field))
    return None


def _mask(nuclei: NDArray[np.uint16], magnification: int, masking: Masking) -> NDArray[np.bool_]:
    zoom = magnification / 20
    smallest_px = round(masking.smallest_px * zoom**2)
    return nuclei_mask(nuclei, threshold=masking.threshold, superpixel_px=masking.superpixel_px * zoom, smallest_px=smallest_px)


def _content(field: RawField) -> str:
    content = hashlib.sha256(repr(field.planes.shape).encode())
    for image in (*field.planes, *field.targets.values()):
        content.update(np.ascontiguousarray(image))
    return content.hexdigest()


def _histograms(field: RawField) -> dict[str, NDArray[np.int64]]:
    brightfield = sum(counts_histogram(plane) for plane in field.planes)  # plane by plane: counting takes eight bytes a pixel
    return {BRIGHTFIELD: brightfield, **{target: counts_histogram(image) for target, image in field.targets.items()}}
