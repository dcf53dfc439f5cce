"""Tables of measured fields, a file for each, so that a stopped measurement can be continued."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from adipocyte.domain import FieldKey
from adipocyte.evaluation.cellprofiler.objects import IMAGE, KINDS, Table, columns_of
from adipocyte.evaluation.reality import OWN_STAIN, Predictors
from adipocyte.system.files import replacing
from adipocyte.system.tensors import disk_errors

PARTS, _PREDICTORS = "fields", "predictors"
PART_FORMAT = 3  # of the parts and of everything in them: fields with another one are measured anew


def write_part(
    out: Path, key: FieldKey, made_of: str, tables: Mapping[str, Table], predictors: Predictors
) -> None:
    """Write the *tables* of a field, and the *predictors* of its objects, whole or not at all.

    *made_of* names its files and settings.
    """
    path = _path(out, key)
    columns = {
        f"{name}/{column}": values
        for name, table in tables.items()
        for column, values in table.items()
    }
    columns |= {f"{_PREDICTORS}/{name}": values for name, values in predictors.items()}
    with replacing(path) as partial, disk_errors(path):
        save_file(columns, partial, {"made_of": made_of})


def has_part(out: Path, key: FieldKey, made_of: str) -> bool:
    """Whether the field was measured from just these files with these settings."""
    try:
        with safe_open(_path(out, key), "numpy") as file:
            return (file.metadata() or {}).get("made_of") == made_of
    except (FileNotFoundError, SafetensorError):
        return False


def read_part(out: Path, key: FieldKey) -> tuple[dict[str, Table], Predictors]:
    """The tables of a measured field, and the predictors of its objects."""
    columns = load_file(_path(out, key))
    tables = {
        name: {column: columns[f"{name}/{column}"] for column in columns_of(name)}
        for name in (*KINDS, IMAGE)
    }
    places = {name: f"{_PREDICTORS}/{name}" for name in OWN_STAIN}
    return tables, {name: columns[place] for name, place in places.items() if place in columns}


def _path(out: Path, key: FieldKey) -> Path:
    return (
        out / PARTS / f"{key.magnification}x_{key.well}_F{key.fov:03d}{key.time_mark}.safetensors"
    )
