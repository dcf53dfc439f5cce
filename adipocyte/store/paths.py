"""Where things lie inside a prepared store."""

from pathlib import Path

from adipocyte.domain import FieldKey, row_and_column
from adipocyte.plate.names import zarr_folder

MASK = "nuclei"
HISTOGRAMS = "histograms.safetensors"
RECORDS = "records"  # only while the store is made


def plate_path(folder: Path, magnification: int) -> Path:
    """The OME-Zarr plate of a magnification."""
    return folder / zarr_folder(magnification)


def field_name(key: FieldKey) -> str:
    """The name of a field in its well: "1", at a later time "1T0002"."""
    return f"{key.fov}{key.time_mark}"


def field_path(folder: Path, key: FieldKey) -> Path:
    """The OME-Zarr image of a field."""
    row, column = row_and_column(key.well)
    return plate_path(folder, key.magnification) / row / str(column) / field_name(key)


def mask_path(folder: Path, key: FieldKey) -> Path:
    """The OME-Zarr label of a field's nuclei."""
    return field_path(folder, key) / "labels" / MASK
