"""The body of a request to the served model, read under limits of its own.

Stacks are taken out of the body before its JSON is parsed, because they are nearly all of it: what
is left is small, whatever a body holds.
"""

import binascii
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from adipocyte.errors import AdipocyteError, ImageError
from adipocyte.system.files import parse_json

MAX_ROWS = 1000
MAX_BESIDE_BYTES = 1_000_000  # of a body, beside its stacks
MAX_MARKS = 20_000  # of JSON: each may become an object of a hundred bytes
LONG = 4096  # characters of a text that is taken out
_MOST_SHOWN = 200  # characters of a request that a refusal repeats
_BACKSLASHES = 1024  # in a row: no base64 has two
_FORMS = ("dataframe_records", "dataframe_split")
_EXAMPLE = '{"dataframe_records": [{"stack": "<TIFF in base64>", "magnification": 20}]}'
# Some programs write "/" as "\\/", and break lines.
_WRITTEN = ((b"\\/", b"/"), (b"\\n", b""), (b"\\r", b""), (b"\n", b""), (b"\r", b""))


class RequestError(AdipocyteError):
    """A request that is not even looked at row by row; `status` is HTTP's."""

    def __init__(self, status: int, found: str, remedy: str) -> None:
        super().__init__(found, remedy)
        self.status = status


@dataclass(frozen=True)
class Encoded:
    """A text that may be a stack in base64, as it stands in the body."""

    text: bytes | memoryview

    def decoded(self) -> bytes:
        """The bytes. Raises ImageError when it is no base64."""
        try:
            return binascii.a2b_base64(self.text, strict_mode=True)
        except binascii.Error:
            text = bytes(self.text)
        for written, meant in _WRITTEN:
            text = text.replace(written, meant)
        try:
            return binascii.a2b_base64(text, strict_mode=True)
        except binascii.Error as error:
            raise ImageError(
                f"the stack is no base64 ({error})", "send the bytes of a TIFF in base64"
            ) from error


@dataclass(frozen=True)
class Row:
    """What a row holds: `stack` should be `Encoded` or bytes, `magnification` a number."""

    stack: Any
    magnification: Any


def parse(body: bytes | bytearray) -> tuple[list[Row], dict[str, Any]]:
    """The rows of a request, and its parameters.

    Raises RequestError (400) for what is no JSON of the two forms, or too much of it.
    """
    rest, texts = _without_long_texts(body)
    if sum(map(rest.count, (b"[", b"{", b",", b":"))) > MAX_MARKS:
        raise _wrong(
            f"the request has more than {MAX_MARKS} parts",
            f"send fewer rows; its form is {_EXAMPLE}",
        )
    try:
        content = parse_json(rest)
    except ValueError as error:
        raise _wrong(f"the body is no JSON ({_shown(error)})", f"its form is {_EXAMPLE}") from error
    form = _form_of(content)
    rows = (_records if form == _FORMS[0] else _split)(content[form])
    if not rows:
        raise _wrong("the request holds no row", f"send at least one: {_EXAMPLE}")
    if len(rows) > MAX_ROWS:
        raise _wrong(
            f"the request holds {len(rows)} rows", f"send at most {MAX_ROWS} in one request"
        )
    params = content.get("params")
    if not isinstance(params, dict | None):
        raise _wrong(f"params is {_kind(params)}", 'it must be an object: {"targets": "A2"}')
    if any(isinstance(value, str) and value in texts for value in (params or {}).values()):
        raise _wrong(f"params holds a text of more than {LONG} characters", "send a shorter one")
    return [Row(_stack(row.stack, texts), row.magnification) for row in rows], params or {}


def _form_of(content: Any) -> str:
    """Which of the two forms the rows have."""
    if not isinstance(content, dict):
        raise _wrong(f"the request is {_kind(content)}", f"its form is {_EXAMPLE}")
    names = [name for name in content if name != "params"]
    if len(names) != 1 or names[0] not in _FORMS:
        raise _wrong(
            f"the request holds {_shown(', '.join(names)) or 'no rows'}",
            f"it must hold {' or '.join(_FORMS)}, and may hold params: {_EXAMPLE}",
        )
    return names[0]


def _without_long_texts(body: bytes | bytearray) -> tuple[bytes, dict[str, Encoded]]:
    """*body* with a name in the place of each long text, and these texts by name."""
    if body.count(b'"') > MAX_MARKS:
        raise _wrong(
            f"the request holds more than {MAX_MARKS // 2} texts", f"its form is {_EXAMPLE}"
        )
    whole, secret = memoryview(body), secrets.token_hex(8)  # a name that nobody can send
    texts: dict[str, Encoded] = {}
    parts: list[bytes | memoryview] = []
    kept = 0
    for start, end in _texts(body):
        if end - start > LONG:
            name = f"{secret}-{len(texts)}"
            texts[name] = Encoded(whole[start:end])
            parts += [whole[kept:start], name.encode()]
            kept = end
    left = sum(map(len, parts)) + len(whole) - kept
    if left > MAX_BESIDE_BYTES:
        raise _wrong(
            f"the request has {left} bytes beside its stacks",
            f"send at most {MAX_BESIDE_BYTES}; its form is {_EXAMPLE}",
        )
    return b"".join([*parts, whole[kept:]]), texts


def _texts(body: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """Where each text between quotes begins and ends."""
    start = body.find(b'"') + 1
    while start:
        at = body.find(b'"', start)
        while at >= 0 and _is_escaped(body[max(start, at - _BACKSLASHES) : at]):
            at = body.find(b'"', at + 1)
        if at < 0:
            return  # the parser says so
        yield start, at
        start = body.find(b'"', at + 1) + 1


def _is_escaped(before: bytes | bytearray) -> bool:
    """Whether what stands *before* a quote takes its meaning."""
    return (len(before) - len(before.rstrip(b"\\"))) % 2 == 1


def _records(content: Any) -> list[Row]:
    if not isinstance(content, list):
        raise _wrong(f"dataframe_records is {_kind(content)}", f"its form is {_EXAMPLE}")
    return [
        Row(record.get("stack"), record.get("magnification"))
        if isinstance(record, dict)
        else Row(None, None)
        for record in content
    ]


def _split(content: Any) -> list[Row]:
    columns = content.get("columns") if isinstance(content, dict) else None
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(columns, list) or not isinstance(data, list):
        raise _wrong(
            "dataframe_split holds no columns or no data",
            'its form is {"columns": ["stack", "magnification"], "data": [["<base64>", 20]]}',
        )
    named = [name if isinstance(name, str) else "" for name in columns]
    rows = []
    for values in data:
        is_row = isinstance(values, list) and len(values) == len(columns)
        record = dict(zip(named, values, strict=True)) if is_row else {}
        rows.append(Row(record.get("stack"), record.get("magnification")))
    return rows


def _stack(value: Any, texts: dict[str, Encoded]) -> Any:
    if not isinstance(value, str):
        return value
    return texts.get(value) or Encoded(value.encode(errors="replace"))


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def _shown(said: object) -> str:
    return str(said)[:_MOST_SHOWN]


def _wrong(found: str, remedy: str) -> RequestError:
    return RequestError(400, found, remedy)
