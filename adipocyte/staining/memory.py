"""How much memory a machine has left."""

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


def _left_in_containers() -> Iterator[int]:
    """What each control group leaves that this process is in, and each that holds such a one: a limit may stand on any of them."""
    try:
        lines = _OF_THIS_PROCESS.read_text().splitlines()
    except OSError:  # not Linux
        return
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and "memory" not in controllers.split(","):
            continue
        version, root = (1, _CGROUPS / "memory") if controllers else (2, _CGROUPS)
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(root) and (left := _left(folder, *_LIMIT_USED_FILES[version])) is not None:
                yield left


def _left(group: Path, limit: str, used: str, files: str) -> int | None:
    try:
        most, taken = ((group / name).read_text() for name in (limit, used))
        kept = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int(most) - int(taken) + int(kept[files])  # the kernel drops files it has read when asked for room
    except (OSError, ValueError, KeyError):  # no such group, or no limit on it ("max")
        return None
