"""The repository that the course's links name: the same one everywhere, and another after one command."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from minireformer.course import explore

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / ".github" / "repository.py"
REPOSITORY = runpy.run_path(str(SCRIPT))
HERE = REPOSITORY["current"]()
FORK = {"owner": "a-teacher", "name": "Deep.Course_2", "ref": "autumn/v2.0"}
TRACKED = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, encoding="utf-8").stdout.split("\0")
OF_SCRIPT = {"tests/test_repository.py"}  # which also has other people's links

# An owner, a name and what may be a ref, at each host. A template, such as github.com/{owner}, names nobody.
PLACES = (
    re.compile(r"(?:github\.com|google\.com/github)/([\w.-]+)(?:/([\w.-]+))?(?:(?:/(?:blob|tree|raw)/|@)([\w./-]+))?"),
    re.compile(r"githubusercontent\.com/([\w.-]+)/([\w.-]+)/([\w./-]+)"),
    re.compile(r"([\w-]+)\.github\.io\b/?([\w.-]*)()"),
)

in_a_clone = pytest.mark.skipif("pyproject.toml" not in TRACKED, reason="needs a git clone")


@in_a_clone
def test_every_link_names_the_same_repository_and_ref():
    naming, owner_and_name = [], (HERE["owner"], HERE["name"])
    for path, text in REPOSITORY["texts"]():
        place = path.relative_to(ROOT).as_posix()
        if place in OF_SCRIPT:
            continue
        for owner, name, ref in [found for regex in PLACES for found in regex.findall(text)]:
            assert (owner, name.rstrip(".")) == owner_and_name, f"{place} names {owner}/{name}"
            assert not ref or f"{ref.rstrip('.')}/".startswith(f"{HERE['ref']}/"), f"{place} names {ref}"
            naming.append(place)
    pages = {"README.md", "CONTRIBUTING.md", "CITATION.cff", "pyproject.toml", "notebooks/index.md"}
    lessons = {path for path in TRACKED if re.fullmatch(r"notebooks/[^/]+\.ipynb", path)}
    assert pages <= set(naming) and all(naming.count(path) >= 3 for path in lessons)


@in_a_clone
def test_pyproject_says_where_the_project_is():
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    home = "https://github.com/{owner}/{name}".format(**HERE)
    assert urls["Source"] == home and urls["Issues"] == f"{home}/issues"
    assert urls["Documentation"] == "https://{owner}.github.io/{name}/".format(**HERE)
    assert explore.LIVE.startswith(home + "#")


@pytest.fixture
def clone(tmp_path):
    """A copy of what git tracks here, as it is in this folder now, with a git repository of its own."""
    for name in filter(None, TRACKED):
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tmp_path / name)
    for command in ["init", "-q"], ["add", "--all"]:
        subprocess.run(["git", *command], cwd=tmp_path, check=True, env=plain_git())
    return tmp_path


def plain_git():
    """The environment without variables that point git to another repository, as in a hook."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


def run(clone, *arguments):
    """The script's exit code, what it printed, what it complained about."""
    command = [sys.executable, str(clone / ".github" / "repository.py"), *arguments]
    done = subprocess.run(command, cwd=clone.parent, capture_output=True, encoding="utf-8", env=plain_git())
    return done.returncode, done.stdout.splitlines(), done.stderr


def contents(folder):
    return {name: (folder / name).read_bytes() for name in TRACKED if name and (folder / name).is_file()}


@in_a_clone
def test_one_command_names_the_fork_everywhere_and_the_way_back_gives_the_same_bytes(clone):
    before = contents(clone)
    code, printed, _ = run(clone, "a-teacher/Deep.Course_2", "autumn/v2.0")
    after = contents(clone)
    assert code == 0 and REPOSITORY["current"](clone) == FORK
    assert printed[:-1] == [name for name in TRACKED if name and before.get(name) != after.get(name)]
    for name in printed[:-1]:
        text = after[name].decode()
        assert "{owner}/{name}".format(**HERE) not in text and "{owner}.github.io".format(**HERE) not in text, name
        assert len(text.splitlines()) == len(before[name].decode().splitlines())
    expected = {
        "README.md": ["git clone https://github.com/{owner}/{name} && cd {name}\n"],
        "CITATION.cff": ["repository-code: https://github.com/{owner}/{name}\n"],
        "pyproject.toml": ["https://{owner}.github.io/{name}/"],
        "notebooks/08_train_a_reformer.ipynb": [
            'the package alone: https://github.com/{owner}/{name}@{ref}\\")',
            "raw.githubusercontent.com/{owner}/{name}/{ref}/benchmarks/",
            "google.com/github/{owner}/{name}/blob/{ref}/notebooks/08_train_a_reformer.ipynb",
        ],
    }
    for name, links in expected.items():
        assert all(link.format(**FORK) in after[name].decode() for link in links), name
    assert run(clone, "{owner}/{name}".format(**HERE), HERE["ref"])[0] == 0
    assert contents(clone) == before


@in_a_clone
def test_without_a_ref_it_is_main_and_twice_is_once(clone):
    assert run(clone, "a-teacher/course")[0] == 0 and REPOSITORY["current"](clone)["ref"] == "main"
    assert run(clone, "a-teacher/course", "")[1] == ["Every link now names a-teacher/course at main."]


@pytest.mark.parametrize(
    "repo",
    ["", "course", "a/b/c", "https://github.com/a/b", "a/b.git", "a b/c", "-a/b", "a--b/c", "a/..", "a/b\n", "ä/b"],
)
def test_what_github_would_not_call_a_repository_is_refused(repo):
    code, printed, complaint = run(ROOT, repo)
    assert code == 1 and not printed
    assert complaint.startswith("REPO: expected owner/name") and complaint.rstrip().endswith(repr(repo))


@pytest.mark.parametrize("ref", ["-x", "a b", "a..b", "a//b", "a/", "x.lock", 'main"', "v1\n", "."])
def test_what_git_would_not_call_a_ref_is_refused(ref):
    code, printed, complaint = run(ROOT, "a/b", ref)
    assert code == 1 and not printed and complaint.startswith("REF: expected a branch")


def test_links_to_other_repositories_stay_as_they_are():
    old, new = {"owner": "me", "name": "course", "ref": "main"}, {"owner": "you", "name": "theirs", "ref": "v1"}
    for link in "github.com/me/course-2", "github.com/not-me/course", "github.com/me/course.js", "so.github.io/course/":
        assert REPOSITORY["rename"](f"https://{link} x", old, new) == f"https://{link} x"
    assert REPOSITORY["rename"]("(github.com/me/course).", old, new) == "(github.com/you/theirs)."
    assert REPOSITORY["rename"]("see github.com/me/course.", old, new) == "see github.com/you/theirs."


def test_outside_a_clone_it_says_so_and_changes_nothing(tmp_path):
    for name in ".github/repository.py", "pyproject.toml":
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    code, _, complaint = run(tmp_path, "a/b")
    assert code == 1 and complaint.startswith("expected a git clone")
    assert (tmp_path / "pyproject.toml").read_bytes() == (ROOT / "pyproject.toml").read_bytes()


@in_a_clone
@pytest.mark.slow
def test_the_line_in_the_notebooks_installs_the_package_and_nothing_else(clone, tmp_path_factory):
    pip = [sys.executable, "-m", "pip", "install", "--no-build-isolation"]
    pytest.importorskip("setuptools", minversion="77")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in ["checkout", "-q", "-B", HERE["ref"]], ["commit", "-q", "--no-verify", "-m", "as it is"]:
        subprocess.run([*git, *command], cwd=clone, check=True, env=plain_git())
    cell = (ROOT / "notebooks" / "03_lsh_hashing.ipynb").read_text(encoding="utf-8")
    options, source = re.search(r'%pip install (.*?) \\"(git\+\S+)\\"', cell).groups()
    target = tmp_path_factory.mktemp("target")
    instead = {  # git reads the copy in place of GitHub
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{clone.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://github.com/{owner}/{name}".format(**HERE),
    }
    command = [*pip, "--no-index", "--target", str(target), *options.split(), source]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env={**plain_git(), **instead})
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name.partition("-")[0] for path in target.iterdir()} == {"minireformer"}
    look = [sys.executable, "-c", "import minireformer; print(minireformer.__file__)"]
    found = subprocess.run(look, cwd=target, capture_output=True, encoding="utf-8")
    assert Path(found.stdout.strip()).is_relative_to(target)
