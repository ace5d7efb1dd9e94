"""A notebook in JupyterLab, as `make lab` opens it, and in Notebook 7: it runs to its end, and its figure works."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlparse

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = "03_lsh_hashing.ipynb"
PATIENCE = 300  # seconds for the notebook, on a busy machine

pytestmark = pytest.mark.skipif(not hasattr(os, "killpg"), reason="make and all that it starts are ended as a group")


APPS = {"lab": "lab/tree", "notebook": "notebooks"}  # and where they open a notebook


@pytest.fixture(params=APPS)
def opened(request, tmp_path):
    """The address of the notebook, without outputs, in JupyterLab or Notebook 7; settings stay in the same folder."""
    if request.param == "lab" and shutil.which("make") is None:
        pytest.skip("make is not installed")
    if request.param == "notebook":
        pytest.importorskip("notebook", reason="no Notebook 7: `make test-browser` installs it")
    (tmp_path / "notebooks").mkdir()
    notebook = nbformat.read(ROOT / "notebooks" / NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None  # what is there afterwards, this run has made
    nbformat.write(notebook, tmp_path / "notebooks" / NOTEBOOK)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = ["--no-browser", "--IdentityProvider.token="]
    command = [sys.executable, "-m", "notebook", "notebooks", f"--port={port}", "--allow-root", *quiet]
    if request.param == "lab":
        command = ["make", "-f", ROOT / "Makefile", "-o", ".venv/installed", "lab", f"PY={sys.executable}"]
        command += [f"PORT={port}", f"ARGS={' '.join(quiet)}"]
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
        yield f"{address}{APPS[request.param]}/{NOTEBOOK}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # make, and Jupyter, which ends its kernels
        server.wait(30)


def test_a_notebook_runs_to_its_end_and_its_figure_answers_the_keyboard(page, opened, tmp_path):
    from playwright.sync_api import expect  # which is there, where there is a page

    expect.set_options(timeout=1000 * PATIENCE)
    page.set_default_timeout(1000 * PATIENCE)
    hosts, errors = set(), []
    page.goto(opened)
    page.get_by_text("Python 3 (ipykernel)").first.wait_for()
    page.on("pageerror", lambda error: errors.append(str(error)))  # not before: Notebook 7.6 starts with one of its own
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    figure = page.locator('.explorable[data-explorable="hash"]')  # its code is folded
    figure.wait_for(state="attached")
    until = time.monotonic() + PATIENCE
    cells = [None]
    while time.monotonic() < until and not (cells[-1] and cells[-1].execution_count):  # the last has not run yet
        page.keyboard.press("Control+s")
        page.wait_for_timeout(1000)
        try:
            saved = nbformat.read(tmp_path / "notebooks" / NOTEBOOK, as_version=4)
        except nbformat.reader.NotJSONError:  # it is just being written
            continue
        cells = [cell for cell in saved.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert [out for cell in cells for out in cell.outputs if out.output_type == "error"] == []

    page.on("request", lambda request: hosts.add(urlparse(request.url).hostname))  # not before: the badge is on Colab
    figure.scroll_into_view_if_needed()  # a figure starts when it comes into sight
    rounds = figure.get_by_role("slider", name="rounds")
    says = figure.locator(".ex-says")
    before = says.inner_text()
    rounds.press("ArrowRight")
    expect(says).not_to_have_text(before)
    expect(says).to_contain_text("rounds")
    assert hosts <= {"127.0.0.1", None} and errors == []
