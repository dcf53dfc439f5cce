"""How much memory a machine has left."""

from pathlib import Path

import psutil
import torch

_CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device) -> int:
    """Bytes that this process may still take on *device*: on a CPU what the machine has, or the container it runs in (cgroup 2)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(psutil.virtual_memory().available, _left_in_container())


def _left_in_container() -> int:
    try:
        most = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        kept = {name: int(n_bytes) for name, n_bytes in map(str.split, (_CGROUP / "memory.stat").read_text().splitlines())}
        return int(most) - used + kept["inactive_file"]  # the kernel drops files it has read when asked for room
    except (OSError, ValueError, KeyError):  # no container, or no limit ("max")
        return psutil.virtual_memory().total
