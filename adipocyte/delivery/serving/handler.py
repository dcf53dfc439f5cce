"""What MLflow's server does with a request: its body is read under limits, refusals are JSON."""

import asyncio
import base64
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from fastapi import Request, Response
from mlflow.pyfunc import scoring_server
from starlette.requests import ClientDisconnect

from adipocyte.delivery.serving.painter import Painted, Work
from adipocyte.delivery.serving.request import RequestError

IN_HAND = 8  # requests of the largest size: so many bytes may bodies and answers have together
# What MLflow gives the handler of /invocations to, when it makes its server.
_WRAPPER = "_async_catch_mlflow_exception"
_GONE = "the client has gone"
T = TypeVar("T")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """Of one request: bytes of its body, of which its answer may have twice as many; seconds."""

    body_bytes: int
    patience_s: float


def handle_requests(begin: Callable[[bytearray], Work], limits: Limits) -> None:
    """Let MLflow's server of this process answer /invocations by *begin*.

    MLflow makes its server after it has loaded the model, and offers no other place to put limits
    on what is read.
    """
    handler = Handler(begin, limits)

    async def invocations(request: Request) -> Response:
        return await handler(request)

    setattr(scoring_server, _WRAPPER, lambda _: invocations)


class Handler:
    """Reads bodies, has them answered in threads row by row, and says what went wrong.

    One row is painted at a time, in the order in which the requests came, and one is measured
    meanwhile. A request that is not answered in time, or whose client has gone, is dropped; only a
    row that is being painted or measured then is so to its end.
    """

    def __init__(self, begin: Callable[[bytearray], Work], limits: Limits) -> None:
        self._begin, self._limits = begin, limits
        self._painting, self._measuring = asyncio.Lock(), asyncio.Lock()
        self._bytes_in_hand = 0

    async def __call__(self, request: Request) -> Response:
        try:
            async with asyncio.timeout(self._limits.patience_s):
                return await self._answered(request)
        except RequestError as error:
            return _refusal(error.status, str(error))
        except TimeoutError:
            return _refusal(
                504,
                f"the answer took longer than {self._limits.patience_s:g} s: send fewer fields at "
                "once, or start the server with a longer --timeout",
            )
        except MemoryError:
            return _refusal(503, "the server has no memory left for this request: send it later")
        except ClientDisconnect:
            return _refusal(499, _GONE)
        except Exception:
            _logger.exception("a request could not be answered")
            return _refusal(500, "the server could not answer this request: its log says why")

    async def _answered(self, request: Request) -> Response:
        held = 0

        def hold(n_bytes: int) -> None:
            nonlocal held
            held += n_bytes
            self._bytes_in_hand += n_bytes
            if self._bytes_in_hand > IN_HAND * self._limits.body_bytes:
                raise RequestError(
                    503, "the server has too many requests in hand", "send this one again later"
                )

        try:
            _check_type(request.headers.get("content-type"))
            body = await self._read(request, hold)
            work = await asyncio.to_thread(self._begin, body)
            if work.answer_bytes > 2 * self._limits.body_bytes:
                raise self._too_large("the answer would have")
            hold(work.answer_bytes)
            return await _unless(_left(request.receive), self._painted(work.rows))
        finally:
            self._bytes_in_hand -= held

    async def _read(self, request: Request, hold: Callable[[int], None]) -> bytearray:
        """The body. Raises RequestError when it, or all requests together, are too large."""
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and (len(declared) > 18 or int(declared) > self._limits.body_bytes):
            raise self._too_large("the request has")
        body = bytearray()
        async for chunk in request.stream():
            hold(len(chunk))
            body += chunk
            if len(body) > self._limits.body_bytes:
                raise self._too_large("the request has")
        return body

    async def _painted(self, rows: Iterator[Painted]) -> Response:
        answers = []
        while (row := await self._in_turn(self._painting, partial(next, rows, None))) is not None:
            found = await self._in_turn(self._measuring, row.measure) if row.measure else {}
            answers.append(row.answer | found)
        return await asyncio.to_thread(_json, 200, {"predictions": answers})

    async def _in_turn(self, turn: asyncio.Lock, work: Callable[[], T]) -> T:
        """What *work* gives, done in a thread once it has its *turn*."""
        await turn.acquire()
        return await _begun(turn, asyncio.to_thread(work))

    def _too_large(self, found: str) -> RequestError:
        return RequestError(
            413,
            f"{found} more than the {self._limits.body_bytes / 1e6:g} MB that are allowed",
            "send fewer fields at once, or compressed stacks; ADIPOCYTE_REQUEST_MB in the "
            "server's environment sets another limit",
        )


def _begun(turn: asyncio.Lock, work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
    """Begin *work*, which ends the *turn*, even when nobody waits for it any more.

    A thread that paints or measures cannot be stopped.
    """

    def end(done: asyncio.Future[T]) -> None:
        turn.release()
        if not done.cancelled():
            done.exception()  # or asyncio would report one that nobody waits for any more

    working = asyncio.ensure_future(work)
    working.add_done_callback(end)
    return asyncio.shield(working)


async def _unless(end: Awaitable[None], work: Awaitable[Response]) -> Response:
    """What *work* gives; it is cancelled when *end* comes first. Raises ClientDisconnect then."""
    ending, working = asyncio.ensure_future(end), asyncio.ensure_future(work)
    try:
        await asyncio.wait({ending, working}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect(_GONE)
    finally:
        ending.cancel()
        working.cancel()
        # An exception refers to this frame, and would keep itself and the request in memory.
        del ending, working


async def _left(receive: Callable[[], Awaitable[Any]]) -> None:
    """Wait until the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _check_type(content_type: str | None) -> None:
    """Refuse anything but JSON in UTF-8."""
    kind, *options = (content_type or "").lower().split(";")
    charsets = {option.partition("=")[2].strip(' "') for option in options if "charset" in option}
    if kind.strip() != "application/json" or charsets - {"utf-8"}:
        raise RequestError(
            415,
            f"the body is said to be {content_type!r:.100}",
            "send JSON in UTF-8, with the header Content-Type: application/json",
        )


def _refusal(status: int, message: str) -> Response:
    return _json(status, {"message": message})


def _json(status: int, content: Any) -> Response:
    written = json.dumps(content, default=_in_base64)
    return Response(written, status_code=status, media_type="application/json")


def _in_base64(image: bytes) -> str:
    return base64.b64encode(image).decode()
