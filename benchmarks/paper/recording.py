"""What the scripts that repeat an experiment of the paper share: command line, training, and the file they write.

Such a script trains models for minutes and keeps checkpoints in its own folder below `build`. If you kill it, the same
command resumes it from there.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

import minireformer as mr
from minireformer import backend, training
from minireformer.training.optimizers import warmup_cosine

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import machine  # noqa: E402


def options(description, *more):
    """The command line: `quick`, and `build`, the folder for checkpoints and for what a quick run finds.

    `more`: parsers of a script's own options, made with `add_help=False`.
    """
    parser = argparse.ArgumentParser(description=description.partition("\n")[0], parents=more)
    parser.add_argument("--quick", action="store_true", help="a tiny run, in seconds, to see that all of it works")
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="where checkpoints lie")
    return parser.parse_args()


def places(name, options):
    """-> the folder for checkpoints, and the JSON file to write: in `results`, or in `build` for a quick run."""
    if options.quick:
        name += "_quick"
    results = options.build if options.quick else Path(__file__).resolve().parent / "results"
    return options.build / name, results / f"{name}.json"


def surroundings():
    """What a result depends on: versions, machine, threads, date."""
    return machine.surroundings() | {"threads": backend.n_threads()}


def write(path, result, ran_on=None):
    """Write `result` to the JSON file `path`, and what it depends on: `ran_on`, or this moment's `surroundings()`."""
    result |= {"surroundings": ran_on or surroundings()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_json(result) + "\n", encoding="utf-8")
    print(f"wrote {path.name}")


def as_json(value, indent=1):
    """JSON in few lines: an entry of a log takes one, as all does that fits into one, and so does a list of numbers."""
    line = json.dumps(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    if len(line) <= 240 or not any(isinstance(part, dict | list | tuple) for part in parts):
        return line
    names = [f"{json.dumps(str(name))}: " for name in value] if isinstance(value, dict) else [""] * len(value)
    space = "\n" + " " * indent
    lines = ("," + space).join(name + as_json(part, indent + 1) for name, part in zip(names, parts))
    return line[0] + space + lines + space[:-1] + line[-1]


def over_seeds(values):
    """The mean, least and greatest of `values`, one for each seed."""
    return {"mean": sum(values) / len(values), "least": min(values), "greatest": max(values)}


def train(model, batches, bits, size, learning_rate, warmup, seed, checkpoint):
    """Train `model` for size["steps"] steps on batches(step); -> the log, with bits(model) as `held_out_bits` in it.

    Adam, with `warmup` steps of warm-up and a cosine to nothing.
    """
    return mr.train(
        model,
        batches,
        mr.Adam(model.params, lr=learning_rate),
        size["steps"],
        schedule=warmup_cosine(learning_rate, warmup, size["steps"] + 1),
        clip=1.0,
        seed=seed,
        log_every=size["log_every"],
        evaluate=lambda model: {"held_out_bits": bits(model)},
        checkpoint=checkpoint,
        checkpoint_every=size["log_every"],
        progress=sys.stderr.isatty(),
    )


def train_on_bytes(model, corpus, size, learning_rate, seed, checkpoint):
    """`train` on pieces of `corpus` that depend on `seed` alone, with a warm-up of a tenth of the steps."""
    return train(
        model,
        lambda step: corpus.batch("train", 10**7 * seed + step, size["batch"], size["length"]),
        lambda model: held_out_bits(corpus, model, 1, size),
        size,
        learning_rate,
        max(1, size["steps"] // 10),
        seed,
        checkpoint,
    )


def held_out_bits(corpus, model, n_batches, size):
    """Mean bits per byte of `model` over pieces of the held-out files, the same pieces every time."""
    batches = [corpus.batch("held_out", seed, 8, size["length"]) for seed in range(n_batches)]
    return float(np.mean([training.bits_per_token(model, *batch) for batch in batches]))


def with_config(model, config):
    """A model of another `config`, with its attention for one, that has the parameters of `model`."""
    other = mr.Reformer(config)
    other.load_params(model.params)
    return other


def count_parameters(model):
    """How many numbers a model learns."""
    return sum(param.size for param in model.params.values())
