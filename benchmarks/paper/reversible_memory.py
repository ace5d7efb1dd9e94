"""Peak memory of one training step, 2 to 24 layers deep: reversible beside a model that stores its activations.

    python benchmarks/paper/reversible_memory.py

This takes about four minutes. It writes results/reversible_memory.json and draws docs/memory_against_depth.png, the
figure of docs/memory.md. Notebook 00 does the same with a smaller model.
"""

import dataclasses
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import recording

import minireformer as mr
from minireformer.course import plots

RESULTS = Path(__file__).parent / "results" / "reversible_memory.json"
FIGURE = recording.ROOT / "docs" / "memory_against_depth.png"

DEPTHS = (2, 4, 8, 12, 16, 20, 24)
BATCH, LENGTH = 1, 4096
BLOCK = mr.ReformerConfig(
    d_model=256,
    n_heads=4,
    d_head=64,
    d_ff=1024,
    attn_layers=("lsh",),
    n_hashes=4,
    axial_shape=(64, 64),
    max_len=LENGTH,
    ff_chunk_len=512,
)


def measure(depth, reversible):
    """Bytes of one `loss_and_grads` of a model `depth` blocks deep: its peak and what of it is accounted for.

    Parameters exist before the step and are not in the peak; gradients are, and take as much again.
    """
    config = dataclasses.replace(BLOCK, attn_layers=BLOCK.attn_layers * depth, reversible=reversible)
    model = mr.Reformer(config, seed=0)
    random = np.random.default_rng(0)
    tokens, targets = map(mr.backend.asarray, random.integers(0, config.vocab_size, (2, BATCH, LENGTH)))
    with mr.memory.peak() as m:
        _, grads = model.loss_and_grads(tokens, targets)
    predicted = mr.memory.predict(config, BATCH, LENGTH)
    return {
        "peak": m.bytes,
        "gradients": mr.memory.nbytes(grads),
        "buckets": predicted.buckets,
        "stored": predicted.stored,
    }


def curves(depths, stored, reversible):
    """What to draw: measured and predicted bytes by label, from the lists that `measure` filled.

    A peak is what is stored, the gradients, and the working memory of one layer, which does not depend on
    depth: it is taken from the shallowest model, so that the predicted lines show how memory *grows*.
    """
    names = ("stores every activation", "reversible", "reversible, without gradients and buckets")
    kept = [one["peak"] - one["gradients"] - one["buckets"] for one in reversible]
    measured = dict(zip(names, ([one["peak"] for one in stored], [one["peak"] for one in reversible], kept)))
    predicted = {}
    for name, results in zip(names, (stored, reversible)):
        known = [one["stored"] + one["gradients"] for one in results]
        predicted[name] = [results[0]["peak"] - known[0] + n for n in known]
    predicted[names[2]] = [kept[0]] * len(depths)
    return measured, predicted


def draw(results):
    """Write the figure from what `main` wrote down."""
    plots.style()
    figure, ax = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    depths = results["depths"]
    plots.memory_against_depth(ax, depths, *curves(depths, results["stored"], results["reversible"]))
    ax.set_title(f"With reversible layers, depth costs only gradients and buckets ({results['length']} tokens)")
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE)


def main():
    """Measure, write down, draw."""
    mr.backend.set_threads(1)  # threads have buffers of their own: with one, a peak is the same each time
    results = {"depths": DEPTHS, "batch": BATCH, "length": LENGTH}
    results["block"] = dataclasses.asdict(BLOCK)
    for name, reversible in ("stored", False), ("reversible", True):
        results[name] = []
        for depth in DEPTHS:
            results[name].append(measure(depth, reversible))
            print(f"{depth:3} layers, {name}: {results[name][-1]['peak'] / 2**20:.0f} MiB", flush=True)
    recording.write(RESULTS, results)
    draw(results)


if __name__ == "__main__":
    main()
