"""Tokens per second with and without a cache against the length of the text, and what the cache changes.

    python benchmarks/speed/generation.py                 # part of make bench

Speed: a model of six LSH layers (d_model 256, 4 heads of 64, d_ff 1024, vocabulary 256, chunks of 64, 4 hash rounds,
2,048 buckets), float32, batch 1: the median time of a token after a text of T tokens. Without a cache a token is one
run of the model on the whole text.

Difference: with several LSH layers, cached logits are not those of a new run (see decoding.py). Models of 2 and 6
LSH layers are trained on Python's standard library, and both ways asked for the next byte of held-out text, 128 bytes
in a row after a prompt of 512. Writes benchmarks/speed/results/generation.json.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import contest
import numpy as np

import minireformer as mr
from minireformer.generation.decoding import CachedDecoder, PlainDecoder

RESULTS = Path(__file__).parent / "results" / "generation.json"
LENGTHS = [1024, 4096, 16384, 65536]
PROMPT, N_BYTES = 512, 128  # of a difference


def speed(lengths, n_tokens=150):
    """{length: what a token costs after so many}. Cached decoders of all lengths take a token each by turns."""
    longest = -(-(max(lengths) + n_tokens) // 64) * 64
    config = mr.ReformerConfig(
        attn_layers=("lsh",) * 6, n_buckets=(32, 64), axial_shape=(longest // 64, 64), max_len=longest
    )
    model = mr.Reformer(config)
    tokens = np.random.default_rng(0).integers(0, 256, (1, longest))
    results, decoders, cached = {}, {}, {length: [] for length in lengths}
    for length in lengths:
        decoders[length], prompt = CachedDecoder(model, length + n_tokens), tokens[:, :length]
        results[length] = {"prompt_s": seconds(decoders[length].start, prompt)}
        plain_s = statistics.median(seconds(PlainDecoder(model).start, prompt) for _ in range(3))
        results[length] |= {"plain_s": plain_s, "plain_tokens_per_s": 1 / plain_s}
    for t in range(n_tokens):
        for length in lengths:
            cached[length].append(seconds(decoders[length].step, tokens[:, t]))
    for length in lengths:
        low, median, high = statistics.quantiles(cached[length], n=4)
        results[length] |= {"cached_s": median, "cached_quartiles_s": [low, high], "cached_tokens_per_s": 1 / median}
        plain_s = results[length]["plain_s"]
        print(f"T = {length}: {1e3 * median:.2f} ms a token with a cache, {1e3 * plain_s:.0f} without", flush=True)
    return results


def difference(n_layers, steps):
    """What the cache changes in a model of `n_layers` LSH layers after `steps` steps of training: see `compare`."""
    config = mr.ReformerConfig(
        d_model=128,
        n_heads=2,
        d_ff=256,
        attn_layers=("lsh",) * n_layers,
        n_buckets=16,
        axial_shape=(16, 64),
        max_len=1024,
    )
    corpus, model = mr.data.standard_library(), mr.Reformer(config)
    if steps:
        warm = lambda step: 2e-3 * min(1, (step + 1) / 50)  # noqa: E731
        batches = lambda step: corpus.batch("train", step, 4, 640)  # noqa: E731
        mr.train(model, batches, mr.Adam(model.params), steps, schedule=warm, clip=1.0, progress=False)
    tokens, targets = corpus.batch("held_out", 0, 2, PROMPT + N_BYTES)
    found = compare(model, tokens, targets) | {"steps": steps}
    print(f"{n_layers} LSH layers, {steps} steps of training: {found}", flush=True)
    return found


def compare(model, tokens, targets):
    """Both ways' bits per byte, and how far apart their predictions are."""
    logits = []
    for kind in (CachedDecoder, PlainDecoder):
        decoder = kind(model, PROMPT + N_BYTES)
        found = [decoder.start(tokens[:, :PROMPT])]
        found += [decoder.step(tokens[:, t]) for t in range(PROMPT, PROMPT + N_BYTES - 1)]
        logits.append(np.stack(found[1:], axis=1).astype("float64"))  # the first is the prompt's: always the same
    cached, plain = (z - np.log(np.exp(z).sum(axis=-1, keepdims=True)) for z in logits)  # log p
    targets = targets[:, PROMPT : PROMPT + N_BYTES - 1, None]
    bits = [float(-np.take_along_axis(log_p, targets, -1).mean() / np.log(2)) for log_p in (cached, plain)]
    moved = abs(logits[0] - logits[1])
    return {
        "bits_per_byte_cached": bits[0],
        "bits_per_byte_plain": bits[1],
        "kl_bits_mean": float((np.exp(plain) * (plain - cached)).sum(axis=-1).mean() / np.log(2)),
        "same_likeliest": float((cached.argmax(-1) == plain.argmax(-1)).mean()),
        "logits_moved_median": float(np.median(moved)),
        "logits_moved_max": float(moved.max()),
        "logits_std": float(logits[1].std(axis=-1).mean()),
    }


def seconds(work, argument):
    """How long the call `work(argument)` takes."""
    began = time.perf_counter()
    work(argument)
    return time.perf_counter() - began


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--steps", type=int, default=200, help="of training, before a difference is measured")
    options = parser.parse_args()
    results = {"surroundings": contest.surroundings(), "threads_used": mr.backend.n_threads()}
    results["lengths"] = speed(options.lengths)
    times = [row["cached_s"] for row in results["lengths"].values()]
    results["cached_slowest_over_fastest"] = max(times) / min(times)
    results["difference"] = {n: [difference(n, s) for s in (0, options.steps)] for n in (2, 6)}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
