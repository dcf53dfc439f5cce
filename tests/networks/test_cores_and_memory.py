"""What a machine and its containers give a process: cores, memory, and the faster arithmetic."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from adipocyte.system import machine
from adipocyte.system.machine import arithmetic, fastest_arithmetic

CPU = torch.device("cpu")


# The arithmetic.


def test_the_faster_arithmetic_is_measured():
    """oneDNN can be kept from the instructions that make bf16 fast; the processor's flags stay."""
    code = (
        "from adipocyte.system.machine import fastest_arithmetic; print(fastest_arithmetic('cpu'))"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    tried = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert tried.stdout.strip() == "32"


def test_the_arithmetic_is_measured_once_and_can_be_set():
    assert arithmetic("auto", CPU) == fastest_arithmetic("cpu")
    trials = fastest_arithmetic.cache_info().misses
    assert arithmetic("auto", CPU) == fastest_arithmetic("cpu")
    assert fastest_arithmetic.cache_info().misses == trials
    assert [arithmetic(precision, CPU) for precision in ("32", "bf16")] == ["32", "bf16"]


# Cores.

CFS = ("cpu.cfs_quota_us", "cpu.cfs_period_us")  # the names of cgroup 1


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("0::/job", {"job/cpu.max": "150000 100000"}, 1),
        # The limit stands on the group above.
        ("0::/job/worker", {"cpu.max": "max 100000", "job/cpu.max": "50000 100000"}, 1),
        ("0::/job", {"job/cpu.max": "max 100000"}, None),
        (
            "4:cpu,cpuacct:/job",
            {f"cpu/job/{CFS[0]}": "100000", f"cpu/job/{CFS[1]}": "100000"},
            1,
        ),
        (
            "4:cpu,cpuacct:/job",
            {f"cpu/job/{CFS[0]}": "-1", f"cpu/job/{CFS[1]}": "100000"},
            None,
        ),
        ("4:cpu:/job", {}, None),
    ],
)
def test_a_container_limits_the_cores(tmp_path, monkeypatch, membership, files, cores):
    for name, text in {**files, "membership": membership}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "_OF_THIS_PROCESS", tmp_path / "membership")
    assert machine.usable_cores() == (cores or len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(("wish", "n_threads"), [(None, "1"), ("2", "2")])
def test_threads_are_as_many_as_cores_unless_the_environment_sets_them(wish, n_threads):
    code = """
import os, torch
from adipocyte.system.machine import pin_threads
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
pin_threads()
print(torch.get_num_threads())
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    if wish:
        environment["OMP_NUM_THREADS"] = wish
    printed = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == n_threads


# Memory.

CGROUP_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
CGROUP_2 = ("memory.max", "memory.current", "inactive_file")


@pytest.mark.parametrize(
    ("membership", "group", "names"),
    [
        ("0::/", "", CGROUP_2),
        ("0::/service/worker", "service", CGROUP_2),  # the limit stands on the group above
        ("4:cpu:/\n3:memory:/job", "memory/job", CGROUP_1),
        ("3:memory:/host/job", "memory", CGROUP_1),  # seen from inside
    ],
    ids=["cgroup 2", "cgroup 2, above", "cgroup 1", "cgroup 1, its root"],
)
@pytest.mark.parametrize(
    ("most", "left"),
    [("max", None), ("1000000", 1_000_000 - 400_000 + 100_000), ("300000", 0), ("none", None)],
)
def test_a_container_limits_the_free_memory(
    tmp_path: Path, monkeypatch, membership, group, names, most, left
):
    limit, used, files = names
    (tmp_path / group).mkdir(parents=True, exist_ok=True)
    (tmp_path / group / limit).write_text(f"{most}\n")
    (tmp_path / group / used).write_text("400000\n")
    (tmp_path / group / "memory.stat").write_text(f"anon 300000\n{files} 100000\n")
    (tmp_path / "membership").write_text(f"{membership}\n")
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "_OF_THIS_PROCESS", tmp_path / "membership")
    free = machine.free_bytes(torch.device("cpu"))
    assert free > 1_000_000 if left is None else free == left
