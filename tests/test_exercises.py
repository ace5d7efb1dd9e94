"""What a check says when something stops: whose code it was, and at which line."""

import contextlib
import linecache
import sys

import numpy as np
import pytest

from minireformer.course.exercises import check, marked

pytestmark = pytest.mark.once

GIVEN = """
def given(y):
    return y.sum() / 1

def given_around(f):
    return f(1.0)
"""
TEST = """
def test():
    y, cache = double(2.0)
    assert y == 4, f"expected 4, got {y}"
    assert given(np.asarray(y)) == 4, "the sum"
    assert given_around(lambda x: halve(x, cache)) == 0.5, "half of it"
"""
SOLVED = """
def double(x):
    return 2 * x, None

def halve(x, cache):
    return x / 2
"""
NO_RETURN = "not right yet. `double` never returns a value. Is there a `return`?"


@pytest.fixture
def run(capsys):
    """`run(solution, test=TEST)` -> what the check says in a notebook of three cells."""
    known = {"np": np}

    def cell(number, source):
        name = f"<a cell, {number}: {hash(source)}>"
        linecache.cache[name] = (len(source), None, source.splitlines(True), name)
        exec(compile(source, name, "exec"), known)

    def said(*solution, test=TEST):
        for number, source in enumerate((GIVEN, *solution, test)):
            cell(number, source)
        check("Exercise 1", known["test"])
        return capsys.readouterr().out.strip().removeprefix("Exercise 1: ")

    return said


@pytest.mark.parametrize(
    "old, new, expected",
    [
        ("return 2 * x, None", "raise NotImplementedError", "not solved yet"),
        ("", "", "right"),
        ("2 * x", "3 * x", "not right yet. expected 4, got 6.0"),
        (
            "return 2 * x, None",
            "z = 2 * x\n    return z + y, None",
            "your code stopped at line 4, `return z + y, None`, with NameError: name 'y' is not defined",
        ),
        ("x / 2", "np.ones(2) @ np.ones(3)", "your code stopped at line 6, `return np.ones(2) @ np.ones(3)`, with Val"),
        (
            "return x",
            "assert x == 3\n    return x",
            "your code stopped at line 6, `assert x == 3`, with AssertionError",
        ),
        (
            "return 2 * x, None",
            "2 * x",
            NO_RETURN + " The check stopped on what your code returned, with TypeError: can",
        ),
        ("return 2 * x, None", "if x:\n        return\n    x", NO_RETURN),
        ("return x / 2", "def inner():\n        return x", "not right yet. half of it `halve` never returns a value."),
        (
            "return 2 * x, None",
            "if x < 0:\n        return 2 * x, None",
            "not right yet. Does each function return what its docstring says? The check stopped on what your code",
        ),
        ("return 2 * x, None", "return 2 * x, None, None", "not right yet. Does each function return what its docstr"),
    ],
)
def test_a_check_tells_your_code_from_itself_and_names_your_line(run, old, new, expected):
    assert run(SOLVED.replace(old, new, 1)).startswith(expected)


def test_a_helper_that_is_given_is_not_your_code(run):
    assert run(SOLVED, test=TEST.replace("np.asarray(y)", "[y]")).startswith("not right yet. Does each function")


def test_a_function_that_is_not_there_is_named(run):
    assert run().startswith("not right yet. `double` is not defined. Did you run the cell")
    assert run(SOLVED.replace("halve", "half")).startswith("not right yet. `halve` is not defined.")


def test_your_code_may_be_run_again_and_its_helpers_too(run):
    """A name that is defined again keeps its place, so the solution stays the last that the test uses."""
    for _ in range(2):
        assert run(SOLVED).startswith("right")
        assert run(SOLVED.replace("x / 2", "x / 0")).startswith("your code stopped at line 6, `return x / 0`")


@pytest.mark.parametrize("said, fine", [("Exercise 1: right", True), ("Rung 1: right. Well done.", False), ("", False)])
def test_nbgrader_sees_an_error_where_a_check_is_not_right_and_no_warnings(capsys, said, fine):
    def block():
        with marked("Exercise 1"):
            print("A line.")
            print("A warning.", file=sys.stderr)
            print(said)

    with contextlib.nullcontext() if fine else pytest.raises(AssertionError, match="Exercise 1 is not right yet"):
        block()
    shown = capsys.readouterr()
    assert shown.out.startswith(f"A line.\nA warning.\n{said}") and not shown.err
