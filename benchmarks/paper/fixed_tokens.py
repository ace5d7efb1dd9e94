"""Speed at a fixed number of tokens (figure 5 of the paper, right): sequences grow longer as batches grow smaller.

    python benchmarks/paper/fixed_tokens.py            # minutes; writes results/fixed_tokens.json
    python benchmarks/paper/fixed_tokens.py --quick    # seconds; writes build/fixed_tokens_quick.json

Every step passes the same number of tokens, as one batch of sequences of T tokens. LSH attention does work for every
token, whatever T is; full attention for every token and all T keys. Timed are one attention layer, forward and
backward, with full attention and 1, 2, 4 and 8 hash rounds, and one training step of a small model, with full attention
and 4 rounds. All of them take turns, round after round; medians are recorded. The machine must be quiet.
"""

import statistics
import time

import numpy as np
import recording

import minireformer as mr
from minireformer import backend
from minireformer.attention_layer import LSHAttention, SharedFullAttention

FULL = {"tokens": 32768, "lengths": [512, 1024, 2048, 4096, 8192, 16384, 32768], "rounds": 3}
QUICK = {"tokens": 1024, "lengths": [128, 256, 512], "rounds": 2}
D_MODEL, HEADS, CHUNK, BLOCKS = 64, 2, 64, 2
LAYERS = {"full": None, "LSH-1": 1, "LSH-2": 2, "LSH-4": 4, "LSH-8": 8}  # name: hash rounds
MODELS = {"full": None, "LSH-4": 4}
DIFFERENT = (
    "The paper times training steps on accelerators. Here we time one small layer, and one small model of two blocks, "
    "on a CPU. Full attention never holds a whole T x T matrix here, so it does not run out of memory at any length; "
    "it shares queries and keys, as LSH attention does. Chunks have 64 tokens at every length, and the number of "
    "buckets grows with the length."
)


def layer_step(n_hashes, batch, length):
    """One attention layer, forward and backward."""
    sizes = (D_MODEL, HEADS, D_MODEL // HEADS)
    layer = (
        SharedFullAttention(*sizes) if n_hashes is None else LSHAttention(*sizes, chunk_len=CHUNK, n_hashes=n_hashes)
    )
    draw = np.random.default_rng(0).standard_normal
    x, dy = (backend.asarray(draw((batch, length, D_MODEL), dtype="float32")) for _ in range(2))
    return lambda: layer.backward(dy, layer.forward(x)[1])


def model_step(n_hashes, batch, length):
    """Loss and all gradients of a model with the same attention in both blocks."""
    config = mr.ReformerConfig(
        d_model=D_MODEL,
        n_heads=HEADS,
        d_head=D_MODEL // HEADS,
        d_ff=4 * D_MODEL,
        attn_layers=("shared_full" if n_hashes is None else "lsh",) * BLOCKS,
        lsh_chunk_len=CHUNK,
        n_hashes=n_hashes or 1,
        axial_shape=(length // 32, 32),
        max_len=length,
    )
    model = mr.Reformer(config)
    tokens = backend.asarray(np.random.default_rng(0).integers(0, 256, (batch, length)))
    return lambda: model.loss_and_grads(tokens, tokens)


def by_turns(size):
    """{"layer" or "model": {name: {length: [seconds, one a round]}}}"""
    contenders = [("layer", name, layer_step, n) for name, n in LAYERS.items()]
    contenders += [("model", name, model_step, n) for name, n in MODELS.items()]
    seconds = {"layer": {}, "model": {}}
    for what, name, make_step, n_hashes in contenders:
        seconds[what][name] = {length: [] for length in size["lengths"]}
        make_step(n_hashes, size["tokens"] // size["lengths"][0], size["lengths"][0])()  # warms up
    for turn in range(size["rounds"]):
        for length in size["lengths"]:
            for what, name, make_step, n_hashes in contenders:
                step = make_step(n_hashes, size["tokens"] // length, length)
                began = time.perf_counter()
                step()
                seconds[what][name][length].append(time.perf_counter() - began)
        print(f"round {turn + 1} of {size['rounds']}", flush=True)
    return seconds


def main():
    """Time, and write one JSON file."""
    options = recording.options(__doc__)
    size = QUICK if options.quick else FULL
    result = {
        "question": "Is the time of a step flat in T at a fixed number of tokens?",
        "different": DIFFERENT,
        "size": size | {"d_model": D_MODEL, "n_heads": HEADS, "chunk_len": CHUNK, "blocks_of_model": BLOCKS},
    }
    all_seconds = by_turns(size)
    for what, names in all_seconds.items():
        result[what] = {
            name: {t: {"seconds": statistics.median(values), "all": values} for t, values in lengths.items()}
            for name, lengths in names.items()
        }
        for name, lengths in result[what].items():
            medians = [lengths[t]["seconds"] for t in size["lengths"]]
            result[what][name]["longest_over_shortest"] = medians[-1] / medians[0]
            print(f"{what}, {name}:", *(f"{seconds:.3f}" for seconds in medians), "s")
    recording.write(recording.places("fixed_tokens", options)[1], result)


if __name__ == "__main__":
    main()
