"""Pictures as sequences of bytes: a small model of 64 x 64 pixels, and what hash rounds do for it (Figure 4).

    python benchmarks/paper/images.py            # all parts; writes results/images.json
    python benchmarks/paper/images.py model      # one part; what is recorded of the others stays
    python benchmarks/paper/images.py --time     # on a quiet machine: only seconds per step, added to what is recorded
    python benchmarks/paper/images.py --quick    # seconds; writes build/images_quick.json

"model" trains one local and one LSH layer on squares of 64 x 64 pixels, 12,288 values, and lets it complete held-out
squares of which the upper half is given. "rounds" trains two layers with 1, 2, 4 and 8 hash rounds and two layers of
full attention, for equal steps, on squares of 32 x 32, and "rates" two of these with other learning rates.
"long_rounds" is "rounds" on squares of 64 x 64, in three stages, of which the first two see the uppermost rows alone:
whole squares alone teach little in so many steps, and a step of full attention takes eight seconds there. On one core,
"long_rounds" takes a quarter of an hour a seed, half of it full attention, "rounds" eight minutes a seed, "model" ten
minutes, "rates" a quarter of an hour. Held out is every fifth tile of the photograph: tiles from all over it differ
less from the rest in their colours than the band across it that `data.photograph` holds out. If a run is killed, the
same command resumes it from its last checkpoint; delete build/images to start over.
"""

import argparse
import dataclasses
import io
import json
import time

import numpy as np
import recording
from PIL import Image

import minireformer as mr
from minireformer import backend, training

ROUNDS = {"LSH-1": 1, "LSH-2": 2, "LSH-4": 4, "LSH-8": 8, "full": 0}  # name: hash rounds, 0 for full attention
FULL = {
    "model": {
        "side": 64,
        "tile": 128,
        "batch": 1,
        "steps": 600,
        "log_every": 25,
        "n_held_out": 16,
        "completed": (0, 5, 8),
    },
    "rounds": {"side": 32, "tile": 64, "batch": 2, "steps": 150, "log_every": 25, "n_held_out": 32, "seeds": (0, 1, 2)},
    "long_rounds": {
        "side": 64,
        "tile": 128,
        "stages": ((4, 4, 150), (1, 16, 100), (1, 64, 40)),  # squares a batch, uppermost rows, steps
        "steps": 290,  # of all stages
        "log_every": 50,
        "n_held_out": 8,
        "seeds": (0, 1),
    },
}
FULL["rates"] = FULL["rounds"] | {"seeds": (0,), "learning_rates": (1.5e-3, 6e-3), "kinds": ("LSH-8", "full")}
QUICK = {
    "model": {"side": 8, "tile": 128, "batch": 2, "steps": 6, "log_every": 3, "n_held_out": 2, "completed": (0,)},
    "rounds": {"side": 8, "tile": 64, "batch": 2, "steps": 4, "log_every": 2, "n_held_out": 2, "seeds": (0,)},
    "long_rounds": {
        "side": 8,
        "tile": 128,
        "stages": ((2, 4, 2), (1, 8, 2)),
        "steps": 4,
        "log_every": 2,
        "n_held_out": 2,
        "seeds": (0,),
    },
}
QUICK["rates"] = QUICK["rounds"] | {"learning_rates": (6e-3,), "kinds": ("LSH-8",)}
LEARNING_RATE, WARMUP = 3e-3, 20
NOT_TRAINED = 10**6  # seeds of held-out squares begin here


def tiles(size):
    """The photograph in whole tiles of `size` x `size` pixels, every fifth of them held out, as an `ImageCorpus`."""
    bands = mr.data.photograph()
    picture = np.concatenate([bands.train[0], bands.held_out[0], bands.train[1]])  # 600, 512, 3
    corners = np.ndindex(picture.shape[0] // size, picture.shape[1] // size)
    cut = [picture[size * row : size * (row + 1), size * column : size * (column + 1)] for row, column in corners]
    return mr.data.ImageCorpus([tile for i, tile in enumerate(cut) if i % 5 != 2], cut[2::5])


def config_of(side, attn_layers, n_hashes):
    """Axial positions follow the grid of rows, columns and colours; every window of a local layer goes up a row."""
    chunk_len = 64 if side >= 32 else 16
    return mr.ReformerConfig(
        vocab_size=256,
        d_model=96,
        n_heads=4,
        d_head=24,
        d_ff=192,
        attn_layers=attn_layers,
        lsh_chunk_len=chunk_len,
        local_chunk_len=chunk_len,
        local_n_before=-(-(3 * side - 1) // chunk_len),
        n_hashes=n_hashes,
        axial_shape=(side, side, 3),
        axial_dims=(40, 40, 16),
        max_len=3 * side**2,
    )


def stages_of(size):
    """[(squares a batch, rows of each, steps)]: one stage where `size` has none."""
    return size["stages"] if "stages" in size else [(size["batch"], size["side"], size["steps"])]


def batches_of(corpus, size, seed):
    """step -> tokens and targets: the uppermost rows of squares, as many as the stage asks for."""
    shapes = [shape for *shape, steps in stages_of(size) for _ in range(steps)]  # of every step

    def batch(step):
        n_squares, n_rows = shapes[step]
        pieces = corpus.batch("train", size["steps"] * seed + step, n_squares, size["side"])
        return [piece[:, : 3 * size["side"] * n_rows] for piece in pieces]

    return batch


def train_one(corpus, config, size, seed, path, learning_rate=LEARNING_RATE):
    """-> the trained model and its log; the same held-out squares are scored every time."""
    held_out = [corpus.batch("held_out", NOT_TRAINED + i, 1, size["side"]) for i in range(size["n_held_out"])]
    model = mr.Reformer(config, seed=seed)
    log = recording.train(
        model,
        batches_of(corpus, size, seed),
        lambda model: float(np.mean([training.bits_per_token(model, *batch) for batch in held_out])),
        size,
        learning_rate,
        min(WARMUP, size["steps"] // 2),
        seed,
        path,
    )
    kept = ("step", "bits_per_token", "held_out_bits")  # how fast it was depends on what else the machine did
    return model, [{name: row[name] for name in kept} for row in log]


def baselines(corpus, size):
    """Bits per value of the same held-out squares: by counts of the training pictures, by differences, and by PNG."""
    squares = np.concatenate(
        [corpus.squares("held_out", NOT_TRAINED + i, 1, size["side"]) for i in range(size["n_held_out"])]
    )  # n, S, S, 3
    counts = np.bincount(np.concatenate([picture.ravel() for picture in corpus.train]), minlength=256) + 1
    differences = [(picture[:, 1:] - picture[:, :-1]).ravel() for picture in corpus.train]  # uint8: modulo 256
    steps = np.bincount(np.concatenate(differences), minlength=256) + 1
    left = squares[:, :, 1:] - squares[:, :, :-1]
    first = -np.log2(counts / counts.sum())[squares[:, :, :1]].sum()  # a row's first pixel has no left neighbour
    n_bytes = 0
    for square in squares:
        file = io.BytesIO()
        Image.fromarray(square).save(file, "PNG", optimize=True)
        n_bytes += len(file.getvalue())
    return {
        "counts of values": float(-np.log2(counts / counts.sum())[squares].mean()),
        "difference to the left pixel": float((first - np.log2(steps / steps.sum())[left].sum()) / squares.size),
        "PNG": 8 * n_bytes / squares.size,
    }


def in_hexadecimal(squares):
    """Rows of squares (n, S, ...) of numbers 0..255, each as one string: bytes.fromhex reads it."""
    return [[row.tobytes().hex() for row in square] for square in squares.astype("uint8")]


def completions(corpus, model, size):
    """Held-out squares, the same with a lower half that the model drew, and the LSH layer's buckets for the last one.

    The buckets are those of the green values: for every head and round the rows of a square.
    """
    truth = np.concatenate([corpus.squares("held_out", NOT_TRAINED + i, 1, size["side"]) for i in size["completed"]])
    rows = truth.reshape(len(truth), -1).astype("int64")
    given = rows[:, : rows.shape[1] // 2]
    made = mr.generate(model, backend.asarray(given), given.shape[1], temperature=0.9, seed=0, cached=True)
    _, cache = model.features(backend.asarray(rows[-1:]), training=False)
    buckets = backend.to_numpy(cache.layers.replays[1]["buckets"][0]).reshape(-1, *truth.shape[1:])  # H R, S, S, 3
    return {
        "truth": in_hexadecimal(truth),
        "completed": in_hexadecimal(backend.to_numpy(made).reshape(truth.shape)),
        "buckets of green": in_hexadecimal(buckets[..., 1]),
    }


def run_model(corpus, size, folder):
    """One local and one LSH layer; -> what is to be recorded."""
    config = config_of(size["side"], ("local", "lsh"), n_hashes=2)
    model, log = train_one(corpus, config, size, 0, folder / "model.safetensors")
    return {
        "config": dataclasses.asdict(config),
        "n_parameters": recording.count_parameters(model),
        "log": log,
        "baselines": baselines(corpus, size),
        "completions": completions(corpus, model, size),
    }


def config_of_kind(kind, size):
    """Two layers of full attention, or of LSH with so many rounds."""
    n_hashes = ROUNDS[kind]
    return config_of(size["side"], ("lsh", "lsh") if n_hashes else ("shared_full", "shared_full"), n_hashes or 1)


def log_of(corpus, kind, size, seed, folder, learning_rate=LEARNING_RATE):
    """The log of two layers of a kind, trained."""
    path = folder / f"{kind}_{seed}_{learning_rate}.safetensors"
    _, log = train_one(corpus, config_of_kind(kind, size), size, seed, path, learning_rate)
    print(f"{kind} seed {seed} rate {learning_rate}: {log[-1]['held_out_bits']:.3f} bits held out", flush=True)
    return log


def run_rounds(corpus, size, folder):
    """Every kind, for every seed; -> what is to be recorded."""
    return {
        "config": dataclasses.asdict(config_of_kind("full", size)),
        "logs": {
            kind: {str(seed): log_of(corpus, kind, size, seed, folder) for seed in size["seeds"]} for kind in ROUNDS
        },
        "baselines": baselines(corpus, size),
    } | times_of(corpus, ROUNDS, size)


def run_rates(corpus, size, folder):
    """Some kinds with other learning rates, one seed; -> what is to be recorded."""
    (seed,), rates = size["seeds"], size["learning_rates"]
    return {
        "logs": {
            kind: {str(rate): log_of(corpus, kind, size, seed, folder, rate) for rate in rates}
            for kind in size["kinds"]
        },
    } | times_of(corpus, size["kinds"], size)


def seconds_per_step(corpus, kind, size):
    """Seconds of a step (loss and all gradients) of each stage, the second one of two."""
    model, seconds = mr.Reformer(config_of_kind(kind, size)), []
    for i in np.cumsum([0, *(steps for *_, steps in stages_of(size)[:-1])]):  # the first step of each stage
        batch = batches_of(corpus, size, 0)(i)
        model.loss_and_grads(*batch)
        began = time.perf_counter()
        model.loss_and_grads(*batch)
        seconds.append(time.perf_counter() - began)
    return seconds


def times_of(corpus, kinds, size):
    """What is recorded of the time that steps take, and on which machine that was."""
    seconds = {kind: seconds_per_step(corpus, kind, size) for kind in kinds}
    return {"seconds_per_step": seconds, "timed": recording.surroundings()}


def add_times(part, size, path):
    """Measure the steps of a part whose record has them, and put them there."""
    result = json.loads(path.read_text(encoding="utf-8"))
    if "seconds_per_step" in result[part]:
        result[part] |= times_of(tiles(size["tile"]), result[part]["seconds_per_step"], size)
        recording.write(path, result)


def main():
    """Run the parts asked for and write one JSON file."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("part", nargs="?", choices=tuple(FULL), help="one part alone")
    parser.add_argument("--time", action="store_true", help="only measure steps, and add them to the recorded results")
    options = recording.options(__doc__, parser)
    folder, path = recording.places("images", options)
    sizes = QUICK if options.quick else FULL
    parts = {"model": run_model, "rounds": run_rounds, "long_rounds": run_rounds, "rates": run_rates}
    for part, run in parts.items():
        if options.part not in (None, part):
            continue
        if options.time:
            add_times(part, sizes[part], path)
            continue
        recorded = run(tiles(sizes[part]["tile"]), sizes[part], folder / part) | {
            "size": sizes[part],
            "training": {"learning_rate": LEARNING_RATE, "warmup": WARMUP, "schedule": "cosine", "clip": 1.0},
            "surroundings": recording.surroundings(),  # of this part: the other's may be older
        }
        result = (
            json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        )  # read late: the other part may be there by now
        recording.write(path, result | {part: recorded})


if __name__ == "__main__":
    main()
