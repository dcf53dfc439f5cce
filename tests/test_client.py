"""The client: arrays through a real server, retried connections, limits of answers; no torch."""

import json
import shutil
import subprocess
import sys
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from adipocyte.client import ServiceError, StainClient
from adipocyte.delivery.serving.parameters import Parameters
from adipocyte.errors import ConfigError, UnreachableError
from adipocyte.evaluation.cellprofiler import measure
from adipocyte.evaluation.cellprofiler.objects import DIAMETER, tables_of
from adipocyte.evaluation.cellprofiler.wells import EDGES_UM
from adipocyte.plate.tiff import decode_stack, encode_image
from adipocyte.staining.stainer import Stainer
from tests.support import ROOT
from tests.support.plates import planes
from tests.support.processes import free_port

GREY = planes(0, (64, 64))


@pytest.fixture(scope="module")
def server(small_server) -> str:
    return small_server.url


@pytest.fixture(scope="module")
def stainer(small_model: Path) -> Stainer:
    return Stainer(small_model / "artifacts" / "bundle")


@contextmanager
def answering(
    answer: Callable[[BaseHTTPRequestHandler], None], port: int = 0
) -> Iterator[tuple[str, list[bytes]]]:
    """A server that reads each request and lets *answer* reply; its address, and all bodies."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            answer(self)

        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", bodies
        server.shutdown()


def reply(status: int, body: bytes, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


# Against the real server.


@pytest.mark.parametrize(
    ("asked", "keywords"),
    [
        ({}, {}),
        ({"histogram_matching": True}, {"intensities": "matching"}),
        ({"histogram_matching": False}, {"intensities": "none"}),
        ({"targets": ["A3", "A2"]}, {"targets": ["A2", "A3"]}),
        ({"tile_px": 928, "tta": True}, {"tile_px": 928, "tta": True}),
    ],
    ids=str,
)
def test_arrays_come_back_as_the_chain_paints_them(server, stainer, asked, keywords):
    answer = StainClient(server).stain(GREY, 20, **asked)
    expected = stainer.stain(GREY, 20, **keywords)
    assert set(answer.images) == set(expected.images)
    for target, image in expected.images.items():
        np.testing.assert_array_equal(answer.images[target], image)
        assert answer.images[target].dtype == np.uint16
    assert answer.warnings == "; ".join(expected.warnings)


def test_what_was_measured_comes_back_as_it_was(server, stainer):
    field = planes(1, (370, 384))
    answer = StainClient(server).stain(field, 20, measure=True)
    expected = measure(stainer.stain(field, 20).images, 20)
    assert answer.features.keys() == expected.features.keys()
    np.testing.assert_equal(answer.features, expected.features)  # nan is nan
    droplets = tables_of(expected)["LipidDroplets"]
    assert answer.objects is not None
    np.testing.assert_array_equal(answer.objects.edges_um, EDGES_UM)
    by_diameter, _ = np.histogram(droplets[DIAMETER], EDGES_UM)
    np.testing.assert_array_equal(answer.objects.droplets_by_diameter, by_diameter)
    assert answer.objects.counts == {"Nuclei": 0, "Cells": 0, "LipidDroplets": by_diameter.sum()}


def test_it_repeats_the_servers_sentence(server):
    with pytest.raises(ServiceError, match="row 0: the stack has 6 of 7 pages"):
        StainClient(server).stain(GREY[:6], 20)
    with pytest.raises(ServiceError, match="A9"):
        StainClient(server).stain(GREY, 20, targets=["A9"])


# Connections, and answers of every kind.


def test_a_server_that_is_not_there_is_said_with_what_to_do():
    with pytest.raises(UnreachableError, match="no answer from http://127") as refusal:
        StainClient(f"http://127.0.0.1:{free_port()}", attempts=1).stain(GREY, 20)
    assert refusal.value.remedy == "is mlflow models serve running there?"


def test_a_password_is_never_repeated():
    for url in (f"http://me:secret@127.0.0.1:{free_port()}", "http://me:secret@nowhere.invalid"):
        with pytest.raises(UnreachableError) as refusal:
            StainClient(url, attempts=1).stain(GREY, 20)
        assert "secret" not in str(refusal.value)


def test_it_knows_whether_a_model_is_served(server):
    assert StainClient(server).answers()
    assert not StainClient(f"http://127.0.0.1:{free_port()}", attempts=1).answers()


def test_a_connection_is_tried_again_until_the_server_is_there(caplog):
    port, refusal = free_port(), json.dumps({"message": "here at last"}).encode()
    said: list[str] = []

    def ask() -> None:
        try:
            StainClient(f"http://127.0.0.1:{port}", attempts=8).stain(GREY, 20)
        except ServiceError as error:
            said.append(str(error))

    asking = threading.Thread(target=ask)
    asking.start()
    while not any("Retrying" in record.message for record in caplog.records):
        asking.join(0.01)  # until the first attempts have found no server
    with answering(reply(400, refusal), port) as (_, bodies):
        asking.join(60)
    assert said == ["here at last"]
    assert len(bodies) == 1


@pytest.mark.parametrize("status", [301, 307, 308, 400, 413, 429, 500, 503, 504])
def test_what_has_reached_the_server_is_never_sent_again(status):
    with answering(reply(status, b"<html>busy</html>", Location="/elsewhere")) as (url, bodies):
        with pytest.raises(ServiceError, match=f"the server answered {status}: <html>") as refusal:
            StainClient(url).stain(GREY, 20)
        assert not isinstance(refusal.value, UnreachableError)
        assert len(bodies) == 1


def test_a_connection_that_breaks_after_the_request_is_not_tried_again():
    def hang_up(handler: BaseHTTPRequestHandler) -> None:
        handler.connection.close()

    with answering(hang_up) as (url, bodies):
        with pytest.raises(UnreachableError, match="no answer from"):
            StainClient(url).stain(GREY, 20)
        assert len(bodies) == 1


IMAGE = b64encode(encode_image(GREY[0]))
SMALLER = b64encode(encode_image(GREY[0, 5:]))


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"hello", r"painted images \(JSONDecodeError"),
        (b'{"predictions": []}', r"painted images \(ValueError"),
        (b'{"predictions": [{"A1": "aGVsbG8=", "warnings": ""}]}', r"images \(the stack cannot be"),
        (b'{"predictions": [{"A1": null, "warnings": ""}]}', r"painted images \(TypeError"),
        (b"9" * 3_000_000, r"painted images \(more than 1085440 bytes\): is it an adipocyte model"),
        (b'{"predictions": [{"A1": "%s", "warnings": ""}]}' % SMALLER, r"\(59, 64\)"),
        (b'{"predictions": [{"../../x": "%s", "warnings": ""}]}' % IMAGE, "named '../../x'"),
        (b'{"predictions": [{"A1": "%s", "warnings": {}}]}' % IMAGE, r"painted images \(TypeError"),
        (b'{"predictions": [{"warnings": ""}]}', "no image"),
        (b"[" * 9000, "nested too deeply"),
        (b"[" + b"[]," * 20_000 + b"0]", "more parts than an answer has"),
    ],
    ids=[
        "no JSON",
        "no row",
        "no image",
        "nothing",
        "too much",
        "another size",
        "another name",
        "warnings of another type",
        "warnings alone",
        "deep",
        "many parts",
    ],
)
def test_another_answer_than_images_is_refused(body, sentence):
    with answering(reply(200, body)) as (url, _), pytest.raises(ServiceError, match=sentence):
        StainClient(url).stain(GREY, 20)


OBJECTS = {
    "counts": {"Nuclei": 2, "Cells": 2, "LipidDroplets": None},
    "droplets_per_cell": [3, 0],
    "lipid_um2_per_cell": [1.5, 0],
    "droplets_by_diameter": [2, 1],
    "edges_um": [0, 1, None],
}


@pytest.mark.parametrize(
    ("features", "objects", "sentence"),
    [
        ("{}", None, r"painted images \(TypeError"),
        ("[1]", OBJECTS, "features is not an object"),
        ('{"a": true}', OBJECTS, "'a' is not of the expected type"),
        ('{"../x": 1}', OBJECTS, "a feature named '../x'"),
        ("[" * 9000, OBJECTS, "nested too deeply"),
        ("{}", {}, "'counts' is not there"),
        ("{}", OBJECTS | {"counts": {"Nuclei": "2"}}, "'Nuclei' is not of the expected type"),
        ("{}", OBJECTS | {"droplets_per_cell": [3]}, "numbers do not agree"),
        ("{}", OBJECTS | {"lipid_um2_per_cell": [1, float("inf")]}, "numbers do not agree"),
        ("{}", OBJECTS | {"droplets_by_diameter": [], "edges_um": [None]}, "numbers do not agree"),
        ("{}", OBJECTS | {"edges_um": [0, None, None]}, "numbers do not agree"),
        ("{}", OBJECTS | {"edges_um": [0, 1, 2]}, "numbers do not agree"),
        ("{}", OBJECTS | {"droplets_per_cell": [10**30, 0]}, "is not that large"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_measurements_of_another_form_are_refused(features, objects, sentence):
    said = None if objects is None else json.dumps(objects)
    row = {"A1": IMAGE.decode(), "warnings": "", "features": features, "objects": said}
    body = json.dumps({"predictions": [row]}).encode()
    with answering(reply(200, body)) as (url, _), pytest.raises(ServiceError, match=sentence):
        StainClient(url).stain(GREY, 20, measure=True)


def test_measurements_are_read_when_they_were_asked_for_and_missed_when_not_there():
    row = {"A1": IMAGE.decode(), "warnings": "", "features": '{"a": null, "b": 2}'}
    row["objects"] = json.dumps(OBJECTS)
    with answering(reply(200, json.dumps({"predictions": [row]}).encode())) as (url, _):
        answer = StainClient(url).stain(GREY, 20, measure=True)
        with pytest.raises(ServiceError, match="an image named 'features'"):
            StainClient(url).stain(GREY, 20)
    np.testing.assert_equal(answer.features, {"a": np.nan, "b": 2.0})
    assert answer.objects is not None
    assert answer.objects.counts == OBJECTS["counts"]
    np.testing.assert_array_equal(answer.objects.droplets_per_cell, [3, 0])
    body = b'{"predictions": [{"A1": "%s", "warnings": ""}]}' % IMAGE
    with (
        answering(reply(200, body)) as (url, _),
        pytest.raises(ServiceError, match=r"KeyError\('features'\)"),
    ):
        StainClient(url).stain(GREY, 20, measure=True)


def test_a_model_that_was_registered_before_it_could_measure_is_said_to_be_so():
    """It holds the wording of such a model's refusal, because the client reads it."""
    with pytest.raises(ConfigError) as unknown:
        Parameters.of({"mesure": True})
    refusal = json.dumps({"message": str(unknown.value).replace("mesure", "measure", 1)}).encode()
    with (
        answering(reply(400, refusal)) as (url, _),
        pytest.raises(ServiceError, match="cannot measure, because an older version of") as said,
    ):
        StainClient(url).stain(GREY, 20, measure=True)
    assert "register it again" in said.value.remedy


def test_an_image_that_was_asked_for_and_is_not_there_is_missed():
    body = b'{"predictions": [{"A1": "%s", "warnings": "", "error": ""}]}' % IMAGE
    with answering(reply(200, body)) as (url, _):
        np.testing.assert_array_equal(StainClient(url).stain(GREY, 20).images["A1"], GREY[0])
        with pytest.raises(ServiceError, match=r"\(no A2\)"):
            StainClient(url).stain(GREY, 20, targets=["A1", "A2"])


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("\x1b[2J\x07\u202e<b>\nµ", r"\x1b[2J\x07\u202e<b> µ"),
        ("a" * 50_000, "a" * 4000),
        ({"a": 1}, 'the server answered 400: {"message": {"a": 1}}'),
        (None, 'the server answered 400: {"message": null}'),
    ],
    ids=["control characters", "long", "an object", "null"],
)
def test_a_refusal_is_short_printable_text(message, sentence):
    with (
        answering(reply(400, json.dumps({"message": message}).encode())) as (url, _),
        pytest.raises(ServiceError) as refusal,
    ):
        StainClient(url).stain(GREY, 20)
    assert str(refusal.value) == sentence


def test_of_an_endless_refusal_only_the_beginning_is_read():
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(500)
        handler.end_headers()
        with suppress(OSError):
            while True:
                handler.wfile.write(b"x" * 65536)

    with answering(answer) as (url, _), pytest.raises(ServiceError, match="answered 500: xxx"):
        StainClient(url).stain(GREY, 20)


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1;a\r\n \r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["headers", "body", "body without length", "chunks", "100 Continue"],
)
def test_an_answer_that_drips_ends_at_the_deadline(head, piece):
    ended = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(head)
        with suppress(OSError):
            while not ended.wait(0.02):
                handler.wfile.write(piece)

    with answering(answer) as (url, _):
        try:
            with pytest.raises(UnreachableError, match=r"it was not complete after 0\.3 s"):
                StainClient(url, timeout_s=0.3).stain(GREY, 20)
        finally:
            ended.set()


def test_only_what_was_asked_for_is_sent():
    all_of_it = {
        "histogram_matching": False,
        "targets": ["A1", "A2"],
        "tile_px": 640,
        "tta": True,
        "measure": True,
    }
    with answering(reply(400, b"{}")) as (url, bodies):
        for asked in ({}, all_of_it):
            with pytest.raises(ServiceError):
                StainClient(url).stain(GREY, 20, **asked)
    first, second = (json.loads(body) for body in bodies)
    assert first["params"] == {}
    assert second["params"] == all_of_it | {"targets": "A1,A2"}
    [row] = first["dataframe_records"]
    assert row["magnification"] == 20
    np.testing.assert_array_equal(decode_stack(b64decode(row["stack"], validate=True), 7), GREY)


def test_a_body_of_many_pieces_is_sent_whole_with_its_length():
    # Noise, 2.6 MB that do not shrink.
    stack = np.random.default_rng(0).integers(0, 65536, (3, 701, 613), dtype=np.uint16)
    with answering(reply(400, b"{}")) as (url, bodies), pytest.raises(ServiceError):
        StainClient(url).stain(stack, 20)
    [row] = json.loads(bodies[0])["dataframe_records"]
    np.testing.assert_array_equal(decode_stack(b64decode(row["stack"], validate=True), 3), stack)


# Without torch.

LIGHT = """
import sys
heavy = ("torch", "mlflow", "pandas", "scipy", "zarr", "gradio")
sys.modules.update(dict.fromkeys(heavy))  # importing any of them fails
import adipocyte.client
from adipocyte.delivery.client import Answer, ServiceError, StainClient
from adipocyte.errors import ServiceError as stated
assert (Answer, StainClient) == (adipocyte.client.Answer, adipocyte.client.StainClient)
assert ServiceError is adipocyte.client.ServiceError is stated
print(sorted(name for name in sys.modules if name.startswith("adipocyte.delivery")))
"""


def test_the_address_that_users_import_loads_the_client_and_nothing_heavy():
    said = subprocess.run(
        [sys.executable, "-c", LIGHT], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "['adipocyte.delivery', 'adipocyte.delivery.client']"


@pytest.fixture(scope="module")
def lone_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with `adipocyte[client]` from this project's wheel, and nothing else."""
    folder, uv = tmp_path_factory.mktemp("lone"), str(Path(sys.executable).with_name("uv"))
    source = folder / "source"  # a copy, because building writes into it
    without = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "adipocyte", source / "adipocyte", ignore=without)
    for file in ("pyproject.toml", "README.md"):
        shutil.copyfile(ROOT / file, source / file)
    if not Path(uv).is_file():
        pytest.skip("no uv beside this Python: make setup installs it")
    python = folder / "venv" / "bin" / "python"
    install = [uv, "pip", "install", "-q", "--python", python]
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, folder / "venv"], check=True)
    reached = subprocess.run([*install, "--dry-run", "--no-cache", "requests"], capture_output=True)
    if reached.returncode:
        pytest.skip("no package index can be reached")
    subprocess.run([uv, "build", "-q", "--wheel", "--out-dir", folder, source], check=True)
    [wheel] = folder.glob("*.whl")
    requirement = f"adipocyte[client] @ file://{wheel}"
    subprocess.run([*install, requirement], check=True, capture_output=True)
    return python


PROGRAM = """
import importlib.util, sys
import numpy as np
from adipocyte.delivery.client import StainClient
for heavy in ("torch", "mlflow", "pandas", "scipy", "gradio"):
    assert not importlib.util.find_spec(heavy), heavy
planes = np.load(sys.argv[2])
answer = StainClient(sys.argv[1]).stain(planes, 20)
np.savez(sys.argv[3], **answer.images)
"""


def test_the_client_needs_no_torch(lone_python, server, stainer, tmp_path):
    np.save(tmp_path / "planes.npy", GREY)
    arguments = ["-c", PROGRAM, server, tmp_path / "planes.npy", tmp_path / "stains.npz"]
    subprocess.run([lone_python, *arguments], cwd=tmp_path, check=True)
    with np.load(tmp_path / "stains.npz") as stains:
        for target, image in stainer.stain(GREY, 20).images.items():
            np.testing.assert_array_equal(stains[target], image)


def test_its_annotations_reach_type_checkers(lone_python):
    code = "import adipocyte; print(adipocyte.__file__)"
    package = subprocess.run(
        [lone_python, "-c", code],
        capture_output=True,
        text=True,
        cwd=lone_python.parent,
        check=True,
    )
    assert Path(package.stdout.strip()).with_name("py.typed").is_file()


@pytest.fixture
def proxy(monkeypatch) -> str:
    """A proxy in the environment, with a password, that answers nothing."""
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("http_proxy", f"http://name:secret@{address}")
    return f"http://{address}"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_this_machine_is_never_asked_through_a_proxy(proxy, host):
    with answering(reply(400, b'{"message": "I was reached"}')) as (url, _):
        client = StainClient(url.replace("127.0.0.1", host), attempts=1)
        with pytest.raises(ServiceError, match="I was reached"):
            client.stain(GREY, 20)


def test_a_proxy_that_does_not_reach_the_server_is_named_without_its_password(proxy):
    with pytest.raises(UnreachableError) as refusal:
        StainClient("http://stains.example:5001", attempts=1).stain(GREY, 20)
    said = str(refusal.value)
    assert f"the proxy {proxy} did not reach it" in said
    assert "export no_proxy=stains.example" in said
    assert "secret" not in said


def test_a_page_that_may_be_a_proxys_is_said_to_be_so(monkeypatch):
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with answering(reply(502, b"<html>")) as (url, _):
        monkeypatch.setenv("http_proxy", url)
        with pytest.raises(ServiceError, match=f"or the proxy {url}, answered 502: <html>"):
            StainClient("http://stains.example:5001", attempts=1).stain(GREY, 20)


@pytest.mark.parametrize(
    "url", ["", "localhost:5001", "ftp://x", "http://", "http://[", "http://x:99999"]
)
def test_what_is_no_address_of_a_server_is_refused(url):
    with pytest.raises(ConfigError, match="is no address of a server"):
        StainClient(url)
