"""The images of a plate, wherever their pixels lie: TIFFs, or planes of an array of zarr.

A plane of an array is named by a path as well, of the array's folder and the plane's index in it:
`20x.zarr/B/3/1/0/[4]`. Only this module asks what a path is.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adipocyte.plate.tiff import Header
from adipocyte.plate.tiff import read_header as tiff_header
from adipocyte.plate.tiff import read_image as tiff_image
from adipocyte.plate.tiff import read_stack as tiff_stack
from adipocyte.plate.zarr_arrays import Index, files_of, open_array, read_planes
from adipocyte.system.files import fingerprint, short_digest

_PLATE = ".zarr"  # how the name of a plate of arrays ends
_INDEX = re.compile(r"\[([0-9]{1,5}(?:,[0-9]{1,5})*)?\]")
Fingerprint = tuple[str, int, int]


def plane_in(array: Path, index: Index) -> Path:
    """The path of the plane at *index*, along all axes but the last two, of the *array*."""
    return array / f"[{','.join(map(str, index))}]"


def holder(path: Path) -> Path:
    """What an image lies in: its own file, or the array that it is a plane of."""
    return path if _index_of(path) is None else path.parent


def image_name(path: Path) -> str:
    """What a file is called, or where a plane of an array is, from its plate's folder on."""
    if _index_of(path) is None:
        return path.name
    row = path.parents[3]  # B/3/1/0/[1]
    plate = next((folder for folder in path.parents if folder.suffix == _PLATE), row.parent)
    return path.relative_to(plate.parent).as_posix()


def read_header(path: Path) -> Header:
    """Look at an image without decoding a pixel. Raises ImageError (see `tiff`, `zarr_arrays`)."""
    if _index_of(path) is None:
        return tiff_header(path)
    array = open_array(path.parent)
    return Header(1, (array.shape[-2], array.shape[-1]), array.dtype)


def read_stack(path: Path, n_planes: int) -> NDArray[np.uint16]:
    """Read *n_planes* planes, in z order: (Z, Y, X) in counts. Raises ImageError.

    A TIFF may have several; a path into an array is of one.
    """
    return tiff_stack(path, n_planes) if _index_of(path) is None else read_image(path)[None]


def read_image(path: Path) -> NDArray[np.uint16]:
    """Read a single plane: (Y, X) in counts. Raises ImageError, naming the file or array."""
    return read_images([path])[0]


def read_images(paths: Sequence[Path]) -> list[NDArray[np.uint16]]:
    """Read single planes: (Y, X) in counts each. Raises ImageError, naming the file or array."""
    by_array: dict[Path, list[Path]] = defaultdict(list)
    images: dict[Path, NDArray[np.uint16]] = {}
    for path in paths:
        if _index_of(path) is None:
            images[path] = tiff_image(path)
        else:
            by_array[path.parent].append(path)
    for folder, inside in by_array.items():
        indices = [_index_of(path) or () for path in inside]
        images |= dict(zip(inside, read_planes(open_array(folder), indices), strict=True))
    return [images[path] for path in paths]


def fingerprints(paths: Iterable[Path]) -> list[Fingerprint]:
    """What tells for each image that it was replaced (see `system.files.fingerprint`).

    Of an array all its files count, for each of its planes.
    """
    arrays: dict[Path, tuple[int, int]] = {}
    found: list[Fingerprint] = []
    for path in paths:
        if _index_of(path) is None:
            found.append(fingerprint(path))
            continue
        if path.parent not in arrays:
            arrays[path.parent] = _of_array(path.parent)
        found.append((path.name, *arrays[path.parent]))
    return found


def _of_array(folder: Path) -> tuple[int, int]:
    """The bytes of an array's files, and a number that names these by place, size and time."""
    files = [(str(path.relative_to(folder)), *fingerprint(path)) for path in files_of(folder)]
    return sum(size for _, _, size, _ in files), int(short_digest(files)[:15], 16)


def _index_of(path: Path) -> Index | None:
    """The index in an array that a path ends with; None for a file."""
    found = _INDEX.fullmatch(path.name)
    return tuple(map(int, filter(None, (found[1] or "").split(",")))) if found else None
