"""What holds for the project as a whole: its dependencies, its layout, its form, and the Makefile."""

import ast
import fnmatch
import graphlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
MODULES = {path.stem: path for path in sorted((ROOT / "minireformer").glob("*.py"))}
READING_ORDER = "backend rng layer basic hashing chunked attention reversible model".split()


def imports(path):
    """Dotted names of all that a source file imports, in functions too: `from a import b` gives "a.b"."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules_imported_by(path):
    """Names of the package's modules that one of its files imports."""
    names = [name.split(".") for name in imports(path)]
    return {name[1] for name in names if name[0] == "minireformer" and name[1] in MODULES}


def packages_imported_by(path):
    return {name.partition(".")[0] for name in imports(path)} - {"minireformer"}


# The package


@pytest.mark.parametrize("arguments", ["check", "format --check"])
def test_ruff_finds_nothing_in_code_and_notebooks(arguments):
    command = [sys.executable, "-m", "ruff", *arguments.split(), "--no-cache", "."]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("path", MODULES.values(), ids=MODULES)
def test_a_module_is_short_enough_to_hold_one_idea(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


def test_imports_point_one_way():
    graph = {name: modules_imported_by(path) for name, path in MODULES.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle
    for place, name in enumerate(READING_ORDER):
        later = graph.get(name, set()) & set(READING_ORDER[place:])
        assert not later, f"{name}.py imports {later}, which a reader meets later"


def test_nothing_but_notebooks_imports_the_plots():
    assert [name for name, path in MODULES.items() if "plots" in modules_imported_by(path)] == []


def test_the_package_imports_all_that_it_declares_and_nothing_else():
    declared = {Requirement(text).name for text in PROJECT["dependencies"]}
    imported = set().union(*(packages_imported_by(path) for path in MODULES.values()))
    optional = {"cupy", "cupyx", "matplotlib", "PIL"}
    assert imported - sys.stdlib_module_names - optional == declared
    assert "matplotlib" not in set().union(
        *(packages_imported_by(path) for name, path in MODULES.items() if name != "plots")
    )


@pytest.mark.parametrize("path", MODULES.values(), ids=MODULES)
def test_the_package_never_unpickles_and_never_goes_to_the_network(path):
    forbidden = {"pickle", "marshal", "shelve", "socket", "ssl", "http", "urllib", "ftplib", "subprocess"}
    assert not packages_imported_by(path) & forbidden
    assert not re.search(r"allow_pickle\s*=\s*True|\beval\(|\bexec\(", path.read_text(encoding="utf-8"))


# Its dependencies


def test_what_is_installed_is_what_pyproject_asks_for():
    extras = PROJECT["optional-dependencies"]
    for text in PROJECT["dependencies"] + extras["notebooks"] + extras["test"]:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate():
            continue
        installed = importlib.metadata.version(requirement.name)
        assert installed in requirement.specifier, f"{requirement} asked for, {installed} installed"


def test_the_conda_environment_installs_what_make_installs():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, from_pip = environment.pop("dependencies")
    assert environment == {"name": PROJECT["name"], "channels": ["conda-forge"]}
    assert python == "python" + PROJECT["requires-python"]
    assert pip == "pip"
    (made_by_pip,) = re.findall(r"pip install --quiet (.*)", MAKEFILE.partition("$(INSTALLED): pyproject.toml")[2])
    assert from_pip == {"pip": [made_by_pip.replace("'", "")]}
    extras = re.fullmatch(r"--editable \.\[(.*)\]", from_pip["pip"][0]).group(1).split(",")
    assert set(extras) <= PROJECT["optional-dependencies"].keys()


def test_the_readme_names_the_pythons_that_pyproject_lists():
    *others, newest = (text.removeprefix("Programming Language :: Python :: ") for text in PROJECT["classifiers"])
    assert PROJECT["requires-python"] == f">={others[0]}"
    assert f"tested on {', '.join(others)} and {newest}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_makefile_checks_for_the_python_that_pyproject_requires():
    (major, minor) = re.search(r"sys\.version_info < \((\d+), (\d+)\)", MAKEFILE).groups()
    assert PROJECT["requires-python"] == f">={major}.{minor}"


# The book


def test_the_book_reads_every_notebook_and_lists_it_in_its_contents():
    folder = ROOT / "notebooks"
    index = (folder / "index.md").read_text(encoding="utf-8")
    lists = re.findall(r"^```{toctree}\n(.*?)^```", index, flags=re.MULTILINE | re.DOTALL)
    entries = [line for line in "\n".join(lists).splitlines() if line and not line.startswith(":")]
    settings = (ROOT / "book" / "conf.py").read_text(encoding="utf-8")
    patterns = ast.literal_eval(re.search(r"^include_patterns = (.*)$", settings, flags=re.MULTILINE).group(1))
    read = {path for pattern in patterns for path in folder.glob(pattern)}
    assert read == {*folder.glob("*.ipynb"), *folder.glob("solutions/*.ipynb"), *folder.glob("*.md")}
    for path in read - {folder / "index.md"}:
        page = path.relative_to(folder).with_suffix("").as_posix()
        assert any(fnmatch.fnmatch(page, entry) for entry in entries), f"{page} is in no toctree"


def test_the_front_page_of_the_book_ends_at_a_heading_of_the_readme():
    index = (ROOT / "notebooks" / "index.md").read_text(encoding="utf-8")
    (end,) = re.findall(r'^:end-before: "(.*)"$', index, flags=re.MULTILINE)
    assert f"\n{end}\n" in (ROOT / "README.md").read_text(encoding="utf-8")


# The Makefile, tried in an empty folder with a stand-in for Python

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def make(tmp_path):
    """`make(*arguments, fails_on=...)` with a Python that refuses commands that hold the text `fails_on`."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)

    def run(*arguments, fails_on="nothing"):
        for name in "python", ".venv/bin/python":
            script = f'#!/bin/sh\necho "$@" >> calls\ncase "$*" in *"{fails_on}"*) exit 1; esac\n'
            (tmp_path / name).write_text(script)
            (tmp_path / name).chmod(0o755)
        (tmp_path / "calls").write_text("")
        environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}  # without what an outer make hands on
        command = ["make", "--no-print-directory", "PYTHON=./python", *arguments]
        made = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        return made.returncode, made.stderr, (tmp_path / "calls").read_text()

    return run


@needs_make
def test_make_says_what_to_do_about_an_old_python(make):
    code, message, calls = make("test", fails_on="version_info")
    assert code != 0 and "needs Python 3.11 or newer" in message and "pytest" not in calls


@needs_make
def test_make_says_what_to_install_where_venv_is_missing(make):
    code, message, calls = make("test", fails_on="ensurepip")
    assert code != 0 and "sudo apt install python3-venv" in message and "pytest" not in calls


@needs_make
def test_make_installs_once_and_again_when_pyproject_changes(make, tmp_path):
    assert "pip install" in make("test")[2]
    code, _, calls = make("test")
    assert code == 0 and "pip install" not in calls and calls.count("pytest") == 2  # on NumPy and on the double
    later = (tmp_path / ".venv" / "installed").stat().st_mtime + 10
    os.utime(tmp_path / "pyproject.toml", (later, later))
    assert "pip install" in make("test")[2]


@needs_make
def test_an_install_that_fails_is_tried_again(make):
    assert make("test", fails_on="pip install")[0] != 0
    assert "pip install" in make("test")[2]


@needs_make
@pytest.mark.parametrize("failing", ["tests notebooks", "--nbval"])
def test_make_test_fails_when_a_test_or_a_notebook_fails(make, failing):
    assert make("test", fails_on=failing)[0] != 0


@needs_make
def test_make_parity_installs_the_other_reformers_where_they_are_missing_and_compares_as_often_as_asked(make):
    code, _, calls = make("parity", "N=7")
    assert code == 0 and "benchmarks/speed/parity.py --number 7" in calls and "[parity]" not in calls
    code, _, calls = make("parity", fails_on="import reformer_pytorch")
    assert code == 0 and "pip install --quiet --editable .[parity]" in calls and "--number 20" in calls


@needs_make
def test_make_book_installs_sphinx_where_it_is_missing_and_fails_on_a_warning(make):
    code, _, calls = make("book")
    assert code == 0 and "sphinx -q -W --keep-going -c book notebooks build/book" in calls and "[book]" not in calls
    code, _, calls = make("book", fails_on="import furo")
    assert code == 0 and "pip install --quiet --editable .[book]" in calls
    assert make("book", fails_on="-m sphinx")[0] != 0


@needs_make
def test_nothing_but_make_test_browser_starts_a_browser_and_it_builds_the_book_first(make, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "chromium").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "chromium").chmod(0o755)
    code, _, calls = make("test-browser", fails_on="import playwright")
    steps = ["-m sphinx", "pip install --quiet --editable .[browser]", "-m pytest tests/browser"]
    assert code == 0 and sorted(steps, key=calls.index) == steps
    tests_below = ["-m", "pytest", "--collect-only", "--ignore-glob=tests/test_*.py", "tests"]
    found = subprocess.run([sys.executable, *tests_below], cwd=ROOT, capture_output=True)
    assert found.returncode == pytest.ExitCode.NO_TESTS_COLLECTED


@needs_make
def test_make_lab_opens_the_notebooks_with_the_port_and_arguments_asked_for(make):
    code, _, calls = make("lab", "PORT=9000", "ARGS=--no-browser")
    assert code == 0 and "jupyter lab notebooks --port=9000" in calls and "--no-browser" in calls
    assert ("--allow-root" in calls) == (os.geteuid() == 0)


# make gpu, with a stand-in for the driver's tool


@pytest.fixture
def make_gpu(make, tmp_path):
    """`make_gpu(cuda)` where nvidia-smi says `cuda` (None: there is none), and CuPy is or is not installed."""

    def run(cuda, installed=False, *arguments):
        (tmp_path / "bin").mkdir(exist_ok=True)
        tool = tmp_path / "bin" / "nvidia-smi"
        line = f"| NVIDIA-SMI 580.65.06   Driver Version: 580.65.06   CUDA Version: {cuda}   |"
        tool.write_text("#!/bin/sh\n" + (f"echo '{line}'\n" if cuda else "exit 9\n"))
        tool.chmod(0o755)
        return make("gpu", *arguments, fails_on="nothing" if installed else "import cupy")

    return run


@needs_make
@pytest.mark.parametrize("cuda, extra", [("12.4", "gpu12"), ("13.0", "gpu13"), ("14.1", "gpu13")])
def test_make_gpu_installs_the_cupy_that_the_driver_can_run(make_gpu, cuda, extra):
    code, _, calls = make_gpu(cuda)
    assert code == 0 and f".[notebooks,test,{extra}]" in calls and extra in PROJECT["optional-dependencies"]
    steps = [calls.index(text) for text in ("install", 'backend.use("cupy")', "-m pytest", "benchmarks/speed/gpu.py")]
    assert steps == sorted(steps) and "--nbval" in calls


@needs_make
@pytest.mark.parametrize("cuda, message", [(None, "No driver of an NVIDIA GPU"), ("11.8", "The driver runs CUDA 11")])
def test_make_gpu_says_what_is_missing_before_it_installs_anything_for_a_gpu(make_gpu, cuda, message):
    code, said, calls = make_gpu(cuda)
    assert code != 0 and message in said and "gpu1" not in calls and "pytest" not in calls


@needs_make
def test_make_gpu_leaves_a_cupy_that_is_there_and_needs_no_network(make_gpu):
    make_gpu(None, True)
    code, _, calls = make_gpu(None, True)
    assert code == 0 and "pip" not in calls and "benchmarks/speed/gpu.py" in calls


@needs_make
def test_make_gpu_can_use_a_python_as_it_is(make_gpu, tmp_path):
    code, _, calls = make_gpu(None, True, "PY=./python")
    assert code == 0 and "pip" not in calls and "venv" not in calls and calls.count("pytest") == 1
    assert not (tmp_path / ".venv" / "installed").exists()


@needs_make
@pytest.mark.parametrize("failing", ["backend.use", "-m pytest", "benchmarks/speed/gpu.py"])
def test_make_gpu_fails_where_a_step_fails(make, failing):
    assert make("gpu", fails_on=failing)[0] != 0
