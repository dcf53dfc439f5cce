"""A stained plate as OME-Zarr: `20x.zarr/<row>/<column>/<field>`, a plate for each magnification.

Files are made in memory and then written one by one, in any place, each whole or not at all.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import MemoryStore

from adipocyte.domain import FieldKey, bound_names
from adipocyte.plate.fields import FieldFiles
from adipocyte.staining.stainer import Stained
from adipocyte.store.ngff import (
    create_image,
    describe_channels,
    describe_plate,
    middle_channel,
    plane_channels,
)
from adipocyte.store.paths import field_path, plate_path

_CHUNK_PX = 1024  # a viewer reads one channel at a time, and object stores like few files
_HEAD = "zarr.json"  # of a group or an array


def names(
    field: FieldFiles, targets: Sequence[str], with_intervals: bool, *, brightfield: bool
) -> list[str]:
    """The names of all files of a field; that which makes it an image is the last."""
    folder = _folder(field.key)
    n_channels = len(targets) * (3 if with_intervals else 1)
    n_channels += field.n_z_planes if brightfield else 0
    return [
        *(f"{folder}/{chunk}" for n in range(n_channels) for chunk in _chunks(n, field.shape)),
        f"{folder}/0/{_HEAD}",
        f"{folder}/{_HEAD}",
    ]


def files(
    field: FieldFiles, stained: Stained, planes: NDArray[np.uint16], *, brightfield: bool
) -> Iterator[tuple[str, bytes]]:
    """A painted field as files, in the order of `names`. One channel at a time is encoded.

    Its channels are the targets and then the bounds of their intervals, A1_low, A1_high, …; with
    *brightfield* the *planes*, (Z, Y, X) in counts, are the last, Z1, Z2, ….
    """
    channels, shown = dict(stained.images), [*stained.images]
    for target, bounds in stained.intervals.items():
        channels |= dict(zip(bound_names(target), bounds, strict=True))
    if brightfield:
        channels |= plane_channels(planes)
        shown.append(middle_channel(len(planes)))
    kept: dict[str, Any] = {}
    group = zarr.open_group(MemoryStore(kept), mode="w", zarr_format=3)
    shape = planes.shape[-2:]
    with zarr.config.set({"array.write_empty_chunks": True}):  # a chunk that is missing is lost
        array = create_image(
            group,
            (len(channels), *shape),
            planes.dtype,
            "cyx",
            name=str(field.key),
            um_per_px=field.um_per_px,
            chunks=(1, _CHUNK_PX, _CHUNK_PX),
        )
    describe_channels(group, channels, shown)
    folder = _folder(field.key)
    for n, image in enumerate(channels.values()):
        array[n] = image
        for chunk in _chunks(n, shape):
            yield f"{folder}/{chunk}", kept.pop(chunk).to_bytes()
    for head in (f"0/{_HEAD}", _HEAD):
        yield f"{folder}/{head}", kept[head].to_bytes()


def described(fields: Iterable[FieldFiles], targets: Sequence[str]) -> dict[str, bytes]:
    """The files that say which wells and *fields* there are; those of plates are the last."""
    plates: dict[int, dict[str, list[FieldKey]]] = defaultdict(lambda: defaultdict(list))
    called: dict[int, str] = {}
    for field in fields:
        plates[field.key.magnification][field.key.well].append(field.key)
        called[field.key.magnification] = field.plate
    made: dict[str, bytes] = {}
    for magnification, wells in plates.items():
        kept: dict[str, Any] = {}
        group = zarr.open_group(MemoryStore(kept), mode="w", zarr_format=3)
        describe_plate(group, wells, called[magnification])
        folder = plate_path(Path(), magnification).as_posix()
        inner_first = sorted(kept, key=lambda name: -name.count("/"))
        made |= {f"{folder}/{name}": kept[name].to_bytes() for name in inner_first}
    return made


def _chunks(n: int, shape: tuple[int, ...]) -> list[str]:
    """The files of channel *n* of an image of *shape*, (Y, X) in pixels."""
    n_chunks = (range(-(-side // _CHUNK_PX)) for side in shape)
    return [f"0/c/{n}/{row}/{column}" for row, column in product(*n_chunks)]


def _folder(key: FieldKey) -> str:
    return field_path(Path(), key).as_posix()
