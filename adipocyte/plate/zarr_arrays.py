"""Arrays of zarr on a disk, formats 2 and 3, read plane by plane under limits.

The library zarr lets a chunk's own bytes say how much memory they take, and knows filters that
unpickle. Here a chunk is as large as its array says, and each codec is told how much to write.
"""

import itertools
import math
import os
import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from adipocyte.errors import ImageError
from adipocyte.plate.tiff import MAX_SIDE_PX
from adipocyte.plate.tiff_tags import MAX_CHUNKS
from adipocyte.system.files import open_regular, read_json
from adipocyte.system.forms import require_form

MAX_PLANES = 10_000  # of one array, along all axes but the last two
MAX_CHUNK_BYTES = 500_000_000  # decoded: seven planes of a full field in one chunk have 77 million
V2, V3 = ".zarray", "zarr.json"
DTYPES = ("uint8", "uint16")

_MAX_AXES = 5
_CRC_BYTES = 4
_NO_CHUNK = 2**64 - 1  # offset and size, in a shard's index, of a chunk that is not there
_AGAIN = "copy the plate again, whole"
_CODECS = "save it with blosc, zstd, gzip, lz4, bz2 or uncompressed, without filters"

# What the codecs raise on damaged bytes, and NumPy on those that are too few.
_UNREADABLE = (ValueError, RuntimeError, TypeError, MemoryError, OSError, struct.error)
_BLOSC_HEADER = struct.Struct("<4B3I")  # …, bytes decoded, bytes of a block, bytes of it all


def _blosc(data: bytes, out: int) -> bytes | bytearray:
    """Blosc believes its header of how long the data are, and would read beyond their end."""
    *_, n_bytes, _, n_stored = _BLOSC_HEADER.unpack_from(data)
    if (n_bytes, n_stored) != (out, len(data)):
        raise ValueError(f"{len(data)} of {n_stored} bytes, for {n_bytes} of {out}")
    return imagecodecs.blosc_decode(data, out=out)


_DECODERS: dict[str, Any] = {
    "blosc": _blosc,
    "zstd": imagecodecs.zstd_decode,
    "zlib": imagecodecs.zlib_decode,
    "gzip": imagecodecs.gzip_decode,
    "bz2": imagecodecs.bz2_decode,
    "lz4": lambda data, out: imagecodecs.lz4_decode(data, header=True, out=out),
}

Index = tuple[int, ...]


@dataclass(frozen=True)
class _Chunks:
    """The `shape` of chunks, and how their bytes become counts.

    `codecs` are undone in this order; then the axes lie in this `order`.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    order: tuple[int, ...]
    codecs: tuple[str, ...]

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Array:
    """An array's `shape`, (…, Y, X), and where its chunks are.

    `per_shard` is the number of chunks along each axis that lie in one file: 1 without shards.
    """

    folder: Path
    shape: tuple[int, ...]
    chunks: _Chunks
    fill: int
    prefix: str
    separator: str
    per_shard: tuple[int, ...]
    is_sharded: bool = False
    index_is_first: bool = False
    index_crc: bool = False

    @property
    def dtype(self) -> str:
        """Of its counts: "uint8" or "uint16"."""
        return self.chunks.dtype.name


def open_array(folder: Path) -> Array:
    """Read what an array says of itself; no chunk is opened.

    Raises ImageError, naming the folder, when there is no array, or its description is damaged or
    larger than read_json takes; when it is not uint8 or uint16, has fewer axes than 2 or more than
    5, or sides, planes, chunks or bytes of a chunk beyond the limits above; and for codecs and
    filters that are not known here, objects and pickles among them.
    """
    try:
        path = folder / V3
        array = _of_v3(folder, read_json(path)) if path.exists() else _of_v2(folder)
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ImageError(
            f"{folder} cannot be read as an array of zarr ({reason})", _AGAIN
        ) from error
    _check(array)
    return array


def read_planes(array: Array, indices: Sequence[Index]) -> NDArray[np.uint16]:
    """The planes of an array at *indices* along all axes but the last two: (N, Y, X) in counts.

    A chunk that several planes share is decoded once.

    Raises ImageError, which names the array's folder, when a chunk is damaged, the array has no
    such plane, or a plane has no chunk at all: an empty plane and a lost one look alike.
    """
    lead = len(array.shape) - 2
    planes = np.full((len(indices), *array.shape[lead:]), array.fill, dtype=np.uint16)
    by_chunk: dict[Index, list[tuple[int, Index]]] = defaultdict(list)
    for n, index in enumerate(indices):
        if len(index) != lead or any(
            i >= side for i, side in zip(index, array.shape, strict=False)
        ):
            raise ImageError(f"{array.folder} has no plane {list(index)}", _AGAIN)
        sides = array.chunks.shape[:lead]
        where = tuple(i // side for i, side in zip(index, sides, strict=True))
        inside = tuple(i % side for i, side in zip(index, sides, strict=True))
        by_chunk[where].append((n, inside))
    for where, wanted in by_chunk.items():
        if not _paste(array, where, wanted, planes):
            index = list(indices[wanted[0][0]])
            raise ImageError(f"{array.folder} has no chunk of plane {index}", _AGAIN)
    return planes


def _paste(
    array: Array, where: Index, wanted: list[tuple[int, Index]], planes: NDArray[np.uint16]
) -> bool:
    """Decode the chunks of the planes *wanted* into *planes*. Whether there was any."""
    height, width = array.chunks.shape[-2:]
    rows, columns = _n_chunks(array)[-2:]
    is_any = False
    for row, column in itertools.product(range(rows), range(columns)):
        try:
            data = _stored(array, (*where, row, column))
            if data is None:
                continue
            chunk = _decoded(data, array.chunks)
        except _UNREADABLE as error:
            place = f"chunk {[*where, row, column]} of {array.folder}"
            raise ImageError(f"{place} cannot be decoded ({error})", _AGAIN) from error
        is_any = True
        for n, inside in wanted:
            part = planes[n, row * height :, column * width :][:height, :width]
            part[...] = chunk[inside][: part.shape[0], : part.shape[1]]
    return is_any


def files_of(folder: Path) -> Iterator[Path]:
    """The files of an array, whatever they are, in order. Raises OSError."""
    yield from sorted(path for path in folder.rglob("*") if not path.is_dir())


def _decoded(data: bytes | bytearray, chunks: _Chunks) -> NDArray:
    for codec in chunks.codecs:
        if codec == "crc32c":
            data = data[:-_CRC_BYTES]
        else:
            data = _DECODERS[codec](data, out=chunks.n_bytes)
    if len(data) != chunks.n_bytes:
        raise ValueError(f"{len(data)} bytes, not {chunks.n_bytes}")
    stored = np.frombuffer(data, chunks.dtype)
    shape = [chunks.shape[axis] for axis in chunks.order]
    return stored.reshape(shape).transpose(np.argsort(chunks.order))


def _stored(array: Array, where: Index) -> bytes | None:
    """The bytes of a chunk; None where it is not there. Raises OSError, ValueError."""
    at = tuple(i // n for i, n in zip(where, array.per_shard, strict=True))
    path = array.folder / (array.prefix + array.separator.join(map(str, at)))
    # Codecs make noise a little longer; what is far longer is not read.
    most = 2 * array.chunks.n_bytes + 100_000
    try:
        file = open_regular(path)
    except FileNotFoundError:
        return None
    with file:
        if not array.is_sharded:
            return file.read(most)
        inside = tuple(i % n for i, n in zip(where, array.per_shard, strict=True))
        n_inner = math.prod(array.per_shard)
        n_bytes = 16 * n_inner + _CRC_BYTES * array.index_crc
        if not array.index_is_first:
            file.seek(-n_bytes, os.SEEK_END)
        index = np.frombuffer(file.read(16 * n_inner), "<u8").reshape(n_inner, 2)
        offset, size = map(int, index[np.ravel_multi_index(inside, array.per_shard)])
        if (offset, size) == (_NO_CHUNK, _NO_CHUNK):
            return None
        if size > most:
            raise ValueError(f"{size} bytes in the shard, at most {most} are due")
        file.seek(offset)
        return file.read(size)


def _n_chunks(array: Array) -> list[int]:
    pairs = zip(array.shape, array.chunks.shape, strict=True)
    return [math.ceil(side / chunk) for side, chunk in pairs]


def _check(array: Array) -> None:
    """Refuse an array by its description."""
    name, shape, chunks = array.folder, array.shape, array.chunks
    if array.dtype not in DTYPES:
        raise ImageError(
            f"{name} has values of type {chunks.dtype}",
            "it must have raw camera counts, uint8 or uint16; do not rescale them",
        )
    n_axes = {len(shape), len(chunks.shape), len(chunks.order), len(array.per_shard)}
    if len(n_axes) > 1 or not 2 <= len(shape) <= _MAX_AXES:
        raise ImageError(
            f"{name} has the shape {list(shape)} in chunks of {list(chunks.shape)}",
            f"it must have 2 to {_MAX_AXES} axes, the last two Y and X",
        )
    if min(*shape, *chunks.shape, *array.per_shard) < 1:
        raise ImageError(f"{name} has the shape {list(shape)}", "no side may be 0; save it again")
    if max(shape[-2:]) > MAX_SIDE_PX or math.prod(shape[:-2]) > MAX_PLANES:
        raise ImageError(
            f"{name} has {math.prod(shape[:-2])} planes of {shape[-2]} x {shape[-1]} pixels",
            f"{MAX_PLANES} planes and sides of {MAX_SIDE_PX} are the most; cut it in parts",
        )
    if chunks.n_bytes > MAX_CHUNK_BYTES or math.prod(_n_chunks(array)[-2:]) > MAX_CHUNKS:
        raise ImageError(
            f"{name} has chunks of {list(chunks.shape)} pixels",
            f"a plane may have {MAX_CHUNKS} chunks of up to {MAX_CHUNK_BYTES} bytes: save it in "
            "chunks of 256 to 2048 pixels a side",
        )
    if math.prod(array.per_shard) > MAX_CHUNKS:
        raise ImageError(f"{name} has {array.per_shard} chunks in a shard", f"at most {MAX_CHUNKS}")
    if not 0 <= array.fill <= 65535:
        raise ImageError(f"{name} is filled with {array.fill}", "it must be a count; save it again")


def _of_v2(folder: Path) -> Array:
    told = read_json(folder / V2)
    form = {"shape": [int], "chunks": [int], "dtype": str, "order": str}
    require_form(told, form, V2)
    _require_known(folder, [*(told.get("filters") or [])], "id", ())
    compressor = [told["compressor"]] if told.get("compressor") else []
    codecs = _require_known(folder, compressor, "id", (*_DECODERS,))
    axes = range(len(told["shape"]))
    separator = told.get("dimension_separator", ".")
    return Array(
        folder,
        tuple(told["shape"]),
        _Chunks(
            tuple(told["chunks"]),
            _dtype(folder, told["dtype"]),
            tuple(reversed(axes)) if told["order"] == "F" else tuple(axes),
            codecs,
        ),
        _fill(told.get("fill_value")),
        prefix="",
        separator=_separator(separator),
        per_shard=(1,) * len(axes),
    )


def _of_v3(folder: Path, told: Any) -> Array:
    grid = {"name": str, "configuration": {"chunk_shape": [int]}}
    form = {"shape": [int], "data_type": str, "codecs": [{"name": str}], "chunk_grid": grid}
    require_form(told, form, V3)
    keys = told.get("chunk_key_encoding", {"name": "default"})
    require_form(keys, {"name": str}, "chunk_key_encoding")
    is_default = keys["name"] == "default"
    asked = keys.get("configuration", {})
    separator = _separator(asked.get("separator", "/" if is_default else "."))
    outer = tuple(told["chunk_grid"]["configuration"]["chunk_shape"])
    codecs = told["codecs"]
    dtype = _dtype(folder, told["data_type"])
    array = Array(
        folder,
        tuple(told["shape"]),
        _Chunks(outer, dtype, tuple(range(len(outer))), ()),
        _fill(told.get("fill_value")),
        prefix=f"c{separator}" if is_default else "",
        separator=separator,
        per_shard=(1,) * len(outer),
    )
    if [one["name"] for one in codecs] == ["sharding_indexed"]:
        array = _sharded(array, codecs[0]["configuration"])
        codecs = codecs[0]["configuration"]["codecs"]
    return replace(array, chunks=_with_codecs(folder, array.chunks, codecs))


def _sharded(array: Array, told: Any) -> Array:
    """An array whose chunks lie in shards, with an index of them at an end of each."""
    require_form(told, {"chunk_shape": [int], "codecs": [{"name": str}]}, "sharding_indexed")
    inner, outer = tuple(told["chunk_shape"]), array.chunks.shape
    if len(inner) != len(outer) or min(inner, default=0) < 1:
        raise ValueError(f"shards of {outer} in chunks of {inner}")
    if any(shard % chunk for shard, chunk in zip(outer, inner, strict=True)):
        raise ValueError(f"shards of {outer} in chunks of {inner}")
    index_codecs = [{"name": "bytes"}, {"name": "crc32c"}]
    names = [one["name"] for one in told.get("index_codecs", index_codecs)]
    if names not in (["bytes"], ["bytes", "crc32c"]):
        raise ValueError(f"a shard's index in {names}")
    return replace(
        array,
        chunks=replace(array.chunks, shape=inner),
        per_shard=tuple(shard // chunk for shard, chunk in zip(outer, inner, strict=True)),
        is_sharded=True,
        index_is_first=told.get("index_location", "end") == "start",
        index_crc="crc32c" in names,
    )


def _with_codecs(folder: Path, chunks: _Chunks, codecs: list[dict[str, Any]]) -> _Chunks:
    """The chunks of a format 3: axes in another order, bytes, then what is done to these."""
    left = list(codecs)
    order = chunks.order
    if left and left[0]["name"] == "transpose":
        order = tuple(left.pop(0)["configuration"]["order"])
        if sorted(order) != list(chunks.order):
            raise ValueError(f"axes in the order {order}")
    if not left or left[0]["name"] != "bytes":
        _require_known(folder, left[:1], "name", ())
        raise ValueError("no bytes among its codecs")
    endian = (left.pop(0).get("configuration") or {}).get("endian", "little")
    names = _require_known(folder, left, "name", ("blosc", "zstd", "gzip", "crc32c"))
    dtype = chunks.dtype.newbyteorder(">" if endian == "big" else "<")
    return _Chunks(chunks.shape, dtype, order, names[::-1])


def _require_known(
    folder: Path, codecs: list[dict[str, Any]], key: str, known: tuple[str, ...]
) -> tuple[str, ...]:
    """The names of *codecs*. Raises ImageError for one that is not *known*."""
    require_form(codecs, [{key: str}], "codecs")
    for codec in codecs:
        if codec[key] not in known:
            raise ImageError(f"{folder} is stored with {codec[key][:40]!r}", _CODECS)
    return tuple(codec[key] for codec in codecs)


def _dtype(folder: Path, text: str) -> np.dtype:
    """A type of counts by its name, of which NumPy knows many others: objects, structures."""
    known = {"|u1": "u1", "<u1": "u1", ">u1": "u1", "uint8": "u1"}
    known |= {"<u2": "<u2", ">u2": ">u2", "uint16": "<u2"}
    if text not in known:
        raise ImageError(
            f"{folder} has values of type {text[:40]!r}",
            "it must have raw camera counts, uint8 or uint16; do not rescale them",
        )
    return np.dtype(known[text])


def _fill(value: Any) -> int:
    """The count of what is not stored: 0 where nothing is said."""
    if value is None:
        return 0
    require_form(value, int, "fill_value")
    return value


def _separator(text: Any) -> str:
    if text not in (".", "/"):
        raise ValueError(f"chunks named with {str(text)[:20]!r}")
    return text
