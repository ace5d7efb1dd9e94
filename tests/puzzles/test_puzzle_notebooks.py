"""The notebooks of the ladder: a stub and a check for every rung; one unsolved, the other whole."""

import json

import pytest
from ladder import FOLDER, LESSON, NUMBERS, SOLUTION, cells

from minireformer.course.puzzles import LAST, RUNGS

pytestmark = pytest.mark.once


def test_every_rung_is_a_cell_with_a_stub_and_one_with_its_check():
    assert list(LESSON) == list(SOLUTION) == list(NUMBERS)
    for number in NUMBERS:
        (given, functions), (solved, same_functions) = LESSON[number], SOLUTION[number]
        assert functions == same_functions
        assert solved.startswith(given.partition("    raise NotImplementedError")[0].rstrip())
        assert number == LAST or RUNGS[number].name == functions[0]
        title = "LSH attention for one head" if number == LAST else RUNGS[number].title
        for path in ("puzzles.ipynb", "solutions/puzzles.ipynb"):
            assert f"### Rung {number}: {title}" in "\n".join(cells(path, "markdown"))


def test_the_saved_ladder_is_unsolved_and_its_solution_is_whole():
    for path, end in (("puzzles.ipynb", "not started"), ("solutions/puzzles.ipynb", "right. ")):
        saved = json.loads((FOLDER / path).read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(out.get("text", "")) for cell in saved for out in cell.get("outputs", []))
        for number in NUMBERS:
            assert f"Rung {number}: {end}" in text
        assert f"{0 if end == 'not started' else LAST} of {LAST} rungs" in text
