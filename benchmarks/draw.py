"""Draw the figure of the README, and print its tables, from the recorded results: the last step of `make bench`."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from minireformer import plots

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FIGURE = ROOT / "docs" / "time_and_memory.png"
SHOWN = ("ours", "Hugging Face", "lucidrains", "exact (torch)")


def cell(one):
    """A contender's time and memory as text."""
    if "failed" in one:
        return f"failed: {one['failed']}"
    return f"{one['seconds']:.2f} s, {plots.human_bytes(one['peak_mb'] * 1e6)}"


def table(name):
    """The results of a contest as a Markdown table: a row for each contender, a column for each length."""
    lengths = json.loads((RESULTS / f"{name}.json").read_text())["lengths"]
    print("\n| | " + " | ".join(f"T = {int(length):,}" for length in lengths) + " |")
    print("|---|" + "---|" * len(lengths))
    for contender in next(iter(lengths.values())):
        print(f"| {contender} | " + " | ".join(cell(results[contender]) for results in lengths.values()) + " |")


def figure():
    """Time and peak memory of attention against length, both axes logarithmic."""
    lengths = json.loads((RESULTS / "attention.json").read_text())["lengths"]
    plots.style()
    fig, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for ax, key, label in zip(axes, ("seconds", "peak_mb"), ("seconds, forward and backward", "peak memory, MB")):
        for i, name in enumerate(SHOWN):
            done = [(int(length), results[name][key]) for length, results in lengths.items() if key in results[name]]
            ax.loglog(*zip(*done), marker=plots.MARKERS[i], label=name)
        ax.set_xticks([int(length) for length in lengths], [f"{int(length) // 1024}K" for length in lengths])
        ax.minorticks_off()
        ax.set(xlabel="tokens", ylabel=label)
    axes[0].set_title("LSH attention grows in proportion to length")
    axes[1].set_title("and so does its memory")
    axes[0].legend()
    fig.savefig(FIGURE)


if __name__ == "__main__":
    table("attention")
    table("training_step")
    figure()
