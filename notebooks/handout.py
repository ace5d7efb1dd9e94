"""Copy what students need into a new folder, without solutions: `make handout TO=handout`.

They get the notebooks, with the outputs of the exercises taken out, and what these need: the package, the recorded
results, and a README that says how to install it all. Read next: `grade.py`, for what comes back.
"""

import re
import shutil
import sys
from pathlib import Path

import nbformat

LESSONS = Path(__file__).parent
ROOT = LESSONS.parent
NEEDED = (
    *("LICENSE", "pyproject.toml", "reformer_in_one_file.py", "docs/claims.md"),
    *("minireformer/**/*", "benchmarks/*/results/*.json"),
)
EXERCISE = re.compile(r"^#+ (?:Exercise|Rung) (\d+)\b.*$", flags=re.MULTILINE)
SENTENCE = re.compile(r"^- Stuck\? [^.]*`solutions/[^`]*`\.\n| [^.]*`solutions/`\.", flags=re.MULTILINE)
README = """# The Reformer, in notebooks

You need Python 3.11 or newer. Open a terminal in this folder. On Linux and macOS, type:

```
python3 -m venv .venv
.venv/bin/python -m pip install --editable ".[notebooks]"
.venv/bin/python -m jupyter lab notebooks
```

On Windows:

```
py -m venv .venv
.venv\\Scripts\\python -m pip install --editable ".[notebooks]"
.venv\\Scripts\\python -m jupyter lab notebooks
```

The first two lines install everything, once, and take a few minutes. After that, you need only the third, and no
network.

Each notebook ends with exercises, and each exercise has a check that tells you what is wrong. Before you hand in a
notebook, choose "Restart Kernel and Run All Cells" in the menu, read what the checks say, and save. Keep the number in
its name: `03_anne.ipynb` is fine.
"""


def lessons():
    """[(path, notebook), ...]: the course in order, without the sentences that send readers to the solutions."""
    found = []
    for path in sorted(LESSONS.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = SENTENCE.sub("", cell.source)
        found.append((path, notebook))
    return found


def clear(cells):
    """Take the outputs out of these cells."""
    for cell in cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None


def copy(needed, folder):
    """Copy files of the repository to the same places in `folder`."""
    for pattern in needed:
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file() and "__pycache__" not in path.parts:
                target = folder / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)


def new_folder(arguments, command):
    """The folder that a command is to fill: the only argument, which must not hold anything yet."""
    if len(arguments) != 1 or not arguments[0]:
        sys.exit(f"Where to? Name a new folder: make {command} TO=folder")
    folder = Path(arguments[0])
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        sys.exit(f"{folder} is there already, and not empty. Name a new folder: nothing is overwritten.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def main(folder):
    """Write the handout; -> how many notebooks it has."""
    copy(NEEDED, folder)
    (folder / "README.md").write_text(README, encoding="utf-8")
    (folder / "notebooks").mkdir()
    found = lessons()
    for path, notebook in found:
        cells = notebook.cells
        first = next(n for n, cell in enumerate(cells) if cell.cell_type == "markdown" and EXERCISE.search(cell.source))
        clear(cells[first:])
        nbformat.write(notebook, folder / "notebooks" / path.name)
    return len(found)


if __name__ == "__main__":
    to = new_folder(sys.argv[1:], "handout")
    print(f"{to}: {main(to)} notebooks without solutions, and a README for your students")
