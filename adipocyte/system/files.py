"""Files that are written whole or not at all, their digests, and locks on folders."""

import errno
import hashlib
import json
import os
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


class HeldError(Exception):
    """Another process holds the lock."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to; when the block ends it becomes *path*, which is never seen half-written.

    The new content is flushed to the disk before it takes the name, so a power cut leaves the old
    file or the new one. Its permissions follow the umask. Folders on the way are made. When the
    block raises, *path* is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777  # as the umask has it
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        if partial.stat().st_mode & 0o777 != mode:  # safetensors keeps its files to their owner
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
    """A name of 16 hexadecimal letters for *content*, which JSON can hold; the same content, the same name."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file *path* for this process while the block lasts; it ends with the process, however that ends.

    The file stays: a lock file that is removed can be held twice. On a file system without locks the
    block runs unlocked, with a warning. Raises HeldError when another process holds it.
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
        if error.errno in _NO_LOCKS:
            warnings.warn(
                f"{path.parent} is on a file system without locks: do not start the same command twice",
                stacklevel=2,
            )
            return
        raise HeldError(str(path)) from error
