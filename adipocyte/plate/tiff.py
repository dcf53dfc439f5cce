"""TIFF bytes in and out, decoded under limits and written whole or not at all."""

import io
import itertools
import os
import struct
import tempfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray

from adipocyte.errors import ImageError

MAX_SIDE_PX = 10_000

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


def read_image(path: Path) -> NDArray[np.uint16]:
    """Read a single-plane TIFF. Returns (Y, X) in counts. Raises ImageError, naming the file."""
    try:
        with open(path, "rb") as file:
            return _decode(file, path.stat().st_size, 1, str(path))[0]
    except OSError as error:
        raise ImageError(f"{path} cannot be opened ({error.strerror}): it must be a TIFF that this user may read") from error


def decode_stack(data: bytes, n_planes: int) -> NDArray[np.uint16]:
    """Decode a TIFF or OME-TIFF of *n_planes* pages, z in page order. Returns (Z, Y, X) in counts.

    Raises ImageError when the bytes are no TIFF, are cut short, or hold anything but *n_planes* grey uint16 pages of one size,
    each side at most MAX_SIDE_PX.
    """
    return _decode(io.BytesIO(data), len(data), n_planes, "the stack")


def encode_image(image: NDArray[np.uint16]) -> bytes:
    """A one-page TIFF of a (Y, X) image in counts."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, image, photometric="minisblack")
    return buffer.getvalue()


def encode_stack(stack: NDArray[np.uint16]) -> bytes:
    """A TIFF with one page for each plane of a (Z, Y, X) stack in counts."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, stack, photometric="minisblack")
    return buffer.getvalue()


def write_image(path: Path, image: NDArray[np.uint16]) -> None:
    """Write a (Y, X) image in counts to *path*: it is there whole afterwards, or as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".partial", delete=False) as file:
        try:
            file.write(encode_image(image))
            file.close()
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _decode(file: BinaryIO, size: int, n_planes: int, name: str) -> NDArray[np.uint16]:
    needed = f"{n_planes} grey uint16 page{'s' if n_planes > 1 else ''} of one size"
    if not size:
        raise ImageError(f"{name} is empty (0 bytes): it must be a TIFF of {needed}")
    try:
        with tifffile.TiffFile(file) as tiff:
            pages = list(itertools.islice(tiff.pages, n_planes + 1))
            _check(pages, size, n_planes, name, needed)
            return np.stack([page.asarray() for page in pages])
    except ImageError:
        raise
    except _UNREADABLE as error:
        raise ImageError(f"{name} cannot be read as TIFF ({error!r}): it must be a whole TIFF of {needed}; save it again") from error


def _check(pages: list[tifffile.TiffPage], size: int, n_planes: int, name: str, needed: str) -> None:
    """Refuse by what the page headers say, before any pixel is decoded or any image allocated."""
    if len(pages) != n_planes:
        if len(pages) > n_planes:
            raise ImageError(f"{name} has more than {n_planes} pages: it must have {needed}, z in order")
        advice = "if the file should have more, it is cut short: copy it again"
        raise ImageError(f"{name} has {len(pages)} of {n_planes} pages: it must have {needed}, z in order; {advice}")
    for page in pages:
        if page.ndim != 2:
            raise ImageError(f"{name} has a page of shape {page.shape} (colour?): it must have {needed}; save grey planes")
        if not min(page.shape):
            raise ImageError(f"{name} has a page without pixels: it must have {needed}")
        if page.dtype != np.uint16:
            raise ImageError(
                f"{name} has pixels of type {page.dtype}: it must have {needed}, in raw camera counts; do not rescale to float"
            )
        if page.shape != pages[0].shape:
            raise ImageError(f"{name} has pages of {pages[0].shape} and {page.shape} pixels: it must have {needed}")
        if max(page.shape) > MAX_SIDE_PX:
            raise ImageError(f"{name} is {page.shape[0]} x {page.shape[1]} pixels: a side may be at most {MAX_SIDE_PX}; cut it in parts")
        if max(page.chunks) > MAX_SIDE_PX:  # a codec allocates a whole tile, however small the image
            raise ImageError(
                f"{name} has tiles of {page.chunks} pixels: a side may be at most {MAX_SIDE_PX}; save it again in smaller tiles"
            )
        if any(offset + n_bytes > size for offset, n_bytes in zip(page.dataoffsets, page.databytecounts, strict=True)):
            raise ImageError(f"{name} is cut short: its pages point past its end at {size} bytes; copy it again, whole")
