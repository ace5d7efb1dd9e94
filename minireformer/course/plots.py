"""The figures of the course, as functions of plain NumPy arrays: call them on your own model's numbers.

The colours are Okabe and Ito's, which colour-blind readers can tell apart. Colour is never the only difference: lines
also differ in their dashes, and dots in their shapes. This module needs matplotlib, so nothing in the package
imports it.
"""

import itertools
import math
import sys

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap, PowerNorm, to_rgb
from matplotlib.patches import Rectangle, Wedge

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
BUCKET_HUES = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#0072B2", "#777777")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
PAPER = ("figure.facecolor", "axes.facecolor", "savefig.facecolor")
INK = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")


def style():
    """Make matplotlib draw in the style of the course. Call this once, in a notebook's set-up cell.

    Figures are black on opaque white, whatever style you chose before: legible in print and on a dark page. In a
    notebook they have twice as many pixels as they take on the page, so that they are sharp on today's screens.
    """
    if in_notebook():
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("retina")
    plt.rcParams.update(
        {
            "axes.prop_cycle": plt.cycler(color=COLOURS, linestyle=DASHES),
            "axes.grid": True,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlelocation": "left",
            "axes.titlesize": "medium",
            "figure.dpi": 90,  # letters on the page are as large as the text around them
            "font.size": 11,
            "grid.alpha": 0.3,
            "grid.color": "#b0b0b0",
            "image.cmap": "viridis",
            "legend.frameon": False,
            "savefig.dpi": 200,
        }
        | dict.fromkeys(PAPER, "white")
        | dict.fromkeys(INK, "black")
    )


def in_notebook():
    """Whether this runs in a Jupyter kernel, which shows figures in the page."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def theory_and_dots(ax, x, theory, measured_x, measured, label, index=0):
    """A curve from a formula, and measured dots to compare with it, in the `index`-th colour and shape."""
    colour, dashes, marker = (looks[index % len(looks)] for looks in (COLOURS, DASHES, MARKERS))
    ax.plot(x, theory, color=colour, linestyle=dashes, label=label)
    ax.plot(measured_x, measured, marker, color=colour, markersize=6)


def bucket_circle(ax, angles, buckets, n_buckets, radius=1.0):
    """The circle, cut into sectors: `buckets` (T,) of the directions at `angles` (T,), which rise from 0 to 2 pi.

    Each sector has the colour of its bucket, and the bucket's number is written outside.
    """
    first = np.flatnonzero(buckets != np.roll(buckets, 1))  # of each sector
    starts, ends = angles[first], np.roll(angles[first], -1)
    ends[-1:] += 2 * math.pi  # the last sector goes on past angle 0
    for bucket, start, end in zip(buckets[first], starts, ends):
        colour = bucket_colour(bucket, n_buckets)
        look = {"facecolor": colour, "edgecolor": "white", "linewidth": 2}
        ax.add_patch(Wedge((0, 0), radius, math.degrees(start), math.degrees(end), **look))
        x, y = radius * math.cos((start + end) / 2), radius * math.sin((start + end) / 2)
        ax.text(1.13 * x, 1.13 * y, str(bucket), ha="center", va="center", fontsize=10)
    ax.set(xlim=(-1.25 * radius, 1.25 * radius), ylim=(-1.25 * radius, 1.25 * radius), aspect="equal")
    ax.axis("off")


def bucket_map(ax, longitudes, latitudes, buckets, n_buckets):
    """A map of the sphere's directions: `buckets` (latitudes, longitudes) on a grid in radians.

    `ax` needs the projection "mollweide", which keeps areas true. Each region has an outline and shows its number.
    """
    ax.grid(False)
    colours = ListedColormap([bucket_colour(bucket, n_buckets) for bucket in range(n_buckets)])
    look = {"vmin": -0.5, "vmax": n_buckets - 0.5, "cmap": colours, "rasterized": True}
    ax.pcolormesh(longitudes, latitudes, buckets, **look)
    lon, lat = np.meshgrid(longitudes, latitudes)
    points = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    for bucket in np.unique(buckets):
        inside = buckets == bucket
        ax.contour(longitudes, latitudes, inside, levels=[0.5], colors="black", linewidths=0.8, linestyles="-")
        x, y, z = (points * (inside * np.cos(lat))).sum(axis=(1, 2))  # the middle of a convex region lies in it
        longitude = min(max(math.atan2(y, x), -2.8), 2.8)  # not across the map's edge
        ax.text(longitude, math.atan2(z, math.hypot(x, y)), str(bucket), ha="center", va="center")
    ax.set(xticklabels=[], yticklabels=[])


def bucket_colour(bucket, n_buckets):
    """The colour of a bucket: pale, so that black is legible on it, and in no order, because buckets have none.

    There are eight hues. If `n_buckets` is above eight, the next eight are a stronger shade of the same hues;
    after that they repeat, so write the number beside them.
    """
    shade = 0.62 if bucket // len(BUCKET_HUES) % 2 else 0.36
    hue = np.array(to_rgb(BUCKET_HUES[bucket % len(BUCKET_HUES)]))
    return (*(1 - shade * (1 - hue)).tolist(), 1.0)


def attention_map(ax, weights, order=None, buckets=None, n_buckets=None, vmax=None):
    """Attention weights (T, T) as a picture, brighter where larger: a row for each query, a column for each key.

    Tokens appear in the order of the text, or in that of `order` (T), such as a round of `hashing.sort_by_bucket`.
    With `buckets` (T), numbers below `n_buckets`, each bucket becomes a strip along the top and the left side, with
    its number, and dotted lines mark its borders. `vmax` is the weight that gets the brightest colour (None: the
    largest). Colours follow the square root of the weight, so that small weights show.
    """
    order = np.arange(len(weights)) if order is None else order
    shown = weights[np.ix_(order, order)]
    ax.imshow(shown, norm=PowerNorm(0.5, 0, weights.max() if vmax is None else vmax), cmap="viridis")
    ax.grid(False)
    ax.set_ylabel("query", labelpad=14 if buckets is not None else None)
    ax.set(xlabel="key", xticks=[], yticks=[], xlim=(-0.5, len(order) - 0.5), ylim=(len(order) - 0.5, -0.5))
    if buckets is None:
        return
    ends = [0, *(np.flatnonzero(np.diff(buckets[order])) + 1), len(order)]
    width = len(order) / 64  # a unit for the strips, which are 2.5 units thick
    for start, stop in zip(ends, ends[1:]):
        bucket = buckets[order[start]]
        look = {"facecolor": bucket_colour(bucket, n_buckets), "edgecolor": "white", "clip_on": False}
        ax.add_patch(Rectangle((start - 0.5, -0.5 - 3 * width), stop - start, 2.5 * width, **look))
        ax.add_patch(Rectangle((-0.5 - 3 * width, start - 0.5), 2.5 * width, stop - start, **look))
        ax.text((start + stop - 1) / 2, -0.5 - 3.7 * width, bucket, ha="center", va="bottom", fontsize=9)
        for line in (ax.axvline, ax.axhline):
            line(stop - 0.5, color="white", linewidth=0.7, linestyle=":")


def chunk_windows(ax, length, chunk_len):
    """White boxes on a sorted `attention_map` of one round: each chunk of queries sees itself and one chunk back.

    The first of the `length / chunk_len` chunks looks back at the last.
    """
    for start in range(0, length, chunk_len):
        for first in ((start - chunk_len) % length, start):
            box = (first - 0.5, start - 0.5), chunk_len, chunk_len
            ax.add_patch(Rectangle(*box, fill=False, edgecolor="white", linewidth=1.6))


def memory_timeline(ax, marks):
    """A bar for each of the `marks` of `memory.peak()`: its peak, with a black line at what is still alive at its end.

    The kind of a mark is its label up to a comma ("attention, backward" is of the kind "attention"). Each kind has a
    colour, in order of appearance, and its name is written on each of its bars. Marks called "between" are grey.
    """
    kinds = [mark.label.partition(",")[0] for mark in marks]
    named = [kind for kind in dict.fromkeys(kinds) if kind != "between"]
    colours = dict(zip(named, itertools.cycle(COLOURS))) | {"between": "#D0D0D0"}
    for i, (mark, kind) in enumerate(zip(marks, kinds)):
        label = None if kind in kinds[:i] else kind
        ax.bar(i, mark.highest / 2**20, width=1, label=label, color=colours[kind], linewidth=0)
        if kind != "between":
            look = {"ha": "center", "va": "bottom", "fontsize": 8.5, "rotation": 90}
            ax.annotate(kind, (i, mark.highest / 2**20), (0, 3), textcoords="offset points", **look)
        ax.plot([i - 0.5, i + 0.5], [mark.now / 2**20] * 2, color="black", linestyle="-", linewidth=2)
    ax.set(xticks=[], xlabel="moments, in order", ylabel="alive, MiB")
    ax.margins(y=0.3)  # room for the names; bars still start at 0
    ax.grid(False, axis="x")


def memory_against_depth(ax, depths, measured, predicted):
    """Peak memory of a training step against depth: for each model, a curve from a formula with measured dots.

    `measured` and `predicted` map a label to the bytes at each of the `depths`.
    """
    for index, (label, peaks) in enumerate(measured.items()):
        curve, dots = ([n / 2**20 for n in values] for values in (predicted[label], peaks))
        theory_and_dots(ax, depths, curve, depths, dots, label, index)
    ax.set(xlabel="layers", ylabel="peak of one training step, MiB", xticks=depths, ylim=(0, None))
    ax.legend(title="lines: predicted; dots: measured", alignment="left")


def bucket_pairs(ax, first, second):
    """Buckets of two positions that should meet, pair by pair: `first` (n,) as circles, `second` (n,) as crosses.

    Where a cross sits in its circle, the two positions share a bucket.
    """
    ax.plot(first, "o", color=COLOURS[0], markersize=9, markerfacecolor="none", markeredgewidth=1.5)
    ax.plot(second, "x", color=COLOURS[1], markersize=6, markeredgewidth=1.8)


def number_grid(ax, values, rows, columns, vmax=None):
    """A table as a picture: each cell shows its number, and smaller numbers are darker.

    `values` (n, m) is a NumPy array of numbers; `rows` and `columns` are the n and m labels. 0 gets the darkest
    colour, and `vmax` the lightest (None: the largest of `values`). ValueError if there are more or fewer labels
    than rows or columns.
    """
    if values.shape != (shape := (len(rows), len(columns))):
        raise ValueError(f"values: expected shape {shape}, to fit the labels; got {values.shape}")
    vmax = values.max() if vmax is None else vmax
    ax.imshow(values, cmap="viridis", vmin=0, vmax=vmax, aspect="auto")
    for i, j in np.ndindex(values.shape):
        colour = "black" if values[i, j] > 0.6 * vmax else "white"
        ax.text(j, i, f"{values[i, j]:.1f}", ha="center", va="center", color=colour)
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.grid(False)


def human_bytes(n):
    """`n` bytes as a person would say it, such as "2.1 GB"."""
    for unit in ("B", "KB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"
