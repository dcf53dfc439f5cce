"""Where a stained plate goes: a folder, or any place that fsspec knows."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from adipocyte.errors import ConfigError, ImageError, OutputError
from adipocyte.plate.tiff import read_header
from adipocyte.system.files import (
    MOST_JSON_BYTES,
    create_whole,
    open_regular,
    parse_json,
    write_whole,
)

_ANOTHER_FOLDER = "name another folder with -P out=<folder>"


class Output:
    """A folder of whole files, by its path or its address ("s3://bucket/stained").

    fsspec (https://filesystem-spec.readthedocs.io) knows the kinds of addresses. `address` names
    the folder from anywhere on this machine; `folder` is its path, None where it lies elsewhere.
    Nothing is written into the folders of the raw *plate*, by whatever path or link they are
    reached, nor through any link inside this folder.

    Raises ConfigError for an address of no known kind, or of a kind whose package is not installed;
    every method raises OutputError when the place cannot be reached, read or written to.
    """

    def __init__(self, address: str, plate: Path | None = None) -> None:
        try:
            if not address.strip() or "::" in address:  # fsspec reads "::" as one place in another
                raise ValueError("it must be one folder or address")
            self._files, root = fsspec.url_to_fs(address)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"{address!r} is no place to write to ({error})",
                "name a folder or an address, -P out=stained",
            ) from error
        except Exception as error:  # each kind of place has its own errors
            raise _lost(address, "reached", error) from error
        self._root = str(root)
        self.folder = Path(self._root) if isinstance(self._files, LocalFileSystem) else None
        self.address = str(self.folder) if self.folder else address
        self._made: set[str] = set()
        self._raw = _identities(folders_of(plate)) if plate and self.folder else set()

    def files(self) -> set[str]:
        """The names of all files, relative to the folder."""
        try:
            paths = self._files.find(self._root)
        except Exception as error:
            raise _lost(self.address, "looked into", error) from error
        return {path.removeprefix(self._root).lstrip("/") for path in paths}

    def read_json(self, name: str) -> Any:
        """The content of a JSON file; None when there is none.

        Raises ValueError when it is something else than JSON, or larger than MOST_JSON_BYTES.
        """
        try:
            data = self._read(name, MOST_JSON_BYTES + 1)
        except FileNotFoundError:
            return None
        except Exception as error:
            raise _lost(self.address, "read", error) from error
        if len(data) > MOST_JSON_BYTES:
            raise ValueError(f"it is larger than {MOST_JSON_BYTES} bytes")
        return parse_json(data)

    def holds_image(self, name: str, shape: tuple[int, int]) -> bool:
        """Whether an image of *shape*, (Y, X) in pixels, is there.

        Only an image in a folder is looked at, because elsewhere that would take its bytes.
        """
        try:
            if self.folder is None:
                return self._size(name) > 0
            return read_header(self.folder / name).shape == shape
        except (ImageError, FileNotFoundError):
            return False
        except Exception as error:
            raise _lost(self.address, "looked into", error) from error

    def holds(self, name: str) -> bool:
        """Whether a file is there that is not empty."""
        try:
            return self._size(name) > 0
        except FileNotFoundError:
            return False
        except Exception as error:
            raise _lost(self.address, "looked into", error) from error

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all. Raises OutputError when it lies in the raw plate."""
        self.require_own(name)
        try:
            if self.folder:
                write_whole(self.folder / name, data)
            else:
                self._put(name, data)
        except Exception as error:
            raise _lost(self.address, "written to", error) from error

    def create(self, name: str, data: bytes) -> bool:
        """Write a file, unless it is there already: False then.

        Of several processes that create it in a folder at once, one succeeds.
        """
        self.require_own(name)
        try:
            if self.folder:
                return create_whole(self.folder / name, data)
            if self._files.exists(self._path(name)):
                return False
            self._put(name, data)
        except Exception as error:
            raise _lost(self.address, "written to", error) from error
        return True

    def require_own(self, name: str) -> None:
        """Raise OutputError when a file of this *name* would be written into the raw plate.

        The same for a file behind a link: links could lead anywhere.
        """
        if self.folder is None:
            return
        path = self.folder / name
        inside = [path, *path.parents][: len(Path(name).parts)]
        for one in inside:
            if one.is_symlink():
                raise OutputError(f"{one} is a link", f"remove it, or {_ANOTHER_FOLDER}")
        if self._raw & _identities(path.resolve().parents):
            raise OutputError(
                f"{path} would lie in the raw plate, which is never written to", _ANOTHER_FOLDER
            )

    def _read(self, name: str, n_bytes: int) -> bytes:
        if self.folder is None:
            return self._files.cat_file(self._path(name), end=min(n_bytes, self._size(name)))
        with open_regular(self.folder / name) as file:
            return file.read(n_bytes)

    def _size(self, name: str) -> int:
        """Bytes of a file."""
        return self._files.size(self._path(name)) or 0

    def _put(self, name: str, data: bytes) -> None:
        path = self._path(name)
        parent = path.rpartition("/")[0]
        if parent not in self._made:
            self._files.makedirs(parent, exist_ok=True)
            self._made.add(parent)
        with self._files.transaction, self._files.open(path, "wb") as file:
            file.write(data)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"


def folders_of(plate: Path) -> set[Path]:
    """The folders of a raw *plate*: itself, those in it, and those that its files are links into.

    Raises OSError when they cannot be looked into.
    """
    found = {plate.resolve()}
    for folder in (path for path in plate.iterdir() if path.is_dir()):
        found.add(folder.resolve())
        links = (Path(entry.path) for entry in os.scandir(folder) if entry.is_symlink())
        found.update(link.resolve().parent for link in links)
    return found


def _identities(folders: Iterable[Path]) -> set[tuple[int, int]]:
    """Device and inode of those *folders* that are there: the same by every path and mount."""
    found = set()
    for folder in folders:
        try:
            status = folder.stat()
        except FileNotFoundError:
            continue
        found.add((status.st_dev, status.st_ino))
    return found


def _lost(address: str, what: str, error: Exception) -> OutputError:
    return OutputError(
        f"{address} cannot be {what} ({type(error).__name__}: {error})",
        "see that it is there, has room and lets this user write, and run the same command again",
    )
