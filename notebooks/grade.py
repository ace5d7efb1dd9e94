"""Mark what students handed in, and write a table: `make grade NOTEBOOK=handed_in TABLE=marks.csv`.

    python notebooks/grade.py handed_in "Copy of 03_anne.ipynb" --table marks.csv --timeout 60

Name files or folders. A file's name has to hold the number of its lesson ("03_anne", "anne_12345_03_lsh", "Copy of
05a_anne"), or "puzzles", whose rungs count like exercises. A file is run from top to bottom, with the checks of the
course in place of its own. A cell that fails or takes too long costs only its own exercise, and a file that can't be
marked is a row in the table. No file is changed. Exit code: 0 if every check says "right", 1 if one says something
else, 2 if there is nothing to mark.

This is against mistakes, not against cheating: a student's code can print what it likes. And it runs with your
permissions, so use a container for files from people you don't know (see teaching.md).
"""

import argparse
import collections
import csv
import glob
import re
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError

LESSONS = Path(__file__).parent
CHECK = re.compile(r'^check\("((?:Exercise|Rung) \d+)"', flags=re.MULTILINE)
RESULT = re.compile(r"^((?:Exercise|Rung) \d+): (.*)$", flags=re.MULTILINE)
PATIENCE = 300  # seconds per cell
COLUMNS = ("student", "exercise", "result", "message", "file")


def lesson_of(path):
    """The course's notebook that a name such as "Copy of 03_anne.ipynb" stands for; ValueError if that isn't clear.

    Of several numbers, that of "03_lsh" counts, with the title's first word; then one at the start of the name.
    """
    name, found = path.stem.lower(), []
    for lesson in LESSONS.glob("*.ipynb"):
        number, *words = lesson.stem.split("_")
        alone = rf"(?<![a-z0-9]){number}(?![a-z0-9])"
        ranks = rf"{alone}_{words[0]}" if words else alone, rf"^{alone}", alone
        found += [(rank, lesson) for rank, pattern in enumerate(ranks) if re.search(pattern, name)]
    best = {lesson for rank, lesson in found if rank == min(found)[0]}
    if len(best) != 1:
        example = "such as 03_anne.ipynb or anne_05a.ipynb, or puzzles"
        raise ValueError(f"{path.name}: expected a name with the number of one lesson, {example}")
    return best.pop()


def student_of(path, lesson):
    """What a file's name says beside its lesson ("anne_12345"); if it says nothing, the name of its folder."""
    number, *words = lesson.stem.split("_")
    name = re.sub(r"^copy of |[-_ ]*(copy ?\d*|\(\d+\)|-\d+)$", "", path.stem, flags=re.IGNORECASE)
    before, after = re.split(rf"(?<![a-z0-9]){number}(?![a-z0-9])", name, maxsplit=1, flags=re.IGNORECASE)
    after = " ".join(word for word in re.split(r"[_\s]+", after) if word.lower() not in words)
    folders = [folder.name for folder in path.resolve().parents if folder.name != lesson.stem]
    return next(filter(None, map(tidy, (before, after, *folders))))


def tidy(name):
    """Without what Moodle adds, and without signs at the start, which a spreadsheet could take for a formula."""
    return re.sub(r"^[\W_]+|(_assignsubmission_file)?[\W_]*$", "", name)


def files(names):
    """The notebooks that `names` stand for: files, folders, patterns, or several of these in one text, as from make."""
    found = []
    for name in names:
        several = re.findall(r"'[^']+'|\"[^\"]+\"|\S+", name)
        if Path(name).is_dir():
            inside = sorted(Path(name).rglob("*.ipynb"))
            found += [path for path in inside if ".ipynb_checkpoints" not in path.parts]
        elif Path(name).exists():
            found.append(Path(name))
        elif glob.glob(name):
            found += files(sorted(glob.glob(name)))
        elif several != [name]:
            found += files([part.strip("'\"") for part in several])
        else:
            found.append(Path(name))  # which will be a row that says so
    return list(dict.fromkeys(found))


def checks(notebook):
    """{"Exercise 1": the source of the cell with its check, ...}."""
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return {CHECK.search(source).group(1): source for source in cells if CHECK.search(source)}


def called(source):
    """The line of a cell that calls the check."""
    return source[CHECK.search(source).start() :].partition("\n")[0] if CHECK.search(source) else None


def run(notebook, folder, timeout):
    """Run a notebook from top to bottom; -> the cells that took too long. DeadKernelError if one ends the kernel."""
    late, too_late = [], {"ename": "TookTooLong", "evalue": "", "traceback": []}

    def executed(cell, cell_index, execute_reply):
        if (execute_reply or {}).get("content", {}).get("ename") == too_late["ename"]:
            late.append(cell)

    settings = {"timeout": timeout, "interrupt_on_timeout": True, "allow_errors": True, "kernel_name": "python3"}
    settings |= {"extra_arguments": ["--log-level=ERROR"]}  # a kernel warns of its own settings, once for every file
    settings |= {"error_on_timeout": too_late, "on_cell_executed": executed}
    NotebookClient(notebook, resources={"metadata": {"path": str(folder)}}, **settings).execute()
    return late


def grade(path, timeout=PATIENCE):
    """{"Exercise 1": "right", or what else the check says, ...} for a student's file; a right rung adds a sentence."""
    lesson = checks(nbformat.read(lesson_of(path), as_version=4))
    notebook = nbformat.read(path, as_version=4)
    theirs = checks(notebook)
    if theirs and not any(called(theirs[name]) == called(lesson.get(name, "")) for name in theirs):
        raise ValueError(f"its exercises are not those of {lesson_of(path).stem}: is the number in its name right?")
    for cell in notebook.cells:
        cell.metadata.pop("tags", None)  # a tag could hide an error
        if cell.cell_type == "code":
            cell.outputs = []  # a cell that never runs must not keep what it says
            found = CHECK.search(cell.source)
            cell.source = lesson.get(found.group(1), "") if found else cell.source
    handed_in = checks(notebook)
    notebook.cells += [nbformat.v4.new_code_cell(lesson[name]) for name in lesson if name not in handed_in]
    own = path.resolve().parent  # a solution finds records from its own folder; what is handed in, from its lesson's
    folder = own if LESSONS.resolve() in own.parents else LESSONS
    results, late = dict.fromkeys(lesson, "its check did not run"), []
    try:
        late = run(notebook, folder, timeout)
        if late:  # once in a while a kernel hangs through no fault of the student's
            late = run(notebook, folder, timeout)
    except DeadKernelError:
        results = dict.fromkeys(lesson, "its check did not run: a cell before it ended the kernel")
    for cell in notebook.cells:
        if cell.cell_type == "code" and CHECK.search(cell.source):
            name = CHECK.search(cell.source).group(1)
            text = "".join(output.get("text", "") for output in cell.outputs)
            stopped = [f"it stopped with {o.ename}: {o.evalue}" for o in cell.outputs if o.output_type == "error"]
            if cell in late:
                stopped = [f"it took more than {timeout} s"]
            if stopped:
                results[name] = f"its check did not end: {stopped[0]}"
            results |= {known: said for known, said in RESULT.findall(text) if known == name}
    return results


def result(said):
    """One word or two for what a check says."""
    words = {"right": "right", "not solved yet": "not solved", "not started": "not solved", "its check": "not run"}
    return next((word for start, word in words.items() if re.match(rf"{start}\b", said)), "wrong")


def rows_of(path, timeout=PATIENCE):
    """The rows of the table for a file: one for each check, or a single one that says why it can't be marked."""
    student = tidy(path.stem) or path.name
    try:
        lesson = lesson_of(path)
        student, number = student_of(path, lesson), lesson.stem.split("_")[0]
        said = grade(path, timeout)
        return [(student, f"{number}: {name}", result(text), text, str(path)) for name, text in said.items()]
    except nbformat.reader.NotJSONError:
        why = "this is no whole notebook: it is cut off, empty, or another kind of file"
    except ValueError as error:  # from here, or from nbformat
        why = str(error)
    except Exception as error:  # a file may hold anything, and the others still have to be marked
        why = f"{type(error).__name__}: {error}"
    return [(student, "", "not marked", " ".join(why.split())[:200], str(path))]


def summary(rows):
    """Lines that count the results of each exercise, and name the files that were not marked."""
    counts = collections.defaultdict(collections.Counter)
    for _, exercise, word, _, _ in rows:
        lesson, _, number = exercise.rpartition(" ")
        if exercise:
            counts[lesson, int(number)][word] += 1
    for (lesson, number), words in sorted(counts.items()):
        exercise = f"{lesson} {number}"
        yield f"  {exercise:17} " + ", ".join(f"{n} {word}" for word, n in words.most_common())
    lost = [row for row in rows if row[2] == "not marked"]
    if lost:
        yield f"  not marked: {len(lost)}, " + ", ".join(row[4] for row in lost)


def main(names, table=None, timeout=PATIENCE):
    """Print the result of every check of every file, and write the table; -> how many rows are not right."""
    rows, paths = [], files(names)
    if not paths:
        print("There is no notebook.", file=sys.stderr)
        sys.exit(2)
    for path in paths:
        own = rows_of(path, timeout)
        rows += own
        n_right = sum(word == "right" for _, _, word, _, _ in own)
        print(f"{path}: " + (f"{n_right} of {len(own)}" if own[0][1] else f"not marked. {own[0][3]}"))
        for _, exercise, _, said, _ in own:
            if exercise:
                print(f"  {exercise.partition(': ')[2]}: {said}", flush=True)
        if table:  # after every file: nothing is lost where a run is stopped
            with open(table, "w", newline="", encoding="utf-8-sig") as file:  # the mark tells Excel that it is UTF-8
                csv.writer(file).writerows([COLUMNS, *rows])
    if len(paths) > 1:
        print(f"\n{len(paths)} files:", *summary(rows), sep="\n")
    return sum(word != "right" for _, _, word, _, _ in rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NOTEBOOK", help="files or folders")
    parser.add_argument("--table", help="a CSV file to write: " + ", ".join(COLUMNS))
    parser.add_argument("--timeout", type=int, default=PATIENCE, help="seconds for a cell (%(default)s)")
    given = parser.parse_args()
    if not all(given.names):
        parser.error("which files? make grade NOTEBOOK=handed_in")
    sys.stdout.reconfigure(encoding="utf-8")  # redirected on Windows, it can't write every letter otherwise
    sys.exit(main(given.names, given.table, given.timeout) > 0)
