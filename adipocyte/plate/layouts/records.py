"""What an instrument recorded of its images: the elements of its XML, read under limits.

No entity is defined and no other file opened, whatever the XML asks for.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

from adipocyte.domain import ROWS
from adipocyte.errors import PlateError
from adipocyte.plate.listing import named
from adipocyte.plate.problems import Problem
from adipocyte.system.files import open_regular

MAX_BYTES = 500_000_000  # a record of an image takes 400: a million of them
_CHUNK_BYTES = 1_000_000
_MAX_DEPTH = 50
_MAX_CHARACTERS = 10_000  # of an element's text: a file's name
_DECIMAL = re.compile(r"-?[0-9]{1,9}(\.[0-9]{1,25})?(E[+-]?[0-9]{1,2})?", re.IGNORECASE)


@dataclass(frozen=True)
class Element:
    """An element: its tag, attributes and own text, all names without their namespaces."""

    tag: str
    attributes: dict[str, str]
    text: str


class _Reader:
    """Collects elements as they end."""

    def __init__(self) -> None:
        self.ended: list[Element] = []
        self._open: list[tuple[dict[str, str], list[str]]] = []
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler, self.parser.EndElementHandler = self._start, self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.StartDoctypeDeclHandler = _refuse_entities

    def _start(self, _: str, attributes: dict[str, str]) -> None:
        if len(self._open) == _MAX_DEPTH:
            raise ValueError(f"more than {_MAX_DEPTH} elements in each other")
        self._open.append(({_local(key): value for key, value in attributes.items()}, []))

    def _end(self, tag: str) -> None:
        attributes, text = self._open.pop()
        self.ended.append(Element(_local(tag), attributes, "".join(text).strip()))

    def _text(self, text: str) -> None:
        own = self._open[-1][1]
        if sum(map(len, own)) + len(text) > _MAX_CHARACTERS:
            raise ValueError(f"an element of more than {_MAX_CHARACTERS} characters")
        own.append(text)


def _refuse_entities(*_: object) -> NoReturn:
    raise ValueError("it has a document type (DOCTYPE)")


def _local(name: str) -> str:
    return name.rpartition(":")[2]


def read_elements(path: Path) -> Iterator[Element]:
    """The elements of an XML file, each when it has ended.

    Raises PlateError, naming the file, when it cannot be opened, is larger than MAX_BYTES, damaged,
    or defines entities; the elements before that have been given then.
    """
    try:
        file = open_regular(path)
    except OSError as error:
        raise PlateError(
            f"{path} cannot be opened ({error.strerror})",
            "copy it into the plate's folder again, as the instrument wrote it",
        ) from error
    with file:
        yield from parse_elements(iter(lambda: file.read(_CHUNK_BYTES), b""), str(path))


def parse_elements(chunks: Iterable[bytes], name: str) -> Iterator[Element]:
    """The elements of XML that comes in *chunks*. Raises PlateError, on *name*, as above."""
    reader = _Reader()
    n_bytes = 0
    try:
        for chunk in chunks:
            n_bytes += len(chunk)
            if n_bytes > MAX_BYTES:
                raise ValueError(f"it is larger than {MAX_BYTES} bytes")
            reader.parser.Parse(chunk)
            yield from reader.ended
            reader.ended.clear()
        reader.parser.Parse(b"", True)
    except (expat.ExpatError, ValueError, LookupError) as error:  # or an unknown encoding
        yield from reader.ended
        raise PlateError(
            f"{name} is damaged ({error})",
            "copy it again, as the instrument wrote it",
        ) from error


def whole_number(record: Mapping[str, str], key: str, name: str) -> int:
    """A number of up to four digits of a *record* in the file *name*. Raises PlateError."""
    text = record.get(key, "")
    if not (text.isascii() and text.isdecimal() and len(text) <= 4):
        raise damaged_record(name, f"whose {key} is {text[:20]!r}")
    return int(text)


def decimal(text: str) -> float | None:
    """A number as instruments write it, such as "5.98E-07"; None for anything else."""
    return float(text) if _DECIMAL.fullmatch(text) else None


def well_at(row: int, column: int, name: str) -> str:
    """A well by its numbers, from 1, in a record of the file *name*. Raises PlateError."""
    if not (1 <= row <= len(ROWS) and 1 <= column <= 99):
        raise damaged_record(name, f"of row {row} and column {column}")
    return f"{ROWS[row - 1]}{column:02d}"


def damaged_record(name: str, what: str) -> PlateError:
    """What to say of a record in the file *name* that is of no image."""
    return PlateError(f"{name} has a record {what}", "copy it again, as the instrument wrote it")


def unrecorded(paths: Sequence[Path], name: str) -> tuple[Problem, ...]:
    """What to say of images that have no record in the file *name*, if there are any."""
    if not paths:
        return ()
    problem = Problem(
        name,
        f"{len(paths)} images have no record in it: {named(paths)}",
        "copy it again, whole, or move these images out of the plate",
    )
    return (problem,)
