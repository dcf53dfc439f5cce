"""What a machine gives this process: a device, memory, cores."""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

_CGROUPS, _OF_THIS_PROCESS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_LIMIT_USED_FILES = {  # the names of cgroup 2, then those of cgroup 1
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def free_bytes(device: torch.device) -> int:
    """Bytes that this process may still take on *device*: on a CPU what the machine has, or the containers it runs in (cgroup 1 or 2)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return max(0, min([psutil.virtual_memory().available, *_left_in_containers()]))


def fastest_device() -> torch.device:
    """The GPU, where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pin_threads() -> None:
    """Let PyTorch compute on as many threads as there are cores for this process; more would wait for each other.

    A container (cgroup 1 or 2) may be granted a few of the machine's cores, of which PyTorch knows nothing. `OMP_NUM_THREADS` is obeyed.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(usable_cores())


def usable_cores() -> int:
    """The cores that this process may compute on: those it is bound to, and no more than its containers grant."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS binds nothing
    return max(1, int(min([bound, *_cores_of_containers()])))


def _left_in_containers() -> Iterator[int]:
    for version, group in _groups("memory"):
        if (left := _left(group, *_LIMIT_USED_FILES[version])) is not None:
            yield left


def _cores_of_containers() -> Iterator[float]:
    for version, group in _groups("cpu"):
        try:
            texts = ["cpu.max"] if version == 2 else ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
            quota, period = " ".join((group / text).read_text() for text in texts).split()
            granted = int(quota) / int(period)
        except (OSError, ValueError):  # no such group, or no limit on it ("max")
            continue
        if granted > 0:  # cgroup 1 says -1 for no limit
            yield granted


def _groups(controller: str) -> Iterator[tuple[int, Path]]:
    """The version and folder of each control group that this process is in, and each that holds such a one: a limit may stand on any."""
    try:
        lines = _OF_THIS_PROCESS.read_text().splitlines()
    except OSError:  # not Linux
        return
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and controller not in controllers.split(","):
            continue
        version, root = (1, _CGROUPS / controller) if controllers else (2, _CGROUPS)
        group = root / path.lstrip("/")
        yield from ((version, folder) for folder in (group, *group.parents) if folder.is_relative_to(root))


def _left(group: Path, limit: str, used: str, files: str) -> int | None:
    try:
        most, taken = ((group / name).read_text() for name in (limit, used))
        kept = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int(most) - int(taken) + int(kept[files])  # the kernel drops files it has read when asked for room
    except (OSError, ValueError, KeyError):  # no such group, or no limit on it ("max")
        return None
