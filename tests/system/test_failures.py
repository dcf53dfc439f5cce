"""What a command says when the machine runs out of something: each error is a library's own."""

import errno
import os
import resource
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException
from safetensors.torch import save_file
from torch._inductor.exc import InductorError, InvalidCxxCompiler

from adipocyte.errors import PlateError, ResourceError
from adipocyte.system.failures import explained, one_line, without_passwords
from adipocyte.system.tensors import disk_errors


def caught(function, *args: object, **options: object) -> Exception:
    """The error that a call raises."""
    with pytest.raises(Exception) as raised:  # noqa: PT011  any kind is to be explained
        function(*args, **options)
    return raised.value


def said_of(error: Exception, *settings: str) -> str:
    known = explained(error, settings)
    assert isinstance(known, ResourceError)
    assert known.remedy
    assert "\n" not in str(known)
    return str(known)


@pytest.mark.parametrize("make", [torch.empty, np.empty], ids=["PyTorch", "NumPy"])
def test_memory_that_runs_out_names_the_settings_that_take_less(make):
    error = caught(make, 10**15)
    said = said_of(error, "batch", "patch_px", "seed")
    assert said.startswith("the memory of this machine has run out")
    assert said.endswith("give a lower -P batch or a lower -P patch_px")
    assert "-P" not in said_of(error)


def test_a_library_that_finds_no_memory_to_be_loaded_is_not_missing():
    error = ImportError("libtorch_cpu.so: failed to map segment from shared object")
    assert said_of(error).startswith("the memory of this machine has run out")


def test_memory_of_a_gpu_is_told_apart():
    said = said_of(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), "batch")
    assert said.startswith("the GPU's memory has run out")
    assert "-P batch" in said


def test_a_reading_process_that_is_killed_is_short_of_memory():
    error = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    assert "-P workers=0" in said_of(error, "workers")


def test_shared_memory_that_is_too_small_names_both_ways_out():
    error = caught(torch.UntypedStorage._new_using_fd_cpu, 10**15)
    for found in (error, RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error.")):
        said = said_of(found, "workers")
        assert said.startswith("/dev/shm")
        assert "-P workers=0" in said
        assert "--shm-size" in said


def test_a_full_disk_is_named_with_its_file():
    with open("/dev/full", "wb", buffering=0) as nothing_fits:
        error = caught(nothing_fits.write, b"x")
    assert "the disk is full" in said_of(error)
    assert "a.tif" in said_of(OSError(errno.EDQUOT, "Disk quota exceeded", "a.tif"))


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file of this process may grow beyond 4096 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_takes_no_more_tensors_is_told_as_any_other(tmp_path: Path, small_files):
    def save() -> None:
        with disk_errors(tmp_path / "state"):
            save_file({"weight": torch.zeros(100_000)}, tmp_path / "state")

    error = caught(save)
    assert isinstance(error, OSError)
    assert error.errno == errno.EFBIG
    assert f"{tmp_path}/state" in said_of(error)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_place_that_refuses_is_named(number):
    assert "out/x.tif may not be used" in said_of(OSError(number, os.strerror(number), "out/x.tif"))


def locked(path: Path) -> None:
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        sqlite3.connect(path, timeout=0).execute("CREATE TABLE t (x)")
    finally:
        holder.close()


def read_only(path: Path) -> None:
    path.touch()
    sqlite3.connect(f"file:{path}?mode=ro", uri=True).execute("CREATE TABLE t (x)")


def full(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("PRAGMA max_page_count = 1")
    database.execute("CREATE TABLE t (x)")


def folder(path: Path) -> None:
    path.mkdir()
    sqlite3.connect(path)


def garbage(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)
    sqlite3.connect(path).execute("CREATE TABLE t (x)")


@pytest.mark.parametrize(
    ("provoke", "state"),
    [
        (locked, "is locked"),
        (read_only, "is read-only"),
        (full, "does not fit on its disk"),
        (folder, "cannot be opened"),
        (garbage, "is no SQLite database"),
    ],
)
def test_what_ails_a_database_is_told_however_libraries_wrap_it(tmp_path: Path, provoke, state):
    error = caught(provoke, tmp_path / "mlflow.db")
    wrapped = MlflowException("(sqlite3.OperationalError) [SQL: …]")
    wrapped.__cause__ = error
    for found in (error, wrapped):
        assert said_of(found).startswith(f"a database of this command {state}")


def test_a_missing_compiler_says_how_to_go_on_without():
    triton = RuntimeError("Failed to find C compiler. Please specify via CC environment variable")
    for cause in (InvalidCxxCompiler(), triton):
        assert "-P compile=false" in said_of(InductorError(cause, None))


def test_a_missing_package_is_named():
    said = said_of(caught(__import__, "no_such_package"))
    assert "no_such_package" in said
    assert "make setup" in said


def test_an_error_of_ours_speaks_for_itself_under_whatever_wraps_it():
    ours = PlateError("no plate", "make one")
    wrapped = RuntimeError("in a worker")
    wrapped.__cause__ = ours
    assert explained(wrapped) is ours


def test_what_says_nothing_of_the_machine_is_left_alone():
    assert explained(ZeroDivisionError()) is None
    assert explained(ValueError("std::bad_alloc")) is None
    assert explained(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None


def test_a_librarys_words_become_one_short_line():
    assert one_line(ValueError("a\n  b")) == "a b"
    assert len(one_line(ValueError("x" * 1000))) < 310


@pytest.mark.parametrize(
    "address", ["http://name:secret@host:5000/x", "postgresql+psycopg2://name:sec@ret@host/x"]
)
def test_passwords_are_left_out_even_with_an_at_in_them(address):
    said = without_passwords(f"asked {address} as me@lab")
    assert said == f"asked {address.partition('//')[0]}//{address.rpartition('@')[2]} as me@lab"
