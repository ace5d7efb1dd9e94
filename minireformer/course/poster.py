"""The poster: the Reformer in pictures, and every forward equation facing its gradient.

One page in two sizes: A3, and A4, which is A3 made smaller. Lengths are points of A3, from the top left corner of the
page; no letter is smaller than 6 points on A4. The equations are in `equations.py`, the sixteen tokens in `cast.py`.
Run `python -m minireformer.course.poster docs` to redraw `docs/poster_a3.svg`, `docs/poster_a3.pdf`, and both in A4.
"""

import math
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyArrowPatch, Patch, Rectangle
from matplotlib.text import Text

from minireformer.course import cast, equations, plots
from minireformer.course.equations import kind
from minireformer.hashing import sort_by_bucket

WIDTH, HEIGHT, LEFT, RIGHT = 841.89, 1190.55, 36, 805.89  # the page, and the edges of what is on it
COLUMN, GRADIENT = 375, 182  # the width of a column of equations, and where in it the gradients begin
EQUATION, HEADING, REMARK, NAME, SMALLEST = 12.25, 11, 9.2, 8.55, 8.55  # sizes of letters; an index has 0.7 of it
LINE, REMARK_LINE, NAME_LINE, HEAD, BETWEEN = 15.8, 13.2, 12.5, 21, 11  # heights, and the space between sections
TINT, GREY = "#FBF0E9", "#444444"
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
        write(page, LEFT - 1, 58, equations.TITLE, 27.5, weight="bold")
        write(page, RIGHT, 58, equations.CREDIT, REMARK, color=GREY, ha="right", linespacing=1.4)
        write(page, LEFT, 79, equations.SENTENCE, 11.3)
        write(page, LEFT, 94, equations.NOTATION, REMARK, color=GREY)
        attention_picture(figure, LEFT, 110, 436)
        reversible_picture(figure, 496, 110)
        feed_forward_picture(figure, 496, 238)
        for left, sections in zip((LEFT, RIGHT - COLUMN), equations.COLUMNS):
            column(page, left, 382, 1052, sections)
        costs(page, 1064)
        resize(figure, scale)
    return figure


def draw(folder):
    """Write the poster into `folder` as SVG and PDF, in A3 and A4: the same bytes from one day to the next."""
    for paper in ("a3", "a4"):
        figure = poster(paper)
        with plt.rc_context(STYLE):
            figure.savefig(Path(folder) / f"poster_{paper}.svg", metadata={"Date": None})
            figure.savefig(Path(folder) / f"poster_{paper}.pdf", metadata={"CreationDate": None})
        plt.close(figure)


def place(figure, left, top, width, height, units=None):
    """Axes without a frame on a part of the page: y points down, unless `units` says (left, right, bottom, top)."""
    ax = figure.add_axes((left / WIDTH, 1 - (top + height) / HEIGHT, width / WIDTH, height / HEIGHT))
    left, right, bottom, top = units or (0, width, height, 0)
    ax.set(xlim=(left, right), ylim=(bottom, top))
    ax.axis("off")
    return ax


def write(ax, x, y, text, size, **look):
    """Text on its baseline; an equation if it starts with a dollar sign."""
    if text.startswith("$"):
        text = text.replace("'", r"\mathrm{′}")  # a prime of the font is too small and too far away
    return ax.text(x, y, text, fontsize=size, **{"va": "baseline"} | look)


def resize(parent, scale, smallest=0.0):
    """Multiply sizes of letters, widths of lines and heads of arrows by `scale`. Letters keep the `smallest` size."""
    for artist in parent.findobj(lambda artist: isinstance(artist, (Text, Patch, Line2D))):
        if isinstance(artist, Text):
            artist.set_fontsize(max(smallest, artist.get_fontsize() * scale))
        else:
            artist.set_linewidth(artist.get_linewidth() * scale)
        if isinstance(artist, FancyArrowPatch):
            artist.set_mutation_scale(artist.get_mutation_scale() * scale)


def column(page, left, top, bottom, sections):
    """Sections of equations, one below the other, with as much space between rows as fills the column."""
    sections = [(title, equations.rows(text)) for title, text in sections]
    used = sum(HEAD + sum(map(row_height, table)) for _, table in sections) + BETWEEN * (len(sections) - 1)
    gap, y = (bottom - top - used) / sum(len(table) for _, table in sections), top
    for title, table in sections:
        height = HEAD + sum(row_height(row) + gap for row in table)
        rule(page, left, left + COLUMN, y)
        panel = Rectangle((left + GRADIENT - 7, y), COLUMN - GRADIENT + 7, height, color=TINT, linewidth=0)
        page.add_patch(panel)
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


def attention_picture(figure, left, top, width):
    """The sixteen tokens, from the hash to the merged rounds."""
    buckets = cast.hash_cast([50, 0])
    order, cut = sort_by_bucket(buckets), cast.chunk_places(4)
    x = np.arange(16) + (cut[-1] - 15) / 2
    edges, unit = (-5.9, cut[-1] + 0.75), width / (cut[-1] + 6.65)
    rows = (0.0, -3.5, -7.7, -11.1)
    ax = place(figure, left, top, width, 13.6 * unit, (*edges, -13.05, 0.55))
    labels = (
        ("Hash", "similar vectors get\nthe same bucket"),
        ("Sort", "by bucket, in order\nwithin a bucket"),
        ("Chunk and\nlook back", "each reads itself and\nthe chunk before it"),
        ("Merge", "what P reads in all\nrounds: one softmax"),
    )
    for y, label in zip(rows, labels):
        cast.row_label(ax, y, *label, left=edges[0])
    cast.strip(ax, range(16), rows[0], x)
    cast.bucket_tags(ax, buckets[0], rows[0], x)
    cast.sort_arrows(ax, order[0], rows[0] - 1.15, rows[1] + 0.68, x, x)
    cast.strip(ax, order[0], rows[1], x)
    cast.bucket_bands(ax, buckets[0][order[0]], rows[1], x)
    cast.strip(ax, order[0], rows[2], cut)
    cast.bucket_bands(ax, buckets[0][order[0]], rows[2], cut, label=False)
    cast.chunk_boxes(ax, cut, rows[2])
    cast.look_back_arcs(ax, cut, rows[2] + 0.76)
    me = cast.LETTERS.index("P")
    for r, slots in enumerate((cut[:8], cut[8:])):
        chunk = np.flatnonzero(order[r] == me)[0] // 4  # of P; here never the first of a round
        window = order[r, 4 * chunk - 4 : 4 * chunk + 4]
        cast.strip(ax, window, rows[3], slots, ring={me})
        cast.bucket_bands(ax, buckets[r][window], rows[3], slots, label=False)
        cast.chunk_boxes(ax, slots, rows[3])
        ax.text(slots.mean(), rows[3] + 1.0, f"round {r}", ha="center", fontsize=10.5)
        cast.arrow(ax, [(slots.mean(), rows[3] - 0.8), (slots.mean(), rows[3] - 1.5)], cast.FORWARD, 1.5)
    ax.text(cut.mean(), rows[3] - 2.05, "one softmax over both rounds: m, l and O of P", ha="center", fontsize=10.5)
    resize(ax, unit / 21.6, SMALLEST)


def reversible_picture(figure, left, top):
    """A reversible block, forward and back."""
    words = ("Reversible block", "forward stores no activations"), ("… and back", "recomputes x₂, then x₁")
    for x, back, (name, remark) in zip((left, left + 164), (False, True), words):
        ax = place(figure, x, top, 146, 120)
        colour, sign = (cast.BACKWARD, "−") if back else (cast.FORWARD, "+")
        write(ax, 0, 10, name, HEADING, weight="bold")
        write(ax, 0, 22, remark, REMARK, color=GREY)
        for y, name in ((46, "1"), (106, "2")):
            ends = [(20, y), (126, y)]
            cast.arrow(ax, ends[::-1] if back else ends, colour, 1.5)
            write(ax, 0, y + 4, f"$x_{name}$", 13)
            write(ax, 132, y + 4, f"$y_{name}$", 13)
        for x, name, start, end in ((50, "F", 106, 46), (96, "G", 46, 106)):
            cast.arrow(ax, [(x, start), (x, end + math.copysign(7, start - end))], colour, 1.5)
            box = cast.rounded_box(x - 13, 65, 26, 22, 4)
            circle = Circle((x, end), 7)
            for shape in box, circle:
                shape.set(facecolor="white", edgecolor=colour, linewidth=1.5, zorder=3)
                ax.add_patch(shape)
            write(ax, x, 80, f"${name}$", 13, ha="center", zorder=4)
            write(ax, x, end + 4, sign, 11, ha="center", zorder=4)


def feed_forward_picture(figure, left, top):
    """The chunks of a sequence take turns in one hidden layer."""
    cut, current, width, height = cast.chunk_places(4), 1, 310, 130
    unit = width / (cut[-1] + 2.2)
    ax = place(figure, left, top, width, height, (-1.5, cut[-1] + 0.7, -height / unit, 0))
    ax.text(-1.5, -10 / unit, "Feed-forward", fontsize=HEADING * 21.6 / unit, weight="bold")
    ax.text(-1.5, -22 / unit, "one chunk of positions at a time", fontsize=REMARK * 21.6 / unit, color=GREY)
    chunk, y, hidden, x = cut[4 * current : 4 * current + 4], -2.65, -4.9, -7.2
    cast.strip(ax, range(16), y, cut, faded=range(4 * current + 4, 16))
    cast.strip(ax, range(16), x, cut)
    for name, row in ("y", y), ("x", x):
        cast.chunk_boxes(ax, chunk, row)
        ax.text(-1.5, row, f"${name}$", fontsize=13 * 21.6 / unit, va="center_baseline")
    box = cast.rounded_box(chunk.mean() - 5.2, hidden - 0.55, 10.4, 1.1, 0.2)
    box.set(facecolor="white", edgecolor=cast.FORWARD, linewidth=1.5)
    ax.add_patch(box)
    ax.text(
        chunk.mean(), hidden, "h and a of one chunk", fontsize=REMARK * 21.6 / unit, ha="center", va="center_baseline"
    )
    for start, end in ((x + 0.75, hidden - 0.6), (hidden + 0.55, y - 0.78)):
        cast.arrow(ax, [(chunk.mean(), start), (chunk.mean(), end)], cast.FORWARD, 1.5)
    resize(ax, unit / 21.6, SMALLEST)


def costs(page, top):
    """A table of what a Transformer and the Reformer need: as formulas, and as numbers for a long sequence."""
    rule(page, LEFT, RIGHT, top)
    write(page, LEFT, top + 16, "What it costs", HEADING, weight="bold")
    for i, text in enumerate(equations.SIZES):
        write(page, LEFT, top + 33 + REMARK_LINE * i, text, REMARK, color=GREY)
    lines = [("", *("Transformer", "Reformer") * 2, "")]
    for name, usual, ours, *numbers in equations.COSTS:
        texts = (f"{n:,}" if "computed" in name else plots.human_bytes(4 * n) for n in numbers)
        lines.append((name, usual, ours, *texts, f"÷ {numbers[0] // numbers[1]:,}"))
    for i, line in enumerate(lines):
        for x, text in zip((262, 410, 500, 672, 744, RIGHT), line):
            size, side = EQUATION if text.startswith("$") else REMARK, "left" if x < 600 else "right"
            write(page, x, top + 16 + 12.9 * i, text, size, ha=side, weight="normal" if i else "bold")


def rule(page, left, right, y):
    """The line above a section."""
    page.plot([left, right], [y, y], color="black", linestyle="-", linewidth=1.6)


if __name__ == "__main__":
    draw(sys.argv[1])
