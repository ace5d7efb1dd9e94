"""A wrong answer beside the right one: two Jacobians as small heat maps, with the wrong entries marked."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

from minireformer.course import plots


def jacobians(came, expected, names, widths, wrong=None):
    """Draw two Jacobians (entries of the output, entries of the inputs) side by side. Returns the figure.

    `names` and `widths` are the gradients that the columns of `expected` belong to, one after the other, and how many
    columns each of them has. `wrong` marks entries of `came`, which needs the same shape then (None: no marks). Blue
    is below zero, red above; yellow is not a number.
    """
    n_rows, n_columns = expected.shape
    cell = min(0.22, 2.3 / n_rows, 3.2 / max(n_columns, came.shape[1]))  # inches
    widest = cell * (n_columns + came.shape[1])
    figure, axes = plt.subplots(
        1,
        2,
        figsize=(max(5.2, widest + 1.6), cell * n_rows + 0.9),
        layout="constrained",
        width_ratios=(came.shape[1], n_columns),
    )
    limit = 1.6 * (abs(expected).max() or 1.0)  # the darkest colours would hide the marks
    for ax, values, title in zip(axes, (came, expected), ("your answer", "the right one")):
        ax.imshow(np.ma.masked_invalid(values), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        ax.set_facecolor("#FFE680")  # not a number
        ax.grid(False)
        ax.set(xticks=[], yticks=[], xlabel="inputs")
        ax.set_title(title, fontsize=10.5)
        for side in ax.spines.values():
            side.set(visible=True, color="#888888")
    axes[0].set_ylabel("outputs")
    fits = came.shape == expected.shape
    for ax in axes[0 if fits else 1 :]:
        label_columns(ax, names, widths)
    for i, j in np.argwhere(wrong) if wrong is not None else ():
        axes[0].add_patch(Rectangle((j - 0.42, i - 0.42), 0.84, 0.84, fill=False, edgecolor="black", linewidth=1.1))
        axes[0].plot([j - 0.42, j + 0.42], [i - 0.42, i + 0.42], "-", color="black", linewidth=0.8)
    return figure


def label_columns(ax, names, widths):
    """Below the columns, the input that they belong to; a line between two inputs."""
    if len(names) > 1:
        ends = np.cumsum(widths)
        ax.set_xticks(ends - np.array(widths) / 2 - 0.5, names, fontsize=9)
        ax.tick_params(length=0)
        for end in ends[:-1]:
            ax.axvline(end - 0.5, color=plots.COLOURS[-1], linewidth=1, linestyle="-")
