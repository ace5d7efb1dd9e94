"""Does a Reformer learn what a Transformer learns, at a length where full attention is still possible?

    python benchmarks/paper/match_full.py            # half an hour a seed; writes results/match_full.json
    python benchmarks/paper/match_full.py --seed 1   # one seed alone; what is recorded of others stays
    python benchmarks/paper/match_full.py --time     # then, on a quiet machine: adds seconds per step to that file
    python benchmarks/paper/match_full.py --quick    # seconds; writes build/match_full_quick.json

Models of the bytes of Python's standard library differ in nothing but the attention of their three layers: full, local
or LSH in all of them, or two of local attention below one of full or of LSH. Pieces are short at first and whole in the
end; all models see the same batches in the same order for as many steps, and are compared on the same pieces of
held-out files. Then every trained model is evaluated again with one of its layers switched off (its attention output
set to zero), and models with LSH layers with all of those switched off, with other numbers of hash rounds, and with
exact attention in their place. If a run is killed, the same command resumes it from its last checkpoint; delete
build/match_full to start over.
"""

import argparse
import dataclasses
import json
import statistics
import time

import numpy as np
import recording
from byte_model import order_n_bits

import minireformer as mr
from minireformer import training

VARIANTS = {
    "full": ("full", "full", "full"),
    "local": ("local", "local", "local"),
    "local and full": ("local", "local", "full"),
    "local and LSH": ("local", "local", "lsh"),
    "LSH": ("lsh", "lsh", "lsh"),
}
ROUNDS = (1, 2, 4, 8)
FULL = {
    "d_model": 96,
    "length": 4096,
    "chunk_len": 64,  # of LSH layers
    "stages": (  # pieces a batch, bytes a piece, steps
        (16, 128, 500),
        (8, 256, 100),
        (4, 512, 100),
        (2, 1024, 100),
        (1, 2048, 100),
        (1, 4096, 120),
    ),
    "steps": 1020,  # of all stages
    "warmup": 100,
    "log_every": 50,
    "n_logged": 2,  # held-out pieces for a row of the log
    "n_final": 16,  # and in the end
    "seeds": (0, 1),
}
QUICK = FULL | {"d_model": 32, "length": 1024, "stages": ((4, 128, 15), (1, 1024, 5)), "steps": 20, "warmup": 5}
QUICK |= {"log_every": 5, "n_logged": 1, "n_final": 2, "seeds": (0,)}
LEARNING_RATE = 3e-3
DIFFERENT = (
    "The paper compares models of up to 20 layers, on enwik8 in pieces of 64K bytes and on images of 12K values, with "
    "many thousands of steps on accelerators. Here: three layers of 96 units on Python source; 500 steps of 16 pieces "
    "of 128 bytes, 100 steps each of pieces of 256, 512, 1,024 and 2,048 bytes, and 120 of one piece of 4,096. In "
    "trials that began with longer pieces, or went straight from 128 bytes to 4,096, full attention knew in the end "
    "only which byte tends to follow which. So most pieces here are too short to have any far context."
)


def config_of(kinds, size, n_hashes=4):
    """A model of bytes with one block for each of `kinds`."""
    d_model, length = size["d_model"], size["length"]
    return mr.ReformerConfig(
        d_model=d_model,
        n_heads=2,
        d_head=d_model // 2,
        d_ff=4 * d_model,
        attn_layers=kinds,
        local_chunk_len=16,
        lsh_chunk_len=size["chunk_len"],
        n_hashes=n_hashes,
        n_buckets=(16, length // 512),  # the same for short pieces as for whole ones
        axial_shape=(length // 128, 8, 16),
        # Little for the coarse part, which short pieces do not train, much for the place within 16 bytes.
        axial_dims=(d_model // 8, d_model // 4, 5 * d_model // 8),
        max_len=length,
    )


def held_out(corpus, size, n_pieces):
    """`n_pieces` pieces of the held-out files, always the same: a list of (tokens, targets), (1, T) each."""
    return [corpus.batch("held_out", i, 1, size["length"]) for i in range(n_pieces)]


def bits_of(model, pieces):
    """Bits per byte of each piece. Rotations are drawn anew for each."""
    return [training.bits_per_token(model, *piece, seed=i) for i, piece in enumerate(pieces)]


def summary(bits, against=None):
    """Mean and standard error over pieces; with `against`, of the differences piece by piece."""
    values = np.array(bits) if against is None else np.array(bits) - against
    return {"mean": float(values.mean()), "standard_error": float(values.std(ddof=1) / len(values) ** 0.5)}


def train_one(variant, seed, size, options, corpus):
    """-> trained model, log, with bits per byte of held-out files in every row."""
    model = mr.Reformer(config_of(VARIANTS[variant], size), seed=seed)
    pieces = held_out(corpus, size, size["n_logged"])
    shapes = [shape for *shape, steps in size["stages"] for _ in range(steps)]  # of every step
    log = recording.train(
        model,
        lambda step: corpus.batch("train", 10**6 * seed + step, *shapes[step]),
        lambda model: statistics.mean(bits_of(model, pieces)),
        size,
        LEARNING_RATE,
        size["warmup"],
        seed,
        recording.places("match_full", options)[0] / f"{variant} {seed}.safetensors",
    )
    return model, log


def with_other_attention(model, size, kinds, n_hashes=4):
    """The parameters of `model` in a model whose layers attend in another way."""
    return recording.with_config(model, config_of(kinds, size, n_hashes))


def without_layers(model, layers):
    """A model whose attention in `layers` adds nothing to the stream: its output projection is zero."""
    other = recording.with_config(model, model.config)
    for layer in layers:
        other.params[f"layers.{layer}.attention.output.weight"][...] = 0
    return other


def evaluate(model, kinds, size, pieces):
    """Bits per byte of a trained model as it is, and what they become under other attention."""
    bits = bits_of(model, pieces)
    result = {"bits": bits} | summary(bits)
    result["rise_without_layer"] = {  # by index: how much that layer's attention was worth
        layer: {"kind": kind} | summary(bits_of(without_layers(model, [layer]), pieces), bits)
        for layer, kind in enumerate(kinds)
    }
    if "lsh" in kinds:
        lsh_layers = [layer for layer, kind in enumerate(kinds) if kind == "lsh"]
        result["rise_without_lsh"] = summary(bits_of(without_layers(model, lsh_layers), pieces), bits)
        others = {f"{n} rounds": with_other_attention(model, size, kinds, n) for n in ROUNDS}
        exact = tuple("shared_full" if kind == "lsh" else kind for kind in kinds)
        others["exact"] = with_other_attention(model, size, exact)
        result["rise_with_other_attention"] = {
            name: summary(bits_of(other, pieces), bits) for name, other in others.items()
        }
    return result


def seconds_per_step(size, n_rounds):
    """{variant: [seconds of a step in each stage]} for loss and all gradients: medians, and every one.

    Variants take turns. One step of each is not counted.
    """
    corpus = mr.data.standard_library()
    batches = [corpus.batch("train", 0, *shape) for *shape, _ in size["stages"]]
    models = {variant: mr.Reformer(config_of(kinds, size)) for variant, kinds in VARIANTS.items()}
    seconds = {variant: [[] for _ in batches] for variant in VARIANTS}
    for i in range(n_rounds + 1):
        for variant, model in models.items():
            for batch, found in zip(batches, seconds[variant]):
                began = time.perf_counter()
                model.loss_and_grads(*batch)
                if i:
                    found.append(time.perf_counter() - began)
    medians = {variant: [statistics.median(found) for found in stages] for variant, stages in seconds.items()}
    return {"seconds_per_step": medians, "all": seconds, "threads": mr.backend.n_threads(), "rounds": n_rounds}


def at_equal_seconds(logs, seconds, size):
    """{variant: [{"seconds", "steps", "held_out_bits"}]}: the logs of one seed against the time that steps took.

    Schedules are for equal steps, so a fast model's last row is its best; at that many seconds, others are
    in the middle of theirs.
    """
    steps = [steps for *_, steps in size["stages"]]
    found = {}
    for variant, log in logs.items():
        ends = np.cumsum(np.repeat(seconds[variant], steps))  # of every step
        found[variant] = [
            {"seconds": ends[row["step"] - 1], "steps": row["step"], "held_out_bits": row["held_out_bits"]}
            for row in log
        ]
    return found


def add_at_equal_seconds(result, size):
    """`at_equal_seconds` of every seed, from the times that `result` has."""
    result["at_equal_seconds"] = {
        seed: at_equal_seconds(
            {variant: run["log"] for variant, run in runs.items()}, result["times"]["seconds_per_step"], size
        )
        for seed, runs in result["runs"].items()
    }


def add_times(options, size):
    """Measure steps and add them, and the logs against seconds, to what was recorded."""
    path = recording.places("match_full", options)[1]
    result = json.loads(path.read_text(encoding="utf-8"))
    result["times"] = seconds_per_step(size, 3 if options.quick else 15)
    medians = result["times"]["seconds_per_step"]
    add_at_equal_seconds(result, size)
    path.write_text(recording.as_json(result) + "\n", encoding="utf-8")
    for variant, stages in medians.items():
        print(f"{variant}: seconds a step by stage", *(f"{one:.3f}" for one in stages))


def train_all(options, size):
    """Train and evaluate every variant with every seed, or one; the file is written after each."""
    path, seeds, known = recording.places("match_full", options)[1], size["seeds"], {}
    if options.seed is not None:
        seeds, known = [options.seed], json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    corpus = mr.data.standard_library()
    pieces = held_out(corpus, size, size["n_final"])
    result = known | {
        "question": "Does it match full attention where full attention is possible?",
        "different": DIFFERENT,
        "size": size,
        "learning_rate": LEARNING_RATE,
        "configs": {variant: dataclasses.asdict(config_of(kinds, size)) for variant, kinds in VARIANTS.items()},
        "baselines": {f"order {n}": order_n_bits(corpus.train, corpus.held_out, n) for n in (0, 1, 2)},
        "corpus_bytes": {"train": len(corpus.train), "held_out": len(corpus.held_out)},
        "runs": known.get("runs", {}) | {str(seed): {} for seed in seeds},  # seed: variant: results
    }
    for seed in seeds:
        runs = result["runs"][str(seed)]
        for variant, kinds in VARIANTS.items():
            model, log = train_one(variant, seed, size, options, corpus)
            runs[variant] = evaluate(model, kinds, size, pieces) | {"log": log}
            runs[variant]["more_than_full"] = summary(runs[variant]["bits"], runs["full"]["bits"])
            print(f"seed {seed}, {variant}: {runs[variant]['mean']:.3f} bits per byte", flush=True)
            recording.write(path, result)
    if "times" in result:
        add_at_equal_seconds(result, size)
        recording.write(path, result)


def main():
    """Train and record, or time and add to the record."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--time", action="store_true", help="only measure steps, and add them to the recorded results")
    parser.add_argument("--seed", type=int, help="one seed alone; what is recorded of others stays")
    options = recording.options(__doc__, parser)
    (add_times if options.time else train_all)(options, QUICK if options.quick else FULL)


if __name__ == "__main__":
    main()
