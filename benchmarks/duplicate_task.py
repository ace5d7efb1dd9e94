"""The paper's duplicate task (section 5, Table 2), smaller: train with full and LSH attention, evaluate with both.

    python benchmarks/duplicate_task.py            # minutes; writes benchmarks/results/duplicate_task.json
    python benchmarks/duplicate_task.py --quick    # T = 64, under a minute; writes build/duplicate_task_quick.json

Notebook 08 draws the result. A run that is killed goes on where its last checkpoint left it when the same
command is given again; delete the folder with the checkpoints (build/duplicate_task) to begin anew.
"""

import argparse
import dataclasses
import json
import platform
import sys
from pathlib import Path

import numpy

import minireformer as mr
from minireformer import backend, training
from minireformer.optim import warmup_inverse_sqrt

ROOT = Path(__file__).resolve().parents[1]
TRAINED = {"full": 0, "LSH-4": 4, "LSH-2": 2, "LSH-1": 1}  # name: hash rounds, 0 for full attention
EVALUATED = {"full": 0, "LSH-8": 8, "LSH-4": 4, "LSH-2": 2, "LSH-1": 1}
FULL = {"length": 256, "chunk_len": 32, "d_model": 128, "max_steps": 800, "extra_steps": 50, "log_every": 10}
QUICK = {"length": 64, "chunk_len": 16, "d_model": 64, "max_steps": 100, "extra_steps": 0, "log_every": 10}
BATCH, LEARNING_RATE, WARMUP = 16, 6e-3, 60
STAGE = 50  # steps from one checkpoint to the next
GOAL = 0.99


def config_of(n_hashes, size):
    """One layer; both kinds of attention share queries and keys, so that parameters fit either."""
    return mr.ReformerConfig(
        vocab_size=128,
        d_model=size["d_model"],
        n_heads=4,
        d_head=size["d_model"] // 4,
        d_ff=size["d_model"],
        attn_layers=("lsh",) if n_hashes else ("shared_full",),
        lsh_chunk_len=size["chunk_len"],
        n_hashes=n_hashes or 1,
        positions="learned",
        max_len=size["length"],
    )


def train_one(n_hashes, size, path):
    """Train until `extra_steps` after the first logged accuracy of GOAL, or `max_steps`; -> model, log."""
    model = mr.Reformer(config_of(n_hashes, size), seed=0)
    opt = mr.Adam(model.params, lr=LEARNING_RATE)
    fresh = mr.data.duplicate_task(10**6, BATCH, size["length"])  # a seed that training never reaches
    steps, log = 0, []
    while steps < size["max_steps"]:
        reached = [row["step"] for row in log if row["accuracy"] >= GOAL]
        if reached and steps >= reached[0] + size["extra_steps"]:
            break
        steps += STAGE
        log = mr.train(
            model,
            lambda step: mr.data.duplicate_task(step, BATCH, size["length"]),
            opt,
            steps,
            schedule=warmup_inverse_sqrt(LEARNING_RATE, WARMUP),
            clip=1.0,
            log_every=size["log_every"],
            evaluate=lambda model: {"accuracy": training.accuracy(model, *fresh)},
            checkpoint=path,
            progress=sys.stderr.isatty(),
        )
        steps = max(steps, log[-1]["step"])  # a run that is taken up again is further on
    return model, log


def accuracy_with(model, n_hashes, size, n_batches=4):
    """Accuracy of the parameters of `model` under another attention, over sequences and rotations."""
    other = mr.Reformer(config_of(n_hashes, size))
    other.load_params(model.params)
    return float(
        numpy.mean(
            [
                training.accuracy(other, *mr.data.duplicate_task(10**6 + seed, BATCH, size["length"]), seed=seed)
                for seed in range(1, n_batches + 1)
            ]
        )
    )


def main():
    """Train what is not trained yet, evaluate everything, write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="short sequences, under a minute")
    quick = parser.parse_args().quick
    name, size = ("duplicate_task_quick", QUICK) if quick else ("duplicate_task", FULL)
    logs, grid = {}, {}
    for trained, n_hashes in TRAINED.items():
        model, logs[trained] = train_one(n_hashes, size, ROOT / "build" / name / f"{trained}.safetensors")
        grid[trained] = {name: accuracy_with(model, rounds, size) for name, rounds in EVALUATED.items()}
        steps = logs[trained][-1]["step"]
        print(trained, f"{steps} steps;", {n: round(a, 3) for n, a in grid[trained].items()}, flush=True)
    result = {
        "size": size,
        "configs": {name: dataclasses.asdict(config_of(n, size)) for name, n in TRAINED.items()},
        "training": {"batch": BATCH, "learning_rate": LEARNING_RATE, "warmup": WARMUP, "clip": 1.0, "seed": 0},
        "logs": logs,
        "accuracy": grid,  # of the model trained with (row) when evaluated with (column)
        "versions": {
            "python": platform.python_version(),
            "numpy": numpy.__version__,
            "minireformer": mr.__version__,
        },
        "machine": {"processor": platform.machine(), "threads": backend.n_threads()},
    }
    out = ROOT / ("build" if quick else "benchmarks/results") / f"{name}.json"
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {out.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
