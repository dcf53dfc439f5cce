"""SIGTERM and Ctrl-C, heeded at the end of a step."""

import signal
import threading
from types import FrameType

import torch
from lightning_fabric import Fabric


class Interruption:
    """Notes that the process was asked to stop, so that a loop can save its state first. A second Ctrl-C stops at once."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric, self._noted, self._before = fabric, False, {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # only there may a handler be set
            self._before = {
                number: signal.signal(number, self._note)
                for number in (signal.SIGTERM, signal.SIGINT)
            }
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
        return bool(
            self._fabric.all_reduce(
                torch.tensor(float(self._noted), device=self._fabric.device), reduce_op="max"
            )
        )
