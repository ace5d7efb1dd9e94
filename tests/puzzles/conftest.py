"""What the tests of the ladder share: its checks, called with other answers."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

import matplotlib.pyplot as plt
from ladder import SOLUTION, replaced

from minireformer.course import puzzles
from minireformer.course.puzzles import check


@pytest.fixture(autouse=True)
def pictures(monkeypatch):
    """The figures that a check has shown; no rung is right at first."""
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf()))
    monkeypatch.setattr(puzzles, "_right", set())
    yield shown
    plt.close("all")


@pytest.fixture
def names():
    """The names that the solutions define."""
    names = {"np": np}
    for source, _ in SOLUTION.values():
        exec(source, names)
    return names


@pytest.fixture
def said(names, capsys):
    """`said(4, "return dy[index]")`: what the check of rung 4 says to this body of its last function."""

    def say(number, body=None):
        if body is not None:
            exec(replaced(number, body), names)
        check(f"Rung {number}", *(names[name] for name in SOLUTION[number][1]))
        return capsys.readouterr().out.strip()

    return say
