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

from adipocyte.errors import ImageError
from adipocyte.system.files import write_whole

MAX_SIDE_PX = 10_000
MAX_PLANES = 99  # a file's name has two digits for the z-plane
MAX_CHUNKS = 40_000  # strips or tiles of a page: each costs some microseconds, however small
# Decoded bytes for one byte of the TIFF. Noise lets no camera's image shrink to a tenth or less.
MAX_EXPANSION = 200
# Decoded bytes that are never too many: a black image shrinks to almost nothing, and is cheap.
HARMLESS_BYTES = 100_000_000
DTYPES = (np.uint8, np.uint16)
# LZW, deflate under its two numbers, PackBits, zstd: these codecs are told how much to write.
# Codecs of whole pictures (JPEG, PNG, WebP, …) allocate what the compressed bytes ask for.
CODECS = {1, 5, 8, 32946, 32773, 50000}
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

Page = tifffile.TiffPage | tifffile.TiffFrame


@dataclass(frozen=True)
class Header:
    """What a TIFF says of itself.

    It has `n_planes` pages of one `shape`, (Y, X) in pixels, and of one `dtype`, "uint8" or
    "uint16".
    """

    n_planes: int
    shape: tuple[int, int]
    dtype: str


def read_header(path: Path) -> Header:
    """Look at a TIFF without decoding a pixel.

    Raises ImageError, naming the file, for all that can be told from its headers.
    """
    name, size = str(path), _size(path)
    with _tiff(path, size, name, "grey pages") as tiff:
        pages = list(itertools.islice(tiff.pages, MAX_PLANES + 1))
        if len(pages) > MAX_PLANES:
            raise ImageError(
                f"{name} has more than {MAX_PLANES} pages",
                "it must hold one plane, or the z-planes of one field",
            )
        header = _checked(pages, size, name, "grey pages")
        _check_axes(tiff, len(pages), name)
        return header


def read_image(path: Path) -> NDArray[np.uint16]:
    """Read a single-plane TIFF. Returns (Y, X) in counts. Raises ImageError, naming the file."""
    return read_stack(path, 1)[0]


def read_stack(path: Path, n_planes: int) -> NDArray[np.uint16]:
    """Read a TIFF of *n_planes* pages, z in page order. Returns (Z, Y, X) in counts.

    Raises ImageError, naming the file.
    """
    return _decode(path, _size(path), n_planes, str(path))


def decode_stack(data: bytes, n_planes: int) -> NDArray[np.uint16]:
    """Decode a TIFF or OME-TIFF of *n_planes* pages, z in page order. Returns (Z, Y, X) in counts.

    Only these bytes are read: the XML of an OME-TIFF, which may name other files, is not followed.

    Raises ImageError as `stack_shape` does, and when a page cannot be decoded.
    """
    return _decode(io.BytesIO(data), len(data), n_planes, _STACK)


def stack_shape(data: bytes, n_planes: int) -> tuple[int, int]:
    """The (Y, X) in pixels of a stack, by its headers; no pixel is decoded.

    Raises ImageError when the bytes are no TIFF, are cut short, or hold anything but *n_planes*
    grey pages, uint8 or uint16, of one size, each side at most MAX_SIDE_PX; when a page has more
    than MAX_CHUNKS strips or tiles or a codec that is not in CODECS, when several strips share
    bytes, or when the bytes swell to more than MAX_EXPANSION times as many and to more than
    HARMLESS_BYTES.
    """
    with _pages(io.BytesIO(data), len(data), n_planes, _STACK) as (header, _):
        return header.shape


def encode_image(image: NDArray[np.uint16]) -> bytes:
    """A one-page TIFF of a (Y, X) image in counts."""
    return _encode(image)


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


def write_image(path: Path, image: NDArray[np.uint16]) -> None:
    """Write a (Y, X) image in counts to *path*, whole or not at all."""
    write_whole(path, encode_image(image))


def _size(path: Path) -> int:
    """Bytes of a file. Raises ImageError when it is not there or may not be read."""
    try:
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_size
    except OSError as error:
        raise ImageError(
            f"{path} cannot be opened ({error.strerror})",
            "it must be a TIFF that this user may read",
        ) from error


def _decode(source: Path | BinaryIO, size: int, n_planes: int, name: str) -> NDArray[np.uint16]:
    with _pages(source, size, n_planes, name) as (header, pages):
        stack = np.empty((n_planes, *header.shape), dtype=np.uint16)
        for plane, page in zip(stack, pages, strict=True):
            plane[...] = page.asarray()
        return stack


@contextmanager
def _pages(
    source: Path | BinaryIO, size: int, n_planes: int, name: str
) -> Generator[tuple[Header, list[Page]]]:
    """The header of a stack, and its pages, checked, to decode."""
    needed = f"{n_planes} grey page{'s' if n_planes > 1 else ''}"
    with _tiff(source, size, name, needed) as tiff:
        pages = list(itertools.islice(tiff.pages, n_planes + 1))
        _check_number(len(pages), n_planes, name, needed)
        yield _checked(pages, size, name, needed), pages


@contextmanager
def _tiff(
    source: Path | BinaryIO, size: int, name: str, needed: str
) -> Generator[tifffile.TiffFile]:
    """A TIFF to look at; what damaged bytes raise in the block becomes an ImageError on *name*."""
    if not size:
        raise ImageError(
            f"{name} is empty (0 bytes)",
            f"it must be a TIFF of {needed} of one size, uint8 or uint16",
        )
    try:
        with tifffile.TiffFile(source, **_VENDORS) as tiff:
            yield tiff
    except ImageError:
        raise
    except _UNREADABLE as error:
        raise ImageError(
            f"{name} cannot be read as TIFF ({error!r})",
            f"it must be a whole TIFF of {needed}; save it again",
        ) from error


def _check_number(n_found: int, n_planes: int, name: str, needed: str) -> None:
    if n_found > n_planes:
        raise ImageError(
            f"{name} has more than {n_planes} pages", f"it must have {needed}, z in order"
        )
    if n_found < n_planes:
        advice = "if the file should have more, it is cut short: copy it again"
        raise ImageError(
            f"{name} has {n_found} of {n_planes} pages",
            f"it must have {needed}, z in order; {advice}",
        )


def _checked(pages: list[Page], size: int, name: str, needed: str) -> Header:
    """The header that the *pages* have in common.

    Raises ImageError by what their headers say, before any pixel is decoded or image allocated.
    """
    if not pages:
        raise ImageError(f"{name} has no page", f"it must have {needed}; copy it again, whole")
    dtype = np.dtype(pages[0].dtype)
    for page in pages:
        _check_pixels(page, name, needed)
        if (page.shape, page.dtype) != (pages[0].shape, dtype):
            kinds = f"{pages[0].shape} {dtype} and of {page.shape} {page.dtype}"
            raise ImageError(
                f"{name} has pages of {kinds} pixels",
                f"it must have {needed} of one size and type; save it again",
            )
        _check_chunks(page, size, name)
    if sum(sum(page.databytecounts) for page in pages) > size:
        raise ImageError(
            f"{name} has strips that share bytes with each other",
            "save it again, each strip with its own bytes",
        )
    decoded = sum(math.prod(page.chunked) * math.prod(page.chunks) for page in pages)
    decoded *= dtype.itemsize
    if decoded > max(HARMLESS_BYTES, MAX_EXPANSION * size):
        raise ImageError(
            f"{name} would swell from {size} bytes to {decoded}",
            f"a camera's image has up to {MAX_EXPANSION} for one; save it uncompressed",
        )
    height, width = pages[0].shape
    return Header(len(pages), (height, width), dtype.name)


def _check_pixels(page: Page, name: str, needed: str) -> None:
    """Refuse a page that is no grey image of camera counts."""
    if page.ndim != 2:
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


def _check_chunks(page: Page, size: int, name: str) -> None:
    """Refuse a page whose strips or tiles cost too much to decode, or point past the file."""
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
    if (n_chunks := math.prod(page.chunked)) > MAX_CHUNKS:
        raise ImageError(
            f"{name} has pages in {n_chunks} strips or tiles",
            f"it may have {MAX_CHUNKS}; save it again in larger ones",
        )
    chunks = zip(page.dataoffsets, page.databytecounts, strict=True)
    if any(offset + n_bytes > size for offset, n_bytes in chunks):
        raise ImageError(
            f"{name} is cut short",
            f"its pages point past its end at {size} bytes; copy it again, whole",
        )


def _codec(page: Page) -> str:
    """The name of a page's compression, or its number where it has no name."""
    return getattr(page.compression, "name", str(page.compression))


def _check_axes(tiff: tifffile.TiffFile, n_pages: int, name: str) -> None:
    """Refuse pages along several axes, because the order of pages only tells z."""
    if n_pages == 1 or not (tiff.is_ome or tiff.is_imagej):
        return
    sizes = tiff.series[0].sizes.items()
    long = [(axis, n) for axis, n in sizes if axis not in ("height", "width") and n > 1]
    if len(long) > 1:
        found = " and ".join(f"{n} along {axis}" for axis, n in long)
        raise ImageError(
            f"{name} has pages {found}",
            "it must have the z-planes of one channel; export each channel by itself",
        )
