"""The split by well. Fields of one well are too alike to lie in two of its parts."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import product

import numpy as np

from adipocyte.domain import FieldKey
from adipocyte.errors import ConfigError, PlateError

PARTS = ("train", "validation", "test")
FEW_WELLS = 5
_DRAWS = 1000  # where three wells of many have a stain, each part gets one in a draw of ten or so

Split = dict[str, tuple[str, ...]]  # the wells of each part
Having = Mapping[tuple[int, str], Collection[str]]  # the wells with a magnification's stain


def split_wells(
    wells: Sequence[str],
    validation: Sequence[str],
    test: Sequence[str],
    seed: int,
    having: Having | None = None,
) -> Split:
    """Split *wells* into "train", "validation" (chooses networks) and "test" (judges the model).

    Parts that are not named are drawn with *seed*: a quarter of the wells for test, an eighth for
    validation, at least one each. With fewer than FEW_WELLS wells none can be spared from training,
    so the test wells validate too unless others are named.

    *having* has the wells with each stain that not all fields have. Then, of many draws, the first
    counts in which the fewest parts are without a stain.

    Raises ConfigError when a named well is not on the plate or is named in both parts, PlateError
    when no well is left to train on.
    """
    wells = sorted(set(wells))
    for well in (*validation, *test):
        if well not in wells:
            raise ConfigError(
                f"well {well} is not on the plate", f"its wells are {', '.join(wells)}"
            )
    if shared := set(validation) & set(test):
        raise ConfigError(
            f"{', '.join(sorted(shared))} stand in validation_wells and in test_wells",
            "name each well once",
        )
    if len(wells) < 2:
        raise PlateError(
            f"the plate has one well ({', '.join(wells)})",
            "two are needed, one to train on and one held out to judge the model",
        )
    random = np.random.default_rng(seed)
    draws = (
        _parts(random.permutation(wells).tolist(), validation, test)
        for _ in range(_DRAWS if having else 1)
    )
    return min(draws, key=lambda split: len(_without(split, having or {})))


def rare_stains(stains: Mapping[FieldKey, Collection[str]]) -> Having:
    """The wells with each stain that some field lacks, by magnification, of each field's stains."""
    wells: dict[tuple[int, str], set[str]] = defaultdict(set)
    for key, those in stains.items():
        for stain in those:
            wells[key.magnification, stain].add(key.well)
    return {
        (magnification, stain): found
        for (magnification, stain), found in sorted(wells.items())
        if any(
            key.magnification == magnification and stain not in those
            for key, those in stains.items()
        )
    }


def without_stains(split: Split, having: Having) -> str:
    """A sentence on parts without a stain that others have; "" where there are none."""
    clauses = [
        f"no field of the {part} wells {', '.join(split[part])} has {stain} at {magnification}x"
        for part, (magnification, stain) in _without(split, having)
    ]
    text = "; ".join(clauses)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _without(split: Split, having: Having) -> list[tuple[str, tuple[int, str]]]:
    """The parts that are without a stain, each with that stain."""
    return [
        (part, stain)
        for part, stain in product(split, having)
        if not set(split[part]) & set(having[stain])
    ]


def _parts(drawn: list[str], validation: Sequence[str], test: Sequence[str]) -> Split:
    """The parts of wells in the order in which they were *drawn*."""
    left = [well for well in drawn if well not in (*validation, *test)]
    if not test:
        test, left = _take(left, max(1, round(len(drawn) / 4)))
    if not validation and len(drawn) < FEW_WELLS:
        validation = test
    elif not validation:
        validation, left = _take(left, max(1, round(len(drawn) / 8)))
    if not left:
        raise PlateError(
            f"no well of {len(drawn)} is left to train on "
            f"(validation: {', '.join(validation)}; test: {', '.join(test)})",
            "name fewer with -P validation_wells=… -P test_wells=…",
        )
    parts = zip(PARTS, (left, validation, test), strict=True)
    return {part: tuple(sorted(set(chosen))) for part, chosen in parts}


def _take(wells: list[str], n: int) -> tuple[list[str], list[str]]:
    return wells[:n], wells[n:]
