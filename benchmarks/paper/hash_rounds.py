"""Figure 4 of the paper on text, small: what does a language model gain from more hash rounds?

    python benchmarks/paper/hash_rounds.py            # minutes; writes results/hash_rounds.json
    python benchmarks/paper/hash_rounds.py --quick    # seconds; writes build/hash_rounds_quick.json

Byte models on the source code of Python's standard library, whose layers are all LSH attention with 1, 2, 4 or 8
rounds, in training and afterwards, or all full attention with shared queries and keys, which more rounds approach. They
have the same parameters, begin with the same values, and see the same data. Each is evaluated with every attention as
well. If a run is killed, the same command resumes it from its last checkpoint; delete build/hash_rounds to start over.
"""

import dataclasses

import recording

import minireformer as mr
from minireformer import backend

ROUNDS = {"LSH-1": 1, "LSH-2": 2, "LSH-4": 4, "LSH-8": 8}
NAMES = (*ROUNDS, "full")
FULL = {"d_model": 96, "n_layers": 2, "length": 1024, "chunk_len": 32, "batch": 2, "steps": 200, "log_every": 25}
FULL |= {"seeds": 3, "final_batches": 2}
QUICK = {"d_model": 32, "n_layers": 1, "length": 64, "chunk_len": 16, "batch": 4, "steps": 20, "log_every": 10}
QUICK |= {"seeds": 2, "final_batches": 1}
LEARNING_RATE = 3e-3
DIFFERENT = (
    "The paper's Figure 4 is about imagenet64: images of 12,288 values, 3 layers, d_model 1024, 8 heads. Here it is "
    "text: 200 steps of 2 pieces of 1,024 bytes of Python source, 2 layers, d_model 96, 4 heads, chunks of 32. Full "
    "attention shares queries and keys, as LSH attention does."
)


def config_of(name, size):
    """Layers of LSH attention alone, or of full attention."""
    return mr.ReformerConfig(
        vocab_size=256,
        d_model=size["d_model"],
        n_heads=4,
        d_head=size["d_model"] // 4,
        d_ff=4 * size["d_model"],
        attn_layers=("lsh" if name in ROUNDS else "shared_full",) * size["n_layers"],
        lsh_chunk_len=size["chunk_len"],
        n_hashes=ROUNDS.get(name, 1),
        axial_shape=(size["length"] // 16, 16),
        max_len=size["length"],
    )


def bits_with(model, name, size, corpus):
    """Held-out bits per byte of the parameters of `model` with the attention `name`."""
    other = recording.with_config(model, config_of(name, size))
    return recording.held_out_bits(corpus, other, size["final_batches"], size)


def summary(runs, size, corpus):
    """What is written down of the runs of every attention, one a seed."""
    return {
        "paper": "more rounds bring the loss nearer to that of full attention, and with 8 it is almost the same",
        "different": DIFFERENT,
        "held_out_bits": {  # with the attention of training
            name: recording.over_seeds([run["held_out_bits"][name] for run in runs[name]]) for name in NAMES
        },
        "above_full": {  # seed by seed, on the same data: how many bits more than with full attention
            name: recording.over_seeds(
                [a["held_out_bits"][name] - b["held_out_bits"]["full"] for a, b in zip(runs[name], runs["full"])]
            )
            for name in ROUNDS
        },
        "evaluated_with": {  # the mean over seeds of the model trained with (row) when evaluated with (column)
            name: {other: sum(run["held_out_bits"][other] for run in of_seeds) / len(of_seeds) for other in NAMES}
            for name, of_seeds in runs.items()
        },
        "runs": runs,  # the logs are the curves
        "n_parameters": recording.count_parameters(mr.Reformer(config_of("full", size))),
        "configs": {name: dataclasses.asdict(config_of(name, size)) for name in NAMES},
        "size": size,
        "learning_rate": LEARNING_RATE,
        "corpus_bytes": {"train": len(corpus.train), "held_out": len(corpus.held_out)},
    }


def main():
    """Train what is not trained yet, evaluate everything, write one JSON file."""
    options = recording.options(__doc__)
    backend.use("numpy")
    folder, path = recording.places("hash_rounds", options)
    size = QUICK if options.quick else FULL
    corpus = mr.data.standard_library()
    runs = {name: [] for name in NAMES}
    for seed in range(size["seeds"]):
        for name in NAMES:
            model = mr.Reformer(config_of(name, size), seed=seed)
            checkpoint = folder / f"{name}_{seed}.safetensors"
            log = recording.train_on_bytes(model, corpus, size, LEARNING_RATE, seed, checkpoint)
            bits = {evaluated: bits_with(model, evaluated, size, corpus) for evaluated in NAMES}
            runs[name].append({"seed": seed, "held_out_bits": bits, "log": log})
            print(name, seed, {n: round(b, 3) for n, b in bits.items()}, flush=True)
        recording.write(path, summary(runs, size, corpus))  # with the seeds so far


if __name__ == "__main__":
    main()
