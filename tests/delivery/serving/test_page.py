"""The page to try a model, in a real browser, before the real server."""

import html
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
import tifffile

from adipocyte.client import Answer, Objects, StainClient
from adipocyte.domain import TARGET_COLOURS
from adipocyte.imaging.trust import Trust, Verdict
from adipocyte.plate.tiff import encode_stack, read_image
from tests.support import ROOT
from tests.support.plates import planes
from tests.support.processes import free_port, wait_for

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")
FIELD = planes(0, (96, 160))


@pytest.fixture(scope="module")
def server(small_server) -> str:
    return small_server.url


@pytest.fixture(scope="module")
def address(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page itself."""
    from adipocyte.delivery.serving.page import launch, page

    port = free_port()
    blocks = page(StainClient(server, attempts=1), tmp_path_factory.mktemp("scratch"))
    launch(blocks, port)
    yield f"http://127.0.0.1:{port}"
    blocks.close()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def tab(browser, address):
    """The page, opened. It must ask nothing of any other machine."""
    tab = browser.new_page(viewport={"width": 1280, "height": 1000})
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(address)
    yield tab
    tab.close()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


def drop(tab, path: Path) -> None:
    tab.locator("#stack input[type=file]").set_input_files(path)
    tab.locator("#stack").get_by_text(path.stem[:5]).first.wait_for()
    tab.locator("#stain").click()


def pixels(tab, name: str) -> np.ndarray:
    """An image of the page as the browser decodes it, (Y, X, 4) uint8."""
    height, width, flat = tab.locator(f"#{name} img").evaluate(
        """async (image) => {
            await image.decode();
            const [width, height] = [image.naturalWidth, image.naturalHeight];
            const context = new OffscreenCanvas(width, height).getContext("2d");
            context.drawImage(image, 0, 0);
            return [height, width, Array.from(context.getImageData(0, 0, width, height).data)];
        }"""
    )
    return np.array(flat, dtype=np.uint8).reshape(height, width, 4)


def set_slider(tab, name: str, value: float) -> None:
    """Move a slider of the page."""
    tab.locator(f"#{name} input[type=number]").fill(str(value))
    tab.locator(f"#{name} input[type=number]").press("Enter")


def changed(tab, name: str, before: str) -> None:
    """Wait until a picture of the page is another."""
    tab.wait_for_function(
        "([name, before]) => document.querySelector(`#${name} img`).src !== before",
        arg=[name, before],
    )


@pytest.fixture
def stained(tab, tmp_path):
    """The page with a field painted."""
    (tmp_path / "field.tif").write_bytes(encode_stack(FIELD))
    drop(tab, tmp_path / "field.tif")
    tab.locator("#composite img").wait_for()
    return tab


@needs_chromium
def test_a_field_is_painted_and_downloaded_as_the_client_gets_it(stained, server, tmp_path):
    expected = StainClient(server).stain(FIELD, 20)
    said = stained.locator("#said").inner_text()
    assert "7 planes of 96 × 160 pixels, painted: A1, A2, A3" in said
    for number, target in enumerate(("A1", "A2", "A3")):
        assert pixels(stained, target.lower()).shape == (96, 160, 4)
        with stained.expect_download() as download:
            stained.locator("#files a").nth(number).click()
        download.value.save_as(tmp_path / f"{target}.tif")
        assert download.value.suggested_filename == f"field_{target}.tif"
        np.testing.assert_array_equal(
            read_image(tmp_path / f"{target}.tif"), expected.images[target]
        )


@needs_chromium
def test_the_focal_plane_is_the_one_that_was_picked(stained):
    seen = []
    for z_plane in (1, 7):
        before = stained.locator("#brightfield img").get_attribute("src")
        set_slider(stained, "z_plane", z_plane)
        changed(stained, "brightfield", before)
        seen.append(pixels(stained, "brightfield")[..., 0].astype(float))
    for image, plane in zip(seen, (FIELD[0], FIELD[6]), strict=True):
        inside = (image > 0) & (image < 255)
        assert np.corrcoef(image[inside], plane[inside])[0, 1] > 0.999
    assert (seen[0] != seen[1]).any()


@needs_chromium
def test_a_stain_leaves_the_composite_with_its_slider(stained):
    before = stained.locator("#composite img").get_attribute("src")
    assert pixels(stained, "composite")[..., 2].any()
    for target in ("A1", "A2"):
        set_slider(stained, f"gain_{target}", 0)
        changed(stained, "composite", before)
        before = stained.locator("#composite img").get_attribute("src")
    red, green, blue = np.moveaxis(pixels(stained, "composite")[..., :3].astype(float), -1, 0)
    assert red.max() > 200  # A3 alone
    of_a3 = bytes.fromhex(TARGET_COLOURS["A3"][1:])
    np.testing.assert_allclose(green, of_a3[1] / of_a3[0] * red, atol=2)
    np.testing.assert_allclose(blue, of_a3[2] / of_a3[0] * red, atol=2)


@needs_chromium
def test_what_was_counted_is_shown_when_it_was_asked_for(tab, server, tmp_path):
    field = planes(1, (370, 384))
    (tmp_path / "field.tif").write_bytes(encode_stack(field))
    drop(tab, tmp_path / "field.tif")
    tab.locator("#composite img").wait_for()
    assert tab.locator("#counts").inner_text() == ""
    assert tab.locator("#diameters svg").count() == 0
    tab.locator("#measure input").check()
    tab.locator("#stain").click()
    tab.locator("#counts td").first.wait_for()
    objects = StainClient(server).stain(field, 20, measure=True).objects
    cells = tab.locator("#counts td").all_inner_texts()
    counts = dict(zip(cells[::2], cells[1::2], strict=True))
    assert counts["lipid droplets"] == str(objects.counts["LipidDroplets"])
    assert counts["droplets in a cell, mean"] == "–"  # there is no cell
    bars = tab.locator("#diameters .mark-rect path")
    bars.first.wait_for()
    assert bars.count() == len(objects.droplets_by_diameter)


def test_means_are_of_cells():
    from adipocyte.delivery.serving.page import _counts

    three = np.array([2, 3, 4])
    found = Objects(
        {"Nuclei": 3, "Cells": 3, "LipidDroplets": None}, three, three / 4, three, three
    )
    answer = Answer({}, "", {"Count_nuclei": 5.0}, found)
    table = _counts(answer)
    for row in ("| nuclei | 5 |", "| lipid droplets | – |", "mean | 3.0 |", "µm² | 0.8 |"):
        assert row in table


@needs_chromium
@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"no TIFF", "wrong.tif cannot be read as TIFF"),
        (encode_stack(FIELD[:5]), "row 0: the stack has 5 of 7 pages"),
        (encode_stack(FIELD[:, :20]), "a side must be at least 64"),
    ],
    ids=["no TIFF", "five planes", "too small"],
)
def test_a_wrong_file_is_answered_in_a_sentence(tab, tmp_path, data, sentence):
    (tmp_path / "wrong.tif").write_bytes(data)
    drop(tab, tmp_path / "wrong.tif")
    tab.locator("#said").get_by_text(sentence).wait_for()


@needs_chromium
def test_what_is_unlike_the_training_wells_is_said(tab, tmp_path):
    (tmp_path / "field.tif").write_bytes(encode_stack(np.full((7, 64, 64), 65535, np.uint16)))
    drop(tab, tmp_path / "field.tif")
    tab.locator("#said").get_by_text("⚠️").wait_for()


def require_own_visitors_only(address: str) -> None:
    """What another site's page makes a browser send is refused."""
    host = address.removeprefix("http://")
    port = host.partition(":")[2]
    for headers, status in [
        ({}, 200),
        ({"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"}, 200),
        ({"Host": "localhost:9000", "Origin": "http://localhost:9000"}, 200),  # ssh -L
        ({"Host": f"evil.example:{port}"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
    ]:
        assert requests.get(address, headers=headers, timeout=5).status_code == status, headers
    upload = {"files": ("a.tif", b"a")}
    for origin, status in [(address, 200), ("http://evil.example", 403)]:
        posted = requests.post(
            f"{address}/gradio_api/upload", files=upload, headers={"Origin": origin}, timeout=5
        )
        assert posted.status_code == status


def test_downloads_have_harmless_names_inside_the_scratch_folder(tmp_path):
    from adipocyte.delivery.serving.page import _files

    answer = Answer(dict.fromkeys(["A1", "../../x"], FIELD[0]), "")
    for stem in ("../a\\b", "..", "a" * 300, "a\n[b](c)"):
        [path] = _files(answer, tmp_path, stem, 0.325)
        assert Path(path).parent.parent == tmp_path
        assert re.fullmatch(r"[\w.-]{0,80}_A1\.tif", Path(path).name)


def test_somebody_elses_words_are_shown_as_text():
    from adipocyte.delivery.serving.page import _escaped

    hostile = "![a](http://e.x/b) <img src=x> [c](d) `e` *f* https://g.h $i$ &lt;"
    escaped = _escaped(hostile)
    assert html.unescape(escaped) == hostile
    assert not set(escaped) & set("![]()<>`*/$:")
    assert _escaped("row 0 has 5 of 7 pages, µm") == "row 0 has 5 of 7 pages, µm"


WATCHED = """
import runpy, sys
noted = sys.argv[1]
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        address = arguments[1] if event == "socket.connect" else arguments[0]
        print(address if isinstance(address, (str, bytes)) else address[0], file=open(noted, "a"))
sys.addaudithook(watch)
sys.argv = ["demo_app", *sys.argv[2:]]
runpy.run_module("entrypoints.demo_app", run_name="__main__")
"""


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_the_command_opens_a_page_asks_nobody_else_and_leaves_nothing(server, tmp_path, ending):
    port, scratch, asked = free_port(), tmp_path / "scratch", tmp_path / "asked"
    scratch.mkdir()
    command = [sys.executable, "-c", WATCHED, asked, f"--server={server}", f"--port={port}"]
    environment = {**os.environ, "TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1"}
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)
    try:
        opened = f"Open http://127.0.0.1:{port}"
        wait_for(lambda: opened in log.read_text(), process=process, log=log)
        shown = requests.get(f"http://127.0.0.1:{port}", timeout=5).text
        assert "Virtual staining" in shown
        require_own_visitors_only(f"http://127.0.0.1:{port}")
        assert len(list(scratch.glob("adipocyte-*"))) == 1
    finally:
        process.send_signal(ending)
        assert process.wait(60) == 0, log.read_text()
    assert list(scratch.glob("adipocyte-*")) == []
    assert set(asked.read_text().split()) <= {"127.0.0.1", "localhost", "None", "::1"}


PARENT = """
import subprocess, sys
page = subprocess.Popen([sys.executable, "-m", "entrypoints.demo_app", f"--port={sys.argv[1]}"])
print(page.pid, flush=True)
page.wait()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_page_ends_with_its_parent(tmp_path):
    port, log = free_port(), tmp_path / "log"
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with log.open("w") as file:
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(port)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=file,
        )
    assert parent.stdout
    pid = int(parent.stdout.readline())
    try:
        wait_for(lambda: is_open(port), process=parent, log=log)
    finally:
        parent.kill()
        parent.communicate()
    wait_for(lambda: not Path(f"/proc/{pid}").exists())
    assert list(tmp_path.glob("adipocyte-*")) == []


def is_open(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


@needs_chromium
def test_without_a_server_it_says_how_to_start_one(browser, tmp_path):
    from adipocyte.delivery.serving.page import launch, page

    port = free_port()
    blocks = page(StainClient(f"http://127.0.0.1:{free_port()}", attempts=1), tmp_path)
    launch(blocks, port)
    tab = browser.new_page()
    tab.goto(f"http://127.0.0.1:{port}")
    # Before anything is dropped.
    tab.locator("#said").get_by_text("No model is served there").wait_for()
    tifffile.imwrite(tmp_path / "field.tif", FIELD, photometric="minisblack")
    drop(tab, tmp_path / "field.tif")
    tab.locator("#said").get_by_text("mlflow models serve -m models:/adipocyte@champion").wait_for()
    tab.close()
    blocks.close()


def test_what_is_unsure_is_grey_and_the_verdict_is_said():
    from adipocyte.delivery.serving.page import _composite, _said, _shown

    image = np.tile(np.linspace(0, 1000, 80).astype(np.uint16), (96, 1))
    high = image.copy()
    high[:, 40:] += 500  # half of the range that is shown
    trust = Trust(Verdict.NO, "the error of A3 is *large*", {})
    answer = Answer({"A3": image}, "", intervals={"A3": (image, high)}, trust=trust)
    field = planes(1, (96, 80))
    shown = _shown(field, answer)
    every, sure = (_composite(shown, most, 1, 1, 1) for most in (1, 0.4))
    np.testing.assert_array_equal(every[:, :40], sure[:, :40])
    assert (np.ptp(every[:, 45:], axis=-1) > 50).all()
    assert (np.ptp(sure[:, 40:], axis=-1) == 0).all()
    assert "To be believed: no**: the error of A3 is &#42;large&#42;" in _said(field, answer)
    assert "believed" not in _said(field, Answer({"A3": image}, ""))
