"""Mark a student's notebook: `make grade NOTEBOOK=handed_in/03_lsh_hashing.ipynb`.

    python notebooks/grade.py handed_in/*.ipynb

A file is run from top to bottom, with the checks of the course in place of its own, so that changing a check gains
nothing. Its name has to begin with the number of the lesson ("03", "03_anne" or "05a_anne" will do), or with "puzzles",
whose rungs count like exercises. A cell that fails or takes longer than five minutes costs only its own exercise. No
file is written. Exit code: 0 where every check says "right".

A student's code runs with your permissions: to mark files from people you don't know, use a container.
"""

import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

LESSONS = Path(__file__).parent
CHECK = re.compile(r'^check\("((?:Exercise|Rung) \d+)"', flags=re.MULTILINE)
RESULT = re.compile(r"^((?:Exercise|Rung) \d+): (.*)$", flags=re.MULTILINE)
PATIENCE = 300  # seconds per cell


def lesson_of(path):
    """The course's notebook whose name begins in the same way; ValueError if there is none."""
    start = re.match(r"(?:\d\d[a-c]?|puzzles)(?![a-z0-9])", path.name)
    lessons = [lesson for lesson in LESSONS.glob("*.ipynb") if start and lesson.stem.split("_")[0] == start.group()]
    if not lessons:
        example = "such as 03_anne.ipynb or 05a_anne.ipynb, or with puzzles"
        raise ValueError(f"{path}: expected a name that begins with the number of a lesson, {example}")
    return lessons[0]


def checks(notebook):
    """{"Exercise 1": the source of the cell with its check, ...}."""
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return {CHECK.search(source).group(1): source for source in cells if CHECK.search(source)}


def grade(path):
    """{"Exercise 1": "right", or what else the check says, ...} for a student's file; a right rung adds a sentence."""
    lesson = checks(nbformat.read(lesson_of(path), as_version=4))
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata.pop("tags", None)  # a tag could hide an error
        found = CHECK.search(cell.source) if cell.cell_type == "code" else None
        if found:
            cell.source = lesson.get(found.group(1), "")
    handed_in = checks(notebook)
    notebook.cells += [nbformat.v4.new_code_cell(lesson[name]) for name in lesson if name not in handed_in]
    settings = {"timeout": PATIENCE, "interrupt_on_timeout": True, "allow_errors": True, "kernel_name": "python3"}
    own = path.resolve().parent  # a solution finds records from its own folder; what is handed in, from its lesson's
    folder = own if LESSONS.resolve() in own.parents else LESSONS
    client = NotebookClient(notebook, resources={"metadata": {"path": str(folder)}}, **settings)
    client.execute()
    results = dict.fromkeys(lesson, "its check did not run")
    for cell in notebook.cells:
        if cell.cell_type == "code" and CHECK.search(cell.source):
            text = "".join(output.get("text", "") for output in cell.outputs)
            results |= {name: said for name, said in RESULT.findall(text) if cell.source == lesson[name]}
    return results


def main(paths):
    """Print the result of every check of every file; -> how many are not right."""
    n_wrong = 0
    for path in paths:
        results = grade(path)
        n_right = sum(said == "right" or said.startswith("right. ") for said in results.values())
        print(f"{path}: {n_right} of {len(results)}")
        for name, said in results.items():
            print(f"  {name}: {said}")
        n_wrong += len(results) - n_right
    return n_wrong


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.stdout.reconfigure(
        encoding="utf-8"
    )  # into a file, Windows would write another, which lacks the checks' letters
    try:
        sys.exit(main(list(map(Path, sys.argv[1:]))) > 0)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
