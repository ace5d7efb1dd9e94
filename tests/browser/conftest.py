"""Headless Chromium for tests of what a reader sees: `make test-browser`."""

import shutil

import pytest


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
