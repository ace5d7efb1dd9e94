"""What GitHub runs for us: only what you can run by hand, and nothing of a third party."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
WORKFLOWS = {path.name: yaml.safe_load(path.read_bytes()) for path in sorted(GITHUB.glob("workflows/*.yml"))}
JOBS = {f"{name} {key}": job for name, workflow in WORKFLOWS.items() for key, job in workflow["jobs"].items()}
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
START = (ROOT / "docs" / "start.md").read_text(encoding="utf-8")
PLAIN = dict(re.findall(r"^# (make .*)\n((?:python .*\n)+)", START, flags=re.MULTILINE))

each_job = pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)


def lines(text):
    """Commands, one a line, as the shell reads them: without what quotes and spaces may differ in."""
    return [" ".join(line.replace("'", "").replace('"', "").split()) for line in text.splitlines() if line.strip()]


def what_make_runs(target):
    """The commands that `make target` would run, if Python is called `python`, and nothing were installed yet."""
    if os.name != "posix" or shutil.which("make") is None:
        pytest.skip("needs make and a POSIX shell")
    command = ["make", "--no-print-directory", "-n", "PY=python", "PYTHON=python", "-W", "pyproject.toml"]
    dry = subprocess.run([*command, *target.split()], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    return lines(dry.stdout)


@pytest.mark.parametrize("target", PLAIN)
def test_the_commands_without_make_are_those_that_make_runs(target):
    made = what_make_runs(target.removeprefix("make ").partition(",")[0])
    for command in lines(PLAIN[target]):
        expected = made if "pytest" in command else [line[: len(command)] for line in made]
        expected += [line.partition("|| ")[2] for line in made]  # what is installed if it is missing
        assert command in expected, made


def test_there_are_commands_without_make_for_all_that_needs_no_special_machine():
    targets = {line.split()[1].strip(",") for line in PLAIN}
    listed = set(re.findall(r"^# make ([a-z-]+)", MAKEFILE, flags=re.MULTILINE))
    assert listed - targets == {"test-double", "gpu", "test-browser", "pdf", "bench", "parity", "workflows", "clean"}


@each_job
def test_a_job_runs_make_or_what_the_page_says_for_people_without_it(job):
    without_make = {line for commands in PLAIN.values() for line in lines(commands)}
    without_make |= set(lines(START[: START.index("# make lab")]))
    targets = re.search(r"^\.PHONY: (.*)$", MAKEFILE, flags=re.MULTILINE)[1].split()
    for command in lines("\n".join(step["run"] for step in job["steps"] if "run" in step)):
        if command.startswith("make "):
            assert command.split()[1] in targets
        else:
            assert command.replace("install --quiet", "install") in without_make


@each_job
def test_a_job_uses_only_githubs_own_actions_and_ends(job):
    for step in job["steps"]:
        assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/checkout@v5"))
    assert job["timeout-minutes"] <= 120


def test_tests_run_on_three_systems_from_the_oldest_python_that_we_support():
    systems = {}
    for job in WORKFLOWS["tests.yml"]["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {})
        for system in matrix.get("os", [job["runs-on"]]):
            systems.setdefault(system, set()).update(matrix.get("python", []))
    assert systems.keys() == {"ubuntu-latest", "macos-latest", "windows-latest"}
    (oldest,) = re.findall(r"version_info < \(3, (\d+)\)", MAKEFILE)
    supported = {found for kind in PROJECT["classifiers"] for found in re.findall(r"Python :: (3\.\d+)", kind)}
    for pythons in systems.values():
        assert min(pythons, key=lambda text: int(text.partition(".")[2])) == f"3.{oldest}"
        assert pythons == supported


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_may_read_the_repository_and_nothing_else_unless_it_publishes(name):
    assert WORKFLOWS[name]["permissions"] == {"contents": "read"}
    for key, job in WORKFLOWS[name]["jobs"].items():
        assert job.get("permissions", {}) == ({"pages": "write", "id-token": "write"} if key == "publish" else {})


@pytest.mark.parametrize(
    "schema, pattern",
    [
        ("github-workflows", "workflows/*.yml"),
        ("github-issue-forms", "ISSUE_TEMPLATE/*.yml"),
        ("dependabot", "dependabot.yml"),
        ("citation-file-format", "../CITATION.cff"),
    ],
)
def test_a_file_has_the_form_that_github_expects(schema, pattern):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *GITHUB.glob(pattern)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert run.returncode == 0, run.stdout + run.stderr


def test_dependabot_looks_after_actions_and_packages():
    updates = yaml.safe_load((GITHUB / "dependabot.yml").read_bytes())["updates"]
    assert {update["package-ecosystem"] for update in updates} == {"github-actions", "pip"}


def test_actionlint_finds_nothing():
    if shutil.which("actionlint") is None:
        pytest.skip("actionlint is not installed; `make workflows` installs it")
    run = subprocess.run(["actionlint", "-no-color"], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert run.returncode == 0, run.stdout + run.stderr
