"""Preparing one field: read, masked, measured, written."""

import hashlib
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adipocyte.domain import BRIGHTFIELD, FieldKey, as_in_challenge
from adipocyte.errors import ImageError, PlateError
from adipocyte.imaging import quality
from adipocyte.imaging.histograms import N_COUNTS, counts_histogram
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
from adipocyte.system.files import short_digest


@dataclass(frozen=True, kw_only=True)
class Masking:
    """How nuclei masks are made (see `imaging.masks.nuclei_mask`).

    `superpixel_px` and `smallest_px` are lengths and areas at 20x, which grow as pixels get
    smaller.
    """

    threshold: float
    superpixel_px: int
    smallest_px: int


@dataclass(frozen=True)
class FieldTask:
    """One field to prepare into `folder`, the store in the making.

    `made_from` names what the field is made from (see the function of that name).
    """

    folder: Path
    files: FieldFiles
    masking: Masking
    made_from: str

    def record(self) -> FieldRecord | None:
        """The record of the field, or None if it is not finished."""
        return read_record(self.folder, self.files.key, self.made_from)


def made_from(files: FieldFiles, masking: Masking) -> str:
    """Name what a field is made from: its files, by name, size and time, and the settings."""
    shown = [RECORD_FORMAT, str(files.key), files.fingerprints, [*files.targets], files.um_per_px]
    return short_digest([*shown, asdict(masking)])


def prepare_field(task: FieldTask) -> Problem | None:
    """Write one field and its mask into the store, its record last.

    Returns the problem that kept it from being prepared, None if there was none.
    """
    key = task.files.key
    # An older record must not describe the pixels that are written now.
    remove_record(task.folder, key)
    try:
        field = read_field(task.files, tuple(task.files.targets))
        measures = quality.measure_quality(field.planes, field.targets)
    except (ImageError, PlateError) as error:
        return problem_of(key, error)
    if made_from(task.files, task.masking) != task.made_from:
        return Problem(
            str(key),
            "changed while it was prepared",
            "run the same command again, when no other program writes to the plate",
        )
    shutil.rmtree(field_path(task.folder, key), ignore_errors=True)
    nuclei = field.targets.get("A1")
    um_per_px, mask = task.files.um_per_px, None
    if nuclei is not None:
        mask = mask_of(nuclei, key.magnification, um_per_px, task.masking)
    write_field(task.folder, key, field, mask, um_per_px)
    _, height, width = field.planes.shape
    record = FieldRecord(
        made_from=task.made_from,
        content=_content(field),
        shape=(height, width),
        quality=measures,
    )
    write_record(task.folder, key, record, _histograms(field))
    return None


def keep_only(folder: Path, keys: set[FieldKey]) -> None:
    """Remove every field but *keys* from a store in the making.

    An interrupted preparation of another plate may have left some.
    """
    kept = {field_path(folder, key) for key in keys}
    kept |= {part for path in kept for part in path.parents}
    for level in ("*.zarr", "*.zarr/?", "*.zarr/?/*", "*.zarr/?/*/*"):
        for path in folder.glob(level):
            if path.is_dir() and path not in kept:
                shutil.rmtree(path)
    keep_records(folder, keys)


def mask_of(
    nuclei: NDArray[np.uint16], magnification: int, um_per_px: float, masking: Masking
) -> NDArray[np.bool_]:
    """The nuclei mask of a stain, (Y, X) in counts; *masking* is scaled to its objective."""
    alike, zoom = as_in_challenge(magnification, um_per_px)
    finer = alike / 20 / zoom  # than at 20x
    return nuclei_mask(
        nuclei,
        threshold=masking.threshold,
        superpixel_px=masking.superpixel_px * finer,
        smallest_px=round(masking.smallest_px * finer**2),
    )


def _content(field: RawField) -> str:
    content = hashlib.sha256(repr(field.planes.shape).encode())
    for image in (*field.planes, *field.targets.values()):
        content.update(np.ascontiguousarray(image).data)
    return content.hexdigest()


def _histograms(field: RawField) -> dict[str, NDArray[np.int64]]:
    brightfield = np.zeros(N_COUNTS, dtype=np.int64)
    for plane in field.planes:  # one at a time, because counting takes eight bytes a pixel
        brightfield += counts_histogram(plane)
    stains = {target: counts_histogram(image) for target, image in field.targets.items()}
    return {BRIGHTFIELD: brightfield, **stains}
