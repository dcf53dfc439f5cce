"""Workers of a Ray cluster (https://docs.ray.io), whatever they do. No other module imports Ray."""

import json
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

import adipocyte
from adipocyte.domain import FieldKey
from adipocyte.errors import AdipocyteError, ConfigError, RunError
from adipocyte.plate.problems import Problem

_TRIES = 3  # rounds in a row in which no field is finished
_SHARE = 0.6  # of the memory that Ray grants a node, for fields; libraries take the rest


@dataclass(frozen=True)
class Share:
    """What a worker may take of its node: cores, and memory in MB, None where that is unknown."""

    n_cpus: int
    memory_mb: float | None


Answer = dict[str, Any]  # JSON can hold it

# What a worker runs first, a function of a module, with settings that JSON can hold. It gives what
# the worker does with each field. An AdipocyteError of either one is a refusal: it ends the work.
Begin = Callable[[dict[str, Any], Share], Callable[[Any], Answer]]


@contextmanager
def workers_at(
    address: str, worker_cpus: int, *, use_gpus: bool, environment: Mapping[str, str]
) -> Generator["Workers"]:
    """The workers of the Ray cluster at *address*, of *worker_cpus* cores each (see `Workers`).

    Their processes have the variables of *environment*, which Ray shows to everyone who asks, so
    that no password may be in it.

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
    package = str(Path(adipocyte.__file__).parent)  # Ray brings it to its nodes
    try:
        _require_listener(address)
        ray.init(
            address,
            runtime_env={"py_modules": [package], "env_vars": dict(environment)},
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        raise RunError(
            f"no Ray cluster can be joined at {address} ({error})",
            "start one with ray start --head, and name its address, -P cluster=<host>:6379",
        ) from error
    try:
        yield Workers(worker_cpus, use_gpus)
    finally:
        ray.shutdown()


class Workers:
    """The workers of a cluster that has been joined: one for each GPU, or for so many cores.

    With *use_gpus*, nodes without a GPU have no workers where others have one; else no worker has
    a GPU. *worker_cpus* 0 is all cores of the smallest node, or its share for each of its GPUs.
    Raises ConfigError when no node has so many.
    """

    def __init__(self, worker_cpus: int, use_gpus: bool) -> None:
        import ray

        nodes = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
        n_cpus = {node: int(has.get("CPU", 0)) for node, has in nodes.items()}
        n_gpus = {node: int(has.get("GPU", 0)) for node, has in nodes.items()}
        self._on_gpus = use_gpus and any(n_gpus.values())
        working = [node for node in nodes if n_cpus[node] and (n_gpus[node] or not self._on_gpus)]
        shares = [n_cpus[node] // (n_gpus[node] if self._on_gpus else 1) for node in working]
        self._n_cpus = worker_cpus or max(1, min(shares, default=1))

        n_workers = {node: n_cpus[node] // self._n_cpus for node in working}
        if self._on_gpus:
            n_workers = {node: min(n, n_gpus[node]) for node, n in n_workers.items()}
        self.n_workers = sum(n_workers.values())
        if not self.n_workers:
            has = sorted(n_cpus[node] for node in working)
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

    def ask(self, question: Callable[[], Any]) -> Any:
        """The answer of a node that has room for a worker to a function of a module."""
        import ray
        from ray.exceptions import RayError

        try:
            return ray.get(ray.remote(question).options(**self._needs()).remote())
        except RayError as error:
            raise _unable(error) from error

    def each(
        self, begin: Begin, settings: dict[str, Any], fields: Mapping[FieldKey, Any]
    ) -> Iterator[tuple[FieldKey, Answer | Problem]]:
        """What workers answer to each of *fields*, of which JSON says all, in any order.

        A field whose worker or node dies is given to another; after some rounds that brought
        nothing, a problem is its answer. Raises RunError when a worker refuses to work, and when
        the cluster cannot.
        """
        from ray.exceptions import RayError

        left = dict(fields)
        n_futile = 0
        in_hand = 2  # one to work on and the next, so that no worker waits for this process
        while left and n_futile < _TRIES:
            n_before = len(left)
            try:
                for key, answer in self._round(begin, settings, left, in_hand):
                    del left[key]
                    yield key, answer
            except RayError as error:
                raise _unable(error) from error
            n_futile = n_futile + 1 if len(left) == n_before else 0
            in_hand = 1  # so that a field that kills its worker takes no other with it
            if left:
                tqdm.write(f"The workers of {len(left)} fields died: these are tried again.")
        for key in left:
            remedy = (
                "look into Ray's logs; where memory ran out, give each worker more of it by a "
                "larger -P worker_cpus"
            )
            yield key, Problem(str(key), f"its worker died, {_TRIES} times", remedy)

    def _round(
        self, begin: Begin, settings: dict[str, Any], fields: Mapping[FieldKey, Any], in_hand: int
    ) -> Iterator[tuple[FieldKey, Answer]]:
        """The answers to *fields*, each tried once, by workers that hold so many *in_hand*.

        A field whose worker dies has no answer. A new worker takes the place of one that dies with
        a field in hand, as soon as a node has room for it.

        Raises RunError when a worker refuses to work, RayError when one cannot start.
        """
        import ray
        from ray.exceptions import RayError

        actor = ray.remote(_Worker).options(**self._needs())
        waiting = deque((key, json.dumps(field, default=str)) for key, field in fields.items())
        workers: list[Any] = []
        starting: dict[Any, Any] = {}  # the worker of each answer that is to come
        working: dict[Any, tuple[Any, FieldKey]] = {}

        def hire() -> None:
            # Ray's types know nothing of its methods.
            worker: Any = actor.remote(begin, json.dumps(settings), self._n_cpus, self._memory_mb)
            workers.append(worker)
            starting[worker.refusal.remote()] = worker

        for _ in range(min(self.n_workers, len(waiting))):
            hire()
        try:
            while working or (waiting and starting):
                [ready], _ = ray.wait([*starting, *working])
                starts = ready in starting
                worker, key = (starting.pop(ready), None) if starts else working.pop(ready)
                try:
                    said = json.loads(ray.get(ready))
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
                        its_key, field = waiting.popleft()
                        working[worker.work.remote(field)] = worker, its_key
                if key is not None:
                    yield key, said
        finally:
            for worker in workers:
                ray.kill(worker)

    def _needs(self) -> dict[str, int]:
        return {"num_cpus": self._n_cpus, "num_gpus": int(self._on_gpus)}


class _Worker:
    """Works on fields in a process of its own on a node. It takes and answers JSON."""

    def __init__(
        self, begin: Begin, settings: str, n_cpus: int, memory_mb: dict[str, float]
    ) -> None:
        import ray

        self._node = ray.util.get_node_ip_address()
        # None on a node that came later, or that says nothing of its memory.
        share = Share(n_cpus, memory_mb.get(ray.get_runtime_context().get_node_id()))
        self._refusal: dict[str, str] = {}
        try:
            self._work = begin(json.loads(settings), share)
        except AdipocyteError as error:
            self._refuse(error)

    def refusal(self) -> str:
        """What keeps this worker from any field: {} or a refusal."""
        return json.dumps(self._refusal)

    def work(self, field: str) -> str:
        """What became of a field, or a refusal."""
        try:
            return json.dumps(self._work(json.loads(field)))
        except AdipocyteError as error:
            self._refuse(error)
            return self.refusal()

    def _refuse(self, error: AdipocyteError) -> None:
        self._refusal = {"refusal": str(error), "node": self._node}


def _require_listener(address: str) -> None:
    """Raise OSError when nobody listens at an *address* host:port; Ray would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def _unable(error: Exception) -> RunError:
    return RunError(
        f"the cluster cannot work for this command ({error})",
        "install the packages of docs/plates.md on its nodes, see that they are up, and run the "
        "same command again",
    )


def _is_death(error: Exception) -> bool:
    """Whether a worker's process or node died, while its code raised nothing."""
    from ray.exceptions import OutOfMemoryError, RayActorError

    if isinstance(error, RayActorError):
        return not error.actor_init_failed
    return isinstance(error, OutOfMemoryError)
