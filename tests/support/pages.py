"""Pages in a real browser."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")


@contextmanager
def chromium() -> Iterator:
    """Chromium itself."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@contextmanager
def opened_page(browser, text: str, folder: Path, **settings) -> Iterator:
    """A tab with the page *text*, from disk: it may neither ask for anything nor complain."""
    (folder / "report.html").write_text(text)
    tab = browser.new_page(viewport={"width": 1200, "height": 900}, **settings)
    complaints, requests = [], []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(f"file://{folder}/report.html")
    yield tab
    tab.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []


@contextmanager
def sandboxed(browser, text: str) -> Iterator:
    """The page *text* as MLflow shows it: an iframe of a blob that may run scripts alone."""
    tab = browser.new_page(viewport={"width": 1200, "height": 900})
    complaints = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    frame = '<iframe sandbox="allow-scripts" width="1100" height="800"></iframe>'
    outer = f'<link rel="icon" href="data:,">{frame}'
    tab.route("**/*", lambda route: route.fulfill(body=outer, content_type="text/html"))
    tab.goto("http://mlflow.test/")
    show = """html => {
        const blob = new Blob([html], { type: 'text/html' });
        document.querySelector('iframe').src = URL.createObjectURL(blob);
    }"""
    tab.evaluate(show, text)
    yield tab.frame_locator("iframe")
    tab.close()
    assert complaints == []
