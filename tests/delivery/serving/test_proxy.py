"""The served model behind nginx with docs/nginx.conf."""

import base64
import contextlib
import http.client
import json
import os
import shutil
import ssl
import subprocess
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import requests

from adipocyte.client import StainClient
from adipocyte.errors import ServiceError
from adipocyte.plate.tiff import encode_stack
from adipocyte.staining.stainer import Stainer
from tests.support import ROOT
from tests.support.plates import planes
from tests.support.processes import free_port, wait_for
from tests.support.served import Server, Watched, rows, served_here

pytestmark = pytest.mark.server

BODY = json.dumps(rows(encode_stack(planes(0, (64, 64))), targets="A2"))
PASSWORD = "Basic " + base64.b64encode(b"biologist:secret").decode()


@dataclass(frozen=True)
class Proxy:
    """nginx with docs/nginx.conf: its address and the certificate it shows."""

    port: int
    certificate: str

    def post(
        self,
        body: str = BODY,
        kind: str = "application/json",
        password: str | None = "secret",
    ) -> requests.Response:
        return self.ask("POST", "invocations", body, kind, password)

    def ask(
        self,
        method: str,
        path: str,
        body: str | None = None,
        kind: str | None = None,
        password: str | None = "secret",
    ) -> requests.Response:
        return requests.request(
            method,
            f"https://127.0.0.1:{self.port}/{path}",
            data=body,
            headers={"Content-Type": kind},
            auth=("biologist", password) if password else None,
            verify=self.certificate,
            timeout=60,
        )

    @contextlib.contextmanager
    def begun(
        self, sent: str, n_bytes: int, password: str
    ) -> Iterator[http.client.HTTPSConnection]:
        """A connection on which a request of *n_bytes* has been begun."""
        context = ssl.create_default_context(cafile=self.certificate)
        opened = http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=30)
        opened.putrequest("POST", "/invocations")
        opened.putheader("Authorization", password)
        opened.putheader("Content-Type", "application/json")
        opened.putheader("Content-Length", str(n_bytes))
        opened.endheaders(sent.encode())
        with contextlib.closing(opened):
            yield opened


def said(response: requests.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json"
    return response.json()["message"]


@contextlib.contextmanager
def proxied(url: str, folder: Path) -> Generator[Proxy]:
    """docs/nginx.conf over the server at *url*, with paths and ports of this machine."""
    for tool in ("nginx", "openssl"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: apt-get install {tool}")
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    key = ["-newkey", "rsa:2048", "-nodes"]
    key += ["-keyout", f"{folder}/stain.key", "-out", f"{folder}/stain.crt"]
    subprocess.run(
        ["openssl", "req", "-x509", "-days", "1", *key, *names], check=True, capture_output=True
    )
    password = subprocess.run(
        ["openssl", "passwd", "-apr1", "secret"], check=True, capture_output=True, text=True
    ).stdout
    (folder / "stain.users").write_text(f"biologist:{password}")
    port = free_port()
    site = (ROOT / "docs" / "nginx.conf").read_text()
    for shown, here in (
        ("listen 443", f"listen 127.0.0.1:{port}"),
        ("http://127.0.0.1:5001", url),
        ("127.0.0.1:5002", f"127.0.0.1:{free_port()}"),
        ("/etc/nginx", str(folder)),
    ):
        assert shown in site
        site = site.replace(shown, here)
    scratch = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; pid {folder}/pid; error_log {folder}/error.log;\nevents {{}}\n"
        f"http {{ access_log off;\n{scratch}{site} }}"
    )
    process = subprocess.Popen(["nginx", "-c", str(folder / "nginx.conf")])
    made = Proxy(port, f"{folder}/stain.crt")
    try:
        wait_for(lambda: made.post("{}") is not None, process=process)
        yield made
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def server(compact_model: Path) -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch, served_here(compact_model, patch, 300) as made:
        yield made


@pytest.fixture(scope="module")
def proxy(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with proxied(server.url, tmp_path_factory.mktemp("nginx")) as made:
        yield made


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """Holds the painting of the first row, for as long as the test lasts or wants."""
    watched = Watched(monkeypatch)
    watched.may_end.clear()
    yield watched
    watched.may_end.set()


@pytest.mark.parametrize("password", [None, "guess"])
def test_the_proxy_lets_nobody_in_without_the_password(proxy, password):
    for method, path in (("POST", "invocations"), ("GET", "ping")):
        answer = proxy.ask(method, path, BODY, "application/json", password)
        assert said(answer, 401) == "a name and a password are needed"
        assert "Basic" in answer.headers["WWW-Authenticate"]  # so that a browser asks for them


def test_the_client_goes_through_the_proxy_with_the_password(proxy, compact_bundle, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", proxy.certificate)
    answer = StainClient(f"https://biologist:secret@127.0.0.1:{proxy.port}").stain(planes(), 20)
    expected = Stainer(compact_bundle).stain(planes(), 20)
    np.testing.assert_array_equal(answer.images["A2"], expected.images["A2"])


def test_the_client_repeats_the_proxys_sentence(proxy, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", proxy.certificate)
    with pytest.raises(ServiceError, match="a name and a password are needed"):
        StainClient(f"https://biologist:guess@127.0.0.1:{proxy.port}").stain(planes(), 20)


def test_the_proxy_passes_refusals_on_and_adds_its_own(proxy):
    message = said(proxy.post(json.dumps(rows(b"no TIFF"))), 400)
    assert message.startswith("row 0: the stack cannot be read as TIFF")
    for kind in ("text/csv", "application/vnd.apache.parquet", None):
        assert "send JSON, with the header Content-Type" in said(proxy.post("{}", kind=kind), 415)
    assert proxy.post(kind="Application/JSON; charset=utf-8").ok
    assert "only POST" in said(proxy.ask("GET", "invocations", kind="application/json"), 403)
    for path in ("version", "docs", "openapi.json", ""):
        assert "nothing here" in said(proxy.ask("GET", path), 404)
    assert proxy.ask("GET", "ping").ok


def test_the_proxy_refuses_a_body_beyond_its_limit_before_it_is_sent(proxy):
    with proxy.begun("", 200_000_000, PASSWORD) as connection:
        answer = connection.getresponse()
        assert answer.status == 413
        assert "150 MB" in json.load(answer)["message"]


def test_the_proxy_says_when_the_server_is_down(tmp_path):
    with proxied(f"http://127.0.0.1:{free_port()}", tmp_path) as proxy:
        assert "may still be starting" in said(proxy.post(), 502)


@pytest.mark.parametrize("password", ["", PASSWORD], ids=["nobody", "people with a password"])
def test_slow_requests_keep_nobody_waiting(proxy, password):
    with contextlib.ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(proxy.begun(" " * 10, 100_000_000, password))
        for _ in range(3):
            assert proxy.post().ok


def test_eight_requests_are_in_hand_at_once(proxy, held):
    with ThreadPoolExecutor(20) as clients:
        asked = [clients.submit(proxy.post) for _ in range(20)]
        wait_for(lambda: sum(request.done() for request in asked) == 12)
        held.may_end.set()
    answers = [request.result() for request in asked]
    refusals = [said(answer, 429) for answer in answers if not answer.ok]
    assert refusals == ["eight requests are in hand: send this one again later"] * 12
    assert proxy.post().ok


def test_clients_that_leave_are_not_painted_and_give_their_places_to_others(proxy, held):
    with ThreadPoolExecutor(2) as clients:
        first = clients.submit(proxy.post)
        wait_for(lambda: held.n_inside)
        for _ in range(25):
            with proxy.begun(BODY, len(BODY), PASSWORD):
                pass
        second = clients.submit(proxy.post)
        wait_for(lambda: proxy.post("{}").status_code == 400)  # places are free again
        held.may_end.set()
        assert first.result().ok
        wait_for(second.done)
        if second.result().status_code == 429:  # some had not been seen to leave
            assert wait_for(proxy.post).ok
    assert held.n_calls < 10  # the last of them may not have been seen to leave
