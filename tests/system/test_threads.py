"""Threads are as many as other processes leave."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest
import torch

from adipocyte.system import threads
from adipocyte.system.threads import EVERY_S, Look, Threads, fitting_threads, look
from tests.support.processes import wait_for
from tests.system.test_machine import said_by


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine of four cores, on which this process was not told how many threads to take."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "usable_cores", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("others", "fitting"),
    [(0.0, 4), (0.2, 4), (0.3, 3), (1.0, 3), (1.3, 2), (2.0, 2), (3.7, 1), (9.0, 1), (-1.0, 4)],
)
def test_others_keep_the_cores_that_they_take(four_cores, others, fitting):
    took_s, own_s = 5.0, 11.0
    after = Look(100 + took_s, 1000 + own_s + others * took_s, 50 + own_s)
    assert fitting_threads(Look(100, 1000, 50), after) == fitting


def test_a_container_may_give_fewer_than_others_leave(four_cores, monkeypatch):
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    assert fitting_threads(Look(0, 0, 0), Look(1, 0, 0)) == 2


def test_a_thread_is_given_up_at_once_and_taken_back_after_two_looks(four_cores, monkeypatch):
    free = iter([4, 2, 4, 4, 3, 4, 3, 1])
    moments = iter(range(0, 1000, int(EVERY_S) + 1))
    monkeypatch.setattr(threads, "fitting_threads", lambda *_: next(free))
    monkeypatch.setattr(threads, "look", lambda: Look(next(moments), 0, 0))
    monkeypatch.setattr(threads.time, "sleep", lambda _: None)
    monkeypatch.setattr(threads.time, "monotonic", lambda: 1e6)
    adapting = Threads()
    assert [adapting.adapt() for _ in range(8)] == [4, 2, 2, 4, 3, 3, 3, 1]


def test_it_looks_no_more_often_than_it_must(four_cores, monkeypatch):
    looks = []
    monkeypatch.setattr(threads, "look", lambda: looks.append(1) or Look(time.monotonic(), 0, 0))
    monkeypatch.setattr(threads.time, "sleep", lambda _: None)
    adapting = Threads()
    for _ in range(50):
        adapting.adapt()
    assert len(looks) == 2


def test_what_a_child_computes_is_ones_own():
    before = look()
    # Longer than what is waited for, because the system counts in whole hundredths.
    busy = "import time; t = time.process_time()\nwhile time.process_time() < t + .4: pass"
    subprocess.run([sys.executable, "-c", busy], check=True)
    ended = look()
    assert ended.own_s - before.own_s >= 0.29
    with subprocess.Popen(
        [sys.executable, "-c", f"{busy}\ninput()"], stdin=subprocess.PIPE
    ) as child:
        wait_for(lambda: sum(psutil.Process(child.pid).cpu_times()[:2]) >= 0.3, process=child)
        assert look().own_s - ended.own_s >= 0.29
        child.communicate(b"\n")


def test_all_that_is_computed_counts_what_oneself_computes():
    before, start = look(), time.process_time()
    while time.process_time() < start + 0.5:
        pass
    after = look()
    assert after.own_s - before.own_s >= 0.45
    assert after.all_s - before.all_s >= 0.4  # the system counts in hundredths, for each core


@pytest.mark.parametrize(("wish", "n_threads"), [({}, "1"), ({"OMP_NUM_THREADS": "2"}, "2")])
def test_threads_are_no_more_than_cores_unless_the_environment_says_otherwise(wish, n_threads):
    code = """
import os, torch
from adipocyte.system.threads import Threads
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
print(Threads().adapt())
"""
    assert said_by(code, **wish) == n_threads
