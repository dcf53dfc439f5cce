"""Files that are written whole or not at all, their digests, and locks on folders."""

import errno
import hashlib
import json
import os
import secrets
import warnings
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

_HELD = (errno.EAGAIN, errno.EACCES)  # POSIX has either for a lock that another process holds


class HeldError(Exception):
    """Another process holds the lock."""


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Give a path to write to; when the block ends it becomes *path*, which is never half-written.

    The new content is flushed to the disk before it takes the name, so a power cut leaves the old
    file or the new one. Its permissions follow the umask. Folders on the way are made. When the
    block raises, *path* is as it was; when the process is killed, a hidden `.partial` file may stay
    beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{secrets.token_hex(8)}.partial")  # short, whatever *path* is called
    try:
        with partial.open("xb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777  # what the umask allows
        yield partial
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        if partial.stat().st_mode & 0o777 != mode:  # safetensors lets only the owner read its files
            with suppress(OSError):  # some network and FAT file systems refuse chmod
                partial.chmod(mode)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_whole(path: Path, data: bytes) -> None:
    """Write *data* to *path*, whole or not at all."""
    with replacing(path) as partial:
        partial.write_bytes(data)


def write_json(path: Path, content: Any) -> None:
    """Write *content* to *path* as indented JSON, whole or not at all."""
    write_whole(path, json_bytes(content))


def json_bytes(content: Any) -> bytes:
    """*content* as indented JSON with a line end."""
    return f"{json.dumps(content, indent=1)}\n".encode()


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def short_digest(content: Any) -> str:
    """Name *content*, which JSON can hold, by 16 hexadecimal digits that equal content shares."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Hold the lock file *path* for this process while the block lasts.

    The system releases the lock when the process ends, however it ends. The file stays, because two
    processes could hold a lock file that is removed and made again. Where the file system has no
    locks, the block runs unlocked, with a warning. Raises HeldError when another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        _lock(file, path)
        yield


def _lock(file: TextIO, path: Path) -> None:
    if fcntl is None:
        return
    try:
        # Not flock: worker processes would inherit its locks.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            raise HeldError(str(path)) from error
        warnings.warn(
            f"{path.parent} cannot be locked ({error.strerror}): start one command there at a time",
            stacklevel=2,
        )
