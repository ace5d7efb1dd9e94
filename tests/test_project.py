"""What holds for the project as a whole: its dependencies, its layout, its form, and the book."""

import ast
import fnmatch
import graphlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import minireformer

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "minireformer"
README, MAKEFILE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "Makefile"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULES = {  # "kernel", "training.loop", and "training" for the __init__.py of a folder; "" for that of the package
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip("."): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
FOLDERS = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
NAMED = re.findall(r"`(\w+)`", minireformer.__doc__)
READING_ORDER = [name for name in dict.fromkeys(NAMED) if name != "cuda"]
USED_EARLY = {"config": {"heads"}, "model": {"checkpoint"}}  # whose modules a reader meets later
CORE = {name for name in MODULES if name and name.partition(".")[0] not in FOLDERS}

each_module = pytest.mark.parametrize("path", MODULES.values(), ids=[name or "minireformer" for name in MODULES])


def imports(path):
    """Dotted names of all that a source file imports, in functions too: `from a import b` gives "a.b"."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules_imported_by(path):
    """The keys of `MODULES` that one of its files imports; "" where it imports a public name of the package."""
    for name in imports(path):
        package, *parts = name.split(".")
        if package == "minireformer":
            while ".".join(parts) not in MODULES:
                parts.pop()
            yield ".".join(parts)


def packages_imported_by(paths):
    return {name.partition(".")[0] for path in paths for name in imports(path)} - {"minireformer"}


# The package


@pytest.mark.parametrize("arguments", ["check", "format --check"])
def test_ruff_finds_nothing_in_code_and_notebooks(arguments):
    command = [sys.executable, "-m", "ruff", *arguments.split(), "--no-cache", "."]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert run.returncode == 0, run.stdout + run.stderr


@each_module
def test_a_module_is_short_enough_to_hold_one_idea(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


def test_imports_point_one_way_and_the_core_knows_no_folder():
    graph = {name: set(modules_imported_by(path)) for name, path in MODULES.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle
    for name in CORE:
        assert graph[name] <= CORE, f"{name}.py is of the core and imports {graph[name] - CORE}"
    for name, imported in graph.items():  # nothing but notebooks imports the course
        assert name.startswith("course") or not [other for other in imported if other.startswith("course")], name


def test_the_core_has_a_reading_order():
    """That of `minireformer/__init__.py`; `cuda`, the kernels for a GPU, may be read whenever you like."""
    assert set(READING_ORDER) == CORE - {"cuda"}
    assert set(re.findall(r"`(\w+)/`", minireformer.__doc__)) == FOLDERS
    for place, name in enumerate(READING_ORDER):
        later = set(modules_imported_by(MODULES[name])) & set(READING_ORDER[place:]) - USED_EARLY.get(name, set())
        assert not later, f"{name}.py imports {later}, which a reader meets later"


@each_module
def test_a_module_sends_its_reader_to_the_next_one(path):
    for following in re.findall(r"Read next:\s+`(\w+)\.py`", path.read_text(encoding="utf-8")):
        assert list(PACKAGE.rglob(f"{following}.py")), f"there is no {following}.py"
        if path.parent == PACKAGE and path.stem != READING_ORDER[-1]:
            assert following == READING_ORDER[READING_ORDER.index(path.stem) + 1]


def test_the_package_imports_all_that_it_declares_and_nothing_else():
    declared = {Requirement(text).name for text in PROJECT["dependencies"]}
    drawing, optional = {"matplotlib", "matplotlib_inline", "PIL"}, {"cupy", "cupyx", "mpi4py"}
    imported = packages_imported_by(MODULES.values()) - sys.stdlib_module_names
    assert imported - optional - drawing == declared
    outside_the_course = [path for name, path in MODULES.items() if not name.startswith("course")]
    assert "matplotlib" not in packages_imported_by(outside_the_course)


@each_module
def test_the_package_never_unpickles_and_never_goes_to_the_network(path):
    forbidden = {"pickle", "marshal", "shelve", "socket", "ssl", "http", "urllib", "ftplib", "subprocess"}
    assert not packages_imported_by([path]) & forbidden
    assert not re.search(r"allow_pickle\s*=\s*True|\beval\(|\bexec\(", path.read_text(encoding="utf-8"))


# Its dependencies


def test_what_is_installed_is_what_pyproject_asks_for():
    extras = PROJECT["optional-dependencies"]
    for requirement in map(Requirement, PROJECT["dependencies"] + extras["notebooks"] + extras["test"]):
        if requirement.marker is None or requirement.marker.evaluate():
            installed = importlib.metadata.version(requirement.name)
            assert installed in requirement.specifier, f"{requirement} asked for, {installed} installed"


def test_the_conda_environment_installs_what_make_installs():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, from_pip = environment.pop("dependencies")
    assert environment == {"name": PROJECT["name"], "channels": ["conda-forge"]}
    assert (python, pip) == ("python" + PROJECT["requires-python"], "pip")
    (made_by_pip,) = re.findall(r"pip install --quiet (.*)", MAKEFILE.partition("$(INSTALLED): pyproject.toml")[2])
    assert from_pip == {"pip": [made_by_pip.replace("'", "")]}
    extras = re.fullmatch(r"--editable \.\[(.*)\]", from_pip["pip"][0]).group(1).split(",")
    assert set(extras) <= PROJECT["optional-dependencies"].keys()


def test_readme_and_makefile_name_the_oldest_python_that_pyproject_lists():
    language = "Programming Language :: Python :: "
    oldest, *_ = (text.removeprefix(language) for text in PROJECT["classifiers"] if text.startswith(language))
    (least,) = re.findall(r"sys\.version_info < \((\d+, \d+)\)", MAKEFILE)
    assert PROJECT["requires-python"] == f">={oldest}" == f">={least.replace(', ', '.')}"
    for page in README, (ROOT / "docs" / "start.md").read_text(encoding="utf-8"):
        assert f"ou need Python {oldest} or newer" in page


# The book


def test_the_book_reads_every_notebook_and_page_and_lists_it_in_its_contents():
    folder = ROOT / "notebooks"
    index = (folder / "index.md").read_text(encoding="utf-8")
    lists = re.findall(r"^```{toctree}\n(.*?)^```", index, flags=re.MULTILINE | re.DOTALL)
    entries = [line for line in "\n".join(lists).splitlines() if line and not line.startswith(":")]
    settings = (ROOT / "book" / "conf.py").read_text(encoding="utf-8")
    patterns = ast.literal_eval(re.search(r"^include_patterns = (.*)$", settings, flags=re.MULTILINE).group(1))
    read = {path for pattern in patterns for path in ROOT.glob(pattern)}
    notebooks = {*folder.glob("*.ipynb"), *folder.glob("solutions/*.ipynb")}
    assert read == {*notebooks, *folder.glob("*.md"), *ROOT.glob("docs/*.md")}
    for path in read - {folder / "index.md"}:
        page = os.path.relpath(path.with_suffix(""), folder).replace(os.sep, "/")
        assert any(fnmatch.fnmatch(page, entry) for entry in entries), f"{page} is in no toctree"


def test_the_books_first_page_counts_its_notebooks():
    words = dict(zip(range(10, 17), "ten eleven twelve thirteen fourteen fifteen sixteen".split()))
    index = " ".join((ROOT / "notebooks" / "index.md").read_text(encoding="utf-8").split())
    assert f"each of the {words[len(list(ROOT.glob('notebooks/[0-9]*.ipynb')))]} notebooks" in index


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])


# Its tests


def test_nothing_but_make_test_browser_starts_a_browser():
    tests_below = ["-m", "pytest", "--collect-only", "--ignore-glob=tests/test_*.py", "--ignore=tests/puzzles", "tests"]
    found = subprocess.run([sys.executable, *tests_below], cwd=ROOT, capture_output=True)
    assert found.returncode == pytest.ExitCode.NO_TESTS_COLLECTED
