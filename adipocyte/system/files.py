"""Files that are written whole or not at all and read under limits, what names them, and locks."""

import errno
import hashlib
import io
import json
import os
import secrets
import stat
import struct
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

MOST_JSON_BYTES = 100_000_000  # a manifest of a 1536-well plate has some megabytes
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_FLOCK = struct.Struct("hhqqi")  # Linux's struct flock: type, whence, start, length, process
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
            _permit(partial, mode)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _permit(path: Path, mode: int) -> None:
    try:
        path.chmod(mode)
    except OSError as error:  # some network and FAT file systems refuse it
        warnings.warn(
            f"{path.parent} keeps its own permissions ({error.strerror}): whoever else is to read "
            "what is written there needs them from its mount or its owner",
            stacklevel=4,
        )


def write_whole(path: Path, data: bytes) -> None:
    """Write *data* to *path*, whole or not at all."""
    with replacing(path) as partial:
        partial.write_bytes(data)


def create_whole(path: Path, data: bytes) -> bool:
    """Write *data* to *path* unless something is there already: False then.

    Of several processes that create one file at once, one succeeds; where the file system has no
    hard links, each may.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        write_whole(made, data)
        os.link(made, path)
    except FileExistsError:
        return False
    except OSError:
        if os.path.lexists(path):
            return False
        made.replace(path)
    finally:
        made.unlink(missing_ok=True)
    return True


def write_json(path: Path, content: Any) -> None:
    """Write *content* to *path* as indented JSON, whole or not at all."""
    write_whole(path, json_bytes(content))


def json_bytes(content: Any) -> bytes:
    """*content* as indented JSON with a line end."""
    return f"{json.dumps(content, indent=1)}\n".encode()


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file to read, or a link to one.

    Anything else is never opened: a FIFO would wait for its writer, a device may act. Raises
    OSError, whose `strerror` says what *path* is, or why it cannot be opened.
    """
    require_regular(path)
    # Not to wait if it has become a FIFO meanwhile.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    file = os.fdopen(descriptor, "rb")
    try:
        _require_regular(os.fstat(descriptor), path)
    except OSError:
        file.close()
        raise
    return file


def require_regular(path: Path) -> None:
    """Raise OSError as `open_regular` does; nothing is opened."""
    _require_regular(os.stat(path), path)


def _require_regular(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "of an unknown kind")
        raise OSError(errno.EINVAL, f"it is {kind}, not a file", str(path))


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises OSError (see `open_regular`), ValueError for other bytes.

    More than MOST_JSON_BYTES are not read, and raise ValueError.
    """
    with open_regular(path) as file:
        data = file.read(MOST_JSON_BYTES + 1)
    if len(data) > MOST_JSON_BYTES:
        raise ValueError(f"it is larger than {MOST_JSON_BYTES} bytes")
    return parse_json(data)


def parse_json(data: bytes | bytearray) -> Any:
    """What JSON *data* says. Raises ValueError, for JSON that is nested too deeply as well."""
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises OSError as `open_regular` does."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path) -> tuple[str, int, int]:
    """Name, size and time of a file, which change when the file does; it is not opened."""
    if not path.exists():
        return str(path), 0, 0
    status = path.stat()
    return path.name, status.st_size, status.st_mtime_ns


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
    with path.open("a") as file:  # for writing, but what a link may lead to keeps its content
        _lock(file, path)
        yield


def _lock(file: TextIO, path: Path) -> None:
    if fcntl is None:
        return
    try:
        # Not flock: worker processes would inherit its locks.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD and _is_held(file):
            raise HeldError(str(path)) from error
        warnings.warn(
            f"{path.parent} cannot be locked ({error.strerror}): start one command there at a time",
            stacklevel=2,
        )


def _is_held(file: TextIO) -> bool:
    """Whether another process holds the lock of *file*; yes where the system does not tell.

    The codes of a held lock are also those of a file system that refuses locks.
    """
    # Elsewhere the structure lies otherwise in memory.
    if fcntl is None or not sys.platform.startswith("linux"):
        return True
    try:
        answer = fcntl.fcntl(file, fcntl.F_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except OSError:
        return False
    return _FLOCK.unpack(answer)[0] != fcntl.F_UNLCK
