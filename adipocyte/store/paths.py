"""Where things lie inside a prepared store."""

from pathlib import Path

from adipocyte.domain import FieldKey

MASK = "nuclei"
HISTOGRAMS = "histograms.safetensors"
RECORDS = "records"  # while the store is in the making


def plate_path(folder: Path, magnification: int) -> Path:
    return folder / f"{magnification}x.zarr"


def field_path(folder: Path, key: FieldKey) -> Path:
    return (
        plate_path(folder, key.magnification) / key.well[0] / str(int(key.well[1:])) / str(key.fov)
    )


def mask_path(folder: Path, key: FieldKey) -> Path:
    return field_path(folder, key) / "labels" / MASK
