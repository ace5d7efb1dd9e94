"""Figures of the course, as functions of plain NumPy arrays: call them on your own model's numbers.

Colours are Okabe and Ito's, which stay apart for colour-blind eyes, and never stand alone: lines also differ in
their dashes and dots in their shapes. Nothing in the package imports this module; it needs matplotlib.
"""

import matplotlib.pyplot as plt
from cycler import cycler

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def style():
    """Make matplotlib draw as all figures of the course are drawn. Call it once, in a notebook's set-up cell."""
    plt.rcParams.update(
        {
            "axes.prop_cycle": cycler(color=COLOURS) + cycler(linestyle=DASHES),
            "axes.grid": True,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlelocation": "left",
            "axes.titlesize": "medium",
            "figure.dpi": 100,
            "figure.facecolor": "white",  # legible on a dark page too
            "font.size": 11,
            "grid.alpha": 0.3,
            "image.cmap": "viridis",
            "legend.frameon": False,
            "savefig.dpi": 100,
        }
    )


def theory_and_dots(ax, x, theory, measured_x, measured, label, index=0):
    """One curve from a formula and the dots that were measured for it, in the `index`-th colour and shape."""
    colour = COLOURS[index % len(COLOURS)]
    ax.plot(x, theory, color=colour, linestyle=DASHES[index % len(DASHES)], label=label)
    ax.plot(measured_x, measured, MARKERS[index % len(MARKERS)], color=colour, markersize=6)


def human_bytes(n):
    """`n` bytes as a person would say it: "2.1 GB"."""
    for unit in ("B", "KB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"
