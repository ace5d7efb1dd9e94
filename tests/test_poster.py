"""The poster names functions that exist, its words fit on the page, and the files in docs are what the code draws."""

import importlib
import inspect
import io
import itertools
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

import matplotlib.pyplot as plt
from matplotlib.backends.backend_svg import RendererSVG
from matplotlib.mathtext import MathTextParser
from matplotlib.text import Text

from minireformer.course import equations, poster

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CORE = sorted((ROOT / "minireformer").glob("[a-z]*.py"))
INNER = {"attention_backward", "norm_rows_backward"}  # parts of functions that the poster names
SAME = {"full_attention_backward", "local_attention_backward"}  # as lsh_attention_backward: one kernel
TEXTS = [
    text
    for sections in equations.COLUMNS
    for _, section in sections
    for row in equations.rows(section)
    for line in row
    for text in line
]
NAMES = sorted({text for text in TEXTS if equations.kind(text) == "function"})


@pytest.fixture(scope="module", params=["a3", "a4"])
def drawn(request):
    """The name of a paper, the poster on it, and its texts with the boxes that they fill in the SVG, in points."""
    figure = poster.poster(request.param)
    figure.set_dpi(72)
    renderer = RendererSVG(*figure.bbox.size, io.StringIO())
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    with plt.rc_context(poster.STYLE):
        yield request.param, figure, [(text, text.get_window_extent(renderer)) for text in texts]
    plt.close(figure)


@pytest.mark.parametrize("name", NAMES)
def test_every_function_that_the_poster_names_exists(name):
    module, *attributes = name.split(".")
    found = importlib.import_module(f"minireformer.{module}")
    for attribute in attributes:
        found = getattr(found, attribute)
    assert callable(found)


def test_every_backward_function_of_the_core_is_on_the_poster():
    defined = set()
    for path in CORE:
        module = importlib.import_module(f"minireformer.{path.stem}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and re.fullmatch(r"[a-z]\w*_backward", name):
                defined.add(f"{path.stem}.{name}")
    left_out = {name for name in defined if name.partition(".")[2] in INNER | SAME}
    assert len(left_out) == len(INNER | SAME) and defined - left_out <= set(NAMES)


def test_every_forward_faces_its_backward():
    for _, section in itertools.chain(*equations.COLUMNS):
        for row in equations.rows(section):
            assert all(len(line) == 2 for line in row)
            forward, backward = row[0]
            assert equations.kind(forward) == "function"
            if backward in NAMES and backward.endswith("backward") and forward != "kernel.running_softmax":
                stem = forward.removesuffix(".forward")
                assert backward in (f"{stem}_backward", f"{stem}.backward")


def test_all_words_lie_within_the_page_and_none_overlap(drawn):
    paper, figure, boxes = drawn
    margin = 28 if paper == "a3" else 20  # points: 7 mm on A4, where printers can print
    page = figure.bbox.padded(-margin)
    for text, box in boxes:
        assert page.containsx(box.x0) and page.containsx(box.x1), text
        assert page.containsy(box.y0) and page.containsy(box.y1), text
    for (text, box), (other, other_box) in itertools.combinations(boxes, 2):
        assert not box.overlaps(other_box), f"{text.get_text()!r} overlaps {other.get_text()!r}"


def test_words_stay_on_their_side_of_a_column(drawn):
    _, figure, boxes = drawn
    scale = figure.bbox.width / poster.WIDTH
    middles = [(left + poster.GRADIENT) * scale for left in (poster.LEFT, poster.RIGHT - poster.COLUMN)]
    found = 0
    for text, box in boxes:
        if text.get_gid() in ("equation", "function", "remark"):
            found += 1
            assert not any(box.x0 < middle - 1 and box.x1 > middle - 6 * scale for middle in middles), text
            assert box.x1 <= poster.RIGHT * scale, text
    assert found == sum(map(bool, TEXTS))


def test_no_letter_is_smaller_than_six_points(drawn):
    for text, _ in drawn[2]:
        sizes = [text.get_fontsize()]
        if "$" in text.get_text():
            glyphs = MathTextParser("path").parse(text.get_text(), 72, text.get_fontproperties())[3]
            sizes += [glyph[1] for glyph in glyphs]
        assert min(sizes) >= 6, f"{text.get_text()!r}: {min(sizes):.2f}"


@pytest.fixture(scope="module")
def redrawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("poster")
    poster.draw(folder)
    return folder


@pytest.mark.parametrize("paper", ["a3", "a4"])
def test_the_files_in_docs_are_what_the_code_draws(redrawn, paper):
    """The same words, and with the matplotlib that drew the files, the same drawing, without a date.

    Another version lays out letters a little differently, and another processor rounds differently.
    """
    kept, now = ((folder / f"poster_{paper}.svg").read_text(encoding="utf-8") for folder in (DOCS, redrawn))
    words, version = (rf"<dc:{name}>(.*?)</dc:{name}>" for name in ("description", "creator"))
    assert re.findall(words, kept, re.DOTALL) == re.findall(words, now, re.DOTALL) != []
    if re.findall(version, kept, re.DOTALL) == re.findall(version, now, re.DOTALL):
        number = r"-?\d+\.\d+"
        assert re.split(number, kept) == re.split(number, now)
        np.testing.assert_allclose(*(np.array(re.findall(number, svg), float) for svg in (kept, now)), atol=1e-3)
    for suffix in ("svg", "pdf"):
        data = (DOCS / f"poster_{paper}.{suffix}").read_bytes()
        assert len(data) < 700_000 and b"dc:date" not in data and b"CreationDate" not in data


def test_an_unknown_paper_is_named():
    with pytest.raises(ValueError, match="paper: expected 'a3' or 'a4'; got 'a5'"):
        poster.poster("a5")
