"""Work shared out to processes of one thread each, which end when their parent ends."""

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

# What makes numerical libraries compute on one thread, where it is set before they are imported.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def each(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Result]:
    """The results of *function* for each of *items*, as they become ready.

    *workers* processes share the work; with 0 of them this process does it. Raises WorkerError when
    a worker is killed.
    """
    if not workers:
        yield from map(function, items)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin) as pool:
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


def _begin() -> None:
    """Make this process a worker: of one thread, deaf to Ctrl-C, which its parent handles.

    It ends with its parent, because two would write the same files once the command runs again.
    """
    # Before the libraries that read them are imported: more threads would fight over the cores.
    os.environ.update(ONE_THREAD)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if parent := multiprocessing.parent_process():
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(parent: int) -> None:
    wait([parent])
    os._exit(1)
