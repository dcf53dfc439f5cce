"""Staining on a Ray cluster (https://docs.ray.io). Nothing else knows of Ray."""

import dataclasses
import json
import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import torch
from tqdm import tqdm

import adipocyte
from adipocyte.delivery.batch.output import Output
from adipocyte.delivery.batch.painter import FAILED, Assignment, FieldOutcome, FieldPainter
from adipocyte.delivery.batch.plate import claim_in
from adipocyte.domain import FieldKey
from adipocyte.errors import AdipocyteError, ConfigError, OutputError, PlateError, RunError
from adipocyte.networks.predictor import has_compiler
from adipocyte.plate.fields import FieldFiles
from adipocyte.plate.problems import Problem
from adipocyte.system.machine import fastest_arithmetic, fastest_device

_TRIES = 3  # of a field whose worker dies; as often as nothing else was painted meanwhile
_SHARE = 0.6  # of what Ray says a node has to give, for the fields of all its workers; the rest is for their networks


@contextmanager
def joined(address: str, worker_cpus: int) -> Iterator["Cluster"]:
    """The workers of the Ray cluster at *address*, of *worker_cpus* cores each (see `Cluster`), while the block lasts.

    Raises ConfigError when Ray is not installed or no node has so many cores, RunError when no cluster answers.
    """
    os.environ.setdefault(
        "RAY_BACKEND_LOG_LEVEL", "fatal"
    )  # of the part in C++, which would write between the lines of this command
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            'a cluster takes Ray, which is not here: pip install "adipocyte[cluster]"'
        ) from error
    try:
        _knock(address)
        ray.init(
            address, runtime_env=_environment(), log_to_driver=False, logging_level=logging.ERROR
        )
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        raise RunError(
            f"no Ray cluster can be joined at {address} ({error}): start one with ray start --head, and name its address, "
            "-P cluster=<host>:6379"
        ) from error
    try:
        yield Cluster(worker_cpus)
    finally:
        ray.shutdown()


class Cluster:
    """The workers of a cluster that has been joined: one for each GPU, where there are any, else one for so many cores.

    *worker_cpus* 0 is all cores of the smallest node, or its share for each of its GPUs. Raises ConfigError when no node has so many.
    """

    def __init__(self, worker_cpus: int) -> None:
        import ray

        nodes = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
        n_gpus = {node: int(has.get("GPU", 0)) for node, has in nodes.items()}
        self._on_gpus = any(n_gpus.values())
        slots = {node: n_gpus[node] if self._on_gpus else 1 for node in nodes}
        cores = {
            node: int(has.get("CPU", 0))
            for node, has in nodes.items()
            if slots[node] and has.get("CPU", 0) >= 1
        }
        self._cpus = worker_cpus or max(
            1, min((n // slots[node] for node, n in cores.items()), default=1)
        )
        fitting = {node: n // self._cpus for node, n in cores.items()}
        on_node = {
            node: min(n, n_gpus[node]) if self._on_gpus else n for node, n in fitting.items()
        }
        # Of the node, not of the moment: a worker that takes a dead one's place paints in the same tiles.
        self._memory_mb = {
            node: _SHARE * nodes[node]["memory"] / 1e6 / n
            for node, n in on_node.items()
            if n and "memory" in nodes[node]
        }
        self.n_workers = sum(on_node.values())
        if not self.n_workers:
            found = f"the cluster's nodes have {sorted(cores.values())} cores"
            raise ConfigError(
                f"{found}, none of them {self._cpus} for a worker: give fewer, or -P worker_cpus=0"
            )

    def fastest(self) -> str:
        return self._ask(_fastest)

    def has_compiler(self) -> bool:
        return self._ask(has_compiler)

    def paint(self, assignment: Assignment, fields: Sequence[FieldFiles]) -> Iterator[FieldOutcome]:
        """See `Crew`. A field whose worker or node dies is painted again by another."""
        import ray

        left = {field.key: field for field in fields}
        futile, in_hand = (
            0,
            2,
        )  # one to paint and the next to come, so that no worker waits for this process
        while left and futile < _TRIES:
            before = len(left)
            try:
                for said in self._round(assignment, left.values(), in_hand):
                    if "refusal" in said:
                        raise RunError(f"a worker on {said['node']} gives up: {said['refusal']}")
                    record = _record(said)
                    if left.pop(record.key, None):
                        yield record
            except ray.exceptions.RayError as error:
                raise RunError(
                    f"the cluster cannot go on ({error}): see that its nodes are up, and run the same command again"
                ) from error
            futile, in_hand = (
                futile + 1 if len(left) == before else 0,
                1,
            )  # a field that kills its worker shall take no other with it
            if left:
                tqdm.write(f"The workers of {len(left)} fields died: these are painted again.")
        for key in left:
            remedy = "look into Ray's logs; where memory ran out, give each worker more of it by a larger -P worker_cpus"
            yield FieldOutcome(
                key,
                FAILED,
                0.0,
                problem=Problem(str(key), f"its worker died, {_TRIES} times", remedy),
            )

    def _round(
        self, assignment: Assignment, fields: Iterable[FieldFiles], in_hand: int
    ) -> Iterator[dict[str, Any]]:
        """What workers say of *fields*, each tried once, so many *in_hand* at a time; nothing of those whose worker died."""
        import ray

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.max_errored_blocks = -1
        logging.getLogger("ray.data").setLevel(
            logging.CRITICAL
        )  # it would tell of every plan and every lost field; Ray's own logs do
        rows = [{"field": _to_json(field)} for field in fields]
        settings = {
            "fn_constructor_args": (dataclasses.asdict(assignment), self._cpus, self._memory_mb),
            "compute": ray.data.ActorPoolStrategy(
                min_size=1,
                initial_size=self.n_workers,
                max_size=self.n_workers,
                max_tasks_in_flight_per_actor=in_hand,
            ),
            # A worker that dies is replaced, and its field left to the next round: to wait for the very same worker is to wait for ever
            # where its node is gone.
            "ray_remote_args_fn": lambda: {"max_restarts": -1, "max_task_retries": 0},
            **self._needs(),
        }
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", ray.util.annotations.RayDeprecationWarning
            )  # ray_remote_args_fn has no successor yet
            painted = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
                _Worker, **settings
            )
        for block in painted.iter_batches(
            batch_size=None, prefetch_batches=0
        ):  # by rows, each would wait for the next
            yield from map(json.loads, block["said"])

    def _ask(self, question: Callable[[], Any]) -> Any:
        """The answer of a worker to be."""
        import ray

        try:
            return ray.get(ray.remote(question).options(**self._needs()).remote())
        except ray.exceptions.RayError as error:
            raise RunError(
                f"the cluster cannot work for us ({error}): install on its nodes what conda.yaml names, and see that they are up"
            ) from error

    def _needs(self) -> dict[str, float]:
        return {"num_cpus": self._cpus, "num_gpus": int(self._on_gpus)}


class _Worker:
    """Paints fields in a process of its own on a node. What keeps it from painting any it says when it is asked for the first."""

    def __init__(
        self, assignment: dict[str, Any], n_cpus: int, memory_mb: dict[str, float]
    ) -> None:
        import ray

        torch.set_num_threads(n_cpus)
        self._node = ray.util.get_node_ip_address()
        share_mb = memory_mb.get(
            ray.get_runtime_context().get_node_id()
        )  # None of a node that came later, or says nothing of memory
        self._paint, self._refusal = None, ""
        try:
            self._paint = FieldPainter(_on_this_node(Assignment(**assignment), share_mb))
        except AdipocyteError as error:
            self._refusal = str(error)

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        return {"said": json.dumps(self._say(_from_json(row["field"])))}

    def _say(self, field: FieldFiles) -> dict[str, Any]:
        if self._paint:
            try:
                return dataclasses.asdict(self._paint(field))
            except AdipocyteError as error:
                self._refusal = str(error)
        return {"refusal": self._refusal, "node": self._node}


def _on_this_node(assignment: Assignment, share_mb: float | None) -> Assignment:
    """The *assignment* with this worker's share of its node's memory, where none was named; a GPU is a worker's own.

    Raises PlateError or OutputError when this node does not see what the others see.
    """
    if not Path(assignment.plate).is_dir():
        raise PlateError(
            f"there is no {assignment.plate} on this node: the plate must lie on a disk that all nodes share, by the same path"
        )
    if claim_in(Output(assignment.out)) != assignment.claim:
        raise OutputError(
            f"{assignment.out} on this node is not the folder that it is where the command runs: name one on a disk that all nodes "
            "share, or an address such as s3://bucket/folder, with -P out="
        )
    if assignment.memory_mb or torch.cuda.is_available():
        return assignment
    return dataclasses.replace(assignment, memory_mb=share_mb)


def _knock(address: str) -> None:
    """Raises OSError when nobody listens at an *address* of the form host:port; Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def _environment() -> dict[str, Any]:
    """What Ray brings to its nodes: this code, and where MLflow is. Passwords are not brought: Ray shows environments to whoever asks."""
    tracking, registry = (
        _from_anywhere(uri) for uri in (mlflow.get_tracking_uri(), mlflow.get_registry_uri())
    )
    package = str(Path(adipocyte.__file__).parent)
    return {
        "py_modules": [package],
        "env_vars": {"MLFLOW_TRACKING_URI": tracking, "MLFLOW_REGISTRY_URI": registry},
    }


def _from_anywhere(uri: str) -> str:
    """The address of a database or folder of MLflow, whatever folder a process works in."""
    path = uri.removeprefix("sqlite:///")
    if path != uri:
        return f"sqlite:///{Path(path).resolve()}"
    return uri if ":" in uri else str(Path(uri).resolve())


def _fastest() -> str:
    return fastest_arithmetic(fastest_device().type)


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


def _record(said: dict[str, Any]) -> FieldOutcome:
    problem = said["problem"] and Problem(**said["problem"])
    return FieldOutcome(
        FieldKey(**said["key"]), said["status"], said["seconds"], tuple(said["warnings"]), problem
    )
