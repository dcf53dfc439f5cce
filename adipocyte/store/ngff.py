"""OME-Zarr as NGFF 0.5 has it (https://ngff.openmicroscopy.org/0.5): images, channels, plates."""

from collections.abc import Collection, Mapping
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray
from ome_zarr.writer import (
    write_multiscales_metadata,
    write_plate_metadata,
    write_well_metadata,
)
from zarr.codecs import BloscCodec

from adipocyte.domain import ROWS, TARGET_COLOURS, FieldKey, row_and_column
from adipocyte.store.paths import field_name

_COMPRESSOR = BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle")


def ome(group: zarr.Group) -> dict[str, Any]:
    """What a group says of itself."""
    return cast(dict[str, Any], group.attrs["ome"])  # zarr declares any JSON; ours is an object


def describe_plate(
    group: zarr.Group, wells: Mapping[str, Collection[FieldKey]], name: str | None = None
) -> None:
    """List the *wells* of a plate, "B03", in its *group*, and their fields; its *name* if known."""
    paths = {well: "/".join(map(str, row_and_column(well))) for well in wells}
    places = [row_and_column(well) for well in wells]
    rows = sorted({row for row, _ in places}, key=ROWS.index)
    columns = sorted({str(column) for _, column in places}, key=int)
    n_most = max(map(len, wells.values()))
    write_plate_metadata(group, rows, columns, list(paths.values()), field_count=n_most, name=name)
    for well, keys in wells.items():
        images: list[str | dict] = [field_name(key) for key in sorted(keys)]
        write_well_metadata(group.require_group(paths[well]), images)


def create_image(
    group: zarr.Group,
    shape: tuple[int, ...],
    dtype: np.dtype,
    axes: str,
    *,
    name: str,
    um_per_px: float,
    chunks: tuple[int, ...],
) -> zarr.Array:
    """An image of *axes*, "cyx" or "yx", and of pixels of *um_per_px*, in its *group*, still empty.

    Chunks are no larger than the image.
    """
    array = group.create_array(
        "0",
        shape=shape,
        dtype=dtype,
        chunks=tuple(map(min, chunks, shape)),
        compressors=_COMPRESSOR,
        dimension_names=list(axes),
    )
    scale = [1.0] * (len(axes) - 2) + [um_per_px] * 2
    transformations = [{"type": "scale", "scale": scale}]
    datasets = [{"path": "0", "coordinateTransformations": transformations}]
    types = {
        "c": {"type": "channel"},
        "y": {"type": "space", "unit": "micrometer"},
        "x": {"type": "space", "unit": "micrometer"},
    }
    named_axes = [{"name": axis, **types[axis]} for axis in axes]
    write_multiscales_metadata(group, datasets, axes=named_axes, name=name)
    return array


def plane_channels(planes: NDArray[np.uint16]) -> dict[str, NDArray[np.uint16]]:
    """Brightfield *planes*, (Z, Y, X) in counts, as channels: Z1, Z2, …"""
    return {f"Z{z}": plane for z, plane in enumerate(planes, start=1)}


def middle_channel(n_planes: int) -> str:
    """The channel of the middle one of so many planes, which viewers show of brightfield."""
    return f"Z{n_planes // 2 + 1}"


def describe_channels(
    group: zarr.Group, channels: Mapping[str, NDArray[np.uint16]], shown: Collection[str]
) -> None:
    """Say of an image's *channels*, (Y, X) in counts, their names, colours and display ranges.

    Viewers begin with those that are *shown*. "A1_low" has the colour of A1; others are white.
    """
    described = [
        {
            "label": name,
            "color": TARGET_COLOURS.get(name.partition("_")[0], "#ffffff").lstrip("#").upper(),
            "window": _window(image),
            "active": name in shown,
        }
        for name, image in channels.items()
    ]
    group.attrs["ome"] = {**ome(group), "omero": {"channels": described}}


def _window(image: NDArray[np.uint16]) -> dict[str, float]:
    """The display range of a channel in viewers, in counts."""
    low, high = np.percentile(image[::4, ::4], [0.5, 99.5])
    return {"min": 0.0, "max": 65535.0, "start": float(low), "end": float(max(high, low + 1))}
