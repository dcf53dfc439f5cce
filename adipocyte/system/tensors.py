"""Errors of the disk while safetensors writes."""

import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

_NUMBER = re.compile(r"\(os error (\d+)\)")


@contextmanager
def disk_errors(path: Path) -> Generator[None]:
    """Turn an error of the disk into an OSError about *path*, as writing anything else raises it.

    safetensors gives the system's number in its text alone.
    """
    try:
        yield
    except SafetensorError as error:
        if found := _NUMBER.search(str(error)):
            number = int(found[1])
            raise OSError(number, os.strerror(number), str(path)) from error
        raise
