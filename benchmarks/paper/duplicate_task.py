"""The paper's duplicate task (section 2, Table 2), smaller: train with full and LSH attention, evaluate with both.

    python benchmarks/paper/duplicate_task.py            # minutes; writes results/duplicate_task.json
    python benchmarks/paper/duplicate_task.py --quick    # T = 32, in seconds; writes build/duplicate_task_quick.json

Full attention comes in three forms, because the paper does not say which one its table means. In all of them queries
and keys are one projection, so that the parameters fit LSH attention as well:

    full       keys of unit length, as in LSH attention; a token does not see itself (the package's `shared_full`)
    raw        keys are the queries as they are, logits q . k / sqrt(D); a token does not see itself
    raw+self   the same, and a token sees itself, as in an ordinary Transformer

Notebook 08 draws `logs` and `accuracy`, those of the first seed; `over_seeds` has all seeds. If a run is killed, the
same command resumes it from its last checkpoint; delete build/duplicate_task to start over.
"""

import dataclasses
import math
import sys
from typing import Any, NamedTuple

import numpy as np
import recording

import minireformer as mr
from minireformer import backend, config, training
from minireformer.attention_layer import ATTENTION, SharedFullAttention
from minireformer.reference import causal_mask
from minireformer.training.optimizers import warmup_inverse_sqrt

ROUNDS = {"LSH-8": 8, "LSH-4": 4, "LSH-2": 2, "LSH-1": 1}
FULL_KINDS = {"full": "shared_full", "raw": "raw_full", "raw+self": "raw_full_self"}
TRAINED = ("full", "LSH-4", "LSH-2", "LSH-1")  # the rows of the paper's table
ALSO_TRAINED = ("raw", "raw+self")
EVALUATED = (*FULL_KINDS, *ROUNDS)
PAPER = {  # Table 2, in per cent; its "full" is the column that may mean any of the three
    "full": {"full": 100, "LSH-8": 94.8, "LSH-4": 92.5, "LSH-2": 76.9, "LSH-1": 52.5},
    "LSH-4": {"full": 0.8, "LSH-8": 100, "LSH-4": 99.9, "LSH-2": 99.4, "LSH-1": 91.9},
    "LSH-2": {"full": 0.8, "LSH-8": 100, "LSH-4": 99.9, "LSH-2": 98.1, "LSH-1": 86.8},
    "LSH-1": {"full": 0.8, "LSH-8": 99.9, "LSH-4": 99.6, "LSH-2": 94.8, "LSH-1": 77.9},
}
DIFFERENT = (
    "Ours: sequences of 256 tokens (the paper: 1,024), d_model = d_ff = 128 (256), chunks of 32, and three seeds. We "
    "train with Adam on 16 sequences a step and stop soon after a model gets 99 % right, after a few hundred steps "
    "(150,000)."
)
FULL = {"length": 256, "chunk_len": 32, "d_model": 128, "max_steps": 600, "extra_steps": 100, "log_every": 10}
FULL |= {"seeds": 3, "stage": 50, "eval_batches": 4}  # stage: steps from one checkpoint to the next
QUICK = {"length": 32, "chunk_len": 8, "d_model": 32, "max_steps": 60, "extra_steps": 0, "log_every": 20}
QUICK |= {"seeds": 1, "stage": 60, "eval_batches": 1}
BATCH, LEARNING_RATE, WARMUP = 16, 6e-3, 60
N_SYMBOLS = 127
GOAL = 0.99


class RawCache(NamedTuple):
    """What `RawFullAttention.attend_backward` needs."""

    out: Any  # (B, H, T, D)
    query_key: Any
    value: Any
    weights: Any  # (B, H, T, T)


class RawFullAttention(SharedFullAttention):
    """Full attention whose keys are the queries q as they are: softmax(q q' / sqrt(D)) v, causal, all logits at once.

    A token sees itself only where it sees nothing else. No masks and no dropout of weights.
    """

    sees_itself = False

    def attend(self, heads, seed, options):
        """heads: queries that are keys too, and values, (B, H, T, D) each -> out (B, H, T, D), cache, None."""
        q, v = heads
        logits = q @ q.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
        allowed = causal_mask(q.shape[2], np)
        if not self.sees_itself:
            allowed = allowed & ~np.eye(len(allowed), dtype=bool)
            allowed[0, 0] = True
        logits = np.where(allowed, logits, -np.inf)
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        out = weights @ v
        return out, RawCache(out, q, v, weights), None

    def attend_backward(self, dmixed, cache):
        """dmixed (B, H, T, D) -> dq, dv. q is on both sides of q q', so that its gradient is (dS + dS') q / sqrt(D)."""
        out, q, v, weights = cache
        dlogits = weights * (dmixed @ v.swapaxes(-1, -2) - (dmixed * out).sum(axis=-1, keepdims=True))
        dlogits += dlogits.swapaxes(-1, -2).copy()
        return dlogits @ q / math.sqrt(q.shape[-1]), weights.swapaxes(-1, -2) @ dmixed


class RawFullAttentionWithSelf(RawFullAttention):
    """The same, and a token sees itself."""

    sees_itself = True


# Only this script's process knows the two: `ReformerConfig` and `Reformer` look kinds of attention up here.
ATTENTION |= {"raw_full": RawFullAttention, "raw_full_self": RawFullAttentionWithSelf}
config.KINDS += ("raw_full", "raw_full_self")


def config_of(name, size):
    """One layer, of the attention `name`; all share queries and keys, so that parameters of one fit every other."""
    return mr.ReformerConfig(
        vocab_size=N_SYMBOLS + 1,
        d_model=size["d_model"],
        n_heads=4,
        d_head=size["d_model"] // 4,
        d_ff=size["d_model"],
        attn_layers=(FULL_KINDS.get(name, "lsh"),),
        lsh_chunk_len=size["chunk_len"],
        n_hashes=ROUNDS.get(name, 1),
        positions="learned",
        max_len=size["length"],
    )


def train_one(name, seed, size, path):
    """Train until `extra_steps` after the first logged accuracy of GOAL, or `max_steps`; -> model, log."""
    model = mr.Reformer(config_of(name, size), seed=seed)
    opt = mr.Adam(model.params, lr=LEARNING_RATE)
    fresh = mr.data.duplicate_task(10**6, BATCH, size["length"])  # a seed that training never reaches
    steps, log = 0, []
    while steps < size["max_steps"]:
        reached = first_at_goal(log)
        if reached and steps >= reached + size["extra_steps"]:
            break
        steps += size["stage"]
        log = mr.train(
            model,
            lambda step: mr.data.duplicate_task(10**7 * seed + step, BATCH, size["length"]),
            opt,
            steps,
            schedule=warmup_inverse_sqrt(LEARNING_RATE, WARMUP),
            clip=1.0,
            seed=seed,
            log_every=size["log_every"],
            evaluate=lambda model: {"accuracy": training.accuracy(model, *fresh)},
            checkpoint=path,
            progress=sys.stderr.isatty(),
        )
        steps = max(steps, log[-1]["step"])  # a run that is taken up again is further on
    return model, log


def first_at_goal(log):
    """The first logged step with an accuracy of GOAL, or None."""
    return next((row["step"] for row in log if row["accuracy"] >= GOAL), None)


def accuracy_with(model, name, size):
    """Accuracy of the parameters of `model` under another attention, over sequences and rotations."""
    other = recording.with_config(model, config_of(name, size))
    return float(
        np.mean(
            [
                training.accuracy(other, *mr.data.duplicate_task(10**6 + seed, BATCH, size["length"]), seed=seed)
                for seed in range(1, size["eval_batches"] + 1)
            ]
        )
    )


def main():
    """Train what is not trained yet, evaluate everything, write one JSON file."""
    options = recording.options(__doc__)
    backend.use("numpy")
    folder, path = recording.places("duplicate_task", options)
    size = QUICK if options.quick else FULL
    runs = {}
    for seed in range(size["seeds"]):
        for trained in (*TRAINED, *ALSO_TRAINED):
            model, log = train_one(trained, seed, size, folder / f"{trained}_{seed}.safetensors")
            grid = {evaluated: accuracy_with(model, evaluated, size) for evaluated in EVALUATED}
            run = {"seed": seed, "steps": log[-1]["step"], "first_at_goal": first_at_goal(log), "accuracy": grid}
            runs.setdefault(trained, []).append(run | {"log": log})
            print(trained, seed, f"{run['steps']} steps;", {n: round(a, 3) for n, a in grid.items()}, flush=True)
    result = {
        "paper": PAPER,
        "different": DIFFERENT,
        "chance": 1 / N_SYMBOLS,
        "over_seeds": {  # accuracy of the models trained with (row) when evaluated with (column)
            trained: {n: recording.over_seeds([run["accuracy"][n] for run in of_seeds]) for n in EVALUATED}
            for trained, of_seeds in runs.items()
        },
        "runs": {
            trained: [{name: value for name, value in run.items() if name != "log"} for run in of_seeds]
            for trained, of_seeds in runs.items()
        },
        "logs": {trained: runs[trained][0]["log"] for trained in TRAINED},  # here and in `accuracy`: of the first seed
        "accuracy": {trained: runs[trained][0]["accuracy"] for trained in TRAINED},
        "size": size,
        "configs": {name: dataclasses.asdict(config_of(name, size)) for name in runs},
        "training": {"batch": BATCH, "learning_rate": LEARNING_RATE, "warmup": WARMUP, "clip": 1.0, "goal": GOAL},
    }
    recording.write(path, result)


if __name__ == "__main__":
    main()
