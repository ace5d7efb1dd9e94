"""Headless Chromium for tests of what a reader sees: `make test-browser`."""

import functools
import http.server
import shutil
import threading
from pathlib import Path

import pytest

SITE = Path(__file__).parents[2] / "build" / "book"


@pytest.fixture(scope="session")
def chromium():
    """The system's own Chromium, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: `make test-browser` installs it")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium: on Debian and Ubuntu, sudo apt install chromium")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    """A page of a browser that remembers nothing."""
    context = chromium.new_context()
    yield context.new_page()
    context.close()


@pytest.fixture
def noticed(page):
    """What goes wrong on a page that is set from a text: errors, warnings and requests, as a list that grows."""
    found = []
    page.on("console", lambda message: found.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("request", lambda request: found.append(f"asks for {request.url}") if ":" in request.url[5:] else None)
    return found


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="session")
def site():
    """The address of the site, which ends in a slash."""
    if not (SITE / "index.html").exists():
        pytest.skip("no site in build/book: run `make book` first")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=SITE)) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def complaints(page, site):
    """What goes wrong on the page, as a list that grows: errors, failed requests, and any request to elsewhere."""
    found = []

    def only_from_here(route):
        if route.request.url.startswith(site):
            route.continue_()
        else:
            found.append(f"asks for {route.request.url}")
            route.abort()

    page.route("**/*", only_from_here)
    page.on("console", lambda message: found.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("response", lambda answer: found.append(f"{answer.status}: {answer.url}") if answer.status >= 400 else None)
    return found
