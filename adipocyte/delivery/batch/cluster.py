"""Staining on a Ray cluster."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mlflow
import torch

from adipocyte.delivery.batch.claim import claim_in
from adipocyte.delivery.batch.output import Output
from adipocyte.delivery.batch.painter import FAILED, Assignment, FieldOutcome, FieldPainter
from adipocyte.delivery.batch.workers import Answer, Share, Workers, workers_at
from adipocyte.domain import FieldKey
from adipocyte.errors import OutputError, PlateError
from adipocyte.imaging.trust import read_trust
from adipocyte.networks.predictor import has_compiler
from adipocyte.plate.fields import FieldFiles
from adipocyte.plate.problems import Problem
from adipocyte.system.machine import fastest_arithmetic, fastest_device


@contextmanager
def joined(address: str, worker_cpus: int) -> Generator["Cluster"]:
    """The Ray cluster at *address* as a crew, of workers on GPUs or of so many cores each.

    Raises what `workers_at` raises.
    """
    # Passwords stay here, because Ray shows the environment of a job to everyone who asks.
    environment = {
        "MLFLOW_TRACKING_URI": absolute_uri(mlflow.get_tracking_uri()),
        "MLFLOW_REGISTRY_URI": absolute_uri(mlflow.get_registry_uri()),
    }
    with workers_at(address, worker_cpus, use_gpus=True, environment=environment) as workers:
        yield Cluster(workers)


class Cluster:
    """The *workers* of a cluster as a `Crew`."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self.n_workers = workers.n_workers

    def fastest(self) -> str:
        """See `Crew`."""
        return self._workers.ask(_fastest)

    def has_compiler(self) -> bool:
        """See `Crew`."""
        return self._workers.ask(has_compiler)

    def paint(self, assignment: Assignment, fields: Sequence[FieldFiles]) -> Iterator[FieldOutcome]:
        """See `Crew`. A field whose worker or node dies is painted again by another."""
        described = {field.key: asdict(field) for field in fields}
        for key, said in self._workers.each(begin_staining, asdict(assignment), described):
            if isinstance(said, Problem):
                yield FieldOutcome(key, FAILED, 0.0, problem=said)
            else:
                yield _outcome(said)


def begin_staining(assignment: dict[str, Any], share: Share) -> Callable[[dict[str, Any]], Answer]:
    """What a worker runs on its node; gives the painter of its fields.

    Raises PlateError or OutputError when this node does not see what the others see, and what
    `FieldPainter` raises.
    """
    torch.set_num_threads(share.n_cpus)
    painter = FieldPainter(_on_this_node(Assignment(**assignment), share.memory_mb))
    return lambda field: asdict(painter(_field(field)))


def _on_this_node(assignment: Assignment, share_mb: float | None) -> Assignment:
    """*assignment* with a memory limit of *share_mb*, unless it has one or this node has a GPU.

    Raises PlateError or OutputError when this node does not see what the others see.
    """
    if not Path(assignment.plate).is_dir():
        raise PlateError(
            f"there is no {assignment.plate} on this node",
            "the plate must lie on a disk that all nodes share, by the same path",
        )
    if claim_in(Output(assignment.out)) != assignment.claim:
        raise OutputError(
            f"{assignment.out} on this node is not the folder that it is where the command runs",
            "name one on a disk that all nodes share, or an address such as s3://bucket/folder, "
            "with -P out=",
        )
    if assignment.memory_mb or torch.cuda.is_available():
        return assignment
    return replace(assignment, memory_mb=share_mb)


def absolute_uri(uri: str) -> str:
    """The address of MLflow's database or folder, from any working directory."""
    path = uri.removeprefix("sqlite:///")
    if path != uri:
        return f"sqlite:///{Path(path).resolve()}"
    return uri if ":" in uri else str(Path(uri).resolve())


def _fastest() -> str:
    return fastest_arithmetic(fastest_device().type)


def _field(content: dict[str, Any]) -> FieldFiles:
    return FieldFiles(
        key=FieldKey(**content["key"]),
        plate=content["plate"],
        planes=tuple(map(Path, content["planes"])),
        targets={},
        n_z_planes=content["n_z_planes"],
        shape=tuple(content["shape"]),
        um_per_px=content["um_per_px"],
    )


def _outcome(said: Answer) -> FieldOutcome:
    problem = Problem(**said["problem"]) if said["problem"] else None
    return FieldOutcome(
        FieldKey(**said["key"]),
        said["status"],
        said["seconds"],
        tuple(said["warnings"]),
        problem,
        read_trust(said["trust"]) if said["trust"] else None,
        said["is_resampled"],
    )
