"""The form in which notebooks are saved. That they run, and give what they show, is tested by nbval."""

import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
COURSE = sorted(FOLDER.glob("*.ipynb"))
SOLUTIONS = sorted(FOLDER.glob("solutions/*.ipynb"))

every_notebook = pytest.mark.parametrize("path", COURSE + SOLUTIONS, ids=lambda p: str(p.relative_to(FOLDER)))
every_lesson = pytest.mark.parametrize("path", COURSE, ids=lambda p: p.name)


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


def exercises(path):
    """The headings of a notebook's exercises."""
    text = "\n".join(cell["source"] for cell in load(path)[0] if cell["cell_type"] == "markdown")
    return re.findall(r"^#+ (Exercise .*)$", text, flags=re.MULTILINE)


@every_notebook
def test_it_is_saved_as_run_from_top_to_bottom(path):
    counts = [cell["execution_count"] for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))
    assert [out for cell in code_cells(path) for out in cell["outputs"] if out["output_type"] == "error"] == []


@every_notebook
def test_it_is_small_enough_to_be_shown_on_github(path):
    assert path.stat().st_size < 1_000_000
    assert "widgets" not in load(path)[1]
    assert len(code_cells(path)) <= 40


@every_notebook
def test_it_names_no_folder_of_the_machine_that_ran_it(path):
    assert re.findall(r"/(?:home|root|work|Users)/\S*", path.read_text(encoding="utf-8")) == []


@every_notebook
def test_every_figure_is_a_png_with_a_caption_under_it(path):
    cells, _ = load(path)
    for cell, below in zip(cells, [*cells[1:], None]):
        assert "image/svg+xml" not in mime_types(cell)
        if "image/png" in mime_types(cell):
            assert below and below["cell_type"] == "markdown", f"no caption under\n{cell['source']}"


@every_lesson
def test_its_first_cell_has_title_badge_goals_needs_and_minutes(path):
    assert re.fullmatch(r"\d\d_[a-z0-9_]+\.ipynb", path.name)
    first = load(path)[0][0]
    assert first["cell_type"] == "markdown" and first["source"].startswith("# ")
    badge = re.search(r"https://colab\.research\.google\.com/github/[^)\s]*/notebooks/([^)\s]*)", first["source"])
    assert badge and badge.group(1) == path.name
    for words in "you will be able to", "need to know", "minutes":
        assert words in first["source"].lower(), f"the first cell doesn't say: {words}"


@every_lesson
def test_on_colab_it_installs_the_package_and_leaves_numpy_and_cupy_alone(path):
    (set_up,) = [cell["source"] for cell in code_cells(path) if "google.colab" in cell["source"]]
    (install,) = re.findall(r".*pip.*install.*", set_up)
    assert "minireformer" in install and "numpy" not in install and "cupy" not in install


@every_lesson
def test_its_exercises_are_two_to_four_and_each_is_solved(path):
    assert 2 <= len(exercises(path)) <= 4
    assert exercises(FOLDER / "solutions" / path.name) == exercises(path)


def test_every_solution_belongs_to_a_lesson():
    assert {path.name for path in SOLUTIONS} == {path.name for path in COURSE}


def test_the_sections_that_teachers_are_sent_to_exist():
    named = re.findall(r'\| (\d\d), "([^"]*)" \|', (FOLDER / "teaching.md").read_text(encoding="utf-8"))
    assert len(named) >= 8
    for number, title in named:
        (path,) = FOLDER.glob(f"{number}_*.ipynb")
        text = "\n".join(cell["source"] for cell in load(path)[0] if cell["cell_type"] == "markdown")
        assert re.search(rf"^## (\d+\. )?{re.escape(title)}$", text, flags=re.MULTILINE), (number, title)


def test_the_readme_says_of_the_papers_claims_what_the_notebook_says():
    def claims(text):
        return re.findall(r"^\| .* \| (?:holds|holds in part|not seen) \| .* \|$", text, flags=re.MULTILINE)

    cells, _ = load(FOLDER / "12_do_the_claims_hold.ipynb")
    in_notebook = claims("\n".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown"))
    assert len(in_notebook) >= 10
    assert claims((FOLDER.parent / "README.md").read_text(encoding="utf-8")) == in_notebook


def test_the_row_on_full_attention_gives_the_recorded_differences():
    root = FOLDER.parent
    (row,) = re.findall(r"^\| LSH matches full attention .*", (root / "README.md").read_text("utf-8"), re.MULTILINE)
    runs = json.loads((root / "benchmarks" / "results" / "match_full.json").read_text())["runs"]["0"]
    pairs = ("LSH", "full"), ("local and LSH", "local and full")
    above = [f"{runs[one]['mean'] - runs[other]['mean']:+.3f}".replace("-", "−") for one, other in pairs]
    assert re.findall(r"[+−]\d\.\d+", row) == above
