"""Train a small Reformer on the bytes of Python's standard library, and record how it went.

    python benchmarks/paper/byte_model.py            # minutes; writes results/byte_model.json
    python benchmarks/paper/byte_model.py --quick    # seconds; writes build/byte_model_quick.json

Notebook 08 draws the result. If a run is killed, the same command resumes it from its last checkpoint; delete
build/byte_model to start over.
"""

import bz2
import dataclasses
import gzip
import json
import lzma
import sys

import numpy as np
import recording

import minireformer as mr
from minireformer.training.optimizers import warmup_cosine

PROMPT = 'def find(self, name):\n    """Return the '
FULL = {"d_model": 192, "length": 512, "batch": 4, "stages": (50, 200, 1000), "log_every": 25, "n_new": 300}
QUICK = {"d_model": 64, "length": 128, "batch": 4, "stages": (10, 40), "log_every": 10, "n_new": 50}
LEARNING_RATE = 3e-3


def config_of(size):
    """Two blocks, one of local and one of LSH attention."""
    return mr.ReformerConfig(
        vocab_size=256,
        d_model=size["d_model"],
        n_heads=4,
        d_head=size["d_model"] // 4,
        d_ff=4 * size["d_model"],
        attn_layers=("local", "lsh"),
        local_chunk_len=32,
        lsh_chunk_len=32,
        n_hashes=2,
        axial_shape=(size["length"] // 32, 32),
        max_len=size["length"],
    )


def baselines(corpus):
    """Bits per byte of the held-out files, by counting bytes of the training files and by compressors."""
    held_out = corpus.held_out.tobytes()
    bits = {f"order {n}": order_n_bits(corpus.train, corpus.held_out, n) for n in (0, 1, 2)}
    for name, compress in (("gzip", gzip.compress), ("bz2", bz2.compress), ("lzma", lzma.compress)):
        bits[name] = 8 * len(compress(held_out)) / len(held_out)
    return bits


def order_n_bits(train, test, n):
    """-log2 p(byte | the n bytes before), with p counted on `train` (every pair once more) and the mean on `test`."""

    def contexts_and_pairs(data):
        context = np.zeros(len(data) - n, dtype="int64")
        for i in range(n):
            context = 256 * context + data[i : len(data) - n + i]
        return context, 256 * context + data[n:]

    context, pair = contexts_and_pairs(train)
    counts = np.bincount(pair, minlength=256 ** (n + 1))
    totals = np.bincount(context, minlength=256**n)
    context, pair = contexts_and_pairs(test)
    return float(np.mean(np.log2(totals[context] + 256) - np.log2(counts[pair] + 1)))


def run(size, folder):
    """Train in stages, sample text after each; -> what is to be recorded."""
    corpus = mr.data.standard_library()
    model = mr.Reformer(config_of(size), seed=0)
    opt = mr.Adam(model.params, lr=LEARNING_RATE)
    schedule = warmup_cosine(LEARNING_RATE, size["stages"][0], size["stages"][-1] + 1)
    folder.mkdir(parents=True, exist_ok=True)
    samples_file = folder / "samples.json"
    samples = json.loads(samples_file.read_text(encoding="utf-8")) if samples_file.exists() else {}
    for steps in size["stages"]:
        if str(steps) in samples and steps != size["stages"][-1]:
            continue  # a killed run had come further
        log = mr.train(
            model,
            lambda step: corpus.batch("train", step, size["batch"], size["length"]),
            opt,
            steps,
            schedule=schedule,
            clip=1.0,
            log_every=size["log_every"],
            evaluate=lambda model: {"held_out_bits": recording.held_out_bits(corpus, model, 2, size)},
            checkpoint=folder / "model.safetensors",
            checkpoint_every=2 * size["log_every"],
            progress=sys.stderr.isatty(),
        )
        samples[str(steps)] = mr.generate(model, PROMPT, size["n_new"], temperature=0.8, top_p=0.95, seed=0)
        samples_file.write_text(json.dumps(samples), encoding="utf-8")
    return {
        "config": dataclasses.asdict(model.config),
        "n_parameters": recording.count_parameters(model),
        "size": size,
        "learning_rate": LEARNING_RATE,
        "corpus_bytes": {"train": len(corpus.train), "held_out": len(corpus.held_out)},
        "baselines": baselines(corpus),
        "log": log,
        "final_held_out_bits": recording.held_out_bits(corpus, model, 16, size),
        "prompt": PROMPT,
        "samples": samples,
    }


def main():
    """Train, then write one JSON file."""
    options = recording.options(__doc__)
    folder, path = recording.places("byte_model", options)
    result = run(QUICK if options.quick else FULL, folder)
    recording.write(path, result)
    print(f"held out: {result['final_held_out_bits']:.3f} bits per byte")


if __name__ == "__main__":
    main()
