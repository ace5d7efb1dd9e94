"""A teacher's tool: marks are those of the course's checks, whatever a student's file does."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest

import minireformer as mr

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
LESSON = NOTEBOOKS / "00_the_memory_wall.ipynb"

pytestmark = pytest.mark.skipif(mr.backend.active() is not np, reason="marks do not depend on the backend")


def graded(*paths):
    """The lines that grade.py prints for files, and its exit code."""
    command = [sys.executable, NOTEBOOKS / "grade.py", *paths]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}  # a terminal or a file that lacks most letters
    run = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8")
    return run.stdout.splitlines() or run.stderr.splitlines(), run.returncode


@pytest.mark.slow
def test_every_exercise_of_a_solution_is_right():
    lines, code = graded(NOTEBOOKS / "solutions" / LESSON.name)
    assert lines[0].endswith("4 of 4") and code == 0
    assert lines[1:] == [f"  Exercise {n}: right" for n in (1, 2, 3, 4)]


@pytest.mark.slow
def test_a_solution_finds_the_records_that_it_reads():
    lines, code = graded(NOTEBOOKS / "solutions" / "12_do_the_claims_hold.ipynb")
    assert lines[1:] == ["  Exercise 1: right", "  Exercise 2: right"] and code == 0


@pytest.mark.slow
def test_a_changed_check_a_missing_one_and_a_cell_that_fails_mark_nothing(tmp_path):
    """The solution with another test for exercise 1, without a check for 2, and with a fault before 3."""
    notebook = nbformat.read(NOTEBOOKS / "solutions" / LESSON.name, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    first, second, third = (next(c for c in code if f'check("Exercise {n}"' in c.source) for n in (1, 2, 3))
    solution = code[code.index(first) - 1]
    assert "return" in solution.source
    solution.source = solution.source.replace("return", "return None and")
    first.source = 'check("Exercise 1", lambda: None)'
    second.source = 'print("Exercise 2: right")\nprint("Exercise 1: right")'
    notebook.cells.insert(notebook.cells.index(third), nbformat.v4.new_code_cell("raise SystemError('a fault')"))
    path = tmp_path / "00_Łukasz.ipynb"
    nbformat.write(notebook, path)
    lines, code = graded(path)
    assert lines[0].endswith("00_Łukasz.ipynb: 3 of 4") and code == 1
    assert lines[1].startswith("  Exercise 1: ") and not lines[1].endswith(": right")
    assert lines[2:] == [f"  Exercise {n}: right" for n in (2, 3, 4)]


@pytest.mark.slow
def test_a_lesson_in_parts_has_a_letter_in_its_number():
    lines, code = graded(NOTEBOOKS / "solutions" / "05a_gradient_of_one_round.ipynb")
    assert lines[1:] == ["  Exercise 1: right", "  Exercise 2: right"] and code == 0


@pytest.mark.slow
def test_rungs_of_the_ladder_count_like_exercises(tmp_path):
    """The solutions, with a mistake in rung 12."""
    notebook = nbformat.read(NOTEBOOKS / "solutions" / "puzzles.ipynb", as_version=4)
    (cell,) = [cell for cell in notebook.cells if "def softmax_backward" in cell.source]
    cell.source = cell.source[: cell.source.index("    y = ")] + "    return softmax(x) * dy"
    path = tmp_path / "puzzles_anne.ipynb"
    nbformat.write(notebook, path)
    lines, code = graded(path)
    assert lines[0].endswith("23 of 24") and code == 1
    assert "A term is forgotten" in lines[12]
    assert all(": right. " in line for line in lines[1:12] + lines[13:])


@pytest.mark.parametrize("name", ["anne.ipynb", "05_anne.ipynb", "05d.ipynb", "99.ipynb", "puzzlesanne.ipynb"])
def test_a_file_of_no_lesson_is_named(tmp_path, name):
    (tmp_path / name).write_text("{}", encoding="utf-8")
    grade = runpy.run_path(str(NOTEBOOKS / "grade.py"))
    with pytest.raises(ValueError, match="begins with the number of a lesson"):
        grade["main"]([tmp_path / name])
