"""The pictures of the poster: the sixteen tokens in LSH attention, a reversible block, and feed-forward in chunks.

Lengths on the page are points of A3, from its top left corner. A picture of tokens has its own axes, in units of one
token, as in `cast.py`. Read next: `poster.py`.
"""

import math

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyArrowPatch, Patch
from matplotlib.text import Text

from minireformer.course import cast
from minireformer.hashing import sort_by_bucket

WIDTH, HEIGHT = 841.89, 1190.55  # of the page
HEADING, REMARK, SMALLEST, GREY = 11, 9.2, 8.55, "#444444"  # sizes of letters, in points of A3; colour of a remark
COURSE_UNIT = 21.6  # points of a token in the notebooks, for which `cast.py` chooses sizes of letters


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
        ("Chunk and\nlook back", "a chunk reads itself\nand the one before"),
        ("Merge", "what token P reads\nin two rounds"),
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
    ax.text(cut.mean(), rows[3] - 2.05, "one softmax over both rounds: one output for P", ha="center", fontsize=10.5)
    resize(ax, unit / COURSE_UNIT, SMALLEST)


def reversible_picture(figure, left, top):
    """A reversible block, forward and back."""
    labels = ("Reversible block", "forward stores no activations"), ("… and back", "recomputes x₂, then x₁")
    for x, back, (name, remark) in zip((left, left + 164), (False, True), labels):
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
            for shape in cast.rounded_box(x - 13, 65, 26, 22, 4), Circle((x, end), 7):
                shape.set(facecolor="white", edgecolor=colour, linewidth=1.5, zorder=3)
                ax.add_patch(shape)
            write(ax, x, 80, f"${name}$", 13, ha="center", zorder=4)
            write(ax, x, end + 4, sign, 11, ha="center", zorder=4)


def feed_forward_picture(figure, left, top):
    """The chunks of a sequence take turns in one hidden layer."""
    cut, current, width, height = cast.chunk_places(4), 1, 310, 130
    unit = width / (cut[-1] + 2.2)
    larger = COURSE_UNIT / unit  # `resize` undoes it
    ax = place(figure, left, top, width, height, (-1.5, cut[-1] + 0.7, -height / unit, 0))
    ax.text(-1.5, -10 / unit, "Feed-forward", fontsize=HEADING * larger, weight="bold")
    ax.text(-1.5, -22 / unit, "one chunk of positions at a time", fontsize=REMARK * larger, color=GREY)
    chunk, y, hidden, x = cut[4 * current : 4 * current + 4], -2.65, -4.9, -7.2
    cast.strip(ax, range(16), y, cut, faded=range(4 * current + 4, 16))
    cast.strip(ax, range(16), x, cut)
    for name, row in ("y", y), ("x", x):
        cast.chunk_boxes(ax, chunk, row)
        ax.text(-1.5, row, f"${name}$", fontsize=13 * larger, va="center_baseline")
    box = cast.rounded_box(chunk.mean() - 5.2, hidden - 0.55, 10.4, 1.1, 0.2)
    box.set(facecolor="white", edgecolor=cast.FORWARD, linewidth=1.5)
    ax.add_patch(box)
    look = {"fontsize": REMARK * larger, "ha": "center", "va": "center_baseline"}
    ax.text(chunk.mean(), hidden, "h and a of one chunk", **look)
    for start, end in ((x + 0.75, hidden - 0.6), (hidden + 0.55, y - 0.78)):
        cast.arrow(ax, [(chunk.mean(), start), (chunk.mean(), end)], cast.FORWARD, 1.5)
    resize(ax, unit / COURSE_UNIT, SMALLEST)


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
