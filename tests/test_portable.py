"""The project runs on Linux, macOS and Windows: its text is UTF-8, and what only some systems have is asked for first.

What a system lacks is taken away here, where that can be done without it. `test_backend.py` does so for the cores that
a process may use, `test_benchmarks.py` for /proc.
"""

import ast
import os
import runpy
from pathlib import Path

import pytest

import host_cuda

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]
FOLDERS = [folder for folder in ROOT.glob("[a-z]*/") if folder.name != "build"]
SCRIPTS = sorted([*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in folder.rglob("*.py"))])
NAMES = [path.relative_to(ROOT).as_posix() for path in SCRIPTS]
each_script = pytest.mark.parametrize("path", SCRIPTS, ids=NAMES)

PACKAGES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
CALLS = {
    "os": "fork forkpty getegid geteuid getgid getgroups getloadavg getpgid getuid killpg mkfifo nice pread pwrite "
    "sched_getaffinity sched_setaffinity setsid statvfs sysconf uname wait3 wait4".split(),
    "signal": "SIGALRM SIGCHLD SIGHUP SIGKILL SIGQUIT SIGSTOP SIGUSR1 SIGUSR2 alarm pause setitimer".split(),
}
ASKED_FOR_FIRST = {  # each with its test: see above, and below
    "benchmarks/machine.py": {"sched_getaffinity"},
    "minireformer/backend.py": {"sched_getaffinity"},
    "tests/browser/test_first_paint.py": {"getloadavg"},
    "tests/browser/test_lab.py": {"killpg"},
    "tests/test_makefile.py": {"geteuid"},
}


def calls(path):
    """-> (node, the name of what is called, the names of its keyword arguments) for every call in a script."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            yield node, name, {keyword.arg for keyword in node.keywords}


def reads_bytes(node):
    """Whether a call of `open` has a mode such as "rb"."""
    modes = [*node.args[1:2], *(keyword.value for keyword in node.keywords if keyword.arg == "mode")]
    return any(isinstance(mode, ast.Constant) and "b" in mode.value for mode in modes)


@each_script
def test_text_is_read_and_written_as_utf_8_everywhere(path):
    for node, name, given in calls(path):
        opens = name == "open" and isinstance(node.func, ast.Name) and not reads_bytes(node)
        talks = name in ("run", "Popen", "check_output") and given & {"text", "universal_newlines"}
        if opens or talks or name in ("read_text", "write_text"):
            assert "encoding" in given, f"line {node.lineno}: {ast.unparse(node)}"


@each_script
def test_what_only_some_systems_have_is_known(path):
    """A new one needs another way, or a message, and a test in which it is missing; then it may join the list."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & PACKAGES
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} & PACKAGES | {alias.name for alias in node.names} & {*CALLS.get(node.module, ())}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found |= {node.attr} & {*CALLS.get(node.value.id, ())}
    assert found == ASKED_FOR_FIRST.get(path.relative_to(ROOT).as_posix(), set())


@each_script
def test_what_a_script_prints_itself_is_ascii(path):
    """Into a file, Windows writes an older encoding, which may lack a letter; there, `print` would fail."""
    for node, name, _ in calls(path):
        if name == "print":
            assert ast.unparse(node).isascii(), f"line {node.lineno}: {ast.unparse(node)}"


def test_without_user_numbers_nobody_is_root(monkeypatch):
    monkeypatch.delattr(os, "geteuid", raising=False)
    assert runpy.run_path(str(ROOT / "tests" / "test_makefile.py"))["AS_ROOT"] == []


def test_without_process_groups_the_figure_is_not_tried_in_jupyterlab(monkeypatch):
    monkeypatch.delattr(os, "killpg", raising=False)
    assert runpy.run_path(str(ROOT / "tests" / "browser" / "test_lab.py"))["pytestmark"].args == (True,)


def test_without_a_load_average_the_first_paint_is_measured_all_the_same(monkeypatch):
    monkeypatch.delattr(os, "getloadavg", raising=False)
    monkeypatch.syspath_prepend(ROOT / "tests" / "browser")
    assert runpy.run_path(str(ROOT / "tests" / "browser" / "test_first_paint.py"))["load"]() == "load unknown"


def test_kernels_for_a_gpu_are_tried_on_the_host_where_it_can_switch_contexts(monkeypatch):
    monkeypatch.setattr(host_cuda.shutil, "which", lambda name: f"/bin/{name}")
    assert host_cuda.find_compiler("posix") and host_cuda.find_compiler("nt") is None
