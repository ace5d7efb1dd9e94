"""What CONTRIBUTING, CHANGELOG and the code of conduct say is so."""

import re
import shlex
from pathlib import Path

import pytest

import minireformer as mr

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("CONTRIBUTING.md", "CHANGELOG.md")}
PAGES["CODE_OF_CONDUCT.md"] = (ROOT / "CODE_OF_CONDUCT.md").read_text(encoding="utf-8")
CONTRIBUTING, CHANGELOG = PAGES["CONTRIBUTING.md"], PAGES["CHANGELOG.md"]
MADE_UP = ("your_layer", "NN_topic")


def test_the_picture_of_the_house_has_every_module_and_folder_in_its_place():
    picture = re.search(r"^minireformer/\n(.*?)^tests/", CONTRIBUTING, flags=re.MULTILINE | re.DOTALL)[1]
    above, below = re.split(r"^ ─+ .* ─+\n", picture, flags=re.MULTILINE)
    named = {name for line in below.splitlines() for name in re.split(r"\s{3,}", line.strip())[0].split()}
    assert named == {path.stem for path in (ROOT / "minireformer").glob("[a-z]*.py")}
    folders = {path.parent.name for path in (ROOT / "minireformer").glob("*/__init__.py")}
    assert set(re.findall(r"(\w+)/", above)) == folders
    assert all((ROOT / name).is_dir() for name in re.findall(r"^(\w+)/", CONTRIBUTING, flags=re.MULTILINE))


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_it_names_is_there(page):
    named = re.findall(r"\]\((?!http)([^)#]+)", PAGES[page])
    named += re.findall(r"\b((?:minireformer|tests|notebooks)/[\w/]*\w\.\w+)", PAGES[page])
    missing = [name for name in named if not (ROOT / name).exists()]
    assert named or page == "CODE_OF_CONDUCT.md"
    assert all(any(name in path for name in MADE_UP) for path in missing), missing


@pytest.mark.parametrize("line", re.findall(r"^\.venv/bin/python -m pytest (.*)$", CONTRIBUTING, flags=re.MULTILINE))
def test_the_commands_for_one_test_find_one(line):
    *options, path = shlex.split(line.partition(" -k ")[0])
    assert (ROOT / path).exists() and "-q" in options
    if " -k " in line:
        assert re.search(rf"^def test_\w*{line.partition(' -k ')[2]}", (ROOT / path).read_text(encoding="utf-8"), re.M)


def test_the_changelog_keeps_its_form_and_names_this_version():
    titles = re.findall(r"^## (.*)$", CHANGELOG, flags=re.MULTILINE)
    assert titles[0] == "Unreleased" and titles[1].split(" - ")[0] == mr.__version__
    assert all(re.fullmatch(r"\d+\.\d+\.\d+( - \d{4}-\d\d-\d\d)?", title) for title in titles[1:])
    kinds = set(re.findall(r"^### (.*)$", CHANGELOG, flags=re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
