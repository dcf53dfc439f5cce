"""Work shared out to processes of one thread each, which end when the one that asked for it does."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TypeVar

from adipocyte.errors import WorkerError

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """The results of *function* for each of *items*, as they become ready, from so many *workers* (0: this process itself).

    Raises WorkerError when a worker is killed.
    """
    if not workers:
        yield from map(function, items)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _serve) as pool:
        try:
            for future in as_completed([pool.submit(function, item) for item in items]):
                yield future.result()
        except BrokenProcessPool as error:
            raise WorkerError(
                f"one of {workers} workers was killed, which is what happens when memory runs out",
                "give it fewer, -P workers=1, or more memory, and run the same command again",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _serve() -> None:
    """Leave Ctrl-C to the process that gave the work, and do not outlive it: nobody would tell a worker that it was killed.

    One thread each, set before the libraries that read it are imported: more would fight over the cores.
    """
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(
        target=_follow, args=(multiprocessing.parent_process().sentinel,), daemon=True
    ).start()


def _follow(parent: int) -> None:
    wait([parent])
    os._exit(1)
