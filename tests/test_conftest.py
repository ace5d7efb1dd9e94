"""The summary of `conftest.py`, tried on right and wrong gradients, and on parity, in a pytest of its own."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = """
import numpy
import pytest

x = numpy.random.default_rng(0).standard_normal((2, 3))


def square(x):
    return x**2, x


def right(dout, x):
    return 2 * x * dout


def almost_right(dout, x):
    return 2.00001 * x * dout


def not_a_number(dout, x):
    return x * dout * numpy.nan


def test_right(assert_gradients):
    assert_gradients((square, right), x)
    assert_gradients((square, right), x[:1], name="square of one row")


@pytest.mark.parametrize("n", [1, 2, 3])
def test_right_once_more(n, assert_gradients):
    assert_gradients((square, right), x[:, :n])


@pytest.mark.parametrize("n", [1, 2])
def test_like_another_library(n, record_property):
    record_property("parity", ("another library", None, n * 1e-7, 2e-9, 3e-3 / n))


@pytest.mark.parametrize("backward", [almost_right, not_a_number])
def test_wrong(backward, assert_gradients):
    assert_gradients((square, backward), x, name="a wrong one")
"""


@pytest.mark.slow
def test_wrong_gradients_fail_and_checks_of_every_process_are_counted(tmp_path):
    for name in ("conftest.py", "arrays.py"):  # the first imports the second
        shutil.copy(Path(__file__).with_name(name), tmp_path)
    (tmp_path / "test_checks.py").write_text(CHECKS, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-n", "2", "-p", "no:nbval", "-p", "no:cacheprovider"]
    run = subprocess.run([*command, "--rootdir", tmp_path, tmp_path], capture_output=True, encoding="utf-8")
    out = run.stdout
    assert "2 failed, 6 passed" in out, run.stderr
    assert "3 functions and layers checked" in out and ", 7 checks" in out
    assert "largest relative error inf (a wrong one)" in out
    (line,) = (line for line in out.splitlines() if line.startswith("another library"))
    assert line.split() == ["another", "library", "2", "-", "2.0e-07", "2.0e-09", "3.0e-03"]
