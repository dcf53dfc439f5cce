"""As many threads as the machine really gives, looked at again from time to time.

PyTorch's threads wait for each other at every layer. Where other processes are busy, the slowest
thread waits for a core, and all others for it: two threads can then be slower than one.
"""

import math
import os
import time
from dataclasses import dataclass

import psutil
import torch

from adipocyte.system.machine import usable_cores

EVERY_S = 5.0  # between two looks
_GLANCE_S = 0.2  # how long the first look takes, which has nothing to compare with
_OTHERS = 0.25  # of a core: what others may take before a thread is left to them


@dataclass(frozen=True)
class Look:
    """Processor seconds until the moment `at_s`: of all, and of this process with its children."""

    at_s: float
    all_s: float
    own_s: float


class Threads:
    """The number of threads of this process, by what other processes take."""

    def __init__(self) -> None:
        self._last: Look | None = None
        self._fitted = 0  # at the last look

    def adapt(self) -> int:
        """Compute on as many threads as the machine gives now, and return their number.

        The thread that calls it is the one that computes. `OMP_NUM_THREADS` is obeyed. A thread is
        given up at once, and taken back when two looks in a row have found its core free.
        """
        if "OMP_NUM_THREADS" in os.environ:
            return torch.get_num_threads()
        if usable_cores() == 1:
            torch.set_num_threads(1)
        elif self._last is None:
            before = look()
            time.sleep(_GLANCE_S)
            self._last = look()
            self._fitted = fitting_threads(before, self._last)
            torch.set_num_threads(self._fitted)
        elif time.monotonic() > self._last.at_s + EVERY_S:
            before, self._last = self._last, look()
            fitted = fitting_threads(before, self._last)
            torch.set_num_threads(min(fitted, max(self._fitted, torch.get_num_threads())))
            self._fitted = fitted
        return torch.get_num_threads()


def look() -> Look:
    """What has been computed on the cores that this process may use.

    Processes that gave way to others (`nice`) count only where this one does, too.
    """
    cores = psutil.cpu_times(percpu=True)
    if hasattr(os, "sched_getaffinity"):
        cores = [cores[core] for core in os.sched_getaffinity(0) if core < len(cores)]
    names = ["user", "system", "irq", "softirq", "steal"]
    if psutil.Process().nice() > 0:
        names.append("nice")
    all_s = sum(getattr(core, name, 0.0) for core in cores for name in names)
    return Look(time.monotonic(), all_s, _own_s())


def _own_s() -> float:
    process = psutil.Process()
    of_ended = process.cpu_times()
    seconds = getattr(of_ended, "children_user", 0.0) + getattr(of_ended, "children_system", 0.0)
    for one in [process, *process.children(recursive=True)]:
        try:
            times = one.cpu_times()
        except psutil.Error:  # it has ended
            continue
        seconds += times.user + times.system
    return seconds


def fitting_threads(before: Look, after: Look) -> int:
    """How many threads have a core of their own, by what was computed between two looks."""
    n_usable = usable_cores()
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else n_usable
    took_s = max(after.at_s - before.at_s, 1e-9)
    others_s = (after.all_s - before.all_s) - (after.own_s - before.own_s)
    left = n_cores - max(others_s, 0.0) / took_s
    return max(1, min(n_usable, math.floor(left + _OTHERS)))
