"""A teacher's tool: marks are those of the course's checks, whatever a student's file does."""

import csv
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
LESSON = NOTEBOOKS / "00_the_memory_wall.ipynb"

pytestmark = pytest.mark.once


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
    assert "A term is missing" in lines[12]
    assert all(": right. " in line for line in lines[1:12] + lines[13:])


GRADE = SimpleNamespace(**runpy.run_path(str(NOTEBOOKS / "grade.py")))


@pytest.mark.parametrize(
    "name", ["anne.ipynb", "05_anne.ipynb", "05z.ipynb", "99.ipynb", "puzzlesanne.ipynb", "x_03_12.ipynb", "1203.ipynb"]
)
def test_a_file_of_no_lesson_or_of_two_is_a_row_that_says_so(tmp_path, name):
    (tmp_path / name).write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="the number of one lesson"):
        GRADE.lesson_of(tmp_path / name)
    (row,) = GRADE.rows_of(tmp_path / name)
    assert row[0] == Path(name).stem and row[2] == "not marked" and "the number of one lesson" in row[3]


@pytest.mark.parametrize(
    "name, lesson, student",
    [
        ("03_anne.ipynb", "03", "anne"),
        ("05a_anne.ipynb", "05a", "anne"),
        ("anne_12345_03_lsh.ipynb", "03", "anne_12345"),
        ("annesmith_12345_67890_03_lsh_hashing-1.ipynb", "03", "annesmith_12345_67890"),
        ("Copy of 03_lsh_hashing_anne.ipynb", "03", "anne"),
        ("03_lsh_hashing - Anne Smith (2).ipynb", "03", "Anne Smith"),
        ("2026-11-12_anne_03_lsh_hashing.ipynb", "03", "2026-11-12_anne"),
        ("12_anne_03.ipynb", "12", "anne 03"),
        ("Copy of PUZZLES.ipynb", "puzzles", "a class"),
        ("anne_puzzles.ipynb", "puzzles", "anne"),
        ("03_lsh_hashing-Copy1.ipynb", "03", "a class"),
        ("anne smith_77_file/03_lsh_hashing.ipynb", "03", "anne smith_77_file"),
        ("anne/03_lsh_hashing/03_lsh_hashing.ipynb", "03", "anne"),
        ("Łucja Żak_77_assignsubmission_file_/03_lsh_hashing.ipynb", "03", "Łucja Żak_77"),
        ("Łucja Żak_77_assignsubmission_file_03_lsh_hashing.ipynb", "03", "Łucja Żak_77"),
        ("=anne()/03_lsh_hashing.ipynb", "03", "anne"),
    ],
)
def test_names_from_a_learning_platform_tell_the_lesson_and_the_student(tmp_path, name, lesson, student):
    path = tmp_path / "a class" / name
    found = GRADE.lesson_of(path)
    assert found.stem.partition("_")[0] == lesson
    assert GRADE.student_of(path, found) == student


def test_every_notebook_is_the_lesson_of_its_own_name():
    for path in NOTEBOOKS.glob("*.ipynb"):
        assert GRADE.lesson_of(path) == GRADE.lesson_of(Path("anne_" + path.name)) == path


def test_files_folders_patterns_and_several_names_in_one_text_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "one/03 a.ipynb", "one/b c/04.ipynb", "one/.ipynb_checkpoints/03.ipynb", "05a.ipynb", "one/x.txt":
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("", encoding="utf-8")
    all_in_one = [Path("one/03 a.ipynb"), Path("one/b c/04.ipynb")]
    for names, expected in [
        (["one"], all_in_one),
        (["one/03 a.ipynb"], all_in_one[:1]),
        (["one/*.ipynb"], all_in_one[:1]),
        (["one/b*/*.ipynb 05a.ipynb"], [all_in_one[1], Path("05a.ipynb")]),
        (["'one/03 a.ipynb' 05a.ipynb 05a.ipynb"], [all_in_one[0], Path("05a.ipynb")]),
        (["05a.ipynb", "one", "no.ipynb"], [Path("05a.ipynb"), *all_in_one, Path("no.ipynb")]),
    ]:
        assert GRADE.files(names) == expected


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cells": [{"cell_type": "co', '{"cells": 3, "nbformat": 4}', None])
def test_a_file_that_cannot_be_read_is_a_row_that_says_so(tmp_path, text):
    path = tmp_path / "00_anne.ipynb"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    ((student, exercise, result, why, file),) = GRADE.rows_of(path)
    assert (student, exercise, result, file) == ("anne", "", "not marked", str(path))
    assert 10 < len(why) <= 200


def test_a_notebook_under_the_number_of_another_is_not_marked_as_that(tmp_path):
    path = tmp_path / "00_anne.ipynb"
    shutil.copy(NOTEBOOKS / "01_backprop_by_hand.ipynb", path)
    (row,) = GRADE.rows_of(path)
    assert row[2] == "not marked" and row[3].startswith("its exercises are not those of 00_the_memory_wall")


def test_without_a_name_or_a_notebook_it_says_so(tmp_path):
    for name, status, said in ("", 2, "which files?"), (tmp_path, 2, "There is no notebook."):
        lines, code = graded(name)
        assert code == status and said in lines[-1]


def test_a_letter_that_a_redirected_screen_lacks_ends_nothing(tmp_path):
    (tmp_path / "■.ipynb").write_text("", encoding="utf-8")
    command = [sys.executable, NOTEBOOKS / "grade.py", tmp_path, "--table", tmp_path / "marks.csv"]
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    run = subprocess.run(command, capture_output=True, env=environment)
    assert "■.ipynb: not marked" in run.stdout.decode("utf-8") and run.returncode == 1
    assert "■" in (tmp_path / "marks.csv").read_text(encoding="utf-8-sig")


@pytest.mark.slow
def test_one_bad_file_costs_no_other_its_marks(tmp_path):
    """A lesson of which exercise 1 is solved, a kernel that ends, a loop without an end, and half a file."""
    notebook = nbformat.read(NOTEBOOKS / "solutions" / LESSON.name, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    first = next(n for n, cell in enumerate(code) if 'check("Exercise 1"' in cell.source)
    notebook.cells = code[: first + 1]
    folder = tmp_path / "handed in"
    folder.mkdir()
    for student, source in {
        "anne": "def longest_that_fits(config, batch, budget, step=64):\n    raise NotImplementedError",
        "bert": "import os\nos._exit(1)",
        "carl": "def longest_that_fits(config, batch, budget, step=64):\n    while True:\n        pass",
    }.items():
        handed_in = nbformat.v4.new_notebook(cells=[*notebook.cells, nbformat.v4.new_code_cell(source)])
        nbformat.write(handed_in, folder / f"{student} 00 (1).ipynb")
    text = (folder / "anne 00 (1).ipynb").read_text(encoding="utf-8")
    (folder / "00_dora.ipynb").write_text(text[: len(text) // 2], encoding="utf-8")
    lines, status = graded(folder, "--table", tmp_path / "marks.csv", "--timeout", "8")
    with open(tmp_path / "marks.csv", encoding="utf-8-sig", newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["student", "exercise", "result", "message", "file"] and status == 1
    results = {(row["student"], row["exercise"]): row["result"] for row in table}
    exercises = [f"00: Exercise {n}" for n in (1, 2, 3, 4)]
    assert [results["anne", name] for name in exercises] == ["right", "not solved", "wrong", "wrong"]
    assert [results["bert", name] for name in exercises] == ["right", "not run", "not run", "not run"]
    assert [results["carl", name] for name in exercises] == ["right", "not run", "wrong", "wrong"]
    assert results["dora", ""] == "not marked" and len(results) == len(table) == 13
    said = {(row["student"], row["exercise"]): row["message"] for row in table}
    assert said["carl", "00: Exercise 2"].endswith("it took more than 8 s")
    assert said["anne", "00: Exercise 3"].startswith("not right yet. `attention_by_rows` is not defined.")
    assert "4 files:" in lines and "  00: Exercise 1    3 right" in lines
    assert lines[-1].startswith("  not marked: 1, ") and lines[-1].endswith("00_dora.ipynb")
