"""Staining on a Ray cluster (https://docs.ray.io). No other module imports Ray."""

import dataclasses
import json
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import torch
from tqdm import tqdm

import adipocyte
from adipocyte.delivery.batch.claim import claim_in
from adipocyte.delivery.batch.output import Output
from adipocyte.delivery.batch.painter import FAILED, Assignment, FieldOutcome, FieldPainter
from adipocyte.domain import FieldKey
from adipocyte.errors import AdipocyteError, ConfigError, OutputError, PlateError, RunError
from adipocyte.networks.predictor import has_compiler
from adipocyte.plate.fields import FieldFiles
from adipocyte.plate.problems import Problem
from adipocyte.system.machine import fastest_arithmetic, fastest_device

_TRIES = 3  # rounds in a row in which no field is finished
_SHARE = 0.6  # of the memory that Ray grants a node, for fields; the networks take the rest


@contextmanager
def joined(address: str, worker_cpus: int) -> Generator["Cluster"]:
    """The workers of the Ray cluster at *address*, of *worker_cpus* cores each (see `Cluster`).

    Raises ConfigError when Ray is not installed or no node has so many cores, RunError when no
    cluster answers.
    """
    # Ray's C++ code would write between the lines of this command.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "a cluster takes Ray, which is not here", 'pip install "adipocyte[cluster]"'
        ) from error
    try:
        _require_listener(address)
        ray.init(
            address, runtime_env=_environment(), log_to_driver=False, logging_level=logging.ERROR
        )
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        raise RunError(
            f"no Ray cluster can be joined at {address} ({error})",
            "start one with ray start --head, and name its address, -P cluster=<host>:6379",
        ) from error
    try:
        yield Cluster(worker_cpus)
    finally:
        ray.shutdown()


class Cluster:
    """The workers of a cluster that has been joined: one for each GPU, or for so many cores.

    Nodes without a GPU have no workers where others have one. *worker_cpus* 0 is all cores of the
    smallest node, or its share for each of its GPUs. Raises ConfigError when no node has so many.
    """

    def __init__(self, worker_cpus: int) -> None:
        import ray

        nodes = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
        n_cpus = {node: int(has.get("CPU", 0)) for node, has in nodes.items()}
        n_gpus = {node: int(has.get("GPU", 0)) for node, has in nodes.items()}
        self._on_gpus = any(n_gpus.values())
        painting = [node for node in nodes if n_cpus[node] and (n_gpus[node] or not self._on_gpus)]
        shares = [n_cpus[node] // (n_gpus[node] if self._on_gpus else 1) for node in painting]
        self._n_cpus = worker_cpus or max(1, min(shares, default=1))

        n_workers = {node: n_cpus[node] // self._n_cpus for node in painting}
        if self._on_gpus:
            n_workers = {node: min(n, n_gpus[node]) for node, n in n_workers.items()}
        self.n_workers = sum(n_workers.values())
        if not self.n_workers:
            has = sorted(n_cpus[node] for node in painting)
            raise ConfigError(
                f"the cluster's nodes have {has} cores, none of them {self._n_cpus} for a worker",
                "give fewer, or -P worker_cpus=0",
            )
        # A share of the node, not of what is free now: a worker that replaces a dead one must paint
        # in the same tiles.
        self._memory_mb = {
            node: _SHARE * nodes[node]["memory"] / 1e6 / n
            for node, n in n_workers.items()
            if n and "memory" in nodes[node]
        }

    def fastest(self) -> str:
        """See `Crew`."""
        return self._ask(_fastest)

    def has_compiler(self) -> bool:
        """See `Crew`."""
        return self._ask(has_compiler)

    def paint(self, assignment: Assignment, fields: Sequence[FieldFiles]) -> Iterator[FieldOutcome]:
        """See `Crew`. A field whose worker or node dies is painted again by another."""
        from ray.exceptions import RayError

        left = {field.key: field for field in fields}
        n_futile = 0
        in_hand = 2  # one to paint and the next, so that no worker waits for this process
        while left and n_futile < _TRIES:
            n_before = len(left)
            try:
                for outcome in self._round(assignment, list(left.values()), in_hand):
                    del left[outcome.key]
                    yield outcome
            except RayError as error:
                raise RunError(
                    f"the cluster cannot continue ({error})",
                    "see that its nodes are up, and run the same command again",
                ) from error
            n_futile = n_futile + 1 if len(left) == n_before else 0
            in_hand = 1  # so that a field that kills its worker takes no other with it
            if left:
                tqdm.write(f"The workers of {len(left)} fields died: these are painted again.")
        for key in left:
            remedy = (
                "look into Ray's logs; where memory ran out, give each worker more of it by a "
                "larger -P worker_cpus"
            )
            problem = Problem(str(key), f"its worker died, {_TRIES} times", remedy)
            yield FieldOutcome(key, FAILED, 0.0, problem=problem)

    def _round(
        self, assignment: Assignment, fields: Sequence[FieldFiles], in_hand: int
    ) -> Iterator[FieldOutcome]:
        """The outcomes of *fields*, each tried once, by workers that hold so many *in_hand*.

        A field whose worker dies has no outcome. A new worker takes the place of one that dies with
        a field in hand, as soon as a node has room for it.

        Raises RunError when a worker refuses to paint, RayError when one cannot start.
        """
        import ray
        from ray.exceptions import RayError

        actor = ray.remote(_Worker).options(**self._needs())
        waiting = deque(fields)
        workers: list[Any] = []
        starting: dict[Any, Any] = {}  # the worker of each answer that is to come
        painting: dict[Any, Any] = {}

        def hire() -> None:
            settings = (dataclasses.asdict(assignment), self._n_cpus, self._memory_mb)
            worker: Any = actor.remote(*settings)  # Ray's types know nothing of its methods
            workers.append(worker)
            starting[worker.refusal.remote()] = worker

        for _ in range(min(self.n_workers, len(fields))):
            hire()
        try:
            while painting or (waiting and starting):
                [answer], _ = ray.wait([*starting, *painting])
                starts = answer in starting
                worker = starting.pop(answer) if starts else painting.pop(answer)
                try:
                    said = json.loads(ray.get(answer))
                except RayError as error:
                    if starts and not _is_death(error):
                        raise
                    if worker in workers:
                        workers.remove(worker)
                        ray.kill(worker)
                        if not starts:
                            hire()
                    continue
                if "refusal" in said:
                    raise RunError(f"a worker on {said['node']} gives up", said["refusal"])
                if worker in workers:
                    for _ in range(min(in_hand if starts else 1, len(waiting))):
                        painting[worker.paint.remote(_to_json(waiting.popleft()))] = worker
                if not starts:
                    yield _outcome(said)
        finally:
            for worker in workers:
                ray.kill(worker)

    def _ask(self, question: Callable[[], Any]) -> Any:
        """The answer of a node that has room for a worker."""
        import ray
        from ray.exceptions import RayError

        try:
            return ray.get(ray.remote(question).options(**self._needs()).remote())
        except RayError as error:
            raise RunError(
                f"the cluster cannot work for this command ({error})",
                "install the packages of docs/plates.md on its nodes, and see that they are up",
            ) from error

    def _needs(self) -> dict[str, int]:
        return {"num_cpus": self._n_cpus, "num_gpus": int(self._on_gpus)}


class _Worker:
    """Paints fields in a process of its own on a node. It takes and answers JSON."""

    def __init__(
        self, assignment: dict[str, Any], n_cpus: int, memory_mb: dict[str, float]
    ) -> None:
        import ray

        torch.set_num_threads(n_cpus)
        self._node = ray.util.get_node_ip_address()
        # None on a node that came later, or that says nothing of its memory.
        share_mb = memory_mb.get(ray.get_runtime_context().get_node_id())
        self._refusal: dict[str, str] = {}
        try:
            self._painter = FieldPainter(_on_this_node(Assignment(**assignment), share_mb))
        except AdipocyteError as error:
            self._refuse(error)

    def refusal(self) -> str:
        """What keeps this worker from painting any field: {} or a refusal."""
        return json.dumps(self._refusal)

    def paint(self, field: str) -> str:
        """What became of a field, or a refusal."""
        try:
            return json.dumps(dataclasses.asdict(self._painter(_from_json(field))))
        except AdipocyteError as error:
            self._refuse(error)
            return self.refusal()

    def _refuse(self, error: AdipocyteError) -> None:
        self._refusal = {"refusal": str(error), "node": self._node}


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
    return dataclasses.replace(assignment, memory_mb=share_mb)


def _require_listener(address: str) -> None:
    """Raise OSError when nobody listens at an *address* host:port; Ray would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def _environment() -> dict[str, Any]:
    """What Ray brings to its nodes: this package, and the addresses of MLflow.

    Passwords stay here, because Ray shows the environment of a job to everyone who asks.
    """
    return {
        "py_modules": [str(Path(adipocyte.__file__).parent)],
        "env_vars": {
            "MLFLOW_TRACKING_URI": absolute_uri(mlflow.get_tracking_uri()),
            "MLFLOW_REGISTRY_URI": absolute_uri(mlflow.get_registry_uri()),
        },
    }


def absolute_uri(uri: str) -> str:
    """The address of MLflow's database or folder, from any working directory."""
    path = uri.removeprefix("sqlite:///")
    if path != uri:
        return f"sqlite:///{Path(path).resolve()}"
    return uri if ":" in uri else str(Path(uri).resolve())


def _fastest() -> str:
    return fastest_arithmetic(fastest_device().type)


def _is_death(error: Exception) -> bool:
    """Whether a worker's process or node died, while its code raised nothing."""
    from ray.exceptions import OutOfMemoryError, RayActorError

    if isinstance(error, RayActorError):
        return not error.actor_init_failed
    return isinstance(error, OutOfMemoryError)


def _to_json(field: FieldFiles) -> str:
    return json.dumps(dataclasses.asdict(field), default=str)


def _from_json(text: str) -> FieldFiles:
    content = json.loads(text)
    return FieldFiles(
        key=FieldKey(**content["key"]),
        plate=content["plate"],
        planes=tuple(map(Path, content["planes"])),
        targets={},
        n_z_planes=content["n_z_planes"],
        shape=tuple(content["shape"]),
    )


def _outcome(said: dict[str, Any]) -> FieldOutcome:
    problem = Problem(**said["problem"]) if said["problem"] else None
    return FieldOutcome(
        FieldKey(**said["key"]), said["status"], said["seconds"], tuple(said["warnings"]), problem
    )
