"""The decks in slides/: what they refer to is in the notebooks, and they suit the meetings in notebooks/teaching.md."""

import importlib.util
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]
pytest.importorskip("nbconvert", reason="slides are made with nbconvert, which comes with JupyterLab")
found = importlib.util.spec_from_file_location("build_slides", ROOT / "slides" / "build.py")
build = importlib.util.module_from_spec(found)
found.loader.exec_module(build)

NUMBERS = sorted(path.stem for path in (ROOT / "slides").glob("*.md"))
TEACHING = (ROOT / "notebooks" / "teaching.md").read_text(encoding="utf-8")
MEASURED = re.compile(
    r"\bdots\b.*\b(lines?|curves?|formulas?|theory|predicted|bars)\b|\b(lines?|bars)\b.*\bdots\b", re.I
)


def meetings(heading):
    """The numbers of the notebooks in the tables below a heading of teaching.md."""
    section = re.search(rf"^## {heading}.*?(?=^## )", TEACHING, flags=re.MULTILINE | re.DOTALL).group()
    cells = [cell.strip() for row in re.findall(r"^\|.*\|$", section, flags=re.MULTILINE) for cell in row.split("|")]
    return {cell for cell in cells if re.fullmatch(r"\d\d[a-c]?", cell)}


def test_every_meeting_has_a_deck():
    assert set(build.WORKSHOP) == meetings("A workshop")
    assert "give 09 and 10 a meeting each" in TEACHING
    assert set(NUMBERS) == meetings("A course") | {"09", "10"}


@pytest.mark.parametrize("number", NUMBERS)
def test_what_a_deck_refers_to_is_in_its_notebook(number):
    notebook = build.Notebook(number)
    for slide in build.read(number):
        for kind, words in slide.parts:
            if kind in ("figure", "formula", "code", "printed", "explore"):
                assert getattr(notebook, kind)(words)
        shown = [line for kind, text in slide.parts if kind == "words" for line in text.splitlines()]
        assert not [line for line in shown if re.match(r"\w+: \S*$|Note:", line)], "a mistyped reference is words"


@pytest.mark.parametrize("number", NUMBERS)
def test_a_deck_has_12_to_20_slides_with_titles_and_notes(number):
    for workshop in [False, True][: 1 + (number in build.WORKSHOP)]:
        slides = build.read(number, workshop)
        assert 12 <= len(slides) <= 20
        assert all(slide.title and slide.notes and slide.parts for slide in slides)
        assert len({slide.title for slide in slides}) == len(slides)


@pytest.mark.parametrize("number", NUMBERS)
def test_students_guess_before_they_see_dots_beside_theory(number):
    notebook = build.Notebook(number)
    for slide in build.read(number):
        kinds = [kind for kind, _ in slide.parts]
        for kind, words in slide.parts:
            if kind == "figure" and MEASURED.search(notebook.figure(words)[1]):
                assert "guess" in kinds[: kinds.index("figure")], slide.title


def test_the_first_slide_has_the_title_of_the_notebook():
    for number in NUMBERS:
        assert f"# {build.read(number)[0].title}\n" in build.Notebook(number).sources[0]


def test_every_interactive_figure_is_live_in_some_deck_as_its_notebook_has_it():
    parts = [part for number in NUMBERS for slide in build.read(number) for part in slide.parts]
    assert {words for kind, words in parts if kind == "explore"} == build.explore.STILLS.keys()
    assert build.Notebook("05a").explore("tokens") == build.explore.explore("tokens", step=10, nRounds=1).html


NOWHERE = [(kind, "this is nowhere") for kind in ("figure", "formula", "code", "printed", "explore")]
SEVERAL = [(kind, "") for kind in ("figure", "formula", "code", "printed")]


@pytest.mark.parametrize("kind, words", NOWHERE + SEVERAL)
def test_a_reference_that_fits_nothing_or_several_things_is_an_error(kind, words):
    with pytest.raises(LookupError, match=r"03_lsh_hashing.ipynb: expected one .*; found (0|\d\d+)$"):
        getattr(build.Notebook("03"), kind)(words)


def test_what_has_to_be_installed_is_named_before_older_slides_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "OUT", tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"sphinx_revealjs is missing. This installs it: .*\.\[slides\]"):
        build.main()
    assert tmp_path.is_dir()


def test_the_workshop_leaves_out_the_slides_marked_course(tmp_path, monkeypatch):
    (tmp_path / "03.md").write_text(
        "---\n## One\nNote:\nHere.\n--- course\n## Two\nguess: Why?\nfigure: It\nNote:\nNow.\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(build, "SLIDES", tmp_path)
    assert [slide.title for slide in build.read("03", workshop=True)] == ["One"]
    assert build.read("03")[1].parts == [("guess", "Why?"), ("figure", "It")]
    (tmp_path / "03.md").write_text("--- curse\n## One\n", encoding="utf-8")
    with pytest.raises(ValueError, match="curse"):
        build.read("03")
