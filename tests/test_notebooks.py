"""The form in which notebooks are saved, and their start on Colab. That they run, and give what they show, is tested
by nbval."""

import ast
import base64
import importlib.util
import io
import json
import re
import runpy
import shlex
import statistics
import sys
import urllib.request
from pathlib import Path
from types import ModuleType, SimpleNamespace

import matplotlib
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from PIL import Image

import minireformer as mr

pytestmark = pytest.mark.once

FOLDER = Path(__file__).parents[1] / "notebooks"
HERE = runpy.run_path(str(FOLDER.parent / ".github" / "repository.py"))["current"]()
BENCHMARKS = FOLDER.parent / "benchmarks"
COURSE = sorted(FOLDER.glob("*.ipynb"))
PUZZLES = FOLDER / "puzzles.ipynb"  # a ladder of its own, with a cell and a check for each of its rungs
LESSONS = [path for path in COURSE if path != PUZZLES]
SOLUTIONS = sorted(FOLDER.glob("solutions/*.ipynb"))
FOR_COLAB = COURSE + [path for path in SOLUTIONS if "google.colab" in path.read_text(encoding="utf-8")]


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: str(path.relative_to(FOLDER)))


every_notebook, every_first_page, every_lesson = each(COURSE + SOLUTIONS), each(COURSE), each(LESSONS)
every_set_up = each(FOR_COLAB)


def load(path):
    """(cells, metadata) of a notebook; the source of a cell as one string, empty cells left out."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    return [cell for cell in notebook["cells"] if cell["source"].strip()], notebook["metadata"]


def code_cells(path):
    return [cell for cell in load(path)[0] if cell["cell_type"] == "code"]


def mime_types(cell):
    return {kind for output in cell.get("outputs", []) for kind in output.get("data", {})}


def markdown(path):
    return "\n".join(cell["source"] for cell in load(path)[0] if cell["cell_type"] == "markdown")


def syntax_tree(path):
    """All code of a notebook, its magics translated."""
    translate = TransformerManager().transform_cell
    return ast.parse("\n".join(translate(cell["source"]) for cell in code_cells(path)))


def exercises(path):
    """The headings of a notebook's exercises."""
    return re.findall(r"^#+ (Exercise .*)$", markdown(path), flags=re.MULTILINE)


def grades(path):
    """The grade of each exercise: "5 minutes", "30 minutes" or "project"; None where its heading names none."""
    found = (re.fullmatch(r"Exercise \d: .* \((5 minutes|30 minutes|project)\)", name) for name in exercises(path))
    return [match and match.group(1) for match in found]


def marks(path):
    """What the checks say in the saved notebook, in order: [("Exercise 1", "right"), ...]."""
    text = "\n".join("".join(out.get("text", "")) for cell in code_cells(path) for out in cell["outputs"])
    return re.findall(r"^(Exercise \d+): (.*)$", text, flags=re.MULTILINE)


@every_notebook
def test_it_is_saved_as_run_from_top_to_bottom(path):
    counts = [cell["execution_count"] for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))
    assert [out for cell in code_cells(path) for out in cell["outputs"] if out["output_type"] == "error"] == []


@every_notebook
def test_it_is_small_enough_to_be_shown_on_github(path):
    assert path.stat().st_size < 1_000_000
    assert "widgets" not in load(path)[1]
    assert len(code_cells(path)) <= (60 if path.name == PUZZLES.name else 40)


@every_notebook
def test_it_names_no_folder_of_the_machine_that_ran_it(path):
    assert re.findall(r"/(?:home|root|work|Users)/\S*", path.read_text(encoding="utf-8")) == []


NAMED_TUPLES = {"_asdict", "_fields", "_make", "_replace"}  # public, in spite of the underscore


@every_notebook
def test_it_uses_no_private_name_of_the_package(path):
    """Neither as an attribute, nor in an import, nor in the text, where a name is set as `code`."""
    code = " ".join(re.findall(r"`([^`\n]+)`", markdown(path)))
    names = re.findall(r"\b(_[a-z]\w*|_[A-Z_]+\b)", code)  # and not those in a text that a model has read
    for node in ast.walk(syntax_tree(path)):
        if isinstance(node, ast.Attribute):
            names.append(node.attr)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            dotted = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            names += [part for name in dotted for part in name.split(".")]
    private = {name for name in names if name.startswith("_") and name.strip("_") and not name.endswith("__")}
    assert private <= NAMED_TUPLES


@every_notebook
def test_it_shows_functions_of_the_package_whole(path):
    """`inspect.getsource` goes straight to `print`; only functions of the notebook's own may be taken apart."""

    def name(node):
        return getattr(node, "id", getattr(node, "attr", None))

    tree = syntax_tree(path)
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and name(node.func) in ("getsource", "getsourcelines"):
            if name(node.args[0]) in own and isinstance(node.args[0], ast.Name):
                continue
            goes_to = parents[node]
            while isinstance(goes_to, ast.Call) and name(goes_to.func) == "dedent":
                goes_to = parents[goes_to]
            assert isinstance(goes_to, ast.Call) and name(goes_to.func) in ("print", "display", "Code"), ast.unparse(
                node
            )
            assert name(node.func) == "getsource", "a list of lines is not readable"


@every_notebook
def test_every_figure_is_a_png_with_a_caption_under_it(path):
    cells, _ = load(path)
    for cell, below in zip(cells, [*cells[1:], None]):
        assert "image/svg+xml" not in mime_types(cell)
        if "image/png" in mime_types(cell):
            assert below and below["cell_type"] == "markdown", f"no caption under\n{cell['source']}"
            caption = re.match(r"\*(?!\*)(.+)\*$", below["source"], flags=re.MULTILINE)
            assert caption and len(caption[1]) >= 100, f"too little for who cannot see the figure:\n{below['source']}"


@every_notebook
def test_figures_have_an_opaque_white_page_of_their_own(path):
    for cell in code_cells(path):
        for output in cell["outputs"]:
            if "image/png" in output.get("data", {}):
                image = Image.open(io.BytesIO(base64.b64decode(output["data"]["image/png"])))
                assert "A" not in image.mode and "transparency" not in image.info
                assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


@every_first_page
def test_its_first_cell_has_title_badge_goals_needs_and_minutes(path):
    assert re.fullmatch(r"(\d\d[a-c]?_[a-z0-9_]+|puzzles)\.ipynb", path.name)
    first = load(path)[0][0]
    assert first["cell_type"] == "markdown" and first["source"].startswith("# ")
    badge = "https://colab.research.google.com/github/{owner}/{name}/blob/{ref}/notebooks/".format(**HERE)
    assert f"({badge}{path.name})" in first["source"]
    for words in "you will be able to", "need to know", "minutes":
        assert words in first["source"].lower(), f"the first cell doesn't say: {words}"


@every_lesson
def test_its_exercises_are_two_to_four_and_each_is_solved(path):
    assert 2 <= len(exercises(path)) <= 4
    assert exercises(FOLDER / "solutions" / path.name) == exercises(path)
    asked, solved = (
        [cell["source"].replace("](../", "](") for cell in load(at)[0] if cell["source"].startswith("### Exercise")]
        for at in (path, FOLDER / "solutions" / path.name)
    )
    assert solved == asked  # word for word


@every_lesson
def test_it_has_an_exercise_of_five_minutes_and_one_of_half_an_hour(path):
    assert None not in grades(path), f"an exercise without a grade in its title: {exercises(path)}"
    assert {"5 minutes", "30 minutes"} <= set(grades(path))


def test_most_lessons_have_a_project():
    assert 2 * sum("project" in grades(path) for path in LESSONS) > len(LESSONS)


@every_lesson
def test_every_exercise_has_a_check_that_waits_in_the_lesson_and_is_right_in_the_solution(path):
    names = [f"Exercise {n}" for n in range(1, len(exercises(path)) + 1)]
    assert [title.partition(":")[0] for title in exercises(path)] == names
    assert marks(path) == [(name, "not solved yet") for name in names]
    assert marks(FOLDER / "solutions" / path.name) == [(name, "right") for name in names]


@every_lesson
def test_it_names_the_lesson_that_comes_next(path):
    later = [other.name.partition("_")[0] for other in LESSONS if other.name > path.name]
    if later:
        assert re.search(rf"\b[Nn]otebook {later[0]}\b|\b{later[0]}_\w+\.ipynb\)", markdown(path))


def test_every_solution_belongs_to_a_lesson():
    assert {path.name for path in SOLUTIONS} == {path.name for path in COURSE}


def test_teachers_are_sent_to_notebooks_that_exist():
    rows = re.findall(r"^\| .* \|$", (FOLDER / "teaching.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    named = [cell for row in rows for cell in re.findall(r"(?<=\| )\d\d[a-z]?(?= \|)", row)]
    assert len(named) >= 20
    assert set(named) <= {path.name.partition("_")[0] for path in LESSONS}


def test_the_page_of_claims_says_what_the_notebook_says():
    def claims(text):
        return re.findall(r"^\| .* \| (?:holds|holds in part|not seen) \| .* \|$", text, flags=re.MULTILINE)

    in_notebook = claims(markdown(FOLDER / "12_do_the_claims_hold.ipynb"))
    assert len(in_notebook) >= 10
    assert claims((FOLDER.parent / "docs" / "claims.md").read_text(encoding="utf-8")) == in_notebook


def test_the_row_on_full_attention_gives_the_recorded_differences():
    page = (FOLDER.parent / "docs" / "claims.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| LSH matches full attention .*", page, re.MULTILINE)
    runs = json.loads((BENCHMARKS / "paper" / "results" / "match_full.json").read_bytes())["runs"].values()
    pairs = ("LSH", "full"), ("local and LSH", "local and full")
    apart = [statistics.mean(one[first]["mean"] - one[second]["mean"] for one in runs) for first, second in pairs]
    above = [f"{mean:+.3f}".replace("-", "−") for mean in apart]
    assert re.findall(r"[+−]\d\.\d+", row) == above


# Colab, where a notebook comes without its repository


@pytest.fixture
def set_up(monkeypatch, tmp_path):
    """`set_up(path, on_colab, installed)`: run a notebook's set-up cell -> its names, the lines of its `%pip`.

    The cell is translated by IPython, runs in an empty folder, and sees a Colab with or without the package.
    """
    find_spec, n_threads = importlib.util.find_spec, mr.backend.n_threads()

    def run(path, on_colab, installed):
        monkeypatch.chdir(tmp_path)
        monkeypatch.delitem(sys.modules, "google.colab", raising=False)
        if on_colab:
            monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
        hidden = set() if installed else {"minireformer"}
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in hidden else find_spec(name))
        lines = []
        shell = SimpleNamespace(run_line_magic=lambda magic, line: lines.append([magic, *shlex.split(line)]))
        names = {"get_ipython": lambda: shell}
        (source,) = [cell["source"] for cell in code_cells(path) if "google.colab" in cell["source"]]
        exec(TransformerManager().transform_cell(source), names)
        return names, lines

    with matplotlib.rc_context():
        yield run
    mr.backend.set_threads(n_threads)


@every_set_up
def test_on_colab_it_installs_the_package_alone_says_so_and_leaves_numpy_and_cupy_as_they_are(path, set_up, capsys):
    names, lines = set_up(path, on_colab=True, installed=False)
    source = "https://github.com/{owner}/{name}@{ref}".format(**HERE)
    assert lines == [["pip", "install", "--quiet", "--no-deps", f"git+{source}"]]
    said = capsys.readouterr().out.partition("\n")[0]
    assert said == f"Installing the package alone: {source}"
    assert names.get("mr", mr) is mr and names["np"]  # the imports below have run


@every_set_up
def test_where_the_package_is_there_and_outside_colab_it_installs_nothing(path, set_up):
    for on_colab, installed in (True, True), (False, True), (False, False):
        assert set_up(path, on_colab, installed)[1] == []


@each([path for path in FOR_COLAB if "urlopen" in path.read_text(encoding="utf-8")])
def test_on_colab_it_finds_every_recorded_result_that_it_shows(path, set_up, monkeypatch):
    folder = "https://raw.githubusercontent.com/{owner}/{name}/{ref}/benchmarks/".format(**HERE)
    monkeypatch.setattr(urllib.request, "urlopen", lambda url: (BENCHMARKS / url.removeprefix(folder)).open("rb"))
    names, _ = set_up(path, on_colab=True, installed=True)
    shown = re.findall(r'recorded\("(.*?)"\)', "\n".join(cell["source"] for cell in code_cells(path)))
    assert shown
    for name in shown:
        assert names["recorded"](name) == json.loads((BENCHMARKS / name).read_text(encoding="utf-8"))
