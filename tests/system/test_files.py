"""A file is there whole or as it was, at any interruption; a lock is held by one process alone."""

import errno
import fcntl
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adipocyte.system import files
from adipocyte.system.files import (
    HeldError,
    digest_of,
    json_bytes,
    locked,
    replacing,
    short_digest,
    write_json,
    write_whole,
)

OLD, NEW = b"old", b"new and longer"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with old content, alone in its folder."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(OLD)
    return tmp_path / "folder" / "file"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def failing(error: BaseException) -> Callable[..., None]:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    return fail


@contextmanager
def python(code: str, *args: object) -> Iterator[subprocess.Popen]:
    """A Python process that runs *code*; it is killed at the end, if it is still there."""
    command = [sys.executable, "-c", code, *map(str, args)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


# Whole files.


def test_what_was_written_takes_the_place_of_the_old(path):
    write_whole(path, NEW)
    assert contents(path.parent) == {"file": NEW}


def test_folders_on_the_way_are_made(tmp_path):
    write_whole(tmp_path / "a" / "b" / "file", NEW)
    assert (tmp_path / "a" / "b" / "file").read_bytes() == NEW


def test_the_old_file_stays_in_its_place_while_the_new_one_is_written(path):
    with replacing(path) as partial:
        partial.write_bytes(NEW)
        assert partial.parent == path.parent
        assert partial.name.startswith(".")
        assert path.read_bytes() == OLD
    assert path.read_bytes() == NEW


@pytest.mark.parametrize("name", ["x" * 255, "run: 2\n", "é" * 127, ".hidden", "-"])
def test_any_name_that_a_file_may_have_can_be_written(tmp_path, name):
    write_whole(tmp_path / name, NEW)
    assert contents(tmp_path) == {name: NEW}


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_interruption_at_any_step_leaves_the_old_file_alone(path, monkeypatch, step, error):
    monkeypatch.setattr(os, step, failing(error))
    with pytest.raises(type(error)):
        write_whole(path, NEW)
    assert contents(path.parent) == {"file": OLD}


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=repr)
def test_an_interruption_in_the_block_leaves_the_old_file_alone(path, error):

    def write() -> None:
        with replacing(path) as partial:
            partial.write_bytes(NEW[:4])
            raise error

    with pytest.raises(type(error)):
        write()
    assert contents(path.parent) == {"file": OLD}


KILLED = """
import os, signal, sys
from pathlib import Path
from adipocyte.system.files import replacing
with replacing(Path(sys.argv[1])) as partial:
    partial.write_bytes(b"new a")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_the_old_file_and_the_next_one_writes(path):
    with python(KILLED, path) as process:
        assert process.wait(60) == -signal.SIGKILL
    assert path.read_bytes() == OLD
    assert all(name == "file" or name.startswith(".") for name in contents(path.parent))
    write_whole(path, NEW)
    assert path.read_bytes() == NEW


def test_the_content_is_on_the_disk_before_it_takes_the_name(path, monkeypatch):
    fsync, replace, steps = os.fsync, os.replace, []

    def record_fsync(descriptor: int) -> None:
        steps.append(("fsync", os.fstat(descriptor).st_size, path.read_bytes()))
        fsync(descriptor)

    def record_replace(source: object, target: object, **kwargs: object) -> None:
        steps.append(("replace", target))
        replace(source, target, **kwargs)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    write_whole(path, NEW)
    assert steps == [("fsync", len(NEW), OLD), ("replace", path)]


# Permissions.


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_permissions_follow_the_umask_for_files_of_libraries_too(tmp_path, mask, mode):
    with umask(mask):
        write_whole(tmp_path / "bytes", NEW)
        with replacing(tmp_path / "weights") as partial:
            save_file({"a": np.arange(3)}, partial)
            partial.chmod(0o600)  # safetensors does so in some versions
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("bytes", "weights")] == [mode] * 2
    np.testing.assert_array_equal(load_file(tmp_path / "weights")["a"], np.arange(3))


def test_a_file_system_that_refuses_chmod_is_written_to_with_one_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "chmod", failing(PermissionError(errno.EPERM, "no chmod here")))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for name in "abc":
            with replacing(tmp_path / name) as partial, umask(0o077):
                partial.unlink()
                partial.write_bytes(NEW)
    [warning] = caught
    assert str(warning.message).startswith(f"{tmp_path} keeps its own permissions (no chmod here)")
    assert contents(tmp_path) == dict.fromkeys("abc", NEW)


# JSON and digests.


def test_json_is_indented_and_ends_its_last_line(tmp_path):
    content = {"b": [1, None], "a": "…"}
    write_json(tmp_path / "file.json", content)
    data = (tmp_path / "file.json").read_bytes()
    assert data == json_bytes(content) == b'{\n "b": [\n  1,\n  null\n ],\n "a": "\\u2026"\n}\n'
    assert json.loads(data) == content


def test_a_digest_is_the_sha256_of_the_file(path):
    path.write_bytes(bytes(range(256)) * 5000)
    assert digest_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_short_digest_is_one_for_equal_content_whatever_its_order():
    assert short_digest({"a": 1, "b": [2]}) == short_digest({"b": [2], "a": 1})
    assert short_digest({"a": 1}) != short_digest({"a": 2})
    # Names on disk and tags of versions hold these digests.
    assert short_digest({"a": 1}) == hashlib.sha256(b'{"a": 1}').hexdigest()[:16]


# Locks.

HOLDING = """
import sys
from pathlib import Path
from adipocyte.system.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
TRYING = """
import sys
from pathlib import Path
from adipocyte.system.files import HeldError, locked
try:
    with locked(Path(sys.argv[1])):
        print("held")
except HeldError as error:
    print("refused", error)
"""


def tried(lock: Path) -> str:
    with python(TRYING, lock) as process:
        return process.communicate(timeout=60)[0].strip()


def test_two_processes_cannot_hold_one_lock(tmp_path):
    lock = tmp_path / "folder" / "lock"
    with locked(lock):
        assert tried(lock) == f"refused {lock}"
        assert tried(tmp_path / "other") == "held"
    assert tried(lock) == "held"


def test_a_lock_ends_with_its_process_and_its_file_stays(tmp_path):
    lock = tmp_path / "lock"
    with python(HOLDING, lock) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(HeldError, match=str(lock)), locked(lock):
            pass
        process.kill()
        process.wait(60)
        with locked(lock):
            assert tried(lock) == f"refused {lock}"
    assert lock.is_file()


def test_a_lock_that_is_a_link_leaves_what_it_leads_to(tmp_path):
    (tmp_path / "data").write_text("good work")
    (tmp_path / "lock").symlink_to(tmp_path / "data")
    with locked(tmp_path / "lock"):
        assert tried(tmp_path / "lock").startswith("refused")
    assert (tmp_path / "data").read_text() == "good work"


def test_a_lock_ends_when_the_block_raises(tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "lock"):
        raise ZeroDivisionError
    assert tried(tmp_path / "lock") == "held"


@pytest.mark.parametrize(
    "code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EIO]
)
def test_a_file_system_without_locks_is_warned_of_once_and_holds_nobody_up(
    tmp_path, monkeypatch, code
):
    monkeypatch.setattr(fcntl, "lockf", failing(OSError(code, os.strerror(code))))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            with locked(tmp_path / "lock"):
                pass
    [warning] = caught
    assert str(warning.message).startswith(f"{tmp_path} cannot be locked ({os.strerror(code)})")


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EACCES])
def test_the_codes_of_a_held_lock_are_believed_only_where_somebody_holds_it(
    tmp_path, monkeypatch, code
):
    lock = tmp_path / "lock"
    monkeypatch.setattr(fcntl, "lockf", failing(OSError(code, os.strerror(code))))
    with python(HOLDING, lock) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(HeldError), locked(lock):
            pass
        process.kill()
        process.wait(60)
    with pytest.warns(match="cannot be locked"), locked(lock):
        pass


def test_a_system_without_such_locks_runs_unlocked(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "fcntl", None)
    with locked(tmp_path / "lock"):
        pass


def test_a_lock_file_that_cannot_be_opened_is_not_said_to_be_held(tmp_path):
    (tmp_path / "lock").mkdir()
    with pytest.raises(IsADirectoryError), locked(tmp_path / "lock"):
        pass


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.mkdir(path)])
def test_what_is_no_regular_file_is_never_opened(tmp_path: Path, make: Callable) -> None:
    make(tmp_path / "odd")
    with pytest.raises(OSError, match=r"it is a .*, not a file") as caught:
        files.open_regular(tmp_path / "odd")
    assert caught.value.strerror in ("it is a FIFO, not a file", "it is a folder, not a file")


def test_a_device_and_a_socket_are_never_opened(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        with pytest.raises(OSError, match="it is a socket"):
            files.open_regular(tmp_path / "socket")
    (tmp_path / "link").symlink_to("/dev/zero")
    with pytest.raises(OSError, match="it is a device"):
        files.digest_of(tmp_path / "link")


def test_json_that_is_nested_too_deeply_or_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep").write_bytes(b"[" * 200_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        files.read_json(tmp_path / "deep")
    (tmp_path / "large").write_bytes(b"[1]" + b" " * 100)
    assert files.read_json(tmp_path / "large") == [1]
    monkeypatch.setattr(files, "MOST_JSON_BYTES", 50)
    with pytest.raises(ValueError, match="larger than 50 bytes"):
        files.read_json(tmp_path / "large")
