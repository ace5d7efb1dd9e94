"""The training loop: a step, a row of the log, a checkpoint, and a run that you may kill and resume at any moment.

Everything random is a function of the seed and of the step's number: `batches(step)` gives the data, and
`fold(seed, "step", step)` the dropout masks and hash rotations. So a checkpoint holds no random state, and a run that
was killed and resumed ends with the same parameters, bit for bit, as one that was never interrupted.

The loop itself fits on one screen. `accumulate.py`, which you can read next, makes small batches of a
large one; `parallel.py` shares it out among processes; `record.py` keeps the log and writes the files.
"""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

from minireformer import backend, rng
from minireformer.checkpoint import check_finite
from minireformer.checks import check_count, check_flags
from minireformer.model import Model
from minireformer.training.accumulate import loss_and_grads
from minireformer.training.optimizers import Optimizer, check_learning_rate, clip_by_global_norm
from minireformer.training.parallel import Ranks
from minireformer.training.record import RunRecord, as_number, check_arguments


def train(
    model: Model,
    batches: Callable[[int], Sequence[Any]],
    opt: Optimizer,
    steps: int,
    *,
    schedule: Callable[[int], float] | None = None,
    clip: float | None = None,
    accumulate: int = 1,
    seed: int = 0,
    log_every: int = 10,
    evaluate: Callable[[Any], dict[str, float]] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    resume: bool = True,
    progress: bool = True,
    comm: Any = None,
    cuda_aware: bool = False,
) -> list[dict[str, Any]]:
    """Train `model` in place for `steps` steps in all, counted from 0; -> the log, a list of rows (dicts).

    batches(step) -> (tokens, targets) or (tokens, targets, mask), arrays of the model's backend, (B, T) each.
                  For an `EncoderDecoder`, tokens are the pair (source, target).
    opt           an optimizer over model.params.
    schedule      step -> learning rate, a finite number >= 0 (None: the optimizer's own).
    clip          the largest global norm of the gradients; larger ones are scaled down to it (None: no limit).
    accumulate    into how many parts to cut the rows of each batch. Their gradients are added up before the step, so it
                  is the same step at the memory of one part (see `accumulate.py`).
    seed          for dropout and hashing.
    log_every     steps between rows of the log.
    evaluate      model -> dict of numbers, added to every row (as None where they are NaN or infinite).
    checkpoint    path of a .safetensors file, written every `checkpoint_every` steps and at the end. The log
                  goes beside it as JSON lines (.jsonl).
    resume        whether to go on from the checkpoint, if there is one; a finished run returns its log at
                  once. With False, the two files of an earlier run are first renamed to end in .old.
    progress      whether to draw a progress bar.
    comm          an MPI communicator such as mpi4py's `MPI.COMM_WORLD`, to share the work out among its processes (see
                  `parallel.py`). Each calls `train` with the same arguments, and `batches` gives each the whole batch,
                  of which it takes some rows. Again, it is the same step, and all get the same parameters and log. The
                  first process evaluates, draws the bar, and alone needs the files. If one fails, the whole run ends.
    cuda_aware    whether MPI takes CuPy arrays as they are. Otherwise they go through pinned host memory.

    A row holds `step` (the number of steps so far), `loss` and `grad_norm` (means over the steps since the last
    row; the norm before clipping), `bits_per_token` (loss / ln 2: bits per byte, where tokens are bytes),
    `learning_rate` (None: the optimizer's own), `tokens_per_s` (evaluation and checkpoints not counted), and
    `peak_memory`: the most bytes that the first step of this call held at once in the first process, beyond parameters
    and optimizer state. Following memory slows Python down, so we only measure that step, and leave it out of
    `tokens_per_s` (None in a row that covers only that step).

    Resuming compares the model's config and the seed with those of the checkpoint, and restores the parameters and
    the optimizer's arrays. Give everything else again: learning rate, schedule, clip and batches may have changed.

    Raises FloatingPointError, naming the step, when the loss or a gradient is NaN or infinite: parameters are then
    as they were before that step. It is also raised when an update overflows, as with a learning rate far too large.
    We notice that before we write the next row or checkpoint, or when the next loss is not finite; those parameters
    are lost. Either way you keep the last checkpoint, which holds only finite parameters.
    """
    ranks = Ranks(comm, cuda_aware)
    with ranks.ending_together():
        steps, log_every, checkpoint_every = check_arguments(
            model, batches, opt, steps, schedule, clip, log_every, evaluate, checkpoint, checkpoint_every
        )
        accumulate = check_count("accumulate", accumulate)
        check_flags(resume=resume, progress=progress)
        from tqdm import tqdm  # here, as it would add a third to the time that `import minireformer` takes

        first = ranks.rank == 0
        record = RunRecord(seed, checkpoint if first else None)
        ranks.expect_same(seed=record.seed, steps=steps, accumulate=accumulate, checkpoint_every=checkpoint_every)
        if first:
            record.start(model, opt, resume)
        record.step, record.log, record.recent = ranks.told_by_first([record.step, record.log, record.recent])
        ranks.take_from_first(model, opt)
        check_finite("model:", model.params)
        hidden, several = not (progress and first), str(ranks) if ranks.size > 1 else None
        with tqdm(total=steps, initial=record.step, desc=several, disable=hidden, unit="step") as bar:
            for step in range(record.step, steps):
                learning_rate = None
                if schedule is not None:
                    learning_rate = check_learning_rate(f"schedule: step {step}", as_number(schedule(step)))
                with record.measured():
                    n_tokens, loss, grad_norm = training_step(
                        model, batches, opt, step, learning_rate, clip, seed, accumulate, ranks
                    )
                record.add_step(n_tokens, loss, grad_norm)
                row_is_due = record.step % log_every == 0 or record.step == steps
                checkpoint_is_due = record.step % checkpoint_every == 0 or record.step == steps
                if row_is_due or checkpoint_is_due:
                    check_update(model, step)
                if row_is_due and first:
                    row = record.write_row(model, learning_rate, evaluate)
                    bar.set_postfix(loss=f"{row['loss']:.3f}", bits=f"{row['bits_per_token']:.3f}", refresh=False)
                if checkpoint_is_due:
                    ranks.take_from_first(model, opt)
                    record.write_checkpoint(model, opt)
                bar.update()
        return ranks.told_by_first(record.log)


def training_step(model, batches, opt, step, learning_rate, clip, seed, accumulate=1, ranks=None):
    """One step of training, in place; -> (number of tokens, loss, gradient norm before clipping).

    `ranks` are the processes that share the batch; by default, this one does it alone.
    """
    ranks = ranks or Ranks()
    batch = batches(step)
    if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
        raise TypeError(f"batches: expected (tokens, targets) or (tokens, targets, mask); got {type(batch).__name__}")
    tokens, targets, mask = (*batch, None)[:3]
    with backend.deferred_sync() as fetch:  # for loss and norm, and whether all ids are in the vocabulary
        loss, grads = loss_and_grads(
            model, tokens, targets, mask, rng.fold(seed, "step", step), accumulate, ranks.rank, ranks.size
        )
        loss, grads = ranks.sum(loss, grads, model.params)
        norm = clip_by_global_norm(grads, math.inf if clip is None else clip)
        loss, norm = fetch(loss, norm)
    for name, value in (("loss", loss), ("norm of the gradients", norm)):
        if not math.isfinite(value):
            check_update(model, step - 1)
            raise FloatingPointError(
                f"step {step}: the {name} is {value}. Parameters are as they were before this step; a lower "
                f"learning rate, a longer warm-up or clip=1.0 may help"
            )
    opt.step(grads, lr=learning_rate)
    return targets.size, loss, norm


def check_update(model, step):
    """Raise FloatingPointError unless all parameters are finite after the update of `step`. Waits for a GPU once."""
    xp = backend.get_xp(next(iter(model.params.values())))
    finite = xp.stack([xp.isfinite(param).all() for param in model.params.values()]).tolist()
    bad = [name for name, fine in zip(model.params, finite) if not fine]
    if bad:
        raise FloatingPointError(
            f"step {step}: after its update, {bad[0]} holds NaN or infinity ({len(bad)} of {len(model.params)} "
            f"parameters do). They are lost, but the last checkpoint is kept. Is the learning rate far too large?"
        )
