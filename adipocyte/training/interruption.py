"""SIGTERM and Ctrl-C, obeyed at the end of a step."""

import signal
import threading
from types import FrameType
from typing import Any

import torch
from lightning_fabric import Fabric


class Interruption:
    """Notes that the process was asked to stop, so that a loop can save its state first.

    A second Ctrl-C stops at once.
    """

    def __init__(self, fabric: Fabric) -> None:
        self._fabric, self._noted = fabric, False
        self._before: dict[signal.Signals, Any] = {}  # the handlers before ours

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # no other may set a handler
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    @property
    def asked(self) -> bool:
        """Whether any of the processes was asked to stop; all of them get the same answer."""
        if self._fabric.world_size == 1:
            return self._noted
        noted = torch.tensor(float(self._noted), device=self._fabric.device)
        return bool(self._fabric.all_reduce(noted, reduce_op="max"))
