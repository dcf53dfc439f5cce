"""What the machine grants: cores and memory within containers, and its fastest arithmetic."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from adipocyte.system import machine
from adipocyte.system.machine import (
    DTYPES,
    arithmetic,
    fastest_arithmetic,
    fastest_device,
    free_bytes,
    usable_cores,
)

CPU = torch.device("cpu")


def said_by(code: str, **environment: str) -> str:
    """What a fresh process prints that runs *code*, with no number of threads but the one given."""
    kept = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env=kept | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


# Containers.


@pytest.fixture
def control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is taken for the control groups; its file `membership` says which are ours."""
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "CGROUPS_OF_THIS_PROCESS", tmp_path / "membership")
    return tmp_path


def write_lines(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{text}\n")


def cgroup_1(quota: str) -> dict[str, str]:
    return {"cpu/job/cpu.cfs_quota_us": quota, "cpu/job/cpu.cfs_period_us": "100000"}


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("0::/job", {"job/cpu.max": "150000 100000"}, 1),
        # The limit of a group holds for every group in it.
        ("0::/job/worker", {"cpu.max": "max 100000", "job/cpu.max": "50000 100000"}, 1),
        ("0::/job", {"job/cpu.max": "max 100000"}, None),
        ("4:cpu,cpuacct:/job", cgroup_1("100000"), 1),
        ("4:cpu,cpuacct:/job", cgroup_1("-1"), None),
        ("4:cpu:/job", {}, None),
    ],
)
def test_a_container_bounds_the_cores(control_groups, membership, files, cores):
    write_lines(control_groups, {**files, "membership": membership})
    assert usable_cores() == (cores or len(os.sched_getaffinity(0)))


CGROUP_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
CGROUP_2 = ("memory.max", "memory.current", "inactive_file")


@pytest.mark.parametrize(
    ("membership", "group", "names"),
    [
        ("0::/", "", CGROUP_2),
        ("0::/service/worker", "service", CGROUP_2),  # the limit stands on the group that holds it
        ("4:cpu:/\n3:memory:/job", "memory/job", CGROUP_1),
        ("3:memory:/host/job", "memory", CGROUP_1),  # as a container sees itself
    ],
    ids=["cgroup 2", "cgroup 2, above", "cgroup 1", "cgroup 1, its root"],
)
@pytest.mark.parametrize(
    ("most", "left"),
    [("max", None), ("1000000", 1_000_000 - 400_000 + 100_000), ("300000", 0), ("none", None)],
)
def test_a_container_bounds_what_is_free(control_groups, membership, group, names, most, left):
    limit, used, inactive = names
    write_lines(
        control_groups / group,
        {limit: most, used: "400000", "memory.stat": f"anon 300000\n{inactive} 100000"},
    )
    write_lines(control_groups, {"membership": membership})
    free = free_bytes(CPU)
    assert free > 1_000_000 if left is None else free == left


def test_without_control_groups_the_machine_is_the_bound(control_groups):
    assert 0 < free_bytes(CPU) <= psutil.virtual_memory().total
    assert usable_cores() == len(os.sched_getaffinity(0))


# The arithmetic.


def test_the_faster_arithmetic_is_found_by_trying():
    """oneDNN can be kept from the instructions that make bf16 fast; the flags stay as they are."""
    code = """
from adipocyte.system.machine import fastest_arithmetic
print(fastest_arithmetic("cpu"))
"""
    assert said_by(code, ONEDNN_MAX_CPU_ISA="AVX2", OMP_NUM_THREADS="1") == "32"


def test_where_bf16_is_only_imitated_nothing_is_tried():
    """Trying it takes seconds there, in each process."""
    code = """
import torch
from adipocyte.system import machine
flags = dict.fromkeys(("avx512_bf16", "amx_bf16"), False)
torch.cpu.get_capabilities = lambda: {"architecture": "x86_64", **flags}
machine.nn = None  # no layer to try with
print(machine.fastest_arithmetic("cpu"))
"""
    assert said_by(code) == "32"


def test_the_arithmetic_is_tried_once_and_can_be_set():
    assert arithmetic("auto", CPU) == fastest_arithmetic("cpu")
    trials = fastest_arithmetic.cache_info().misses
    assert arithmetic("auto", CPU) == fastest_arithmetic("cpu")
    assert fastest_arithmetic.cache_info().misses == trials
    assert [arithmetic(precision, CPU) for precision in DTYPES] == ["32", "bf16"]


def test_the_fastest_device_is_the_gpu_where_there_is_one():
    assert fastest_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
