"""Other processes in tests: a free port to reach them by, and waiting for what they do."""

import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Found = TypeVar("Found")


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(
    condition: Callable[[], Found],
    seconds: float = 180,
    *,
    process: subprocess.Popen | None = None,
    log: Path | None = None,
) -> Found:
    """The first value of *condition* that is true; a connection that fails counts as false.

    A condition that takes a processor's time is asked less often, because what is waited for needs
    it: every tenth of a second at the least.

    Raises AssertionError after so many *seconds*, or once *process* has ended without it, with what
    the process wrote into *log*.
    """
    deadline, error = time.monotonic() + seconds, None
    while True:
        asked_s = time.thread_time()
        ended = process is not None and process.poll() is not None
        try:
            if found := condition():
                return found
        except OSError as failure:
            error = failure
        if ended or time.monotonic() > deadline:
            said = log.read_text() if log else error
            why = "the process ended" if ended else f"{seconds} s passed"
            raise AssertionError(f"waited in vain, {why}: {said}")
        time.sleep(min(max(0.01, 4 * (time.thread_time() - asked_s)), 0.1))
