"""Can one layer copy a word that returns after an unknown distance, with shared queries and keys or without?

    python benchmarks/paper/copying.py            # about 10 minutes of one core; writes results/copying.json
    python benchmarks/paper/copying.py --quick    # seconds; writes build/copying_quick.json

In random symbols, one word of 24 symbols occurs twice. To continue the second occurrence, a model has to find the first
one by its symbols and read what came next; positions do not help, as the distance differs from sequence to sequence.
Each model has a local layer, which passes on to every position what comes just before it, and one other layer: full
attention, full attention with shared queries and keys, or LSH attention, which shares them too. If a run is killed, the
same command resumes it from its last checkpoint; delete build/copying to start over.
"""

import dataclasses
import statistics

import numpy as np
import recording

import minireformer as mr
from minireformer import backend, rng, training

KINDS = ("full", "shared_full", "lsh")
FULL = {
    "length": 64,
    "word": 24,
    "batch": 16,
    "steps": 1500,
    "warmup": 100,
    "log_every": 100,
    "seeds": (0, 1),
    "n_test": 8,
}
QUICK = {"length": 32, "word": 8, "batch": 4, "steps": 4, "warmup": 1, "log_every": 2, "seeds": (0, 1), "n_test": 1}
N_SYMBOLS = 20
LEARNING_RATE = 3e-3


def draw(seed, size):
    """-> random symbols (B, T + 1), and for each row where its word begins: [(first, second), ...]."""
    random, word, places = rng.generator(seed, "repeated word"), size["word"], []
    text = random.integers(0, N_SYMBOLS, (size["batch"], size["length"] + 1))
    for row in text:
        second = random.integers(word, len(row) - word + 1)
        places.append((random.integers(0, second - word + 1), second))
    return text, places


def repeated_word(seed, size):
    """tokens, targets, mask (B, T): random symbols with one word twice.

    The mask leaves out all but the word's second visit, from where four of its symbols are known.
    """
    (text, places), word = draw(seed, size), size["word"]
    mask = np.zeros((size["batch"], size["length"]), bool)
    for row, scored, (first, second) in zip(text, mask, places):
        row[second : second + word] = row[first : first + word]
        scored[second + 3 : second + word - 1] = True
    return tuple(backend.asarray(array) for array in (text[:, :-1], text[:, 1:], mask))


def config_of(kind, size):
    """A local block, and one of the `kind`."""
    return mr.ReformerConfig(
        vocab_size=N_SYMBOLS,
        d_model=64,
        n_heads=2,
        d_head=32,
        d_ff=128,
        attn_layers=("local", kind),
        local_chunk_len=8,
        lsh_chunk_len=16,
        n_hashes=4,
        axial_shape=(size["length"] // 8, 8),
        max_len=size["length"],
    )


def main():
    """Train every kind with every seed and write one JSON file."""
    options = recording.options(__doc__)
    folder, path = recording.places("copying", options)
    size = QUICK if options.quick else FULL
    test = [repeated_word(10**9 + i, size) for i in range(size["n_test"])]
    runs = {kind: [] for kind in KINDS}
    for seed in size["seeds"]:
        for kind in KINDS:
            model = mr.Reformer(config_of(kind, size), seed=seed)
            log = recording.train(
                model,
                lambda step, seed=seed: repeated_word(10**6 * seed + step, size),
                lambda model: statistics.mean(training.bits_per_token(model, *one) for one in test),
                size,
                LEARNING_RATE,
                size["warmup"],
                seed,
                folder / f"{kind} {seed}.safetensors",
            )
            right = statistics.mean(training.accuracy(model, *one) for one in test)
            rows = [{"step": row["step"], "bits": row["held_out_bits"]} for row in log]
            runs[kind].append({"seed": seed, "accuracy": right, "log": rows})
            print(kind, "seed", seed, f"{right:.1%} right", flush=True)
    result = {"size": size, "n_symbols": N_SYMBOLS, "config": dataclasses.asdict(config_of("full", size)), "runs": runs}
    result["training"] = {"learning_rate": LEARNING_RATE, "schedule": "cosine", "clip": 1.0}
    recording.write(path, result)


if __name__ == "__main__":
    main()
