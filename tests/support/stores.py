"""Prepared stores of small plates, damage to their files, and kills at chosen moments."""

from pathlib import Path
from typing import Any

import tifffile

from adipocyte.config import PreprocessConfig
from adipocyte.preparation.prepare import prepare
from adipocyte.store.reader import Store

SETTINGS = {"mask_smallest_px": 50, "validation_wells": "B03", "test_wells": "B04", "workers": 0}


def prepared(plate: Path, folder: Path, **settings: Any) -> Store:
    """Prepare a copy of the plate that tests share, or a part of it, with its split."""
    return prepare(PreprocessConfig(plate=plate, store=folder, **SETTINGS | settings))


def damaged(path: Path) -> bytes:
    """Make a TIFF's pixels unreadable and leave its header right. Returns the file as it was."""
    whole = path.read_bytes()
    tifffile.imwrite(path, tifffile.imread(path), compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        start = tiff.pages.first.dataoffsets[0]
    data = bytearray(path.read_bytes())
    data[start : start + 8] = b"garbage!"
    path.write_bytes(data)
    return whole


def contents(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """The files in a folder, byte for byte, and when each was last written."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


class Killed(BaseException):
    """Stands for SIGKILL where a test has to choose the moment."""


def kill(*_: Any) -> None:
    """Take the place of a function, and kill its caller."""
    raise Killed
