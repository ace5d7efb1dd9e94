"""A map of the whole model with "you are here": `model_map("hashing")` opens the notebook on hashing.

Tokens go from left to right. In a reversible block two streams run side by side: attention reads the second and adds
to the first, feed-forward reads the first and adds to the second. The files behind the boxes are `embedding.py`,
`positions.py`, `reversible.py`, `attention_layer.py`, `feed_forward.py`, `heads.py` and `losses.py`.
"""

import matplotlib.pyplot as plt

from minireformer.course.cast import arrow, rounded_box

STEPS = ("hash", "sort", "chunk", "look back", "merge")
ATTENTION = ("attention", *STEPS)
FORWARD = ("tokens", "embedding", "streams", *ATTENTION, "feed-forward", "norm", "output", "loss")
HERE = {  # the parts that each notebook, from 00 to 08, is about, the main one first
    "memory": FORWARD,
    "backprop": ("norm", "output", "loss", "gradients"),
    "attention": ("attention",),
    "hashing": ("hash",),
    "look_back": ("look back", "sort", "chunk", "merge"),
    "gradient": (*ATTENTION, "gradients"),
    "kernel": ("look back", "merge", "gradients"),
    "reversible": ("streams",),
    "chunks": ("feed-forward", "embedding", "output", "loss"),
    "training": (*FORWARD, "gradients"),
}
ACCENT, LIT, PALE = "#0072B2", "#CFE6F5", "#F6F6F6"
PALE_INK = "#767676"


def model_map(here=None):
    """Draw the map; the parts that the notebook `here` is about are lit, the rest is pale. Returns the figure.

    `here` is a key of `HERE`, or None for a map with nothing lit. ValueError for any other name.
    """
    if here is not None and here not in HERE:
        raise ValueError(f"here: expected one of {', '.join(HERE)}, or None; got {here!r}")
    lit = HERE.get(here, ())
    figure = plt.figure(figsize=(9, 2.4))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, 9), ylim=(0, 2.4))
    ax.axis("off")
    box(ax, "streams", 2.02, 0.36, 4.76, 1.66, lit, label=None)
    colour = ink("streams", lit)
    ax.text(4.4, 0.39, "N reversible blocks", fontsize=9, ha="center", va="bottom", color=colour, zorder=4)
    for part, left, width, label in (
        ("tokens", 0.06, 0.72, "tokens"),
        ("embedding", 0.94, 0.92, "embedding\n+ positions"),
        ("norm", 6.94, 0.5, "Layer\nNorm"),
        ("output", 7.58, 0.6, "output\nlayer"),
        ("loss", 8.32, 0.62, "loss"),
    ):
        box(ax, part, left, 0.86, width, 0.72, lit, label)
    box(ax, "attention", 2.52, 0.78, 2.86, 0.84, lit, label=None)
    ax.text(2.6, 0.94, "LayerNorm → attention", fontsize=9.5, va="center", color=ink("attention", lit), zorder=4)
    left = 2.58
    for step, width in zip(STEPS, (0.44, 0.4, 0.53, 0.75, 0.54)):
        box(ax, step, left, 1.13, width, 0.4, lit, step, fontsize=9)
        left += width + 0.02
    box(ax, "feed-forward", 5.5, 0.78, 1.1, 0.84, lit, "LayerNorm →\nfeed-forward,\nin chunks")
    for y, name in ((1.82, "x₁"), (0.62, "x₂")):
        ax.text(2.1, y, name, fontsize=9.5, va="center", color=colour, zorder=4)
        arrow(ax, [(2.34, y), (6.74, y)], colour)
    for x, start, end in ((2.9, 0.62, 0.8), (4.9, 1.6, 1.8), (5.8, 1.82, 1.62), (6.3, 0.78, 0.64)):
        arrow(ax, [(x, start), (x, end)], colour)
    for start, end in ((0.78, 0.94), (1.86, 2.02), (6.78, 6.94), (7.44, 7.58), (8.18, 8.32)):
        arrow(ax, [(start, 1.22), (end, 1.22)], PALE_INK)
    back = "gradients" in lit
    arrow(ax, [(8.63, 0.15), (0.42, 0.15)], ACCENT if back else "#BBBBBB", 2.2 if back else 1.1, gid="gradients")
    ax.text(0.42, 0.2, "gradients", fontsize=9, va="bottom", color=ACCENT if back else PALE_INK)
    if here:
        you_are_here(ax, lit)
    return figure


def box(ax, part, left, bottom, width, height, lit, label, fontsize=9.5):
    """One part of the model, in colour if it is lit."""
    shape = rounded_box(left, bottom, width, height, 0.07)
    on = part in lit
    shape.set(facecolor=LIT if on else PALE, edgecolor=ACCENT if on else "#BBBBBB", linewidth=1.8 if on else 0.8)
    shape.set(gid=part, zorder=1 if part == "streams" else 2)
    ax.add_patch(shape)
    if label:
        look = {
            "ha": "center",
            "va": "center" if "\n" in label else "center_baseline",
            "fontsize": fontsize,
            "linespacing": 1.15,
        }
        ax.text(left + width / 2, bottom + height / 2, label, color=ink(part, lit), zorder=4, **look)


def ink(part, lit):
    """The colour of the writing on a part: black where it is lit."""
    return "black" if part in lit else PALE_INK


def you_are_here(ax, lit):
    """A flag on the first of the lit parts."""
    whole = set(FORWARD) <= set(lit)
    part = next(patch for patch in ax.patches if patch.get_gid() == lit[0])
    x, top = (4.4, 2.02) if whole else (part.get_x() + part.get_width() / 2, part.get_y() + part.get_height())
    flag = {"boxstyle": "round,pad=0.25", "facecolor": ACCENT, "edgecolor": "none"}
    words = "you are here: the whole model" if whole else "you are here"
    ax.text(
        x, 2.24, words, ha="center", va="center", color="white", fontsize=10, fontweight="bold", bbox=flag, zorder=6
    )
    arrow(ax, [(x, 2.14), (x, top)], ACCENT, 1.8, zorder=5)
