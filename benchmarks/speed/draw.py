"""Draw the figure of docs/speed.md, and print its tables, from the recorded results: the last step of `make bench`."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from minireformer.course import plots

RESULTS = Path(__file__).parent / "results"
FIGURE = Path(__file__).resolve().parents[2] / "docs" / "time_and_memory.png"
SHOWN = ("minireformer", "Hugging Face", "lucidrains", "exact (torch)")


def cell(one):
    """A contender's time and memory as text."""
    if one is None:
        return "not measured"
    if "failed" in one:
        return f"failed: {one['failed']}"
    return f"{one['seconds']:.2f} s, {plots.human_bytes(one['peak_mb'] * 1e6)}"


def results(name, what):
    """{size: {contender: {"seconds": ..., "peak_mb": ...}}} of a contest."""
    recorded = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))[what]
    return {int(size): contenders for size, contenders in recorded.items()}


def table(name, what="lengths"):
    """The results of a contest as a Markdown table: a row for each contender, a column for each size."""
    by_size = results(name, what)
    print(f"\n| {what} | " + " | ".join(f"{size:,}" for size in by_size) + " |")
    print("|---|" + "---|" * len(by_size))
    for contender in next(iter(by_size.values())):
        print(f"| {contender} | " + " | ".join(cell(one.get(contender)) for one in by_size.values()) + " |")


def curves(ax, by_size, key, plot):
    """Plot the field `key` of every contender in `SHOWN` against the size."""
    for i, name in enumerate(SHOWN):
        done = [(size, one[name][key]) for size, one in by_size.items() if key in one.get(name, {})]
        if done:
            plot(*zip(*done), marker=plots.MARKERS[i], color=f"C{i}", label=name)


def figure():
    """Time and memory of attention against length; memory of a training step against depth."""
    plots.style()
    fig, axes = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    lengths = results("attention", "lengths")
    for ax, key, label in zip(axes, ("seconds", "peak_mb"), ("seconds, forward and backward", "peak memory, MB")):
        curves(ax, lengths, key, ax.loglog)
        ax.set_xticks(list(lengths), [f"{length // 1024}K" for length in lengths])
        ax.minorticks_off()
        ax.set(xlabel="tokens", ylabel=label)
    axes[0].set_title("Time grows in proportion to length")
    axes[1].set_title("So does memory")
    axes[0].legend()
    depths = results("training_step_by_depth", "depths")
    curves(axes[2], depths, "peak_mb", axes[2].plot)
    axes[2].set_xticks(list(depths))
    axes[2].set(xlabel="layers", ylabel="peak memory, MB", ylim=(0, None))
    axes[2].set_title("A training step of 4K tokens: deeper costs little")
    fig.savefig(FIGURE)


if __name__ == "__main__":
    table("attention")
    table("training_step")
    table("training_step_by_depth", "depths")
    figure()
