"""A stained plate as OME-Zarr: `20x.zarr/<row>/<column>/<field>`, a plate for each magnification.

Files are made in memory and then written one by one, in any place, each whole or not at all.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.storage import MemoryStore

from adipocyte.domain import FieldKey, bound_names
from adipocyte.plate.fields import FieldFiles
from adipocyte.staining.stainer import Stained
from adipocyte.store.ngff import describe_channels, describe_plate, write_image
from adipocyte.store.paths import field_path, plate_path

_CHUNK_PX = 1024  # a viewer reads one channel at a time, and object stores like few files
_HEAD = "zarr.json"  # of a group or an array


def names(field: FieldFiles, targets: Sequence[str], with_intervals: bool) -> list[str]:
    """The names of all files of a field; that which makes it an image is the last."""
    folder = _folder(field.key)
    n_channels = len(targets) * (3 if with_intervals else 1)
    n_chunks = (n_channels, *(-(-side // _CHUNK_PX) for side in field.shape))
    chunks = ["/".join(map(str, place)) for place in product(*map(range, n_chunks))]
    return [
        *(f"{folder}/0/c/{chunk}" for chunk in chunks),
        f"{folder}/0/{_HEAD}",
        f"{folder}/{_HEAD}",
    ]


def files(field: FieldFiles, stained: Stained) -> dict[str, bytes]:
    """A painted field as files, in the order of `names`.

    Its channels are the targets and then the bounds of their intervals, A1_low, A1_high, ….
    """
    channels = dict(stained.images)
    for target, bounds in stained.intervals.items():
        channels |= dict(zip(bound_names(target), bounds, strict=True))
    kept: dict[str, Any] = {}
    group = zarr.open_group(MemoryStore(kept), mode="w", zarr_format=3)
    with zarr.config.set({"array.write_empty_chunks": True}):  # a chunk that is missing is lost
        write_image(
            group,
            np.stack([*channels.values()]),
            "cyx",
            name=str(field.key),
            um_per_px=field.um_per_px,
            chunks=(1, _CHUNK_PX, _CHUNK_PX),
        )
    describe_channels(group, channels, shown=tuple(stained.images))
    folder = _folder(field.key)
    made = {f"{folder}/{name}": data.to_bytes() for name, data in kept.items()}
    return {
        name: made[name]
        for name in names(field, tuple(stained.images), with_intervals=bool(stained.intervals))
    }


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


def _folder(key: FieldKey) -> str:
    return field_path(Path(), key).as_posix()
