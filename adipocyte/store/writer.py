"""Writing fields as OME-Zarr (NGFF 0.5) plates, one for each magnification: `20x.zarr/<row>/<column>/<field>`."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

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

from adipocyte.domain import TARGET_COLOURS, TARGETS, UM_PER_PX, FieldKey
from adipocyte.plate.fields import RawField
from adipocyte.store.paths import MASK, field_path, plate_path

_CHUNK_PX = 256
_COMPRESSOR = BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle")


def describe_plates(folder: Path, keys: Iterable[FieldKey]) -> None:
    """Say in the metadata of the plates and wells in *folder* which fields they have: *keys*, which are all there."""
    plates: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for key in keys:
        plates[key.magnification][key.well].append(key.fov)
    for magnification, wells in plates.items():
        group = zarr.open_group(plate_path(folder, magnification), mode="a", zarr_format=3)
        rows, columns = (
            sorted({well[0] for well in wells}),
            sorted({str(int(well[1:])) for well in wells}, key=int),
        )
        n_most = max(map(len, wells.values()))
        write_plate_metadata(
            group,
            rows,
            columns,
            [f"{well[0]}/{int(well[1:])}" for well in wells],
            field_count=n_most,
        )
        for well, fovs in wells.items():
            write_well_metadata(
                group.require_group(f"{well[0]}/{int(well[1:])}"),
                [str(fov) for fov in sorted(fovs)],
            )


def write_field(folder: Path, key: FieldKey, field: RawField, mask: NDArray[np.bool_]) -> None:
    """Write one field's counts, channels Z1… then its targets, and its nuclei *mask* (Y, X) as a label."""
    channels = [f"Z{z}" for z in range(1, len(field.planes) + 1)] + list(field.targets)
    stack = np.concatenate(
        [field.planes, *(image[None] for image in field.targets.values())]
    )  # (C, Y, X)
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
    group.attrs["ome"] = {**group.attrs["ome"], "omero": {"channels": omero}}
    labels = group.require_group(f"labels/{MASK}")
    _write_image(labels, mask.astype(np.uint8), "yx", key)
    write_label_metadata(
        group["labels"], MASK, colors=[{"label-value": 1, "rgba": [0, 128, 255, 128]}]
    )
    group["labels"].attrs["ome"] = {
        "version": "0.5",
        **group["labels"].attrs["ome"],
    }  # the writer leaves the version out


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
    write_multiscales_metadata(
        group, datasets, axes=[{"name": axis, **types[axis]} for axis in axes], name=str(key)
    )


def _window(image: NDArray[np.uint16]) -> dict[str, float]:
    """The display range of a channel in viewers, in counts."""
    low, high = np.percentile(image[::4, ::4], [0.5, 99.5])
    return {"min": 0.0, "max": 65535.0, "start": float(low), "end": float(max(high, low + 1))}
