"""Time points: whether they are told apart, and how they are numbered."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Set


def has_several(images: Iterable[tuple[Hashable, int]]) -> bool:
    """Whether anything is shown at several times, of *images*: what each shows, and its time.

    If not, each plane and each stain has one time, whatever it is called, and none is told apart.
    """
    times: dict[Hashable, set[int]] = defaultdict(set)
    for what, time in images:
        times[what].add(time)
    return any(len(own) > 1 for own in times.values())


def numbered(times: Set[int], *, several: bool) -> dict[int, int]:
    """The number of each time: 1 for all, or if *several* are told apart its own, from 1."""
    return {time: time + (0 in times) if several else 1 for time in times}
