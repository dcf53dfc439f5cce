"""Where a stained plate goes: a folder, or any place that fsspec knows."""

from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from adipocyte.errors import ConfigError, OutputError
from adipocyte.system.files import write_whole


class Output:
    """A folder, by its path or its address ("s3://bucket/stained", …: https://filesystem-spec.readthedocs.io), of files that are whole.

    `address` is that of the folder from anywhere on this machine; `folder` is its path, None where it lies elsewhere.

    Raises ConfigError for an address of no known kind, or whose kind takes a package that is not installed; every method raises
    OutputError when the place does not do its part.
    """

    def __init__(self, address: str) -> None:
        try:
            self._files, self._root = fsspec.url_to_fs(address)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"{address} is no place to write to ({error}): name a folder or an address, -P out=stained"
            ) from error
        except Exception as error:  # each kind of place has kinds of errors of its own
            raise self._lost("reached", error, address) from error
        self.folder = Path(self._root) if isinstance(self._files, LocalFileSystem) else None
        self.address = str(self.folder) if self.folder else address
        self._made: set[str] = set()

    def files(self) -> set[str]:
        """The names of all files, relative to the folder."""
        try:
            return {
                path.removeprefix(self._root).lstrip("/") for path in self._files.find(self._root)
            }
        except Exception as error:
            raise self._lost("looked into", error) from error

    def read(self, name: str) -> bytes | None:
        """The content of a file; None when there is none."""
        try:
            return self._files.cat_file(self._path(name))
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._lost("read", error) from error

    def write(self, name: str, data: bytes) -> None:
        """Write a file: it is there whole afterwards, or as it was."""
        try:
            if self.folder:
                write_whole(self.folder / name, data)
            else:
                self._put(self._path(name), data)
        except Exception as error:
            raise self._lost("written to", error) from error

    def _put(self, path: str, data: bytes) -> None:
        parent = path.rpartition("/")[0]
        if parent not in self._made:
            self._files.makedirs(parent, exist_ok=True)
            self._made.add(parent)
        with self._files.transaction, self._files.open(path, "wb") as file:
            file.write(data)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _lost(self, what: str, error: Exception, address: Any = None) -> OutputError:
        return OutputError(
            f"{address or self.address} cannot be {what} ({type(error).__name__}: {error}): see that it is there, has room and lets "
            "this user write, and run the same command again"
        )
