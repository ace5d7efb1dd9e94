"""What `conftest.py` adds, in a pytest of its own: its summary of right and wrong gradients, and the mark `once`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

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


ONCE = """
import pytest
from minireformer import backend


@pytest.mark.once
def test_words():
    assert backend.active().__name__ == "numpy"


def test_arrays():
    pass
"""


@pytest.fixture
def pytest_run(tmp_path):
    """`pytest_run(source, *options, **variables)` -> what pytest prints about tests with this conftest."""

    def run(source, *options, **variables):
        for name in ("conftest.py", "arrays.py"):  # the first imports the second
            shutil.copy(Path(__file__).with_name(name), tmp_path)
        (tmp_path / "test_checks.py").write_text(source, encoding="utf-8")
        command = [sys.executable, "-m", "pytest", *options, "-p", "no:nbval", "-p", "no:cacheprovider"]
        command += ["--rootdir", tmp_path, tmp_path]
        done = subprocess.run(command, env=os.environ | variables, capture_output=True, encoding="utf-8")
        return done.stdout + done.stderr

    return run


@pytest.mark.slow
def test_a_test_about_no_array_runs_on_numpy_alone(pytest_run):
    double = Path(__file__).parent / "double"
    path = os.pathsep.join(filter(None, [str(double), str(double.parents[1]), os.environ.get("PYTHONPATH")]))
    options = "-W", "ignore::pytest.PytestUnknownMarkWarning"
    assert "2 passed" in pytest_run(ONCE, *options, PYTHONPATH=path, MINIREFORMER_BACKEND="numpy")
    on_double = pytest_run(ONCE, *options, "-n", "1", PYTHONPATH=path, MINIREFORMER_BACKEND="cupy")
    assert "1 passed" in on_double and "failed" not in on_double, on_double


@pytest.mark.slow
def test_wrong_gradients_fail_and_checks_of_every_process_are_counted(pytest_run):
    out = pytest_run(CHECKS, "-n", "2")
    assert "2 failed, 6 passed" in out
    assert "3 functions and layers checked" in out and ", 7 checks" in out
    assert "largest relative error inf (a wrong one)" in out
    (line,) = (line for line in out.splitlines() if line.startswith("another library"))
    assert line.split() == ["another", "library", "2", "-", "2.0e-07", "2.0e-09", "3.0e-03"]
