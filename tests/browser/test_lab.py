"""A notebook in JupyterLab, as `make lab` opens it: it runs to its end, and its sliders work."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = "03_lsh_hashing.ipynb"
PATIENCE = 300  # seconds for the notebook, on a busy machine

pytestmark = pytest.mark.skipif(not hasattr(os, "killpg"), reason="make and all that it starts are ended as a group")


@pytest.fixture
def lab(tmp_path):
    """The address of JupyterLab, started by `make lab` in a folder with a copy of the notebook; settings stay there."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / NOTEBOOK, tmp_path / "notebooks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["make", "-f", ROOT / "Makefile", "-o", ".venv/installed", "lab", f"PY={sys.executable}", f"PORT={port}"]
    command += ["ARGS=--no-browser --IdentityProvider.token="]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"JUPYTER_CONFIG_DIR": str(tmp_path / "settings"), "PYTHONPATH": path}
    with open(tmp_path / "log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        address = f"http://127.0.0.1:{port}/"
        until = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(address + "api").close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() < until, (tmp_path / "log").read_text(
                    encoding="utf-8"
                )
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # make, and Jupyter, which ends its kernels
        server.wait(30)


def test_a_notebook_runs_to_its_end_and_a_slider_changes_what_it_shows(page, lab, tmp_path):
    from playwright.sync_api import expect  # which is there, where there is a page

    expect.set_options(timeout=1000 * PATIENCE)
    page.set_default_timeout(1000 * PATIENCE)
    page.goto(f"{lab}lab/tree/{NOTEBOOK}")
    idle = page.get_by_text("Python 3 (ipykernel) | Idle")
    idle.wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    slider = page.locator(".widget-slider", has_text="angle")
    explore = page.locator(".jp-CodeCell", has=slider)  # its code is folded
    handle = slider.get_by_role("slider")
    handle.wait_for()  # the last cells are exercises
    idle.wait_for()

    page.keyboard.press("Control+s")
    page.locator(".jp-mod-current:not(.jp-mod-dirty)", has_text=NOTEBOOK).wait_for()
    saved = nbformat.read(tmp_path / "notebooks" / NOTEBOOK, as_version=4)
    cells = [cell for cell in saved.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert [out for cell in cells for out in cell.outputs if out.output_type == "error"] == []

    figure = explore.locator(".jp-OutputArea-output img")
    line = explore.locator(".jp-OutputArea-output pre", has_text="meet in some round: theory")
    angle, drawn, printed = handle.get_attribute("aria-valuenow"), figure.get_attribute("src"), line.inner_text()
    handle.press("ArrowRight")
    expect(handle).not_to_have_attribute("aria-valuenow", angle)
    expect(figure).not_to_have_attribute("src", drawn)
    expect(line).not_to_have_text(printed.strip())
    assert explore.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
