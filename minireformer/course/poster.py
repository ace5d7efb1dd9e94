"""The poster: the Reformer in pictures, and every forward equation facing its gradient.

One page in two sizes: A3, and A4, which is A3 made smaller. Lengths are points of A3, from the top left corner of the
page; no letter is smaller than 6 points on A4. The words are in `equations.py`, the pictures in `poster_pictures.py`.
Run `python -m minireformer.course.poster docs` to redraw `docs/poster_a3.svg`, `docs/poster_a3.pdf`, and both in A4.
"""

import math
import sys
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.mathtext import MathTextParser
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from minireformer.course import cast, equations, plots
from minireformer.course.equations import kind
from minireformer.course.poster_pictures import (
    GREY,
    HEADING,
    HEIGHT,
    REMARK,
    WIDTH,
    attention_picture,
    feed_forward_picture,
    place,
    resize,
    reversible_picture,
    write,
)

LEFT, RIGHT = 36, 805.89  # edges of what is on the page
COLUMN, GRADIENT = 378, 184  # the width of a column of equations, and where in it the gradients begin
EQUATION, NAME = 12.25, 8.55  # sizes of letters; an index has 0.7 of it
LINE, REMARK_LINE, NAME_LINE, HEAD, BETWEEN = 15.8, 13.2, 12.5, 21, 11  # heights, and the space between sections
TINT = "#FBF0E9"  # behind gradients
STYLE = {"font.family": "DejaVu Sans", "mathtext.fontset": "stix", "svg.hashsalt": "minireformer", "pdf.fonttype": 42}


def poster(paper="a3"):
    """The poster as a figure, on `paper` "a3" or "a4". ValueError for any other paper."""
    if paper not in ("a3", "a4"):
        raise ValueError(f"paper: expected 'a3' or 'a4'; got {paper!r}")
    scale = 1 if paper == "a3" else math.sqrt(0.5)
    with plt.rc_context():
        plots.style()
        plt.rcParams.update(STYLE)
        figure = plt.figure(figsize=(WIDTH / 72 * scale, HEIGHT / 72 * scale))
        page = place(figure, 0, 0, WIDTH, HEIGHT)
        write(page, LEFT - 1, 52, equations.TITLE, 27.5, weight="bold")
        write(page, RIGHT, 52, equations.CREDIT, REMARK, color=GREY, ha="right", linespacing=1.4)
        write(page, LEFT, 70.5, equations.SENTENCE, 11.3)
        for i, text in enumerate(equations.NOTATION):
            write(page, LEFT, 84.5 + REMARK_LINE * i, text, REMARK, color=GREY)
        attention_picture(figure, LEFT, 110, 436)
        reversible_picture(figure, 496, 110)
        feed_forward_picture(figure, 496, 238)
        for left, sections in zip((LEFT, RIGHT - COLUMN), equations.COLUMNS):
            column(page, left, 382, 1048, sections)
        costs(page, 1060)
        resize(figure, scale)
    return figure


def draw(folder):
    """Write the poster into `folder` as SVG and PDF, in A3 and A4: the same bytes from one day to the next.

    The SVG's description has the words of the poster, for readers who cannot see it.
    """
    for paper in ("a3", "a4"):
        figure, path = poster(paper), Path(folder) / f"poster_{paper}"
        title = {"Title": equations.TITLE}
        with plt.rc_context(STYLE):
            about = {"Date": None, "Description": words(figure)}
            figure.savefig(path.with_suffix(".svg"), metadata=title | about)
            lower_equations(figure)
            figure.savefig(path.with_suffix(".pdf"), metadata=title | {"CreationDate": None})
        plt.close(figure)


def words(figure):
    """All texts of a figure, one below the other."""
    return "\n".join(text.get_text() for text in figure.findobj(Text) if text.get_text())


def lower_equations(figure):
    """In a PDF, matplotlib raises an equation by up to a point, to the next whole one: put it back on its line."""
    scale = figure.get_figwidth() * 72 / WIDTH
    for text in figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_text().startswith("$")):
        if text.get_verticalalignment() == "baseline":
            glyphs = MathTextParser("path").parse(text.get_text(), 72, text.get_fontproperties())[3]
            text.set_y(text.get_position()[1] + glyphs[0][-1] / scale)  # the first letter's height above the line


def column(page, left, top, bottom, sections):
    """Sections of equations, one below the other, with as much space between rows as fills the column."""
    sections = [(title, equations.rows(text)) for title, text in sections]
    used = sum(HEAD + sum(map(row_height, table)) for _, table in sections) + BETWEEN * (len(sections) - 1)
    gap, y = (bottom - top - used) / sum(len(table) for _, table in sections), top
    for title, table in sections:
        height = HEAD + sum(row_height(row) + gap for row in table)
        rule(page, left, left + COLUMN, y)
        page.add_patch(Rectangle((left + GRADIENT - 6, y), COLUMN - GRADIENT + 6, height, color=TINT, linewidth=0))
        write(page, left, y + 16, title, HEADING, weight="bold")
        write(page, left + GRADIENT, y + 16, "← gradient", HEADING, weight="bold", color=cast.BACKWARD)
        y += HEAD
        for row in table:
            draw_row(page, left, y + gap / 2, row)
            y += row_height(row) + gap
        y += BETWEEN


def line_height(line, first):
    """Names are on the first line of a row; a remark needs less room than an equation."""
    return NAME_LINE if first else LINE if "equation" in map(kind, line) else REMARK_LINE


def row_height(row):
    """The sum of its lines."""
    return sum(line_height(line, i == 0) for i, line in enumerate(row))


def draw_row(page, left, y, row):
    """Lines of a row, forward at the left and gradient at the right, each on the same baseline."""
    looks = {
        "equation": {"size": EQUATION},
        "function": {"size": NAME, "family": "DejaVu Sans Mono", "color": plots.COLOURS[0]},
        "remark": {"size": REMARK, "color": GREY},
    }
    for i, line in enumerate(row):
        y += line_height(line, i == 0)
        for x, text in zip((left, left + GRADIENT), line):
            if text:
                write(page, x, y - 4, text, gid=kind(text), **looks[kind(text)])


def costs(page, top):
    """A table of what a Transformer and the Reformer need: as formulas, and as numbers for a long sequence."""
    rule(page, LEFT, RIGHT, top)
    write(page, LEFT, top + 16, "What it costs", HEADING, weight="bold")
    for i, text in enumerate(equations.SIZES):
        write(page, LEFT, top + 33 + REMARK_LINE * i, text, REMARK, color=GREY)
    columns = {262: "left", 410: "left", 500: "left", 672: "right", 744: "right", RIGHT: "right"}
    heads = ("", *("Transformer", "Reformer") * 2)
    for (x, side), text in zip(columns.items(), heads):
        write(page, x, top + 14, text, REMARK, ha=side, weight="bold")
    for i, (name, usual, ours, *numbers) in enumerate(equations.COSTS):
        shown = [f"{n:,}" if "computed" in name else plots.human_bytes(4 * n) for n in numbers]
        line = (name, usual, ours, *shown, f"÷ {numbers[0] // numbers[1]:,}")
        for (x, side), text in zip(columns.items(), line):
            size = EQUATION if kind(text) == "equation" else REMARK
            write(page, x, top + 28.6 + 13.9 * i, text, size, ha=side)


def rule(page, left, right, y):
    """The line above a section."""
    page.plot([left, right], [y, y], color="black", linestyle="-", linewidth=1.6)


if __name__ == "__main__":
    draw(sys.argv[1])
