"""What the machine refused or ran out of, told from the errors of libraries.

Errors are known by class, errno and SQLite's error code. A few libraries say it in their text
alone; `tests/system/test_failures.py` holds those texts by provoking them.
"""

import errno
import os
import re
import sqlite3
from collections.abc import Collection, Iterator

from adipocyte.errors import AdipocyteError, ResourceError

_MOST_SAID = 300  # characters of a library's words that are repeated
_AGAIN = "and run the same command again"

_MEMORY = (  # texts of PyTorch on a CPU, of CUDA and its libraries, and of C++
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA error: out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
    "Insufficient memory",
    "failed to map segment from shared object",  # of a library that was to be loaded
)
_KILLED = ("is killed by signal: Killed", "exited unexpectedly")  # of PyTorch's reading processes
_SHARED_MEMORY = (
    "unable to allocate shared memory",
    "is killed by signal: Bus error",
    "unable to write to file </torch_",
)
_COMPILER = ("Failed to find C compiler",)  # Triton's; the others have classes
_COMPILER_CLASSES = (
    "InvalidCxxCompiler",
    "CppCompileError",
    "TritonMissing",
    "GPUTooOldForTriton",
    "BackendCompilerFailed",
)
_LESS_MEMORY = {  # settings that lower what is taken, and how
    "batch": "a lower -P batch",
    "patch_px": "a lower -P patch_px",
    "tile_px": "-P tile_px=512",
    "workers": "-P workers=0",
}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
_OTHER_FILES = {
    errno.EMFILE: "allow more open files (ulimit -n 4096)",
    errno.ENFILE: "end other programs, because the whole machine has too many files open",
    errno.EIO: "see that the disk or the network share is in order",
    errno.ESTALE: "mount the network share again",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EAGAIN: "end other programs, or give it fewer -P workers",
    errno.EPIPE: "keep the program open that reads its output",
    errno.ENOTDIR: "name a folder",
    errno.EISDIR: "name a file",
    errno.EEXIST: "name another one, or remove it",
}
_SQLITE = {  # what SQLite's primary error codes mean, and what to do
    sqlite3.SQLITE_BUSY: ("is locked", "close the program that holds it (a backup, a browser)"),
    sqlite3.SQLITE_LOCKED: ("is locked", "close the program that holds it (a backup, a browser)"),
    sqlite3.SQLITE_READONLY: ("is read-only", "make its file and folder writable"),
    sqlite3.SQLITE_FULL: ("does not fit on its disk", "free some space there"),
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened", "make its file and folder readable, writable"),
    sqlite3.SQLITE_IOERR: ("cannot be read or written", "free some space, check its disk"),
    sqlite3.SQLITE_CORRUPT: ("is damaged", "restore a copy of it, move it away"),
    sqlite3.SQLITE_NOTADB: ("is no SQLite database", "name another file, move it away"),
}


def explained(error: BaseException, settings: Collection[str] = ()) -> AdipocyteError | None:
    """What *error* says of the machine, in words; None where it says nothing of it.

    An error of ours among its causes speaks for itself. The remedies name those of *settings* that
    help.
    """
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, AdipocyteError):
            return cause
    for judge in (_memory, _shared_memory, _database, _disk, _compiler, _package):
        for cause in causes:
            if said := judge(cause, settings):
                return ResourceError(*said)
    return None


def without_passwords(text: str) -> str:
    """*text* without the name and password of the addresses in it: "//name:password@host"."""
    return re.sub(r"//[^/\s]*@", "//", text)  # a password may hold an @ itself


def one_line(error: BaseException) -> str:
    """The words of a library's error on one line, without passwords, cut after _MOST_SAID."""
    said = without_passwords(" ".join(str(error).split()))
    return said if len(said) <= _MOST_SAID else f"{said[:_MOST_SAID]} …"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """*error* and what it was raised from, PyTorch's and SQLAlchemy's own ways included."""
    seen: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        cause = waiting.pop(0)
        if not isinstance(cause, BaseException) or cause in seen:
            continue
        seen.append(cause)
        yield cause
        inner = (getattr(cause, name, None) for name in ("inner_exception", "orig"))
        waiting += [cause.__cause__, *inner]


def _memory(cause: BaseException, settings: Collection[str]) -> tuple[str, str] | None:
    is_full = isinstance(cause, MemoryError) or _is_a(cause, "OutOfMemoryError")
    is_full = is_full or getattr(cause, "errno", None) == errno.ENOMEM
    if not (is_full or _says(cause, _MEMORY + _KILLED)):
        return None
    ways = [way for name, way in _LESS_MEMORY.items() if name in settings]
    place = "the GPU's memory" if "CUDA" in str(cause) else "the memory of this machine"
    return (
        f"{place} has run out ({one_line(cause)})",
        f"give {' or '.join(ways)}" if ways else f"end other programs, {_AGAIN}",
    )


def _shared_memory(cause: BaseException, settings: Collection[str]) -> tuple[str, str] | None:
    if not _says(cause, _SHARED_MEMORY):
        return None
    return (
        "/dev/shm, through which processes hand over patches, is too small",
        "let this process read them with -P workers=0, or give the container more: "
        "docker run --shm-size=8g",
    )


def _database(cause: BaseException, settings: Collection[str]) -> tuple[str, str] | None:
    if isinstance(cause, sqlite3.Error):
        code = getattr(cause, "sqlite_errorcode", None)
        if code is None or code & 0xFF not in _SQLITE:
            return None
        state, remedy = _SQLITE[code & 0xFF]
        return f"a database of this command {state} ({one_line(cause)})", f"{remedy}, {_AGAIN}"
    if _is_a(cause, "OperationalError") and not isinstance(
        getattr(cause, "orig", None), sqlite3.Error
    ):
        return (
            f"a database of this command cannot be reached ({one_line(cause)})",
            f"see that it runs and lets you in, {_AGAIN}",
        )
    return None


def _disk(cause: BaseException, settings: Collection[str]) -> tuple[str, str] | None:
    if not isinstance(cause, OSError) or cause.errno is None:
        return None
    place = cause.filename or "a file"
    reason = cause.strerror or os.strerror(cause.errno)
    if cause.errno in _FULL:
        where = f", where {place} was to be written" if cause.filename else ""
        return f"the disk is full{where} ({reason})", f"free some space there, {_AGAIN}"
    if cause.errno in _REFUSED:
        return (
            f"{place} may not be used in this way ({reason})",
            f"change its permissions or name another place, {_AGAIN}",
        )
    if remedy := _OTHER_FILES.get(cause.errno):
        return f"{place}: {reason}", remedy
    return None


def _compiler(cause: BaseException, settings: Collection[str]) -> tuple[str, str] | None:
    if not (_says(cause, _COMPILER) or any(_is_a(cause, name) for name in _COMPILER_CLASSES)):
        return None
    return (
        f"the network could not be compiled here ({one_line(cause)})",
        "paint or train without it, -P compile=false, or install a C++ compiler (g++)",
    )


def _package(cause: BaseException, settings: Collection[str]) -> tuple[str, str] | None:
    if not isinstance(cause, ImportError):
        return None
    return (
        f"a Python package of this command is missing or damaged ({one_line(cause)})",
        "install the project's packages again: make setup, or mlflow run with its default "
        "environment",
    )


def _says(cause: BaseException, texts: tuple[str, ...]) -> bool:
    is_librarys = isinstance(cause, (RuntimeError, OSError, ImportError)) or _is_a(cause, "error")
    return is_librarys and any(text in str(cause) for text in texts)


def _is_a(cause: BaseException, name: str) -> bool:
    """Whether a library's class is called *name*; importing the library would take seconds."""
    return name in [kind.__name__ for kind in type(cause).__mro__]
