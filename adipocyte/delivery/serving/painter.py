"""Rows of a request in, painted rows out, one after the other."""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

from adipocyte.delivery.serving.parameters import Parameters
from adipocyte.delivery.serving.request import Encoded, RequestError, Row
from adipocyte.domain import SMALLEST_PX, UM_PER_PX, bound_names
from adipocyte.errors import ConfigError, ImageError
from adipocyte.plate.tiff import decode_stack, encode_image, stack_header
from adipocyte.staining.stainer import Stainer
from adipocyte.system.threads import Threads

_MOST_MAGNIFICATION = 1000  # of a light microscope, so that a message never repeats more digits
_BYTES_PER_PX = 3  # of an image in an answer: two, in base64
# Of what is measured: the features, and some 30 for each cell, which has 300 pixels or more.
_MEASURED_BYTES, _CELLS_BYTES_PER_PX = 10_000, 0.1
# Of what painting may take, the memory that measuring may take beside it.
_MEASURING_SHARE = 1 / 3

T = TypeVar("T")


@dataclass(frozen=True)
class Field:
    """A row whose headers have been read: `shape_px` is (Y, X).

    `um_per_px` is what the request says, or the stack; None: neither does.
    """

    stack: bytes
    magnification: int
    shape_px: tuple[int, int]
    um_per_px: float | None


@dataclass(frozen=True)
class Problem:
    """Why a row cannot be painted."""

    said: str


@dataclass(frozen=True)
class Painted:
    """The `answer` to a row, but for the columns that `measure` gives.

    `measure` is None where nobody asked for it, and where there is no image.
    """

    answer: dict[str, Any]
    measure: Callable[[], dict[str, str]] | None


@dataclass(frozen=True)
class Work:
    """A request that has been read: its rows, each painted when it is asked for.

    `answer_bytes` is about what the answers will have in JSON.
    """

    rows: Iterator[Painted]
    answer_bytes: int

    def answers(self) -> Iterator[dict[str, Any]]:
        """The whole answer to each row."""
        for row in self.rows:
            yield row.answer | (row.measure() if row.measure else {})


class Painter:
    """Paints the rows of requests with a stainer, one field at a time, whatever the threads.

    The memory limit is one field's, and its networks use all cores. While a field is measured, on
    one core, the next is painted; of these, too, there is one at a time.
    """

    def __init__(self, stainer: Stainer) -> None:
        self.stainer, self._threads = stainer, Threads()
        self._painting, self._measuring = threading.Lock(), threading.Lock()

    def begin(self, rows: Iterable[Row], params: Mapping[str, Any] | None) -> Work:
        """Read a request's parameters and the headers of all its *rows*.

        Raises RequestError (400) for parameters that make no sense, and for the first row that
        cannot be painted unless on_error is "report". So does the iteration over the answers.
        """
        try:
            asked = Parameters.of(params)
            # Rejects parameters that are invalid for every row.
            self.stainer.check(
                (SMALLEST_PX, SMALLEST_PX),
                self.stainer.manifest.magnifications[0],
                **asked.painting,
            )
        except (ConfigError, ImageError) as error:
            raise RequestError(400, error.found, error.remedy) from error
        fields = deque(
            _tried(number, asked, self._field, row, asked) for number, row in enumerate(rows)
        )
        targets = asked.painting["targets"] or self.stainer.manifest.targets
        shapes_px = [field.shape_px for field in fields if isinstance(field, Field)]
        n_px = sum(height * width for height, width in shapes_px)
        n_images = len(targets) * (3 if asked.uncertainty else 1)
        answer_bytes = _BYTES_PER_PX * n_px * n_images
        if asked.measure:
            answer_bytes += _MEASURED_BYTES * len(shapes_px) + round(_CELLS_BYTES_PER_PX * n_px)
        return Work(self._painted(fields, asked, _empty(targets, asked)), answer_bytes)

    def _field(self, row: Row, asked: Parameters) -> Field:
        """A *row*, checked by its headers. Raises ImageError."""
        magnification, stack = _magnification(row.magnification), _stack(row.stack)
        header = stack_header(stack, self.stainer.manifest.plane_numbers)
        shape_px, told = header.shape, asked.um_per_px or header.um_per_px
        self.stainer.check(shape_px, magnification, um_per_px=told, **asked.painting)
        if asked.measure:
            from adipocyte.delivery.serving import measuring  # only here, because it loads judging

            memory_mb = _MEASURING_SHARE * self.stainer.memory_mb
            size = told or self._size(magnification)
            measuring.check(shape_px, magnification, size, memory_mb)
        return Field(stack, magnification, shape_px, told)

    def _size(self, magnification: int) -> float:
        """The size of pixels in µm where a row tells none; the stainer refuses what has none."""
        return self.stainer.manifest.objectives.get(magnification) or UM_PER_PX[magnification]

    def _painted(
        self, fields: deque[Field | Problem], asked: Parameters, empty: dict[str, Any]
    ) -> Iterator[Painted]:
        """Each row's images, as bytes of TIFFs by target, and warnings; or its error.

        A field is let go once it is painted. *empty* holds all columns of an answer.
        """
        for number in range(len(fields)):
            field = fields.popleft()
            if isinstance(field, Field):
                field = _tried(number, asked, self._paint, field, asked)
            if isinstance(field, Problem):
                field = Painted({"error": field.said}, None)
            yield Painted(empty | field.answer, field.measure)

    def _paint(self, field: Field, asked: Parameters) -> Painted:
        with self._painting:
            self._threads.adapt()
            stained = self.stainer.stain(
                decode_stack(field.stack, self.stainer.manifest.plane_numbers),
                field.magnification,
                um_per_px=field.um_per_px,
                **asked.painting,
            )
        size = field.um_per_px or self._size(field.magnification)
        images = {target: encode_image(image, size) for target, image in stained.images.items()}
        bounds = {
            name: encode_image(image, size)
            for target, interval in stained.intervals.items()
            for name, image in zip(bound_names(target), interval, strict=True)
        }
        answer = images | bounds | {"warnings": "; ".join(stained.warnings)}
        if asked.uncertainty:
            answer["trust"] = json.dumps(asdict(stained.trust))
        if not asked.measure:
            return Painted(answer, None)
        return Painted(answer, partial(self._measure, images, field.magnification, size))

    def _measure(
        self, images: dict[str, bytes], magnification: int, um_per_px: float
    ) -> dict[str, str]:
        from adipocyte.delivery.serving import measuring

        with self._measuring:
            return measuring.measured(images, magnification, um_per_px)


def _empty(targets: Iterable[str], asked: Parameters) -> dict[str, Any]:
    """The answer to a row of which nothing is known, with all columns in order."""
    columns: dict[str, Any] = dict.fromkeys(targets)
    if asked.uncertainty:
        columns |= dict.fromkeys(name for target in columns for name in bound_names(target))
    columns |= {"warnings": ""} | ({"trust": None} if asked.uncertainty else {})
    if asked.measure:
        columns |= {"features": None, "objects": None}
    return columns | ({"error": ""} if asked.reports_errors else {})


def _tried(
    number: int, asked: Parameters, step: Callable[..., T], *arguments: object
) -> T | Problem:
    """What a *step* makes of row *number*; a Problem or RequestError (400) when it cannot."""
    try:
        return step(*arguments)
    except (ImageError, ConfigError) as error:
        if asked.reports_errors:
            return Problem(str(error))
        raise RequestError(400, f"row {number}: {error.found}", error.remedy) from error


def _stack(given: Any) -> bytes:
    if isinstance(given, Encoded):
        return given.decoded()
    if isinstance(given, bytes | bytearray | memoryview):
        return bytes(given)
    raise ImageError(_found(given, "stack"), "send the bytes of a TIFF, in JSON in base64")


def _magnification(given: Any) -> int:
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    if not is_number or not abs(given) <= _MOST_MAGNIFICATION or int(given) != given:
        raise ImageError(
            _found(given, "magnification"), "send the objective's, a whole number: 20, say"
        )
    return int(given)


def _found(given: Any, name: str) -> str:
    return f"the row has no {name}" if given is None else f"its {name} is {given!r:.50}"
