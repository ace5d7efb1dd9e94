"""What the scripts that repeat an experiment of the paper share: their command line, their seeds, the file they write.

Such a script trains models, which takes minutes, and leaves checkpoints in a folder of its own below `build`: killed
and started again with the same command, it goes on where it was.
"""

import argparse
import json
import sys
from pathlib import Path

import contest
from train_byte_model import held_out_bits

import minireformer as mr
from minireformer import backend
from minireformer.optim import warmup_cosine

ROOT = Path(__file__).resolve().parents[1]


def options(description):
    """The command line: `quick`, and `build`, the folder for checkpoints and for what a quick run finds."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tiny run, in seconds, to see that all of it works")
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="where checkpoints lie")
    return parser.parse_args()


def places(name, options):
    """-> the folder for checkpoints, the JSON file to write: of a quick run below `build`, else among the results."""
    if options.quick:
        name += "_quick"
    results = options.build if options.quick else ROOT / "benchmarks" / "results"
    return options.build / name, results / f"{name}.json"


def write(path, result):
    """Write `result`, and what it depends on, to the JSON file `path`."""
    result |= {"surroundings": contest.surroundings() | {"threads": backend.n_threads()}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path.name}")


def over_seeds(values):
    """The mean of what was found with each seed, the least and the greatest of it."""
    return {"mean": sum(values) / len(values), "least": min(values), "greatest": max(values)}


def train_on_bytes(model, corpus, size, learning_rate, seed, checkpoint):
    """Train `model` for size["steps"] steps on pieces of `corpus` that depend on `seed` alone; -> the log.

    Adam, with a warm-up of a tenth of the steps and a cosine to nothing. Every logged row has `held_out_bits`, over
    the same pieces every time.
    """
    schedule = warmup_cosine(learning_rate, max(1, size["steps"] // 10), size["steps"] + 1)
    return mr.train(
        model,
        lambda step: corpus.batch("train", 10**7 * seed + step, size["batch"], size["length"]),
        mr.Adam(model.params, lr=learning_rate),
        size["steps"],
        schedule=schedule,
        clip=1.0,
        seed=seed,
        log_every=size["log_every"],
        evaluate=lambda model: {"held_out_bits": held_out_bits(corpus, model, 1, size)},
        checkpoint=checkpoint,
        checkpoint_every=size["log_every"],
        progress=sys.stderr.isatty(),
    )


def count_parameters(model):
    """How many numbers a model learns."""
    return sum(param.size for param in model.params.values())
