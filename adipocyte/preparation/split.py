"""The split by well. Fields of one well are too alike to lie in two of its parts."""

from collections.abc import Sequence

import numpy as np

from adipocyte.errors import ConfigError, PlateError

PARTS = ("train", "validation", "test")
FEW_WELLS = 5


def split_wells(
    wells: Sequence[str], validation: Sequence[str], test: Sequence[str], seed: int
) -> dict[str, tuple[str, ...]]:
    """Split *wells* into "train", "validation" (chooses networks) and "test" (judges the model).

    Parts that are not named are drawn with *seed*: a quarter of the wells for test, an eighth for
    validation, at least one each. With fewer than FEW_WELLS wells none can be spared from training,
    so the test wells validate too unless others are named.

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
    drawn = np.random.default_rng(seed).permutation(wells).tolist()
    left = [well for well in drawn if well not in (*validation, *test)]
    if not test:
        test, left = _take(left, max(1, round(len(wells) / 4)))
    if not validation and len(wells) < FEW_WELLS:
        validation = test
    elif not validation:
        validation, left = _take(left, max(1, round(len(wells) / 8)))
    if not left:
        raise PlateError(
            f"no well of {len(wells)} is left to train on "
            f"(validation: {', '.join(validation)}; test: {', '.join(test)})",
            "name fewer with -P validation_wells=… -P test_wells=…",
        )
    parts = zip(PARTS, (left, validation, test), strict=True)
    return {part: tuple(sorted(set(chosen))) for part, chosen in parts}


def _take(wells: list[str], n: int) -> tuple[list[str], list[str]]:
    return wells[:n], wells[n:]
