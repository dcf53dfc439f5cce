"""Writing fields as OME-Zarr (NGFF 0.5) plates: `20x.zarr/<row>/<column>/<field>`."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray
from ome_zarr.writer import write_label_metadata

from adipocyte.domain import TARGETS, FieldKey
from adipocyte.plate.fields import RawField
from adipocyte.store.ngff import (
    create_image,
    describe_channels,
    describe_plate,
    middle_channel,
    ome,
    plane_channels,
)
from adipocyte.store.paths import MASK, field_path, plate_path

_CHUNK_PX = 256


def describe_plates(folder: Path, keys: Iterable[FieldKey]) -> None:
    """List all fields of *folder*, which are *keys*, in the metadata of its plates and wells."""
    plates: dict[int, dict[str, list[FieldKey]]] = defaultdict(lambda: defaultdict(list))
    for key in keys:
        plates[key.magnification][key.well].append(key)
    for magnification, wells in plates.items():
        group = zarr.open_group(plate_path(folder, magnification), mode="a", zarr_format=3)
        describe_plate(group, wells)


def write_field(
    folder: Path,
    key: FieldKey,
    field: RawField,
    mask: NDArray[np.bool_] | None,
    um_per_px: float,
) -> None:
    """Write one field's counts and its nuclei *mask* (Y, X), if it has one, as a label.

    The channels are the planes, Z1 …, then the targets; pixels are of *um_per_px*.
    """
    channels = plane_channels(field.planes) | field.targets
    stack = np.stack([*channels.values()])  # (C, Y, X)
    group = zarr.open_group(field_path(folder, key), mode="w", zarr_format=3)
    _write_image(group, stack, "cyx", key, um_per_px)
    describe_channels(group, channels, (middle_channel(len(field.planes)), *TARGETS))
    if mask is None:
        return
    labels = group.require_group("labels")
    _write_image(labels.require_group(MASK), mask.astype(np.uint8), "yx", key, um_per_px)
    nuclei = {"label-value": 1, "rgba": [0, 128, 255, 128]}
    write_label_metadata(labels, MASK, colors=[nuclei])
    labels.attrs["ome"] = {"version": "0.5", **ome(labels)}  # ome_zarr leaves the version out


def _write_image(
    group: zarr.Group, image: NDArray, axes: str, key: FieldKey, um_per_px: float
) -> None:
    chunks = (*image.shape[:-2], _CHUNK_PX, _CHUNK_PX)  # all channels of a patch in one
    array = create_image(
        group, image.shape, image.dtype, axes, name=str(key), um_per_px=um_per_px, chunks=chunks
    )
    array[...] = image
