"""The record of a training run: the rows of its log, its checkpoints, and how it resumes after a kill.

A run writes two files. The checkpoint, `run.safetensors`, holds parameters, optimizer state and, as JSON, the seed, the
log so far and the losses since its last row, so that a mean which spans a kill comes out the same. The log,
`run.jsonl`, gets a line for every row, so you can watch the run. Read next: `scores.py`.
"""

import contextlib
import json
import math
import os
import time
from pathlib import Path

from minireformer import backend, rng
from minireformer import checkpoint as checkpoints
from minireformer.checks import check_count, check_path, expect, expect_type, is_number
from minireformer.tools import memory
from minireformer.training.optimizers import Optimizer


class RunRecord:
    """What a run remembers besides its parameters: `step`, the number of steps so far, and `log`, the rows so far.

    Its two files are `checkpoint`, a path, and the log beside it; with None, it writes nothing.
    """

    def __init__(self, seed, checkpoint):
        rng.fold(seed)  # a TypeError unless it is an integer
        self.seed = int(seed)
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        self.step, self.log = 0, []
        self.recent = []  # (loss, gradient norm) of every step since the last row
        self.n_tokens, self.seconds = 0, 0.0  # of all timed steps since the last row
        self.peak_memory = None  # bytes, once a step has run

    def start(self, model, opt, resume):
        """Open the files. If there is a checkpoint, restore the model, the optimizer and this record from it.

        With `resume` false, an earlier run's files are put aside instead. Raises ValueError if the checkpoint has
        another config or seed, or holds no training run.
        """
        if self.checkpoint is None:
            return
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        self.log_file = self.checkpoint.with_suffix(".jsonl")
        if not resume:
            for path in (self.checkpoint, self.log_file):  # in this order: without a checkpoint, a log is not resumed
                if path.exists():
                    os.replace(path, path.with_name(path.name + ".old"))
        if self.checkpoint.exists():
            saved = checkpoints.resume(model, opt, self.checkpoint, self._check_saved)
            self.step, self.log, self.recent = saved["step"], saved["log"], saved["recent"]
        # A killed run may have logged steps that are in no checkpoint: they are run, and logged, again.
        self.log_file.write_text("".join(json.dumps(row) + "\n" for row in self.log), encoding="utf-8")

    @contextlib.contextmanager
    def measured(self):
        """Measure the step inside the block: the first one's memory, which takes time, and the time of all others."""
        if self.peak_memory is None:
            with memory.peak() as peak:
                yield
            self.peak_memory = peak.bytes
        else:
            began = time.perf_counter()
            yield
            self.seconds += time.perf_counter() - began

    def add_step(self, n_tokens, loss, grad_norm):
        """Record a step that has just run."""
        self.step += 1
        self.recent.append((loss, grad_norm))
        self.n_tokens += n_tokens if self.seconds else 0

    def write_row(self, model, learning_rate, evaluate):
        """Log the means over the steps since the last row, and what `evaluate` finds; -> the row."""
        loss, grad_norm = (sum(values) / len(self.recent) for values in zip(*self.recent))
        row = {
            "step": self.step,
            "loss": loss,
            "bits_per_token": loss / math.log(2),
            "grad_norm": grad_norm,
            "learning_rate": learning_rate,
            "tokens_per_s": self.n_tokens / self.seconds if self.n_tokens else None,
            "peak_memory": self.peak_memory,
        }
        if evaluate is not None:
            row |= _evaluated(evaluate, model, row)
        self.log.append(row)
        self.recent, self.n_tokens, self.seconds = [], 0, 0.0
        if self.checkpoint is not None:
            with open(self.log_file, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        return row

    def write_checkpoint(self, model, opt):
        """Write parameters, optimizer state and this record to the checkpoint, if there is to be one."""
        if self.checkpoint is not None:
            progress = {"step": self.step, "seed": self.seed, "log": self.log, "recent": self.recent}
            checkpoints.save_model(model, self.checkpoint, opt, progress)

    def _check_saved(self, saved):
        """Raise ValueError unless `saved` is what `write_checkpoint` saves, of a run with the same seed."""
        kinds = {"step": int, "seed": int, "log": list, "recent": list}
        if not isinstance(saved, dict) or not all(isinstance(saved.get(name), kind) for name, kind in kinds.items()):
            raise ValueError(f"{self.checkpoint}: holds no training run of `train`, which saves {', '.join(kinds)}")
        if saved["seed"] != self.seed:
            raise ValueError(f"seed: {self.checkpoint} was trained with seed {saved['seed']}; got {self.seed}")


def _evaluated(evaluate, model, row):
    """The numbers that `evaluate` adds to `row`; None for those that JSON cannot represent."""
    values = evaluate(model)
    expect_type("evaluate", values, isinstance(values, dict), "it to return a dict of numbers")
    if taken := sorted(row.keys() & values.keys()):
        raise ValueError(f"evaluate: expected other names than those of the log's own columns; got {taken}")
    values = {name: as_number(value) for name, value in values.items()}
    for name, value in values.items():
        if not isinstance(name, str) or not is_number(value):
            raise TypeError(f"evaluate: expected it to return a dict of numbers; got {name!r}: {value!r}")
    return {name: float(value) if math.isfinite(value) else None for name, value in values.items()}


def as_number(value):
    """The number in a 0-d array of either backend; anything else unchanged."""
    return backend.to_numpy(value)[()] if getattr(value, "shape", None) == () else value


def check_arguments(model, batches, opt, steps, schedule, clip, log_every, evaluate, checkpoint, checkpoint_every):
    """Check these arguments of `train`; -> steps, log_every and checkpoint_every (`steps` if None) as ints."""
    expect_type("model", model, hasattr(model, "loss_and_grads"), "a Reformer")
    expect_type(
        "batches", batches, callable(batches), "a function of the step, so that a resumed run sees the same data"
    )
    expect_type("opt", opt, isinstance(opt, Optimizer), "an optimizer such as Adam(model.params)")
    if any(opt.params.get(name) is not param for name, param in model.params.items()):
        raise ValueError("opt: expected an optimizer over model.params; got one over other arrays")
    steps, log_every = check_count("steps", steps), check_count("log_every", log_every)
    expect("clip", clip, clip is None or is_number(clip) and clip > 0, "a norm > 0")
    for name, function in (("schedule", schedule), ("evaluate", evaluate)):
        expect_type(name, function, function is None or callable(function), "a function")
    if checkpoint is not None:
        path = check_path("checkpoint", checkpoint)
        expect("checkpoint", str(path), path.suffix == ".safetensors", "a path that ends in .safetensors")
        expect("checkpoint", str(path), not path.is_dir(), "a file, not a folder")
    if checkpoint_every is None:
        return steps, log_every, steps
    expect("checkpoint_every", checkpoint_every, checkpoint is not None, "None, or a path in checkpoint as well")
    return steps, log_every, check_count("checkpoint_every", checkpoint_every)
