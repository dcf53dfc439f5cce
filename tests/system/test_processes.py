"""Work is shared out to processes; a killed worker is told, and no worker outlives its parent."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from adipocyte.errors import WorkerError
from adipocyte.system.processes import each
from tests.support import ROOT
from tests.support.processes import wait_for


def square(number: int) -> tuple[int, int]:
    return os.getpid(), number**2


def settings(_: int) -> tuple[bool, str, str]:
    is_deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    return is_deaf, os.environ["OMP_NUM_THREADS"], os.environ["OPENBLAS_NUM_THREADS"]


def fail(number: int) -> int:
    if number == 2:
        raise LookupError(f"there is no {number}")
    return number


def end(signal_number: int) -> None:
    os.kill(os.getpid(), signal_number)


def test_workers_give_every_result():
    results = list(each(square, range(20), workers=2))
    assert sorted(square for _, square in results) == [number**2 for number in range(20)]
    assert os.getpid() not in {process for process, _ in results}


def test_without_workers_this_process_works_in_order_and_on_demand():
    asked = iter(range(5))
    results = each(square, asked, workers=0)
    assert next(results) == (os.getpid(), 0)
    assert list(asked) == [1, 2, 3, 4]


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_to_do_is_done(workers):
    assert list(each(square, [], workers)) == []


def test_a_worker_has_one_thread_and_leaves_ctrl_c_to_its_parent():
    assert list(each(settings, [0], workers=1)) == [(True, "1", "1")]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_function_reaches_the_caller(workers):
    with pytest.raises(LookupError, match="there is no 2"):
        list(each(fail, range(5), workers))


def test_a_killed_worker_is_told_with_what_to_do():
    with pytest.raises(WorkerError, match="one of 2 workers was killed") as refusal:
        list(each(end, [signal.SIGKILL], workers=2))
    assert "-P workers=1" in refusal.value.remedy


def test_workers_end_when_the_caller_stops_asking():
    before = set(psutil.Process().children())
    results = each(square, range(100), workers=2)
    next(results)
    results.close()
    working = set(psutil.Process().children()) - before
    wait_for(lambda: not any(process.is_running() and is_worker(process) for process in working))


def is_worker(process: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.Error:
        return False


# What a process does that has a worker at work which never ends.
PARENT = """
import sys
from adipocyte.system.processes import each
from tests.system.test_processes import stay
if __name__ == "__main__":
    list(each(stay, [sys.argv[1]], workers=1))
"""


def stay(path: str) -> None:
    """Say who works, then never end."""
    partial = Path(f"{path}.partial")
    partial.write_text(str(os.getpid()))
    partial.replace(path)
    threading.Event().wait()


def test_a_worker_ends_when_its_parent_is_killed(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, tmp_path / "parent.py", tmp_path / "pid"]
    with subprocess.Popen(command, env=environment) as parent:
        try:
            wait_for((tmp_path / "pid").exists)
            worker = psutil.Process(int((tmp_path / "pid").read_text()))
        finally:
            parent.kill()
    wait_for(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
