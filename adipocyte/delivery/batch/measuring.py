"""Measuring on a Ray cluster: each field from its stains to its part, on any node."""

import secrets
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from adipocyte.delivery.batch.workers import Answer, Share, Workers, workers_at
from adipocyte.domain import FieldKey
from adipocyte.errors import OutputError, PlateError
from adipocyte.measuring.parts import PARTS
from adipocyte.measuring.plate import Crew, StainedField, Task, measure_field
from adipocyte.plate.planes import holder
from adipocyte.plate.problems import Problem
from adipocyte.system.files import write_whole
from adipocyte.system.processes import ONE_THREAD

_CLAIM = f"{PARTS}/cluster"  # written in the folder of the tables while a cluster measures


@contextmanager
def measuring_at(address: str, worker_cpus: int) -> Generator[Crew]:
    """The Ray cluster at *address* as a crew that measures, of workers of so many cores each.

    A field whose worker or node dies is measured by another; one that three workers die of is a
    problem. Raises what `workers_at` raises; the crew raises RunError when a node does not see the
    images or the folder of its tasks, cannot write there or lacks a package.
    """
    with workers_at(address, worker_cpus, use_gpus=False, environment=ONE_THREAD) as workers:
        yield partial(_measured, workers)


def _measured(workers: Workers, tasks: Sequence[Task]) -> Iterator[Problem | None]:
    """See `Crew`."""
    if not tasks:
        return
    out, claim = tasks[0].out.absolute(), secrets.token_hex(8)
    image = next(iter(tasks[0].field.files.values())).absolute()
    settings = {"image": str(image), "out": str(out), "claim": claim}
    write_whole(out / _CLAIM, claim.encode())
    try:
        fields = {task.field.key: _described(task) for task in tasks}
        for _, said in workers.each(begin_measuring, settings, fields):
            problem = said if isinstance(said, Problem) else said["problem"]
            yield Problem(**problem) if isinstance(problem, dict) else problem
    finally:
        (out / _CLAIM).unlink(missing_ok=True)


def begin_measuring(settings: dict[str, str], share: Share) -> Callable[[dict[str, Any]], Answer]:
    """What a worker runs on its node; gives what measures its fields.

    Raises PlateError or OutputError when this node does not see what the others see; what it gives
    raises OutputError when nothing can be written.
    """
    image, out = Path(settings["image"]), Path(settings["out"])
    if not holder(image).exists():
        raise PlateError(
            f"there is no {image} on this node",
            "the images must lie on a disk that all nodes share, by the same path",
        )
    claim = out / _CLAIM
    if not claim.is_file() or claim.read_text() != settings["claim"]:
        raise OutputError(
            f"{out} on this node is not the folder that it is where the command runs",
            "name one on a disk that all nodes share with -P out=",
        )
    return _measure


def _measure(field: dict[str, Any]) -> Answer:
    task = _task(field)
    try:
        problem = measure_field(task)
    except OSError as error:
        raise OutputError(
            f"{task.out} cannot be written to ({error})",
            "see that it has room and lets this user write, and run the same command again",
        ) from error
    return {"problem": asdict(problem) if problem else None}


def _described(task: Task) -> dict[str, Any]:
    """*task* with paths that hold on each node."""
    files = {target: path.absolute() for target, path in task.field.files.items()}
    return asdict(task) | {
        "field": asdict(task.field) | {"files": files},
        "out": task.out.absolute(),
    }


def _task(content: dict[str, Any]) -> Task:
    field = content["field"]
    files = {target: Path(path) for target, path in field["files"].items()}
    stained = StainedField(FieldKey(**field["key"]), field["plate"], files, field["um_per_px"])
    return Task(stained, Path(content["out"]), content["labels"], content["made_of"])
