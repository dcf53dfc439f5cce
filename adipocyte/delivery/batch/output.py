"""Where a stained plate goes: a folder, or any place that fsspec knows."""

from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from adipocyte.errors import ConfigError, OutputError
from adipocyte.system.files import write_whole


class Output:
    """A folder of whole files, by its path or its address ("s3://bucket/stained").

    fsspec (https://filesystem-spec.readthedocs.io) knows the kinds of addresses. `address` names
    the folder from anywhere on this machine; `folder` is its path, None where it lies elsewhere.

    Raises ConfigError for an address of no known kind, or of a kind whose package is not installed;
    every method raises OutputError when the place cannot be reached, read or written to.
    """

    def __init__(self, address: str) -> None:
        try:
            self._files, root = fsspec.url_to_fs(address)
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"{address} is no place to write to ({error})",
                "name a folder or an address, -P out=stained",
            ) from error
        except Exception as error:  # each kind of place has its own errors
            raise _lost(address, "reached", error) from error
        self._root = str(root)
        self.folder = Path(self._root) if isinstance(self._files, LocalFileSystem) else None
        self.address = str(self.folder) if self.folder else address
        self._made: set[str] = set()

    def files(self) -> set[str]:
        """The names of all files, relative to the folder."""
        try:
            paths = self._files.find(self._root)
        except Exception as error:
            raise _lost(self.address, "looked into", error) from error
        return {path.removeprefix(self._root).lstrip("/") for path in paths}

    def read(self, name: str) -> bytes | None:
        """The content of a file; None when there is none."""
        try:
            return self._files.cat_file(self._path(name))
        except FileNotFoundError:
            return None
        except Exception as error:
            raise _lost(self.address, "read", error) from error

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all."""
        try:
            if self.folder:
                write_whole(self.folder / name, data)
            else:
                self._put(self._path(name), data)
        except Exception as error:
            raise _lost(self.address, "written to", error) from error

    def _put(self, path: str, data: bytes) -> None:
        parent = path.rpartition("/")[0]
        if parent not in self._made:
            self._files.makedirs(parent, exist_ok=True)
            self._made.add(parent)
        with self._files.transaction, self._files.open(path, "wb") as file:
            file.write(data)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"


def _lost(address: str, what: str, error: Exception) -> OutputError:
    return OutputError(
        f"{address} cannot be {what} ({type(error).__name__}: {error})",
        "see that it is there, has room and lets this user write, and run the same command again",
    )
