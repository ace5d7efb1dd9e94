"""A million tokens on two cores: time and memory of one training step, from 64K tokens to 1M.

    python benchmarks/paper/million_tokens.py                            # half an hour; 9 GB
    python benchmarks/paper/million_tokens.py --lengths 65536 131072     # only these; the record keeps the others
    python benchmarks/paper/million_tokens.py --draw                     # only the figure, from the record
    python benchmarks/paper/million_tokens.py --quick                    # seconds; writes into build/

6 LSH layers, d_model 256, 4 heads of 64, d_ff 1024, vocabulary 256, float32, with Adafactor; the text is Python's
standard library, one byte a token. Reversible layers undo two of the four heads at a time, one for each core. Every
length runs in a process of its own, whose highest memory is read from /proc: this works on Linux alone.

`terms` of a result says what that memory should be: which arrays exist at the peak. Writes results/million_tokens.json
and docs/million_tokens.png.
"""

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import recording
from one_step import GB, one_step

import minireformer as mr

LENGTHS, QUICK = [2**16, 2**17, 2**18, 2**19, 2**20], [512, 1024]
FIGURE = recording.ROOT / "docs" / "million_tokens.png"


def config(length):
    """The model, for texts of `length` tokens."""
    return mr.ReformerConfig(attn_layers=("lsh",) * 6, heads_at_once=2, max_len=length, axial_shape=(length // 64, 64))


def terms(config, length, resident):
    """The arrays at the peak of a step, in bytes; `resident` is what the process has besides.

    The peak is where the backward pass computes an attention layer again, or in a feed-forward layer, whichever needs
    more.
    """
    prediction, share = mr.memory.predict(config, 1, length), config.heads_at_once / config.n_heads
    a = prediction.activation
    attention = {
        "an attention layer's output": a,
        "Q, V and O of some heads": round(3 * share * a),
        "the order of their slots": 4 * config.heads_at_once * config.n_hashes * length,
    }
    feed_forward = {
        "a feed-forward layer's input, its output and a gradient": 3 * a,
        "a chunk of its hidden layer, and its gradient": 2 * min(length, config.ff_chunk_len) * config.d_ff * 4,
    }
    return {
        "two streams and their gradients": 4 * a,
        **max(attention, feed_forward, key=lambda layer: sum(layer.values())),
        "buckets of all layers": prediction.buckets,
        "Python, parameters and their gradients": resident,
    }


def measure(length):
    """One training step over `length` tokens; -> its part of the record."""
    tokens, targets = mr.data.standard_library().batch("train", 0, 1, length)
    resident = recording.machine.memory("VmRSS")
    began = time.process_time()
    found = one_step(config(length), length, tokens=np.concatenate([tokens, targets[:, -1:]], axis=1))
    found["cpu_seconds"] = time.process_time() - began
    found["terms"] = terms(config(length), length, resident + 2 * 4 * found["parameters"])
    found["seconds_per_token"] = found["seconds"] / length
    return found


def draw(lengths):
    """The figure: time and memory against length. lengths: {length: result}."""
    import matplotlib  # here, so that the processes that measure do not carry it

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from minireformer.course import plots

    plots.style()
    fig, (time_ax, memory_ax) = plt.subplots(1, 2, figsize=(9.6, 4.2), layout="constrained")
    sizes, rows = zip(*sorted((int(length), row) for length, row in lengths.items()))
    first = rows[0]["seconds_per_token"]
    time_ax.loglog(sizes, [row["seconds"] for row in rows], "o", color="C0", label="measured")
    time_ax.loglog(sizes, [size * first for size in sizes], "--", color="C1", label="in proportion to length")
    time_ax.set(xlabel="tokens", ylabel="seconds a step")
    time_ax.set_title("Time grows in proportion to length")
    memory_ax.loglog(sizes, [row["peak_resident_bytes"] / GB for row in rows], "o", color="C0", label="measured")
    predicted = [sum(row["terms"].values()) / GB for row in rows]
    memory_ax.loglog(sizes, predicted, "--", color="C1", label="predicted from the sizes")
    memory_ax.set(xlabel="tokens", ylabel="most memory, GB")
    memory_ax.set_title("So does memory")
    for ax in (time_ax, memory_ax):
        ax.set_xticks(sizes, [f"{size // 1024}K" if size < 2**20 else "1M" for size in sizes])
        ax.set_yscale("log", base=2)
        ax.yaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
        ax.legend()
    fig.savefig(FIGURE)


def main():
    """Measure each length, write it down, draw."""
    more = argparse.ArgumentParser(add_help=False)
    more.add_argument("--lengths", type=int, nargs="+", help="of the text, in tokens: multiples of 64")
    more.add_argument("--draw", action="store_true", help="draw the figure from what was measured before")
    options = recording.options(__doc__, more)
    _, path = recording.places("million_tokens", options)
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"lengths": {}}
    if not options.draw:
        recording.machine.require_proc()
        for length in options.lengths or (QUICK if options.quick else LENGTHS):
            print(f"\n{length:,} tokens", flush=True)
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                results["lengths"][str(length)] = pool.submit(measure, length).result()
            recording.write(path, results)
    if not options.quick:
        draw(results["lengths"])


if __name__ == "__main__":
    main()
