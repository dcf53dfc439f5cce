"""The course of a training's threads, which is part of what makes its result.

On a CPU a gradient is a sum over threads, so another number of them gives other last digits.
"""

import re

import torch

from adipocyte.errors import ConfigError
from adipocyte.system.threads import Threads

AUTO = "auto"
_CHANGE = re.compile(r"(?P<threads>[1-9][0-9]{0,3})(@(?P<step>[0-9]{1,9}))?")


class Course:
    """How many threads each step, counted from 1, computes on: as wished, or as the machine gives.

    *wish* is "auto", a number, or the course of another training ("2,1@1200": two, from step 1200
    on one). *taken* are the changes (step, number) of this training so far; later ones are added to
    it. Raises ConfigError for any other wish.
    """

    def __init__(self, wish: str, taken: list[list[int]]) -> None:
        self._machine = Threads() if wish == AUTO else None
        self._wished = [] if wish == AUTO else course_of(wish)
        self._taken = taken
        if taken:
            torch.set_num_threads(taken[-1][1])

    def at(self, step: int) -> int | None:
        """Set the threads for a *step*. Returns their number if it is a new one."""
        if self._machine:
            number = self._machine.adapt()
        else:
            number = next(n for first, n in reversed(self._wished) if first <= step)
            torch.set_num_threads(number)
        if self._taken and self._taken[-1][1] == number:
            return None
        self._taken.append([step, number])
        return number


def course_of(text: str) -> list[tuple[int, int]]:
    """The changes (step, number of threads) that *text* tells, from step 1 on.

    Raises ConfigError for text of another form.
    """
    found = [_CHANGE.fullmatch(part.strip()) for part in text.split(",")]
    changes = [(int(one["step"] or 1), int(one["threads"])) for one in found if one]
    steps = [step for step, _ in changes]
    if len(changes) < len(found) or steps[0] != 1 or sorted({*steps}) != steps:
        raise ConfigError(
            f"threads must be auto, a number, or a course like 2,1@1200, got {text!r}",
            "-P threads=auto",
        )
    return changes


def spelled_course(taken: list[list[int]]) -> str:
    """The *taken* changes as a setting that repeats them: "2,1@1200"."""
    return ",".join(f"{n}@{step}" if step > 1 else str(n) for step, n in taken)
