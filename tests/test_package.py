"""What `python -m build` makes: a wheel that runs, an sdist that makes it, and what both say of themselves."""

import email
import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGE = {
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "minireformer").rglob("*")
    if path.is_file() and path.parent.name != "__pycache__"
}
STEM = f"{PROJECT['name']}-{PROJECT['version']}"

pytestmark = [pytest.mark.slow, pytest.mark.once]
LEFT_OUT = (".*", "build", "dist", "*.egg-info", "__pycache__", "notebooks", "benchmarks", "docs")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with a wheel and an sdist, built without a network from a copy of this folder."""
    if importlib.util.find_spec("build") is None or Version(importlib.metadata.version("setuptools")) < Version("77"):
        pytest.skip("needs build and setuptools 77, which `pip install --editable .[test]` installs")
    copy, made = tmp_path_factory.mktemp("copy") / "minireformer", tmp_path_factory.mktemp("made")
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(made), str(copy)]
    run = subprocess.run(command, cwd=made, capture_output=True, encoding="utf-8")
    assert run.returncode == 0, run.stdout + run.stderr
    return made


def test_a_wheel_holds_the_package_and_nothing_else(built):
    with zipfile.ZipFile(built / f"{STEM}-py3-none-any.whl") as wheel:
        names = set(wheel.namelist())
    about = {"METADATA", "RECORD", "WHEEL", "licenses/LICENSE", "top_level.txt"}
    assert names == PACKAGE | {f"{STEM}.dist-info/{name}" for name in about}


def test_an_sdist_holds_the_package_and_what_its_wheel_is_made_of(built):
    with tarfile.open(built / f"{STEM}.tar.gz") as sdist:
        names = {member.name.removeprefix(f"{STEM}/") for member in sdist if member.isfile()}
    top = {"CHANGELOG.md", "CITATION.cff", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml"}
    assert {name for name in names if not name.startswith("minireformer.egg-info/")} == PACKAGE | top | {
        "PKG-INFO",
        "setup.cfg",
    }


def test_a_wheel_says_what_it_needs_and_where_it_comes_from(built):
    with zipfile.ZipFile(built / f"{STEM}-py3-none-any.whl") as wheel:
        about = email.message_from_bytes(wheel.read(f"{STEM}.dist-info/METADATA"))
    needed = [text for text in about.get_all("Requires-Dist") if "extra ==" not in text]
    assert sorted(needed) == sorted(PROJECT["dependencies"])
    assert about["Requires-Python"] == PROJECT["requires-python"] and about["License-Expression"] == "MIT"
    assert set(about.get_all("Classifier")) == set(PROJECT["classifiers"])
    assert "Operating System :: OS Independent" in PROJECT["classifiers"]
    links = dict(text.split(", ") for text in about.get_all("Project-URL"))
    assert links.keys() == {"Source", "Documentation", "Issues", "Changelog"}
    assert all(links[name].startswith(links["Source"] + "/") for name in ("Issues", "Changelog"))


def test_a_wheel_runs(built):
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import minireformer as mr
assert mr.__file__.startswith(sys.argv[1]), mr.__file__
config = mr.ReformerConfig(d_model=8, n_heads=1, d_head=8, d_ff=8, axial_shape=(8, 8), max_len=64)
tokens = mr.backend.asarray([[1, 2, 3]])
print(len(mr.Reformer(config).loss_and_grads(tokens, tokens)[1]) > 0)
"""
    wheel = built / f"{STEM}-py3-none-any.whl"
    run = subprocess.run([sys.executable, "-I", "-c", code, str(wheel)], capture_output=True, encoding="utf-8")
    assert run.stdout.strip() == "True", run.stderr
