"""Run notebooks as on Colab, from the install cell to the end: `make colab`.

    python tests/on_colab.py notebooks/01_backprop_by_hand.ipynb

In build/colab, it makes an environment with Colab's versions and without this package (that needs a network, once),
a stand-in for the module google.colab, which the kernel has imported when the first cell runs, and a copy of this
repository's last commit. Git takes that copy wherever it is asked for the address on GitHub, so that the install cell
runs as it is saved. Each notebook has to run without an error, on the package that its own cell installed, and must
leave Colab's versions as they were. Only Python itself is not Colab's: it is the one that runs this script.
"""

import os
import runpy
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "colab"
LESSON = ROOT / "notebooks" / "01_backprop_by_hand.ipynb"
# From Colab's own list of August 2026 (pip-freeze.txt in googlecolab/backend-info, for Python 3.13): what a notebook
# imports, what runs its cells, and what the package needs. Colab has all of that: `--no-deps` leaves out nothing.
VERSIONS = """
    numpy==2.1.3 matplotlib==3.10.0 pillow==11.3.0 ipywidgets==7.7.1 widgetsnbextension==3.6.10
    ipython==7.34.0 ipykernel==6.17.1 jupyter_client==7.4.9 jupyter_core==5.9.1 matplotlib-inline==0.2.2
    nbclient==0.10.4 nbformat==5.11.1 pyzmq==26.2.1 tornado==6.5.7 traitlets==5.7.1
    safetensors==0.8.0 threadpoolctl==3.6.0 tqdm==4.67.3 setuptools==75.2.0
""".split()
RUN = """
import sys
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
notebook.cells.append(nbformat.v4.new_code_cell("print(mr.__file__, end='')"))
NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
print(*(output.text for output in notebook.cells[-1].outputs), end="")
"""


def git(*arguments):
    subprocess.run(["git", *arguments], cwd=ROOT, check=True)


def environment(python):
    """The environment variables of a kernel on Colab: its module, and an address on GitHub that leads here."""
    here = runpy.run_path(str(ROOT / ".github" / "repository.py"))["current"]()
    copy = FOLDER / "repository.git"
    shutil.rmtree(copy, ignore_errors=True)
    git("clone", "--quiet", "--bare", ".", str(copy))
    git("-C", str(copy), "branch", "--force", here["ref"], "HEAD")
    module = FOLDER / "modules" / "google" / "colab.py"
    start = FOLDER / "ipython" / "profile_default" / "startup" / "colab.py"
    for path, text in (module, ""), (start, "import google.colab\n"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    own = {
        "PYTHONPATH": str(FOLDER / "modules"),
        "IPYTHONDIR": str(FOLDER / "ipython"),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # or the debugger warns of Python's own files
        "JUPYTER_PATH": str(python.parents[1] / "share" / "jupyter"),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{copy.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://github.com/{owner}/{name}".format(**here),
    }
    return {name: value for name, value in os.environ.items() if not name.startswith("MINIREFORMER_")} | own


def main(notebooks):
    """Run the notebooks, each on a Colab that has just started."""
    python = FOLDER / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    if not (FOLDER / "installed").exists():
        print("Installing Colab's versions into build/colab: once, and it takes a few minutes.", flush=True)
        venv.create(FOLDER / "venv", with_pip=True, clear=True)
        subprocess.run([*pip, "install", "--quiet", *VERSIONS], check=True)
        (FOLDER / "installed").touch()
    variables = environment(python)

    def installed():
        listed = subprocess.run([*pip, "freeze", "--all"], capture_output=True, encoding="utf-8", check=True)
        return [line for line in listed.stdout.splitlines() if not line.startswith("minireformer")]

    before = installed()
    for path in notebooks:
        subprocess.run([*pip, "uninstall", "-qq", "--yes", "minireformer"], check=True)
        began = time.monotonic()
        command = [python, "-c", RUN, path.resolve()]
        run = subprocess.run(command, cwd=FOLDER, env=variables, stdout=subprocess.PIPE, encoding="utf-8", check=True)
        if not Path(run.stdout).is_relative_to(FOLDER / "venv"):
            sys.exit(f"{path.name} ran on {run.stdout}, which its first cell did not install")
        if installed() != before:
            sys.exit(f"{path.name} changed Colab's packages: {set(before) ^ set(installed())}")
        print(f"{path.name}: it installs the package, and runs to its end, in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]] or [LESSON])
