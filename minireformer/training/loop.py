"""The training loop: progress bar, log, checkpoints, and runs that may be killed and resumed at any moment.

Everything random is a function of the seed and of the step's number: `batches(step)` gives the data, and
`fold(seed, "step", step)` the dropout masks and hash rotations. So a checkpoint holds no random state, and
a run that was killed and resumed ends with the same parameters, bit for bit, as one that never was.

Read next: `attention_cache.py`, the first of four files that make a trained model speak.
"""

import json
import math
import os
import time
from contextlib import nullcontext
from pathlib import Path

from tqdm import tqdm

from minireformer import backend, rng
from minireformer import checkpoint as checkpoints
from minireformer.checks import check_array, check_count, check_path, is_number
from minireformer.losses import softmax_cross_entropy
from minireformer.tools import memory
from minireformer.training.optimizers import Optimizer, check_learning_rate, clip_by_global_norm


def train(
    model,
    batches,
    opt,
    steps,
    *,
    schedule=None,
    clip=None,
    seed=0,
    log_every=10,
    evaluate=None,
    checkpoint=None,
    checkpoint_every=None,
    resume=True,
    progress=True,
):
    """Train `model` in place for `steps` steps in all, counted from 0; -> the log, a list of rows (dicts).

    batches(step) -> (tokens, targets) or (tokens, targets, mask), arrays of the model's backend, (B, T) each.
                  For an `EncoderDecoder`, tokens are the pair (source, target).
    opt           an optimiser over model.params.
    schedule      step -> learning rate, a finite number >= 0 (None: the optimiser's own).
    clip          the largest global norm of the gradients, to which larger ones are scaled down (None: any).
    seed          of dropout and hashing.
    log_every     steps between rows of the log.
    evaluate      model -> dict of numbers, added to every row (as None where they are NaN or infinite).
    checkpoint    path of a .safetensors file, written every `checkpoint_every` steps and at the end. The log
                  lies beside it as JSON lines (.jsonl).
    resume        whether training goes on from the checkpoint, if there is one; a run that was finished returns
                  its log at once. With False, an earlier run's two files are first renamed to end in .old.
    progress      whether to draw a progress bar.

    A row holds `step` (how many have been made), `loss` and `grad_norm` (means over the steps since the last
    row; the norm before clipping), `bits_per_token` (loss / ln 2: bits per byte, where tokens are bytes),
    `learning_rate` (None: the optimiser's own), `tokens_per_s` (evaluation and checkpoints not counted), and
    `peak_memory`: the most bytes that the first step since the call to `train` held at a time, beyond
    parameters and optimiser state. To follow memory slows Python down, so that step is measured alone
    and is not counted in `tokens_per_s` (None in a row without another step).

    On resuming, the model's config and the seed are compared with those of the checkpoint, and parameters and the
    optimiser's arrays restored. All else is the caller's: learning rate, schedule, clip and batches have to be
    given again, and may be others.

    Raises FloatingPointError, naming the step, when the loss or a gradient is NaN or infinite: parameters are then
    as they were before that step. And when an update overflows, as with a learning rate far too large, which is
    noticed before the next row or checkpoint is written, or when the next loss is no number: those parameters are
    lost. Either way the last checkpoint is kept; one is written only while all parameters are finite.
    """
    _check_arguments(model, batches, opt, steps, clip, log_every, checkpoint, checkpoint_every)
    for name, function in (("schedule", schedule), ("evaluate", evaluate)):
        if function is not None and not callable(function):
            raise TypeError(f"{name}: expected a function; got {type(function).__name__}")
    for name, value in (("resume", resume), ("progress", progress)):
        if not isinstance(value, bool):
            raise TypeError(f"{name}: expected True or False; got {value!r}")
    rng.fold(seed)  # a TypeError unless it is an integer
    batches = _checked(batches)
    start, log, recent = 0, [], []  # recent: (loss, gradient norm) of every step since the last row
    if checkpoint is not None:
        checkpoint = Path(checkpoint)
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        log_file = checkpoint.with_suffix(".jsonl")
        if not resume:
            _put_aside(checkpoint, log_file)
        if checkpoint.exists():
            saved = checkpoints.resume(model, opt, checkpoint, lambda saved: _check_progress(saved, checkpoint, seed))
            start, log, recent = saved["step"], saved["log"], saved["recent"]
        # A killed run may have logged steps that no checkpoint holds: they are made, and logged, again.
        log_file.write_text("".join(json.dumps(row) + "\n" for row in log))

    if bad := _not_finite(model):
        raise ValueError(f"model: {bad[0]} holds NaN or infinity")
    measured, n_tokens, seconds = None, 0, 0.0
    with tqdm(total=steps, initial=start, disable=not progress, unit="step") as bar:
        for step in range(start, steps):
            learning_rate = None if schedule is None else _learning_rate(schedule, step)
            began = time.perf_counter()
            with memory.peak() if step == start else nullcontext(measured) as measured:
                tokens, loss, grad_norm = _step(model, batches, opt, step, learning_rate, clip, seed)
            if step > start:
                n_tokens += tokens
                seconds += time.perf_counter() - began
            recent.append((loss, grad_norm))

            done = step + 1
            writes_row = done % log_every == 0 or done == steps
            writes_checkpoint = checkpoint is not None and (done == steps or done % (checkpoint_every or steps) == 0)
            if writes_row or writes_checkpoint:
                _check_update(model, step)
            if writes_row:
                loss, grad_norm = (sum(values) / len(recent) for values in zip(*recent))
                row = {
                    "step": done,
                    "loss": loss,
                    "bits_per_token": loss / math.log(2),
                    "grad_norm": grad_norm,
                    "learning_rate": learning_rate,
                    "tokens_per_s": n_tokens / seconds if n_tokens else None,
                    "peak_memory": measured.bytes,
                }
                if evaluate is not None:
                    row |= _evaluated(evaluate, model, row)
                log.append(row)
                recent, n_tokens, seconds = [], 0, 0.0
                if checkpoint is not None:
                    with open(log_file, "a") as file:
                        file.write(json.dumps(row) + "\n")
                bar.set_postfix(loss=f"{loss:.3f}", bits=f"{loss / math.log(2):.3f}", refresh=False)
            if writes_checkpoint:
                state = {"step": done, "seed": int(seed), "log": log, "recent": recent}
                checkpoints.save_model(model, checkpoint, opt, state)
            bar.update()
    return log


def accuracy(model, tokens, targets, mask=None, seed=0):
    """The fraction of `targets` (B, T), where `mask` is true, that `model` finds likeliest; a float."""
    _check_scored(model, tokens, targets, mask)
    hits = model(tokens, seed=seed).argmax(axis=-1) == targets  # B, T
    return float((hits if mask is None else hits[mask]).mean())


def bits_per_token(model, tokens, targets, mask=None, seed=0):
    """Mean -log2 p(target) over `targets` (B, T) where `mask` is true: for bytes, the bits per byte."""
    _check_scored(model, tokens, targets, mask)
    logits = model(tokens, seed=seed)  # B, T, V
    if mask is None:
        logits, targets = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
    else:
        logits, targets = logits[mask], targets[mask]  # n, V and n
    loss, _ = softmax_cross_entropy(logits, targets, scale=1 / len(targets), out=logits)
    return float(loss) / math.log(2)


def _check_scored(model, tokens, targets, mask):
    if not callable(model):
        raise TypeError(f"model: expected a Reformer; got {type(model).__name__}")
    check_array("tokens", tokens, None, None, kind="i")
    check_array("targets", targets, *tokens.shape, kind="i", like=tokens, whose="the tokens")
    if mask is not None:
        check_array("mask", mask, *tokens.shape, kind="b", like=tokens, whose="the tokens")
    if not targets.size or mask is not None and not mask.any():
        raise ValueError("mask: no position is true, so there is nothing to take the mean of")


def _step(model, batches, opt, step, learning_rate, clip, seed):
    """One step of training, in place; -> (number of tokens, loss, gradient norm before clipping)."""
    tokens, targets, mask = (*batches(step), None)[:3]
    with backend.deferred_sync() as fetch:  # for loss and norm, and whether all ids are in the vocabulary
        loss, grads = model.loss_and_grads(tokens, targets, seed=rng.fold(seed, "step", step), mask=mask)
        norm = clip_by_global_norm(grads, math.inf if clip is None else clip)
        loss, norm = fetch(loss, norm)
    for name, value in (("loss", loss), ("norm of the gradients", norm)):
        if not math.isfinite(value):
            _check_update(model, step - 1)
            raise FloatingPointError(
                f"step {step}: the {name} is {value}. Parameters are as they were before this step; a lower "
                f"learning rate, a longer warm-up or clip=1.0 may help"
            )
    opt.step(grads, lr=learning_rate)
    return targets.size, loss, norm


def _not_finite(model):
    """Names of the parameters that hold NaN or infinity. A GPU is waited for once."""
    xp = backend.get_xp(next(iter(model.params.values())))
    finite = xp.stack([xp.isfinite(param).all() for param in model.params.values()]).tolist()
    return [name for name, fine in zip(model.params, finite) if not fine]


def _check_update(model, step):
    """Raise FloatingPointError where parameters are not finite after the update of step `step`."""
    if bad := _not_finite(model):
        raise FloatingPointError(
            f"step {step}: after its update, {bad[0]} holds NaN or infinity ({len(bad)} of {len(model.params)} "
            f"parameters do). They are lost: is the learning rate far too large? Of the checkpoints, which are "
            f"written while all are finite, the last is kept"
        )


def _learning_rate(schedule, step):
    """What `schedule` gives for `step`, a float; TypeError or ValueError unless it is finite and >= 0."""
    learning_rate = _as_number(schedule(step))
    check_learning_rate(f"schedule: step {step}", learning_rate)
    return float(learning_rate)


def _evaluated(evaluate, model, row):
    """The numbers that `evaluate` adds to `row`; None for those that JSON has no word for."""
    values = evaluate(model)
    if not isinstance(values, dict):
        raise TypeError(f"evaluate: expected it to return a dict of numbers; got {type(values).__name__}")
    if taken := sorted(row.keys() & values.keys()):
        raise ValueError(f"evaluate: expected other names than those of the log's own columns; got {taken}")
    values = {name: _as_number(value) for name, value in values.items()}
    for name, value in values.items():
        if not isinstance(name, str) or not is_number(value):
            raise TypeError(f"evaluate: expected it to return a dict of numbers; got {name!r}: {value!r}")
    return {name: float(value) if math.isfinite(value) else None for name, value in values.items()}


def _as_number(value):
    """An array without axes, of either backend, as the number in it; anything else as it is."""
    return backend.to_numpy(value)[()] if getattr(value, "shape", None) == () else value


def _put_aside(*paths):
    """Rename each file that is there, the checkpoint first: without it, a log is not gone on with."""
    for path in paths:
        if path.exists():
            os.replace(path, path.with_name(path.name + ".old"))


def _check_progress(saved, checkpoint, seed):
    """Raise ValueError unless `saved` is what `train` saves, and of a run with this `seed`."""
    kinds = {"step": int, "seed": int, "log": list, "recent": list}
    if not isinstance(saved, dict) or not all(isinstance(saved.get(name), kind) for name, kind in kinds.items()):
        raise ValueError(f"{checkpoint}: holds no training run of `train`, which saves {', '.join(kinds)}")
    if saved["seed"] != seed:
        raise ValueError(f"seed: {checkpoint} was trained with seed {saved['seed']}; got {seed}")


def _checked(batches):
    """`batches`, which raises TypeError where it gives anything but two or three arrays."""

    def checked(step):
        batch = batches(step)
        if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
            raise TypeError(
                f"batches: expected (tokens, targets) or (tokens, targets, mask); got {type(batch).__name__}"
            )
        return batch

    return checked


def _check_arguments(model, batches, opt, steps, clip, log_every, checkpoint, checkpoint_every):
    if not hasattr(model, "loss_and_grads"):
        raise TypeError(f"model: expected a Reformer; got {type(model).__name__}")
    if not callable(batches):
        raise TypeError(
            f"batches: expected a function of the step, so that a resumed run sees the same data; "
            f"got {type(batches).__name__}"
        )
    if not isinstance(opt, Optimizer):
        raise TypeError(f"opt: expected an optimiser such as Adam(model.params); got {type(opt).__name__}")
    if any(opt.params.get(name) is not param for name, param in model.params.items()):
        raise ValueError("opt: expected an optimiser over model.params; got one over other arrays")
    check_count("steps", steps)
    if clip is not None and not (is_number(clip) and clip > 0):
        raise ValueError(f"clip: expected a norm > 0; got {clip!r}")
    check_count("log_every", log_every)
    if checkpoint is not None and check_path("checkpoint", checkpoint).suffix != ".safetensors":
        raise ValueError(f"checkpoint: expected a path that ends in .safetensors; got {str(checkpoint)!r}")
    if checkpoint is not None and Path(checkpoint).is_dir():
        raise ValueError(f"checkpoint: expected a file; got the folder {str(checkpoint)!r}")
    if checkpoint_every is not None:
        check_count("checkpoint_every", checkpoint_every)
        if checkpoint is None:
            raise ValueError("checkpoint_every: expected a path in checkpoint as well; got None")
