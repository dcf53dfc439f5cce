"""TIFF bytes in and out, decoded under limits and written whole or not at all."""

import io
import itertools
import logging
import math
import os
import struct
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray
from tifffile import TiffPage

from adipocyte.errors import ImageError
from adipocyte.plate.tiff_counts import check_counts
from adipocyte.plate.tiff_planes import check_room, full_pages, planes_of
from adipocyte.plate.tiff_scale import told_um_per_px
from adipocyte.plate.tiff_tags import MAX_CHUNKS, check_directories
from adipocyte.system.files import open_regular, write_whole

MAX_SIDE_PX = 10_000
MAX_PLANES = 99  # a file's name has two digits for the z-plane
# Decoded bytes for one byte of the TIFF. Noise lets no camera's image shrink to a tenth or less.
MAX_EXPANSION = 200
# Decoded bytes that are never too many: a black image shrinks to almost nothing, and is cheap.
HARMLESS_BYTES = 100_000_000
MAX_DESCRIPTION = 1_000_000  # MetaSeries' XML has 6,000 characters
DTYPES = (np.uint8, np.uint16)
# LZW, deflate under its two numbers, PackBits, zstd: these codecs are told how much to write.
# Codecs of whole pictures (JPEG, PNG, WebP, …) allocate what the compressed bytes ask for.
CODECS = {1, 5, 8, 32946, 32773, 50000}
_UNCOMPRESSED = 1
# Compressed bytes for one decoded byte. LZW needs 1.5 for noise, the others hardly more than 1.
_MAX_GROWTH = 2
_SPARE_PAGES = 8  # beside a reduced copy of each plane: a pyramid's
_CHUNK_START_BYTES = 1024  # what a codec may write for a strip without a pixel
_CHUNK_BYTES = 512  # of the file for each strip or tile beyond MAX_CHUNKS
_UNITS_PER_UM = 10**6  # in which sizes of pixels are written: picometres
_ROWS = 256  # in a strip of our own: as many as a processor's cache holds
# tifffile guesses the pages of these vendors' files one by one, which takes long.
_VENDORS: dict[str, Any] = dict.fromkeys(("is_lsm", "is_ndpi", "is_scanimage"), False)
_STACK = "the stack"  # the name of bytes that come from no file

# This module raises an error for damaged bytes; tifffile's own log lines would repeat it.
tifffile.logger().setLevel(logging.CRITICAL)

# What tifffile and its codecs raise on damaged bytes.
_UNREADABLE = (
    tifffile.TiffFileError,
    ValueError,
    TypeError,
    LookupError,
    RuntimeError,
    OSError,
    ArithmeticError,
    MemoryError,
    struct.error,
)

# Of strips or tiles: offsets in the file, and byte counts.
Chunks = tuple[NDArray[np.uint64], NDArray[np.uint64]]


@dataclass(frozen=True)
class Header:
    """What a TIFF says of itself.

    It has `n_planes` pages of one `shape`, (Y, X) in pixels, and of one `dtype`, "uint8" or
    "uint16". Pixels are of `um_per_px`; None: it does not tell.
    """

    n_planes: int
    shape: tuple[int, int]
    dtype: str
    um_per_px: float | None = None


def read_header(path: Path) -> Header:
    """Look at a TIFF without decoding a pixel.

    Raises ImageError, naming the file, for all that can be told from its headers.
    """
    with (
        _opened(path) as (file, size),
        _planes(file, size, range(1, MAX_PLANES + 1), str(path)) as (header, _),
    ):
        return header


def read_description(path: Path) -> str:
    """What a TIFF says of its first plane in words or XML, no more than MAX_DESCRIPTION characters.

    No pixel is decoded. Raises ImageError as `read_header` does.
    """
    with (
        _opened(path) as (file, size),
        _planes(file, size, range(1, MAX_PLANES + 1), str(path)) as (_, planes),
    ):
        return planes[0].description[:MAX_DESCRIPTION]


def read_image(path: Path) -> NDArray[np.uint16]:
    """Read a single-plane TIFF. Returns (Y, X) in counts. Raises ImageError, naming the file."""
    return read_stack(path, 1)[0]


def read_stack(path: Path, n_planes: int | range) -> NDArray[np.uint16]:
    """Read a TIFF of *n_planes* planes, in z order. Returns (Z, Y, X) in counts.

    Raises ImageError, naming the file.
    """
    with _opened(path) as (file, size):
        return _decode(file, size, n_planes, str(path))


def decode_stack(data: bytes, n_planes: int | range) -> NDArray[np.uint16]:
    """Decode a TIFF or OME-TIFF of *n_planes* planes, in z order. Returns (Z, Y, X) in counts.

    Only these bytes are read: other files, which the XML of an OME-TIFF may name, are not opened.

    Raises ImageError as `stack_header` does, and when a page cannot be decoded.
    """
    return _decode(io.BytesIO(data), len(data), n_planes, _STACK)


def stack_header(data: bytes, n_planes: int | range) -> Header:
    """The header of a stack; no pixel is decoded.

    *n_planes* is a number of pages, or a range of numbers.

    Raises ImageError when the bytes are no TIFF, are cut short, or hold anything but *n_planes*
    grey pages, uint8 or uint16, of one size, each side at most MAX_SIDE_PX; when its tags are what
    `check_directories` refuses; when a codec is not in CODECS; when its strips or tiles are more
    than MAX_CHUNKS in few bytes, share bytes, or hold far more bytes than their pixels need; or
    when the bytes swell to more than MAX_EXPANSION times as many and to more than HARMLESS_BYTES.
    """
    with _planes(io.BytesIO(data), len(data), n_planes, _STACK) as (header, _):
        return header


def encode_image(image: NDArray[np.uint16], um_per_px: float | None = None) -> bytes:
    """A one-page TIFF of a (Y, X) image in counts, of pixels of *um_per_px* if that is known.

    That is written as ImageJ does, pixels per µm and the unit in words. Bio-Formats reads it, too,
    because its TiffReader takes a resolution without a unit for pixels per µm.
    """
    if um_per_px is None:
        return _encode(image)
    px_per_um = (_UNITS_PER_UM, round(_UNITS_PER_UM * um_per_px))  # a fraction of whole numbers
    return _encode(
        image,
        description="ImageJ=1.11a\nunit=um\n",
        metadata=None,  # tifffile's own words would be a second description
        resolution=(px_per_um, px_per_um),
        resolutionunit="NONE",
    )


def encode_stack(stack: NDArray[np.uint16]) -> bytes:
    """A TIFF with one page for each plane of a (Z, Y, X) stack in counts.

    It is compressed with zstd, unless `decode_stack` would then refuse it for what it swells to.
    """
    data = _encode(
        stack, compression="zstd", compressionargs={"level": 1}, predictor=True, rowsperstrip=_ROWS
    )
    is_accepted = stack.nbytes <= max(HARMLESS_BYTES, MAX_EXPANSION * len(data))
    return data if is_accepted else _encode(stack)


def _encode(pages: NDArray[np.uint16], **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pages, photometric="minisblack", **options)
    return buffer.getvalue()


def write_image(path: Path, image: NDArray[np.uint16], um_per_px: float | None = None) -> None:
    """Write a (Y, X) image in counts to *path*, whole or not at all (see `encode_image`)."""
    write_whole(path, encode_image(image, um_per_px))


@contextmanager
def _opened(path: Path) -> Generator[tuple[BinaryIO, int]]:
    """A file to read, and its size in bytes. Raises ImageError when there is no regular file."""
    try:
        file = open_regular(path)
    except OSError as error:
        raise ImageError(
            f"{path} cannot be opened ({error.strerror})",
            "it must be a TIFF that this user may read",
        ) from error
    with file:
        yield file, os.fstat(file.fileno()).st_size


def _decode(file: BinaryIO, size: int, n_planes: int | range, name: str) -> NDArray[np.uint16]:
    with _planes(file, size, n_planes, name) as (header, planes):
        stack = np.empty((header.n_planes, *header.shape), dtype=np.uint16)
        for image, plane in zip(stack, planes, strict=True):
            image[...] = plane.asarray()
        return stack


@contextmanager
def _planes(
    file: BinaryIO, size: int, n_planes: int | range, name: str
) -> Generator[tuple[Header, list[TiffPage]]]:
    """The header of a stack, and a page for each of its planes, checked, to decode."""
    allowed = range(n_planes, n_planes + 1) if isinstance(n_planes, int) else n_planes
    most = allowed[-1]
    numbers = f"{most} " if len(allowed) == 1 else f"{allowed[0]} to {most} "
    needed = f"{'' if most == MAX_PLANES else numbers}grey page{'s' if most > 1 else ''}"
    n_walked = 2 * most + _SPARE_PAGES
    with _tiff(file, size, n_walked, name, needed) as (all_pages, known):
        pages = full_pages(all_pages, name)
        is_more = len(all_pages) == n_walked  # not all are seen
        _check_number(most + 1 if is_more else len(pages), range(most + 1), name, needed)
        _check_pages(pages, name, needed)
        planes = planes_of(pages, len(all_pages), most, name)
        _check_number(len(planes), range(most + 1), name, needed)
        header = _checked(planes, size, name)
        check_room(planes, all_pages, known, size, name)
        _check_number(len(planes), allowed, name, needed)
        yield header, planes


@contextmanager
def _tiff(
    file: BinaryIO, size: int, most: int, name: str, needed: str
) -> Generator[tuple[list[TiffPage], list[int]]]:
    """The pages of a TIFF, up to *most*, and the offsets of what its directories speak of.

    What damaged bytes raise in the block becomes an ImageError on *name*.
    """
    if not size:
        raise ImageError(
            f"{name} is empty (0 bytes)",
            f"it must be a TIFF of {needed} of one size, uint8 or uint16",
        )
    pages: list[TiffPage] = []
    try:
        known = check_directories(file, size, name, most)
        with (
            np.errstate(all="ignore"),  # MetaMorph's fractions may be 0 / 0
            tifffile.TiffFile(file, name=name, offset=0, **_VENDORS) as tiff,
        ):
            pages += (page.aspage() for page in itertools.islice(tiff.pages, most))
            yield pages, known
    except ImageError:
        raise
    except _UNREADABLE as error:
        raise ImageError(
            f"{name} cannot be read as TIFF ({error!r})",
            f"it must be a whole TIFF of {needed}; save it again",
        ) from error
    finally:
        # They refer to each other, and their tags would wait for the garbage collector.
        for page in pages:
            vars(page).clear()


def _check_number(n_found: int, allowed: range, name: str, needed: str) -> None:
    if n_found > allowed[-1]:
        raise ImageError(
            f"{name} has more than {allowed[-1]} pages", f"it must have {needed}, z in order"
        )
    if n_found < allowed[0]:
        advice = "if the file should have more, it is cut short: copy it again"
        raise ImageError(
            f"{name} has {n_found} of {allowed[0]} pages",
            f"it must have {needed}, z in order; {advice}",
        )


def _check_pages(pages: list[TiffPage], name: str, needed: str) -> None:
    """Refuse pages by what their headers say of their pixels."""
    if not pages:
        raise ImageError(f"{name} has no page", f"it must have {needed}; copy it again, whole")
    first = pages[0]
    for page in pages:
        _check_pixels(page, name, needed)
        if (page.shape, page.dtype) != (first.shape, first.dtype):
            kinds = f"{first.shape} {first.dtype} and of {page.shape} {page.dtype}"
            raise ImageError(
                f"{name} has pages of {kinds} pixels",
                f"it must have {needed} of one size and type; save it again",
            )
        _check_costs(page, name)
        check_counts(page, name)


def _checked(planes: list[TiffPage], size: int, name: str) -> Header:
    """The header that the *planes* have in common.

    Raises ImageError by where their bytes are, before a pixel is decoded or an image allocated.
    """
    chunks = [_chunks(plane, size, name) for plane in planes]
    _check_n_chunks(planes, size, name)
    _check_shared(chunks, name)
    for plane, (_, n_bytes) in zip(planes, chunks, strict=True):
        _check_work(plane, n_bytes, name)
    n_px = sum(math.prod(plane.chunked) * math.prod(plane.chunks) for plane in planes)
    decoded = n_px * np.dtype(np.uint16).itemsize  # what a stack holds, whatever the file does
    if decoded > max(HARMLESS_BYTES, MAX_EXPANSION * size):
        raise ImageError(
            f"{name} would swell from {size} bytes to {decoded}",
            f"a camera's image has up to {MAX_EXPANSION} for one; save it uncompressed",
        )
    height, width = planes[0].shape
    kind = np.dtype(planes[0].dtype).name
    return Header(len(planes), (height, width), kind, told_um_per_px(planes[0]))


def _check_pixels(page: TiffPage, name: str, needed: str) -> None:
    """Refuse a page that is no grey image of camera counts."""
    if page.ndim != 2 or page.samplesperpixel != 1:
        raise ImageError(
            f"{name} has a page of shape {page.shape} (colour?)",
            f"it must have {needed}; save grey planes",
        )
    if not min(page.shape):
        raise ImageError(
            f"{name} has a page without pixels", f"it must have {needed}; save it again"
        )
    if page.dtype not in DTYPES:
        raise ImageError(
            f"{name} has pixels of type {page.dtype}",
            "it must have raw camera counts, uint8 or uint16; do not rescale them",
        )


def _check_costs(page: TiffPage, name: str) -> None:
    """Refuse a page that is too large to decode, or whose codec knows no limit."""
    if max(page.shape) > MAX_SIDE_PX:
        raise ImageError(
            f"{name} is {page.shape[0]} x {page.shape[1]} pixels",
            f"a side may be at most {MAX_SIDE_PX}; cut it in parts",
        )
    if max(page.chunks) > MAX_SIDE_PX:  # a codec allocates a whole tile, however small the image
        raise ImageError(
            f"{name} has tiles of {page.chunks} pixels",
            f"a side may be at most {MAX_SIDE_PX}; save it again in smaller tiles",
        )
    if page.compression not in CODECS:
        raise ImageError(
            f"{name} is compressed with {_codec(page)}",
            "save it uncompressed, or with LZW, deflate, zstd or PackBits",
        )


def _check_n_chunks(pages: list[TiffPage], size: int, name: str) -> None:
    """Refuse many strips or tiles in few bytes."""
    n_chunks = sum(math.prod(page.chunked) for page in pages)
    most = max(MAX_CHUNKS, size // _CHUNK_BYTES)
    if n_chunks > most:
        raise ImageError(
            f"{name} has pages in {n_chunks} strips or tiles",
            f"it may have {most}; save it again in larger ones",
        )


def _chunks(page: TiffPage, size: int, name: str) -> Chunks:
    """Where a page's strips or tiles are. Raises ImageError when that is not in the file."""
    offsets = np.array(page.dataoffsets, dtype=np.uint64)
    n_bytes = np.array(page.databytecounts, dtype=np.uint64)
    if offsets.shape != n_bytes.shape:
        raise ValueError(f"{len(offsets)} offsets, but {len(n_bytes)} byte counts")
    if ((offsets > size) | (n_bytes > size - offsets)).any():
        raise ImageError(
            f"{name} is cut short",
            f"its pages point past its end at {size} bytes; copy it again, whole",
        )
    return offsets, n_bytes


def _check_shared(chunks: list[Chunks], name: str) -> None:
    """Refuse bytes that belong to several strips: each would decode them again."""
    offsets, n_bytes = np.concatenate(chunks, axis=1)
    order = np.argsort(offsets[n_bytes > 0])
    starts, n_bytes = offsets[n_bytes > 0][order], n_bytes[n_bytes > 0][order]
    if (starts[:-1] + n_bytes[:-1] > starts[1:]).any():
        raise ImageError(
            f"{name} has strips that share bytes with each other",
            "save it again, each strip with its own bytes",
        )


def _check_work(page: TiffPage, n_bytes: NDArray[np.uint64], name: str) -> None:
    """Refuse strips full of codes that give no pixels, as every codec has them."""
    chunk_px = math.prod(page.chunks)
    most = _MAX_GROWTH * chunk_px * np.dtype(page.dtype).itemsize + _CHUNK_START_BYTES
    if page.compression != _UNCOMPRESSED and (longest := n_bytes.max(initial=0)) > most:
        raise ImageError(
            f"{name} has a strip of {longest} bytes, far more than its pixels need",
            f"{chunk_px} pixels may have {most}; save it again",
        )


def _codec(page: TiffPage) -> str:
    """The name of a page's compression, or its number where it has no name."""
    return getattr(page.compression, "name", str(page.compression))
