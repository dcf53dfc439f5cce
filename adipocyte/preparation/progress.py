"""What was measured in one prepared field, kept beside its pixels until the store is whole. A field with a record is finished."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from adipocyte.domain import FieldKey
from adipocyte.store.paths import RECORDS

RECORD_FORMAT = 1  # of records and of all that is made of a field: a field that older code has prepared is prepared again


@dataclass(frozen=True, kw_only=True)
class FieldRecord:
    """`made_from` names the files and settings of the field, `content` its pixels; `shape` is (Y, X) in pixels.

    `quality` holds the figures of `imaging.quality`.
    """

    made_from: str
    content: str
    shape: tuple[int, int]
    quality: dict[str, float]


def write_record(
    folder: Path, key: FieldKey, record: FieldRecord, histograms: dict[str, NDArray[np.int64]]
) -> None:
    """Write *record*, and how many pixels of each channel have each count, (65536,), whole or not at all."""
    path = _path(folder, key)
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    save_file(histograms, partial, {"record": json.dumps(asdict(record))})
    os.replace(partial, path)


def read_record(folder: Path, key: FieldKey, made_from: str) -> FieldRecord | None:
    """The record of a field, or None when there is none or it was made from something else."""
    try:
        with safe_open(_path(folder, key), "numpy") as file:
            content = json.loads(file.metadata()["record"])
            if content["made_from"] != made_from:
                return None
            return FieldRecord(**content | {"shape": tuple(content["shape"])})
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def read_histograms(folder: Path, key: FieldKey) -> dict[str, NDArray[np.int64]]:
    """The histograms, (65536,) by channel, that were written with a field's record."""
    return load_file(_path(folder, key))


def remove_record(folder: Path, key: FieldKey) -> None:
    """Let a field be unfinished."""
    _path(folder, key).unlink(missing_ok=True)


def keep_records(folder: Path, keys: set[FieldKey]) -> None:
    """Remove the records of all fields but *keys*."""
    kept = {_path(folder, key) for key in keys}
    for path in (folder / RECORDS).glob("*.safetensors"):
        if path not in kept:
            path.unlink()


def _path(folder: Path, key: FieldKey) -> Path:
    return folder / RECORDS / f"{key.magnification}x_{key.well}_{key.fov}.safetensors"
