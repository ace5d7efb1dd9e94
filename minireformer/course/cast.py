"""The cast of the course: sixteen tokens that are hashed, sorted, cut and merged in one notebook after another.

Every token is a letter, a vector in the plane and a colour, and they never change. Similar directions have similar
colours, so you can see at a glance whether a hash has put like with like; the letter is always there as well.
`hash_cast` asks the library for real buckets; the other functions draw strips of tokens, buckets, chunks and arrows.
Draw them on a `canvas`, where a token's place is one unit wide and letters are sized to match. Read next:
`journey.py`, which puts whole pictures together.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from minireformer.course import plots
from minireformer.hashing import hash_vectors

LETTERS = "ABCDEFGHIJKLMNOP"
VECTORS = np.array(
    [
        *([-0.59, 1.16], [0.56, -0.77], [0.65, 0.63], [-1.08, 0.39]),  # A B C D
        *([0.75, -0.40], [-0.83, -0.56], [-0.23, 0.92], [1.04, 0.60]),  # E F G H
        *([0.44, -1.22], [-0.50, 0.69], [1.02, -0.95], [-0.79, 0.11]),  # I J K L
        *([-0.70, -1.04], [0.72, 1.14], [1.19, -0.17], [-0.89, 0.80]),  # M N O P
    ]
)
TOKEN_COLOURS = (
    *("#7FCDEB", "#C49AD8", "#EDA638", "#4FA3DE", "#DA8DB4", "#3DB39E", "#9ADBE8", "#E8924A"),
    *("#AF9FE0", "#69C0EA", "#CE8CCB", "#6A9FDC", "#4FBB6E", "#F2C64E", "#E58E9C", "#56B4E9"),
)
ANGLE = 50.0  # degrees: the default rotation of the hash
FORWARD, BACKWARD = "#444444", "#D55E00"
SIZE = 0.86  # of a token; it has a place one unit wide
CHUNK_GAP = 0.6


def hash_cast(angle=ANGLE, n_buckets=4, rotations=None):
    """Buckets of the sixteen tokens, by `minireformer.hash_vectors`: (16,), or (R, 16) for a list of R angles.

    The hash has `n_buckets` arrows, evenly spread round the circle; arrow 0 is at `angle` (degrees), and a vector's
    bucket is the arrow nearest to it. You can give your own `rotations` (1, 2, R, columns) instead: then (R, 16).
    """
    given = rotations is not None
    buckets = hash_vectors(VECTORS[None, None], rotations if given else arrows(angle, n_buckets))[0, 0]
    return buckets if given or np.ndim(angle) else buckets[0]


def arrows(angle=ANGLE, n_buckets=4):
    """Rotations for `hash_vectors` (1, 2, R, n_buckets / 2): the arrows of `hash_cast`, without their opposites."""
    turns = np.atleast_1d(angle)[:, None] + 360 * np.arange(n_buckets // 2) / n_buckets  # R, n_buckets / 2
    return np.stack([np.cos(np.radians(turns)), np.sin(np.radians(turns))])[None]


def canvas(left, right, bottom, top, width=7.5):
    """A figure `width` inches wide and a frameless axes that fills it, in units of one token: (figure, axes)."""
    figure = plt.figure(figsize=(width, width * (top - bottom) / (right - left)))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(left, right), ylim=(bottom, top))
    ax.axis("off")
    return figure, ax


def token(ax, index, x, y, size=SIZE, faded=False, ring=False, fontsize=12.5):
    """One token: a rounded square with its letter, centred at (x, y). `faded`: nearly white. `ring`: a bold outline."""
    shape = rounded_box(x - size / 2, y - size / 2, size, size, 0.22 * size)
    edge = "black" if ring else "#CCCCCC" if faded else "#555555"
    shape.set(facecolor="#F4F4F4" if faded else TOKEN_COLOURS[index], edgecolor=edge, linewidth=2.4 if ring else 0.7)
    shape.set(gid=f"token {LETTERS[index]}", zorder=4 if ring else 3)
    ax.add_patch(shape)
    look = {"ha": "center", "va": "center_baseline", "fontsize": fontsize, "zorder": 5}
    ax.text(x, y, LETTERS[index], color="#999999" if faded else "black", **look)


def rounded_box(left, bottom, width, height, radius):
    """A rectangle with rounded corners, not yet on any axes."""
    return FancyBboxPatch((left, bottom), width, height, boxstyle=f"round,pad=0,rounding_size={radius}")


def strip(ax, order=range(16), y=0.0, x=None, faded=(), ring=()):
    """A row of tokens in this order, from left to right, at the positions `x` (default: 0, 1, 2, ...): returns x.

    `faded` and `ring` are the numbers of the tokens to draw pale, or with a bold outline.
    """
    x = np.arange(len(order), dtype=float) if x is None else x
    for index, place in zip(order, x):
        token(ax, index, place, y, faded=index in faded, ring=index in ring)
    return x


def circle(ax, rotations=None, tokens=range(16)):
    """The tokens as arrows from the middle; with `rotations` (1, 2, 1, columns), the sectors of the circle are buckets.

    `ax` should be about four inches wide and high, so that the letters fit their squares.
    """
    if rotations is None:
        ax.add_patch(plt.Circle((0, 0), 1.6, facecolor="white", edgecolor="#BBBBBB"))
    else:
        angles = np.linspace(0, 2 * np.pi, 1441)[:-1]  # a direction every quarter of a degree
        grid = np.stack([np.cos(angles), np.sin(angles)], axis=-1)[None, None]
        plots.bucket_circle(ax, angles, hash_vectors(grid, rotations)[0, 0, 0], 2 * rotations.shape[-1], radius=1.6)
        for text in ax.texts:
            side = text.get_position()[0]
            text.set(
                text=f"bucket {text.get_text()}", ha="left" if side > 0.4 else "right" if side < -0.4 else "center"
            )
    ax.set(xlim=(-2.4, 2.4), ylim=(-2.1, 2.1), aspect="equal")
    ax.axis("off")
    for index in tokens:
        ax.plot(*np.stack([[0, 0], VECTORS[index]], axis=1), "-", color="#555555", linewidth=1.1)
        token(ax, index, *VECTORS[index], size=0.29, fontsize=10)


def bucket_bands(ax, buckets, y, x, label=True):
    """A pale band behind each run of equal `buckets` (T,), given in the order of the row, with its number below."""
    starts = [0, *(np.flatnonzero(np.diff(buckets)) + 1)]
    for start, stop in zip(starts, [*starts[1:], len(buckets)]):
        left, right, bucket = x[start] - 0.5, x[stop - 1] + 0.5, buckets[start]
        shape = rounded_box(left + 0.03, y - 0.6, right - left - 0.06, 1.2, 0.25)
        colour = plots.bucket_colour(bucket, 8)
        shape.set(facecolor=colour, edgecolor=darker(colour[:3]), linewidth=0.7, zorder=1, gid=f"bucket {bucket}")
        ax.add_patch(shape)
        if label:
            name = f"bucket {bucket}" if stop - start > 1 else str(bucket)
            ax.text((left + right) / 2, y - 0.85, name, ha="center", va="top", fontsize=10.5)


def bucket_tags(ax, buckets, y, x):
    """The number of each token's bucket, in a small square of the bucket's colour below the row."""
    for bucket, place in zip(buckets, x):
        shape = rounded_box(place - 0.32, y - 1.1, 0.64, 0.6, 0.12)
        ax.add_patch(shape)
        shape.set(facecolor=plots.bucket_colour(bucket, 8), edgecolor="none", gid=f"tag {bucket}")
        ax.text(place, y - 0.8, str(bucket), ha="center", va="center_baseline", fontsize=10.5)


def chunk_places(chunk_len=4, left=0.0, n=16, gap=CHUNK_GAP):
    """Positions (n,) of tokens in a row that is cut into chunks, with a gap between chunks; the first is at `left`."""
    return left + np.arange(n) + gap * (np.arange(n) // chunk_len)


def chunk_boxes(ax, x, y, chunk_len=4, colour="black"):
    """A box round every `chunk_len` tokens of the row at positions `x`."""
    for n, start in enumerate(range(0, len(x), chunk_len)):
        left, right = x[start] - 0.62, x[min(start + chunk_len, len(x)) - 1] + 0.62
        shape = rounded_box(left, y - 0.72, right - left, 1.44, 0.12)
        shape.set(facecolor="none", edgecolor=colour, linewidth=1.6, gid=f"chunk {n}", zorder=2)
        ax.add_patch(shape)


def arrow(ax, points, colour, width=1.2, dashed=False, zorder=2, gid=None):
    """An arrow along a straight line (two `points`) or a smooth curve (four: start, two control points, end)."""
    codes = [Path.MOVETO, Path.LINETO] if len(points) == 2 else [Path.MOVETO, *[Path.CURVE4] * 3]
    look = {"color": colour, "linewidth": width, "linestyle": "--" if dashed else "-", "capstyle": "butt"}
    head = "-|>,head_length=4,head_width=2"
    ax.add_patch(
        FancyArrowPatch(path=Path(points, codes), arrowstyle=head, mutation_scale=1, zorder=zorder, gid=gid, **look)
    )


def sort_arrows(ax, order, y_from, y_to, x_from, x_to, backward=False):
    """An arrow for each token, from its position in the upper row to its slot in the lower; `backward`: upwards."""
    for slot, index in enumerate(order):
        top, bottom, middle = (x_from[index], y_from), (x_to[slot], y_to), (y_from + y_to) / 2
        points = [top, (top[0], middle), (bottom[0], middle), bottom]
        arrow(ax, points[::-1] if backward else points, BACKWARD if backward else darker(TOKEN_COLOURS[index]), 1.5)


def look_back_arcs(ax, x, y, chunk_len=4, backward=False):
    """Arrows over the row of chunks at height `y`, to each chunk from those it reads: itself and the one before.

    The first reads the last (dashed). `backward`: from each chunk to those it has read. Returns the pairs
    (chunk, the chunk that it reads).
    """
    middles, pairs = x.reshape(-1, chunk_len).mean(axis=1), []
    for n, middle in enumerate(middles):
        for other, source in ((n, middle), ((n - 1) % len(middles), middles[n - 1])):
            wraps, own = n == 0 and other != n, other == n
            start, end = (middle - 0.35, middle + 0.35) if own else (source + 1.0, middle - 1.0)
            height = y + (1.0 if own else 2.3 if wraps else 1.7)
            points = [(start, y), (start, height), (end, height), (end, y)]
            colour = BACKWARD if backward else FORWARD
            arrow(ax, points[::-1] if backward else points, colour, 1.5, wraps, gid=f"chunk {n} reads {other}")
            pairs.append((n, other))
    return pairs


def darker(colour):
    """The same colour, dark enough for a thin line on white."""
    return tuple(0.72 * np.array(plots.to_rgb(colour)))


def row_label(ax, y, name, text, left=-6.3):
    """The name of a row, and below it what happens there, at the left."""
    ax.text(left, y + 0.05, name, fontsize=13, fontweight="bold", va="bottom")
    ax.text(left, y - 0.1, text, fontsize=10.5, va="top", color="#333333", linespacing=1.15)
