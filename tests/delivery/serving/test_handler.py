"""The served model under load: limits of size and time, clients that leave, failures."""

import contextlib
import gc
import http.client
import io
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
import requests
import tifffile

from adipocyte.delivery.serving import handler
from adipocyte.plate.tiff import encode_stack
from tests.support.processes import wait_for
from tests.support.served import Server, Watched, rows, served_here

GREY = np.random.default_rng(0).integers(500, 4000, (7, 64, 64), dtype=np.uint16)
BODY = json.dumps(rows(encode_stack(GREY), targets="A2")).encode()
START = "POST /invocations HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def server(compact_model: Path) -> Iterator[Server]:
    with (
        pytest.MonkeyPatch.context() as patch,
        served_here(compact_model, patch, 300, request_mb=1) as made,
    ):
        yield made


@pytest.fixture
def clients() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def post(server: Server, body: object = BODY) -> requests.Response:
    headers = {"Content-Type": "application/json"}
    return requests.post(f"{server.url}/invocations", data=body, headers=headers, timeout=60)


def said(response: requests.Response, status: int) -> str:
    assert response.status_code == status, response.text[:500]
    return response.json()["message"]


def connected(server: Server, length: int, sent: bytes) -> socket.socket:
    """A connection on which the beginning of a request has been sent."""
    opened = socket.create_connection(("127.0.0.1", urlsplit(server.url).port), 30)
    opened.sendall(f"{START}Content-Length: {length}\r\n\r\n".encode() + sent)
    return opened


def status_on(opened: socket.socket) -> int:
    response = http.client.HTTPResponse(opened)
    response.begin()
    return response.status


def padded(n_bytes: int) -> bytes:
    """A good request of about so many bytes."""
    body = rows(encode_stack(GREY), targets="A2")
    body["dataframe_records"][0]["notes"] = "x" * (n_bytes - len(BODY))
    return json.dumps(body).encode()


@pytest.fixture
def held(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Watched]]:
    """Holds the painting of the first row, for as long as the test lasts or wants."""
    watched = Watched(monkeypatch)
    watched.may_end.clear()
    yield watched
    watched.may_end.set()


def begun(clients: ThreadPoolExecutor, server: Server, held: Watched) -> Future:
    """A request whose row is being painted."""
    first = clients.submit(post, server)
    wait_for(lambda: held.n_inside)
    return first


# Sizes.


def test_a_body_beyond_the_limit_is_refused_before_it_is_sent(server):
    with connected(server, 1_000_001, b"") as opened:
        assert status_on(opened) == 413
    with connected(server, 10**30, b"") as opened:
        assert status_on(opened) in (400, 413)  # uvicorn's parser has a limit of its own


def test_a_body_of_unsaid_length_is_refused_and_not_kept(server):
    start_mb = resident_mb()
    message = said(post(server, (b" " * 1_000_000 for _ in range(300))), 413)
    assert "more than the 1 MB that are allowed: send fewer fields at once" in message
    assert resident_mb() - start_mb < 100
    assert post(server).ok


def resident_mb() -> float:
    return psutil.Process().memory_info().rss / 1e6


def test_an_answer_beyond_twice_the_limit_is_refused_before_it_is_painted(server):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((7, 1024, 1024), np.uint16), compression="zlib")
    message = said(post(server, json.dumps(rows(buffer.getvalue())).encode()), 413)
    assert message.startswith("the answer would have more than the 1 MB that are allowed")


def test_so_many_bytes_are_in_hand_at_once_and_no_more(server, clients, held):
    first = begun(clients, server, held)
    waiting = [clients.submit(post, server, padded(990_000)) for _ in range(handler.IN_HAND)]
    wait_for(lambda: any(request.done() for request in waiting))
    held.may_end.set()
    assert first.result().ok
    refused = [request.result() for request in waiting if not request.result().ok]
    assert 1 <= len(refused) < handler.IN_HAND
    message = "the server has too many requests in hand: send this one again later"
    assert {said(response, 503) for response in refused} == {message}
    for _ in range(handler.IN_HAND + 1):  # nothing is kept in hand
        assert post(server, padded(990_000)).ok


def test_a_slow_body_keeps_nobody_waiting(server):
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connected(server, 900_000, b" " * 1000)) for _ in range(20)]
        assert post(server).ok
        slow[0].sendall(b" " * 899_000)
        assert status_on(slow[0]) == 400


# Time.


def test_a_request_that_is_not_answered_in_time_is_dropped(compact_model, monkeypatch, clients):
    with served_here(compact_model, monkeypatch, 2, request_mb=1) as server:
        watched = Watched(monkeypatch)
        watched.may_end.clear()
        first = begun(clients, server, watched)
        waiting = clients.submit(post, server)
        for request in (first, waiting):
            message = said(request.result(), 504)
            assert message.startswith("the answer took longer than 2 s: send fewer fields at once")
        watched.may_end.set()
        wait_for(lambda: not watched.n_inside)
        assert post(server).ok
        assert watched.n_calls == 2  # the one that waited was not painted


def test_a_request_whose_client_has_gone_is_not_painted(server, clients, held):
    first = begun(clients, server, held)
    leaving = [connected(server, len(BODY), BODY) for _ in range(5)]
    several = json.dumps(rows(*[encode_stack(GREY)] * 20, targets="A2")).encode()
    leaving.append(connected(server, len(several), several))
    waiting = clients.submit(post, server)
    for opened in leaving:
        opened.close()
    wait_for(lambda: post(server, b"{}").status_code == 400)  # the server has seen them go
    held.may_end.set()
    assert first.result().ok
    assert waiting.result().ok
    assert held.n_calls == 2


def test_a_bad_request_is_refused_while_another_is_painted(server, clients, held):
    first = begun(clients, server, held)
    body = rows(encode_stack(GREY), b"no TIFF")
    assert "row 1: the stack cannot be read" in said(post(server, json.dumps(body).encode()), 400)
    assert not first.done()


def test_others_are_painted_while_one_is_measured(server, clients, monkeypatch):
    flat = np.full((7, 370, 384), 2000, np.uint16)
    body = json.dumps(rows(encode_stack(flat), targets="A2", measure=True)).encode()
    assert post(server, body).ok  # and what measures is imported
    measuring, may_end = [], threading.Event()

    def measured(*_: object) -> dict[str, str]:
        measuring.append(1)
        may_end.wait()
        return {"features": "{}", "objects": str(len(measuring))}

    module = sys.modules["adipocyte.delivery.serving.measuring"]  # the code of the loaded model
    monkeypatch.setattr(module, "measured", measured)
    slow = [clients.submit(post, server, body) for _ in range(2)]
    try:
        wait_for(lambda: measuring)
        assert all(post(server).ok for _ in range(3))
        assert len(measuring) == 1
    finally:
        may_end.set()
    said = [request.result().json()["predictions"][0]["objects"] for request in slow]
    assert sorted(said) == ["1", "2"]


# Failures.


@pytest.mark.parametrize(
    ("failure", "status", "message"),
    [
        (RuntimeError("/secret/path"), 500, "the server could not answer this request: its log"),
        (MemoryError(), 503, "the server has no memory left for this request: send it later"),
    ],
    ids=["unexpected", "memory"],
)
def test_a_failure_is_said_in_json_and_ends_nothing(server, monkeypatch, failure, status, message):
    def stain(*_: object, **__: object) -> None:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr("adipocyte.staining.stainer.Stainer.stain", stain)
        found = said(post(server), status)
    assert found.startswith(message)
    assert "secret" not in found
    assert post(server).ok


def leave(server: Server, body: bytes) -> None:
    with connected(server, len(body), body):
        pass


@pytest.mark.parametrize("ending", ["refused", "left", "failed"])
def test_a_request_that_came_to_nothing_is_not_kept(server, monkeypatch, ending):
    """An exception in a cycle would keep a request until Python looks for cycles, which is late."""
    bad = rows(encode_stack(GREY), b"no TIFF" * 80_000)
    send = {"refused": post, "left": leave, "failed": post}[ending]
    body = json.dumps(bad).encode() if ending == "refused" else padded(900_000)

    def stain(*_: object, **__: object) -> None:
        raise MemoryError  # which is not logged: a test keeps what is logged

    if ending == "failed":
        monkeypatch.setattr("adipocyte.staining.stainer.Stainer.stain", stain)
    gc.disable()
    try:
        for _ in range(20):
            send(server, body)
        wait_for(lambda: post(server, b"{}").status_code == 400)
        start_mb = resident_mb()
        for _ in range(100):
            send(server, body)
        wait_for(lambda: resident_mb() - start_mb < 30, 30)
    finally:
        gc.enable()
