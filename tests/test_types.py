"""Type hints: all that is public has them, a strict type checker accepts a program that uses it, and they are true."""

import importlib.util
import inspect
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import minireformer as mr

ROOT = Path(__file__).parents[1]
PROGRAM = ROOT / "tests" / "typed_user.py"

pytestmark = pytest.mark.once


def functions_of(name, thing):
    """-> (name, function) for a public function, or for all in a public class or module."""
    if inspect.isfunction(thing):
        yield name, inspect.unwrap(thing)
    elif isinstance(thing, property):
        yield name, thing.fget
    elif isinstance(thing, type):
        bases = [base for base in reversed(thing.__mro__) if base.__module__.startswith("minireformer.")]
        for part, method in {part: method for base in bases for part, method in vars(base).items()}.items():
            if part in ("__init__", "__call__") or not part.startswith("_"):
                yield from functions_of(f"{name}.{part}", getattr(method, "__func__", method))
    elif isinstance(thing, ModuleType):
        for part, value in vars(thing).items():
            if not part.startswith("_") and getattr(value, "__module__", None) == thing.__name__:
                yield from functions_of(f"{name}.{part}", value)


FUNCTIONS = dict(found for name in mr.__all__ for found in functions_of(name, getattr(mr, name)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_has_type_hints(name):
    signature = inspect.signature(FUNCTIONS[name])
    without = [
        p.name for p in signature.parameters.values() if p.annotation is p.empty and p.name not in ("self", "cls")
    ]
    assert not without and signature.return_annotation is not signature.empty, f"{name}: {without}, or what it returns"


def test_public_functions_are_found():
    expected = {"train", "Reformer.load", "Reformer.__call__", "Adam.step", "data.ByteCorpus.batch", "backend.use"}
    assert expected | {"memory.peak", "AttentionOptions.width"} <= FUNCTIONS.keys()


def test_a_strict_type_checker_is_content_with_a_program_that_uses_the_public_names():
    """And objects to each of the program's wrong lines. Arrays have no type of their own: see `backend.Array`."""
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    assert set(mr.__all__) <= set(re.findall(r"\bmr\.(\w+)", PROGRAM.read_text(encoding="utf-8")))
    options = ["--strict", "--follow-imports=silent", f"--cache-dir={os.devnull}", "--no-error-summary"]
    command = [sys.executable, "-m", "mypy", *options, str(PROGRAM)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_types_are_true_when_the_program_runs():
    runpy.run_path(str(PROGRAM))


def test_an_installed_package_says_that_it_has_type_hints():
    assert (Path(mr.__file__).parent / "py.typed").read_bytes() == b""
