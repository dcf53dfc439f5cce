"""Writing fields as OME-Zarr (NGFF 0.5) plates: `20x.zarr/<row>/<column>/<field>`."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray
from ome_zarr.writer import (
    write_label_metadata,
    write_multiscales_metadata,
    write_plate_metadata,
    write_well_metadata,
)
from zarr.codecs import BloscCodec

from adipocyte.domain import ROWS, TARGET_COLOURS, TARGETS, UM_PER_PX, FieldKey, row_and_column
from adipocyte.plate.fields import RawField
from adipocyte.store.paths import MASK, field_path, plate_path

_CHUNK_PX = 256
_COMPRESSOR = BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle")


def describe_plates(folder: Path, keys: Iterable[FieldKey]) -> None:
    """List all fields of *folder*, which are *keys*, in the metadata of its plates and wells."""
    plates: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for key in keys:
        plates[key.magnification][key.well].append(key.fov)
    for magnification, wells in plates.items():
        group = zarr.open_group(plate_path(folder, magnification), mode="a", zarr_format=3)
        places = [row_and_column(well) for well in wells]
        rows = sorted({row for row, _ in places}, key=ROWS.index)
        columns = sorted({str(column) for _, column in places}, key=int)
        paths = {well: "/".join(map(str, row_and_column(well))) for well in wells}
        n_most = max(map(len, wells.values()))
        write_plate_metadata(group, rows, columns, list(paths.values()), field_count=n_most)
        for well, fovs in wells.items():
            images: list[str | dict] = [str(fov) for fov in sorted(fovs)]
            write_well_metadata(group.require_group(paths[well]), images)


def write_field(
    folder: Path, key: FieldKey, field: RawField, mask: NDArray[np.bool_] | None
) -> None:
    """Write one field's counts and its nuclei *mask* (Y, X), if it has one, as a label.

    The channels are the planes, Z1 …, then the targets.
    """
    channels = [f"Z{z}" for z in range(1, len(field.planes) + 1)] + list(field.targets)
    stains = [image[None] for image in field.targets.values()]
    stack = np.concatenate([field.planes, *stains])  # (C, Y, X)
    shown = (f"Z{len(field.planes) // 2 + 1}", *TARGETS)
    group = zarr.open_group(field_path(folder, key), mode="w", zarr_format=3)
    _write_image(group, stack, "cyx", key)
    omero = [
        {
            "label": name,
            "color": TARGET_COLOURS.get(name, "#ffffff").lstrip("#").upper(),
            "window": _window(image),
            "active": name in shown,
        }
        for name, image in zip(channels, stack, strict=True)
    ]
    group.attrs["ome"] = {**_ome(group), "omero": {"channels": omero}}
    if mask is None:
        return
    labels = group.require_group("labels")
    _write_image(labels.require_group(MASK), mask.astype(np.uint8), "yx", key)
    nuclei = {"label-value": 1, "rgba": [0, 128, 255, 128]}
    write_label_metadata(labels, MASK, colors=[nuclei])
    labels.attrs["ome"] = {"version": "0.5", **_ome(labels)}  # ome_zarr leaves the version out


def _ome(group: zarr.Group) -> dict[str, Any]:
    return cast(dict[str, Any], group.attrs["ome"])  # zarr declares any JSON; ours is an object


def _write_image(group: zarr.Group, image: NDArray, axes: str, key: FieldKey) -> None:
    chunks = (*image.shape[:-2], min(_CHUNK_PX, image.shape[-2]), min(_CHUNK_PX, image.shape[-1]))
    group.create_array(
        "0", data=image, chunks=chunks, compressors=_COMPRESSOR, dimension_names=list(axes)
    )
    scale = [1.0] * (len(axes) - 2) + [UM_PER_PX[key.magnification]] * 2
    transformations = [{"type": "scale", "scale": scale}]
    datasets = [{"path": "0", "coordinateTransformations": transformations}]
    types = {
        "c": {"type": "channel"},
        "y": {"type": "space", "unit": "micrometer"},
        "x": {"type": "space", "unit": "micrometer"},
    }
    named_axes = [{"name": axis, **types[axis]} for axis in axes]
    write_multiscales_metadata(group, datasets, axes=named_axes, name=str(key))


def _window(image: NDArray[np.uint16]) -> dict[str, float]:
    """The display range of a channel in viewers, in counts."""
    low, high = np.percentile(image[::4, ::4], [0.5, 99.5])
    return {"min": 0.0, "max": 65535.0, "start": float(low), "end": float(max(high, low + 1))}
