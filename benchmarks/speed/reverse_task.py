"""How well an encoder-decoder learns to write digits in reverse, with LSH attention on both sides.

    python benchmarks/speed/reverse_task.py                # part of make bench

Sequences of 8 to 32 random digits, padded; the decoder writes them from the last to the first. The encoder has a local
and an LSH layer, the decoder as well, in chunks of 8: no layer but cross-attention sees all of a sequence. Accuracy
is that of greedy decoding on sequences that were not trained on. Writes benchmarks/speed/results/reverse_task.json.
"""

import argparse
import json
import time
from pathlib import Path

import contest
import numpy as np

import minireformer as mr

RESULTS = Path(__file__).parent / "results" / "reverse_task.json"
PAD, START, FIRST_DIGIT, LONGEST, BATCH = 0, 1, 2, 32, 32


def batch(seed, n_rows=BATCH, shortest=8, longest=LONGEST):
    """-> (source, target), targets, mask: what to reverse, START and all but the last of its reverse, the reverse."""
    random = mr.rng.generator(seed, "digits")
    lengths, place = random.integers(shortest, longest + 1, (n_rows, 1)), np.arange(longest)
    mask = place < lengths
    source = np.where(mask, random.integers(FIRST_DIGIT, FIRST_DIGIT + 10, (n_rows, longest)), PAD)
    targets = np.where(mask, np.take_along_axis(source, np.maximum(lengths - 1 - place, 0), axis=1), PAD)
    target = np.concatenate([np.full((n_rows, 1), START), targets[:, :-1]], axis=1)
    return (source, target), targets, mask


def accuracy(model, seed=-1, n_rows=500):
    """The share of digits, and of whole sequences, that greedy decoding with a cache gets right."""
    (source, _), targets, mask = batch(seed, n_rows)
    start = np.full((n_rows, 1), START)
    written = mr.generate(model, start, LONGEST, temperature=0, source=source, cached=True)[:, 1:]
    right = written == targets
    return {"digits": float(right[mask].mean()), "sequences": float((right | ~mask).all(axis=1).mean())}


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=2000)
    options = parser.parse_args()
    config = mr.EncoderDecoderConfig(
        vocab_size=FIRST_DIGIT + 10,
        d_model=64,
        n_heads=2,
        d_head=32,
        d_ff=128,
        encoder_layers=("local", "lsh"),
        attn_layers=("local", "lsh"),
        lsh_chunk_len=8,
        local_chunk_len=8,
        n_hashes=2,
        n_buckets=8,
        positions="sinusoidal",
        max_len=64,
        pad_token=PAD,
    )
    model, began = mr.EncoderDecoder(config), time.perf_counter()
    rate = lambda step: 3e-3 * min(1, (step + 1) / 100) * (1 - step / options.steps)  # noqa: E731
    settings = {"schedule": rate, "clip": 1.0, "log_every": 100, "progress": False}
    log = mr.train(model, batch, mr.Adam(model.params), options.steps, **settings)
    found = accuracy(model)
    results = {"surroundings": contest.surroundings(), "steps": options.steps, "accuracy": found}
    results |= {"seconds": time.perf_counter() - began, "loss": {row["step"]: row["loss"] for row in log}}
    print(found)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
