"""What a reader of a notebook sees first: folded cells, a picture, code about the Reformer, a map of the model."""

import re

import pytest

from test_notebooks import LESSONS, code_cells, each, every_first_page, load, mime_types

pytestmark = pytest.mark.once


def is_folded(cell):
    return cell["metadata"].get("jupyter", {}).get("source_hidden", False)


@every_first_page
def test_a_folded_cell_is_folded_in_jupyterlab_in_colab_and_in_the_book(path):
    folded = {"jupyter": {"source_hidden": True}, "tags": ["hide-input"], "cellView": "form"}
    for cell in code_cells(path):
        has_title = cell["source"].startswith("# @title ")  # what Colab shows in its place
        assert is_folded(cell) == has_title == (folded.items() <= cell["metadata"].items()), cell["source"][:80]
    assert is_folded(code_cells(path)[0])  # imports


@every_first_page
def test_a_picture_comes_within_its_first_150_words(path):
    words = 0
    for cell in load(path)[0]:
        if "image/png" in mime_types(cell):
            break
        words += len(cell["source"].split()) if cell["cell_type"] == "markdown" else 0
    assert words <= 155  # give or take a badge


@every_first_page
def test_at_most_a_fifth_of_the_code_that_a_reader_sees_draws(path):
    seen = [line for cell in code_cells(path) if not is_folded(cell) for line in cell["source"].splitlines() if line]
    draws = r"\b(plt|ax|axes|fig|plots|cast|journey|model_map)\b *[.(\[]|\.(set|text|annotate|legend|set_\w+)\("
    assert sum(bool(re.search(draws, line)) for line in seen) <= len(seen) / 5


@each([path for path in LESSONS if path.name < "09"])
def test_it_shows_where_in_the_model_it_is(path):
    assert any(re.search(r"\bmodel_map\(", cell["source"]) for cell in code_cells(path)[:4])
