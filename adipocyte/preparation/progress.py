"""Records of prepared fields, kept beside the pixels until the store is whole.

A field that has a record is finished.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from adipocyte.domain import FieldKey
from adipocyte.store.paths import RECORDS, field_name
from adipocyte.system.files import open_regular, parse_json, replacing
from adipocyte.system.tensors import disk_errors

# Of records and of everything that is made of a field. A field whose record has another number is
# prepared again.
RECORD_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class FieldRecord:
    """What was measured in one field.

    `made_from` names the field's files and settings, `content` its pixels. `shape` is (Y, X) in
    pixels. `quality` holds the measures of `imaging.quality`.
    """

    made_from: str
    content: str
    shape: tuple[int, int]
    quality: dict[str, float]


def write_record(
    folder: Path, key: FieldKey, record: FieldRecord, histograms: dict[str, NDArray[np.int64]]
) -> None:
    """Write *record* whole or not at all, with a histogram, (65536,), of each channel's counts."""
    path = _path(folder, key)
    with replacing(path) as partial, disk_errors(path):
        save_file(histograms, partial, {"record": json.dumps(asdict(record))})


def read_record(folder: Path, key: FieldKey, made_from: str) -> FieldRecord | None:
    """The record of a field, or None if there is none or the field was made from something else."""
    path = _path(folder, key)
    try:
        open_regular(path).close()  # safetensors would open anything
        with safe_open(path, "numpy") as file:
            content = parse_json(file.metadata()["record"].encode())
            if content["made_from"] != made_from:
                return None
            return FieldRecord(**content | {"shape": tuple(content["shape"])})
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def read_histograms(folder: Path, key: FieldKey) -> dict[str, NDArray[np.int64]]:
    """The histograms, (65536,) by channel, that lie in a field's record."""
    return load_file(_path(folder, key))


def remove_record(folder: Path, key: FieldKey) -> None:
    """Make a field unfinished."""
    _path(folder, key).unlink(missing_ok=True)


def keep_records(folder: Path, keys: set[FieldKey]) -> None:
    """Remove the records of all fields but *keys*."""
    kept = {_path(folder, key) for key in keys}
    for path in (folder / RECORDS).glob("*.safetensors"):
        if path not in kept:
            path.unlink()


def _path(folder: Path, key: FieldKey) -> Path:
    name = f"{key.magnification}x_{key.well}_{field_name(key)}.safetensors"
    return folder / RECORDS / name
