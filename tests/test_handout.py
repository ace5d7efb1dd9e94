"""What students and nbgrader are given: every exercise, no answer, and whatever a notebook reads."""

import ast
import csv
import functools
import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
LESSONS = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
LESSON = "02_attention_and_its_gradient"
CHECK = re.compile(r'^ *check\("(?:Exercise|Rung) \d+"', flags=re.MULTILINE)
REGION = re.compile(r"^( *)### BEGIN SOLUTION\n(.*?)### END SOLUTION", flags=re.MULTILINE | re.DOTALL)
each_lesson = pytest.mark.parametrize("name", LESSONS)

pytestmark = pytest.mark.once


def script(name):
    """The functions of a script that imports another one beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(NOTEBOOKS)
        return runpy.run_path(str(NOTEBOOKS / name))


@pytest.fixture(scope="module")
def handout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hand out")
    assert script("handout.py")["main"](folder) == len(LESSONS)
    return folder


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    folder = tmp_path_factory.mktemp("course")
    assert script("nbgrader_course.py")["main"](folder) == len(LESSONS)
    return folder


@functools.cache
def code(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def stubs_and_checks(path):
    """[(the cell before, the cell), ...] for each check."""
    cells = code(path)
    return [(before, cell) for before, cell in zip(cells, cells[1:]) if CHECK.search(cell.source)]


@each_lesson
def test_students_get_the_notebook_with_its_figures_and_without_the_outputs_of_exercises(handout, name):
    given, lesson = handout / "notebooks" / name, NOTEBOOKS / name
    assert [cell.source for cell in code(given)] == [cell.source for cell in code(lesson)]
    exercises = stubs_and_checks(given)
    assert exercises and all(not cell.outputs and cell.execution_count is None for pair in exercises for cell in pair)
    first = code(given).index(exercises[0][0])
    assert code(given)[:first] == code(lesson)[:first]
    assert any(cell.outputs for cell in code(given)[:first])


def test_nothing_in_it_leads_to_a_solution_or_to_a_file_that_is_not_there(handout):
    assert not list(handout.rglob("solutions")) and not list(handout.rglob("teaching.md"))
    for path in (handout / "notebooks").glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        assert "solutions/" not in text
        links = [link for link in re.findall(r"\]\(([^)\s#]+)", text) if "://" not in link]
        records = re.findall(r'recorded\("(.*?)"\)', "\n".join(cell.source for cell in code(path)))
        for needed in (*links, *(f"../benchmarks/{record}" for record in records)):
            assert (path.parent / needed).exists(), f"{path.name} needs {needed}"


def test_its_package_is_the_one_of_the_course_and_can_be_installed(handout):
    ours, theirs = (
        {
            path.relative_to(root): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }
        for root in (NOTEBOOKS.parent / "minireformer", handout / "minireformer")
    )
    assert ours == theirs
    for name in "pyproject.toml", "LICENSE", "README.md":
        assert (handout / name).stat().st_size


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("x", encoding="utf-8")
    new_folder = script("handout.py")["new_folder"]
    for arguments, said in (
        ([tmp_path], "not empty"),
        ([tmp_path / "mine"], "not empty"),
        ([""], "Where to?"),
        ([], "to?"),
    ):
        with pytest.raises(SystemExit, match=said):
            new_folder(arguments, "handout")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert new_folder([str(tmp_path / "a" / "b")], "handout").is_dir()


@each_lesson
def test_the_stub_is_what_nbgrader_leaves_where_it_cuts_the_answer_out(course, name):
    sources = stubs_and_checks(course / "source" / Path(name).stem / name)
    lessons = stubs_and_checks(NOTEBOOKS / name)
    assert len(sources) == len(lessons)
    for (answer, _), (stub, _) in zip(sources, lessons):
        assert REGION.sub(r"\1raise NotImplementedError", answer.source) == stub.source
        assert all(region.strip() for _, region in REGION.findall(answer.source))


def bodies(source):
    """{name: the statements of each function}, without docstrings."""
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    return {f.name: [ast.dump(node) for node in f.body[ast.get_docstring(f) is not None :]] for f in functions}


@each_lesson
def test_the_functions_of_nbgraders_source_are_those_of_the_solution(course, name):
    sources = stubs_and_checks(course / "source" / Path(name).stem / name)
    for (answer, _), (solution, _) in zip(sources, stubs_and_checks(NOTEBOOKS / "solutions" / name)):
        assert bodies(answer.source) == bodies(solution.source)


@each_lesson
def test_each_check_has_points_by_its_grade_and_is_locked(course, name):
    notebook = nbformat.read(course / "source" / Path(name).stem / name, as_version=4)
    points = [cell.metadata.nbgrader.points for _, cell in stubs_and_checks(course / "source" / Path(name).stem / name)]
    headings = re.findall(
        r"^### Exercise \d+.*\((.*)\)$", "\n".join(cell.source for cell in notebook.cells), flags=re.MULTILINE
    )
    by_grade = {"5 minutes": 1, "30 minutes": 3, "project": 6}
    assert points == ([1] * 24 if name == "puzzles.ipynb" else [by_grade[grade] for grade in headings])
    marks = [cell.metadata.nbgrader for cell in notebook.cells if "nbgrader" in cell.metadata]
    assert len({mark.grade_id for mark in marks}) == len(marks) == 2 * len(points)
    assert all(mark.grade == mark.locked == (not mark.solution) for mark in marks)


# What the commands of teaching.md leave in a clone

TEACHING = (NOTEBOOKS / "teaching.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(set(re.findall(r"(?:TO|NOTEBOOK|TABLE|mkdir -p) ?=?([\w.]+)", TEACHING))))
def test_git_and_the_formatter_leave_out_what_a_teacher_makes_and_collects(name):
    """A student's file must not be committed, and not be changed either."""
    path = name if "." in name else f"{name}/03_anne.ipynb"
    run = subprocess.run(["git", "check-ignore", "--quiet", path], cwd=NOTEBOOKS.parent, capture_output=True)
    if run.returncode == 128:
        pytest.skip("needs a git clone")
    assert run.returncode == 0


# nbgrader itself


def nbgrader(folder, *arguments):
    """What nbgrader says, and its exit code. It calls a program beside it, as in an environment that is active."""
    command = [sys.executable, "-m", "nbgrader", *arguments]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    run = subprocess.run(command, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, encoding="utf-8")
    return run.returncode, run.stdout + run.stderr


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("nbgrader") is None, reason="needs nbgrader: pip install '.[nbgrader]'")
def test_nbgrader_makes_marks_and_explains_a_solved_a_half_solved_and_a_broken_submission(course, tmp_path):
    shutil.copytree(course, tmp_path, dirs_exist_ok=True)
    source = stubs_and_checks(course / "source" / LESSON / f"{LESSON}.ipynb")
    status, said = nbgrader(tmp_path, "generate_assignment", LESSON)
    assert status == 0, said
    released = tmp_path / "release" / LESSON / f"{LESSON}.ipynb"
    assert [stub.source for stub, _ in stubs_and_checks(released)] == [
        stub.source for stub, _ in stubs_and_checks(NOTEBOOKS / f"{LESSON}.ipynb")
    ]

    for student, solved in ("solved", (0, 1, 2)), ("half", (0, 2)), ("broken", (0, 1, 2)):
        notebook = nbformat.read(released, as_version=4)
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        stubs = [before for before, cell in zip(cells, cells[1:]) if CHECK.search(cell.source)]
        for n in solved:
            stubs[n].source = source[n][0].source
        if student == "half":  # a changed check gains nothing
            cells[cells.index(stubs[1]) + 1].source = "print('Exercise 2: right')"
        folder = tmp_path / "submitted" / student / LESSON
        folder.mkdir(parents=True)
        text = nbformat.writes(notebook)
        (folder / f"{LESSON}.ipynb").write_text(
            text[: len(text) // 2] if student == "broken" else text, encoding="utf-8"
        )

    status, said = nbgrader(tmp_path, "autograde", LESSON)
    assert status != 0 and "broken" in said  # and the others are marked
    for command in ("generate_feedback", LESSON), ("export", "--to=marks.csv"):
        status, said = nbgrader(tmp_path, *command)
        assert status == 0, said
    with open(tmp_path / "marks.csv", encoding="utf-8-sig", newline="") as file:
        marks = {row["student_id"]: (float(row["score"]), float(row["max_score"])) for row in csv.DictReader(file)}
    assert marks["solved"] == (10, 10) and marks["half"] == (1 + 6, 10)
    assert marks.get("broken", (0, 10)) == (0, 10)
    page = (tmp_path / "feedback" / "half" / LESSON / f"{LESSON}.html").read_text(encoding="utf-8")
    assert "Exercise 2: not solved yet" in page and "Exercise 3: right" in page
