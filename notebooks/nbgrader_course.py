"""The course for nbgrader: `make nbgrader TO=course`, then `nbgrader generate_assignment 03_lsh_hashing` in there.

Every notebook is an assignment. In its source, each stub is filled in from the solutions, between the marks that
nbgrader cuts out, and each check is a locked cell with points: an exercise of five minutes has one, of half an hour
three, a project six, and a rung of the puzzles one. A check that doesn't say "right" raises an error there, which is
how nbgrader sees it.
"""

import ast
import re
import sys

import nbformat
from handout import EXERCISE, LESSONS, clear, copy, lessons, new_folder
from IPython.core.inputtransformer2 import TransformerManager

POINTS = {"5 minutes": 1, "30 minutes": 3, "project": 6}
CHECK = re.compile(r'^check\("((?:Exercise|Rung) (\d+))".*$', flags=re.MULTILINE)
RECORDS = ("benchmarks/*/results/*.json", "docs/claims.md")
CONFIG = """c = get_config()  # noqa: F821

c.CourseDirectory.course_id = "reformer"
c.ClearSolutions.code_stub = {"python": "raise NotImplementedError"}
c.Execute.timeout = 300  # seconds for a cell
"""


def tree_of(source):
    """The syntax tree of a cell, its magics translated."""
    return ast.parse(TransformerManager().transform_cell(source))


def functions(tree):
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def body(function, lines):
    """The lines of a function without its head and its docstring."""
    start = function.body[0].end_lineno if ast.get_docstring(function) is not None else function.body[0].lineno - 1
    return lines[start : function.end_lineno]


def filled(stub, solution, missing):
    """The cell of a stub with its solution between marks; what is in their place when they are cut out is the stub.

    `missing`: lines that the solution needs besides, such as imports. They go behind the first body, with helpers.
    """
    lines, solved = stub.splitlines(), solution.splitlines()
    ours, theirs = functions(tree_of(stub)), functions(tree_of(solution))
    extra = list(missing)
    for name, helper in theirs.items():
        if name not in ours:
            extra += ["", "", *solved[helper.lineno - 1 : helper.end_lineno]]
    for name, function in reversed(ours.items()):
        (*_, last) = function.body
        if not (isinstance(last, ast.Raise) and "NotImplementedError" in ast.unparse(last)):
            continue
        first = not any("NotImplementedError" in line for line in lines[: last.lineno - 1])
        given, answer = body(function, lines)[: last.lineno - last.end_lineno - 1], body(theirs[name], solved)
        if answer[: len(given)] == given:
            answer = answer[len(given) :]
        region = [*answer, *(extra if first else [])]
        lines[last.lineno - 1 : last.end_lineno] = ["    ### BEGIN SOLUTION", *region, "    ### END SOLUTION"]
    return "\n".join(lines)


def names_and_imports(notebook):
    """The names that a notebook's code imports or defines, and {name: the line that imports it}."""
    imports, defined = {}, set()
    for cell in notebook.cells:
        for node in ast.walk(tree_of(cell.source)) if cell.cell_type == "code" else ():
            if isinstance(node, ast.Import | ast.ImportFrom):
                for alias in node.names:
                    line = ast.unparse(type(node)(**vars(node) | {"names": [alias]}))
                    imports[alias.asname or alias.name.split(".")[0]] = line
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                defined.add(node.name)
    return defined | imports.keys(), imports


def with_answers(notebook, solutions):
    """The cells of a lesson as nbgrader's source: stubs filled in, checks with points, and marks for both."""
    answers, before = {}, None
    for cell in (cell for cell in solutions.cells if cell.cell_type == "code"):
        if CHECK.search(cell.source):
            answers[CHECK.search(cell.source).group(1)] = before
        before = cell.source
    known, (_, imports) = names_and_imports(notebook)[0], names_and_imports(solutions)
    title, stub = "", None
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and EXERCISE.search(cell.source):
            title = EXERCISE.search(cell.source).group()
        elif cell.cell_type == "code" and (check := CHECK.search(cell.source)):
            exercise = check.group(1)
            name = exercise.lower().replace(" ", "-")
            answer = answers[exercise]
            used = {node.id for node in ast.walk(tree_of(answer)) if isinstance(node, ast.Name)}
            stub.source = filled(stub.source, answer, [imports[n] for n in sorted(used & imports.keys() - known)])
            cell.source = CHECK.sub(rf'with marked("{exercise}"):\n    \g<0>', cell.source)
            cell.source = "from minireformer.course.exercises import marked\n\n" + cell.source
            points = next((n for grade, n in POINTS.items() if title.endswith(f"({grade})")), 1)
            marks = {"schema_version": 3, "task": False}
            stub.metadata["nbgrader"] = marks | {"grade_id": f"{name}-answer", "grade": False, "solution": True}
            stub.metadata["nbgrader"]["locked"] = False
            cell.metadata["nbgrader"] = marks | {"grade_id": name, "grade": True, "solution": False}
            cell.metadata["nbgrader"] |= {"locked": True, "points": points}
        stub = cell if cell.cell_type == "code" else stub
    clear(notebook.cells)


def main(folder):
    """Write the course; -> how many assignments it has."""
    (folder / "nbgrader_config.py").write_text(CONFIG, encoding="utf-8")
    for path, notebook in lessons():
        with_answers(notebook, nbformat.read(LESSONS / "solutions" / path.name, as_version=4))
        assignment = folder / "source" / path.stem
        assignment.mkdir(parents=True)
        text = nbformat.writes(notebook)
        if "benchmarks" in "".join(cell.source for cell in notebook.cells if cell.cell_type == "code"):
            copy(RECORDS, assignment)  # nbgrader moves an assignment about: what it reads has to be inside
            text = text.replace('Path(\\"..\\"', 'Path(\\".\\"')
        (assignment / path.name).write_text(text, encoding="utf-8")
    return len(lessons())


if __name__ == "__main__":
    to = new_folder(sys.argv[1:], "nbgrader")
    print(f"{to}: {main(to)} assignments. In there: nbgrader generate_assignment 03_lsh_hashing")
