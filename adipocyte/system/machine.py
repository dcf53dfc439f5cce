"""What the machine gives this process: device, memory, cores, and its fastest arithmetic."""

import os
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import psutil
import torch
from torch import nn

DTYPES = {"32": torch.float32, "bf16": torch.bfloat16}  # the arithmetics, by name
PRECISIONS = (*DTYPES, "int8")  # the last for compiled networks alone
_PAYS = 1.3  # bf16 costs digits: it must be faster by this factor

# Where Linux tells the limits of control groups, and which of them this process is in.
CGROUPS = Path("/sys/fs/cgroup")
CGROUPS_OF_THIS_PROCESS = Path("/proc/self/cgroup")
_LIMIT_USED_FILES = {  # the names of cgroup 2, then those of cgroup 1
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def free_bytes(device: torch.device) -> int:
    """Bytes that this process may still take on *device*.

    On a CPU it is what the machine has free, or less where a container (cgroup 1 or 2) grants less.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return max(0, min([psutil.virtual_memory().available, *_left_in_containers()]))


def fastest_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def usable_cores() -> int:
    """How many cores this process may compute on: those it is bound to, or fewer in a container."""
    if hasattr(os, "sched_getaffinity"):
        bound = len(os.sched_getaffinity(0))
    else:  # macOS binds no process
        bound = os.cpu_count() or 1
    return max(1, int(min([bound, *_cores_of_containers()])))


def arithmetic(precision: str, device: torch.device) -> str:
    """One of PRECISIONS as it is; for "auto" the faster of DTYPES on *device*."""
    return fastest_arithmetic(device.type) if precision == "auto" else precision


@cache
def fastest_arithmetic(device_type: str) -> str:
    """The arithmetic that a convolution is faster in, "bf16" or "32", found once in a process.

    It is measured because among processors that have bf16 some are several times faster in it, and
    some are slower. bf16 must be clearly faster, because it has fewer digits.
    """
    if device_type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    if is_x86_without("avx512_bf16", "amx_bf16"):  # which imitates it, many times slower
        return "32"
    took_s = dict.fromkeys(DTYPES, float("inf"))
    with torch.inference_mode():
        layer = nn.Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last)
        field = torch.zeros((1, 64, 160, 160))
        for _ in range(6):  # by turns, and the best time of each, because other work disturbs both
            for precision, dtype in DTYPES.items():
                seen = field.to(dtype, memory_format=torch.channels_last)
                layer = layer.to(dtype)
                start = time.perf_counter()
                layer(seen)
                took_s[precision] = min(took_s[precision], time.perf_counter() - start)
    return "bf16" if took_s["32"] > _PAYS * took_s["bf16"] else "32"


def is_x86_without(*instructions: str) -> bool:
    """Whether the CPU is x86 and has none of *instructions*, named as by PyTorch's capabilities."""
    found = torch.cpu.get_capabilities()
    return found["architecture"] == "x86_64" and not any(found[name] for name in instructions)


def _left_in_containers() -> Iterator[int]:
    for version, group in _groups("memory"):
        if (left := _left(group, *_LIMIT_USED_FILES[version])) is not None:
            yield left


def _cores_of_containers() -> Iterator[float]:
    for version, group in _groups("cpu"):
        try:
            names = ["cpu.max"] if version == 2 else ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
            quota, period = " ".join((group / name).read_text() for name in names).split()
            granted = int(quota) / int(period)
        except (OSError, ValueError):  # no such group, or no limit on it ("max")
            continue
        if granted > 0:  # cgroup 1 says -1 for no limit
            yield granted


def _groups(controller: str) -> Iterator[tuple[int, Path]]:
    """The version and folder of each control group that limits this process.

    They are the groups that it is in and the groups that hold those, up to the root.
    """
    try:
        lines = CGROUPS_OF_THIS_PROCESS.read_text().splitlines()
    except OSError:  # not Linux
        return
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and controller not in controllers.split(","):
            continue
        version, root = (1, CGROUPS / controller) if controllers else (2, CGROUPS)
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(root):
                yield version, folder


def _left(group: Path, limit: str, used: str, files: str) -> int | None:
    try:
        most, taken = ((group / name).read_text() for name in (limit, used))
        kept = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        # The kernel gives up the files that it has read when a process needs the room.
        return int(most) - int(taken) + int(kept[files])
    except (OSError, ValueError, KeyError):  # no such group, or no limit on it ("max")
        return None
