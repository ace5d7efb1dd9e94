"""The Makefile, tried in an empty folder with stand-ins for Python, a browser, and the tool of NVIDIA's driver."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]


@pytest.fixture
def make(tmp_path):
    """`make(arguments, fails_on, cuda)` -> exit code, messages, the commands that Python was given.

    Commands that hold the text `fails_on` fail. The driver says that it runs `cuda`; None: there is no driver.
    """
    if os.name != "posix" or shutil.which("make") is None:
        pytest.skip("needs make and a POSIX shell")

    def script(name, text):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)

    def run(arguments, fails_on="nothing", cuda=None):
        for name in "python", ".venv/bin/python":
            script(name, f'echo "$@" >> calls\ncase "$*" in *"{fails_on}"*) exit 1; esac')
        line = f"| NVIDIA-SMI 580.65.06   Driver Version: 580.65.06   CUDA Version: {cuda}   |"
        script("bin/nvidia-smi", f"echo '{line}'" if cuda else "exit 9")
        (tmp_path / "calls").write_text("", encoding="utf-8")
        environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}  # without what an outer make hands on
        command = ["make", "--no-print-directory", "PYTHON=./python", *arguments.split()]
        made = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8")
        return made.returncode, made.stderr, (tmp_path / "calls").read_text(encoding="utf-8")

    for name in "Makefile", "pyproject.toml":
        shutil.copy(ROOT / name, tmp_path)
    script("bin/chromium", "")
    return run


AS_ROOT = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
BENCH = [f"speed/{name}.py" for name in "training_step_by_depth training_step attention generation".split()]
GPU = ['backend.use("cupy")', "--nbval", "benchmarks/speed/gpu.py"]


@pytest.mark.parametrize(
    "arguments, fails_on, cuda, steps",
    [
        (
            "test",
            "nothing",
            None,
            [".[notebooks,test]", ".[mpi]", "-m not slow tests notebooks --ignore=notebooks/08"],
        ),
        (
            "test-all",
            "nothing",
            None,
            ["-m slow tests", "notebooks/solutions", "tests notebooks --ignore=notebooks/08_train"],
        ),
        ("lab PORT=9000 ARGS=--no-browser", "nothing", None, ["--port=9000", *AS_ROOT, "--no-browser"]),
        ("bench", "nothing", None, [".[notebooks,parity]", *BENCH]),
        ("parity N=7", "nothing", None, ["benchmarks/speed/parity.py --number 7"]),
        ("parity", "import reformer_pytorch", None, ["--quiet --editable .[parity]", "--number 20"]),
        ("claims", "nothing", None, ["benchmarks/claims.py\n"]),
        ("claims ROW=sharing ARGS=--quick", "nothing", None, ["benchmarks/claims.py sharing --quick\n"]),
        ("claims ROW=speed", "import torch", None, ["--quiet --editable .[parity]", "benchmarks/claims.py speed\n"]),
        ("poster", "nothing", None, ["-m minireformer.course.poster docs"]),
        ("handout TO=hand_out", "nothing", None, ["notebooks/handout.py hand_out"]),
        ("nbgrader TO=course", "nothing", None, ["notebooks/nbgrader_course.py course"]),
        ("grade NOTEBOOK=03_anne.ipynb", "nothing", None, ["notebooks/grade.py 03_anne.ipynb\n"]),
        (
            "grade NOTEBOOK=handed_in TABLE=marks.csv TIMEOUT=60",
            "nothing",
            None,
            ["notebooks/grade.py handed_in --table marks.csv --timeout 60"],
        ),
        ("book", "nothing", None, ["sphinx -q -W --keep-going -c book . build/book"]),
        ("book", "import furo", None, ["--quiet --editable .[book]", "-m sphinx"]),
        ("slides", "nothing", None, ["slides/build.py"]),
        ("slides", "import sphinx_revealjs", None, ["--quiet --editable .[slides]", "slides/build.py"]),
        ("pdf", "import notebook, playwright", None, ["-m sphinx", "--editable .[browser]", "book/pdf.py"]),
        (
            "test-browser",
            "import notebook, playwright",
            None,
            ["-m sphinx", "slides/build.py", "--editable .[browser]", "-m pytest tests/browser"],
        ),
        ("workflows", "nothing", None, [".[workflows]", "-m pytest tests/test_workflows.py"]),
        ("gpu", "import cupy", "12.4", [".[notebooks,test,gpu12]", *GPU]),
        ("gpu", "import cupy", "13.0", [".[notebooks,test,gpu13]", *GPU]),
        ("gpu", "import cupy", "14.1", [".[notebooks,test,gpu13]", *GPU]),
    ],
)
def test_make_takes_these_steps_in_this_order_and_installs_what_is_missing(make, arguments, fails_on, cuda, steps):
    code, _, calls = make(arguments, fails_on, cuda)
    assert code == 0 and re.search(".*".join(map(re.escape, steps)), calls, flags=re.DOTALL), calls
    for extra in re.findall(r"\[(.*?)\]", calls):
        assert set(extra.split(",")) <= EXTRAS.keys()
    if fails_on == "nothing":  # what can be imported is not installed again
        assert calls.count("pip install") == (3 if arguments in ("bench", "workflows") else 2)
    assert ("--allow-root" in calls) == ("--allow-root" in steps)


@pytest.mark.parametrize(
    "arguments, fails_on, cuda, message",
    [
        ("test", "version_info", None, "needs Python 3.11 or newer"),
        ("test", "ensurepip", None, "sudo apt install python3-venv"),
        ("gpu", "import cupy", None, "No driver of an NVIDIA GPU"),
        ("gpu", "import cupy", "11.8", "The driver runs CUDA 11"),
        *(("test", step, None, "") for step in ("pip install", "tests notebooks", "--nbval")),
        *(("gpu", step, None, "") for step in ("backend.use", "-m pytest", "benchmarks/speed/gpu.py")),
        ("book", "-m sphinx", None, ""),
    ],
)
def test_make_fails_where_a_step_fails_says_what_is_missing_and_tries_again(make, arguments, fails_on, cuda, message):
    code, said, calls = make(arguments, fails_on, cuda)
    assert code != 0 and message in said
    assert not message or "gpu1" not in calls and "pytest" not in calls
    code, _, calls = make(arguments)
    assert code == 0 and fails_on in calls


def test_make_goes_on_where_mpi_has_no_wheels(make):
    code, _, calls = make("test", "--only-binary")
    assert code == 0 and "-m not slow tests notebooks" in calls


def test_make_installs_once_and_again_when_pyproject_changes(make, tmp_path):
    for arguments in "test", "gpu":  # a CuPy that is there is left as it is
        assert ("pip" in make(arguments)[2]) == (arguments == "test")
        code, _, calls = make(arguments)
        assert code == 0 and "pip" not in calls
    later = (tmp_path / ".venv" / "installed").stat().st_mtime + 10
    os.utime(tmp_path / "pyproject.toml", (later, later))
    assert "pip install" in make("test")[2]


@pytest.mark.parametrize("arguments, given", [("REPO=you/course", "you/course main"), ("REPO=a/b REF=v1", "a/b v1")])
def test_make_repository_needs_nothing_installed(make, arguments, given):
    code, _, calls = make(f"repository {arguments}")
    assert (code, calls) == (0, f".github/repository.py {given}\n")


@pytest.mark.parametrize("arguments, given", [("", ""), (" NOTEBOOK=a.ipynb", "a.ipynb")])
def test_make_colab_makes_an_environment_of_its_own(make, arguments, given):
    code, _, calls = make(f"colab{arguments}")
    assert code == 0 and calls.split() == ["tests/on_colab.py", *given.split()]


def test_marks_that_are_not_all_right_are_no_error_of_make(make, tmp_path):
    make("grade NOTEBOOK=a")
    for marked, code in (1, 0), (2, 2):
        (tmp_path / ".venv" / "bin" / "graded").write_text(f"#!/bin/sh\nexit {marked}\n", encoding="utf-8")
        (tmp_path / ".venv" / "bin" / "graded").chmod(0o755)
        assert make("grade NOTEBOOK=a PY=.venv/bin/graded")[0] == code


def test_make_gpu_can_use_a_python_as_it_is(make, tmp_path):
    code, _, calls = make("gpu PY=./python")
    assert code == 0 and "pip" not in calls and "venv" not in calls and calls.count("pytest") == 1
    assert not (tmp_path / ".venv" / "installed").exists()
