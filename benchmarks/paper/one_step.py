"""One whole training step of a large model, with a running account of its memory and time.

Shared by `motivating_example.py` and the other scripts that see how large a model, a batch or a text may be. The
memory is that of the process, which these scripts read from /proc: they work on Linux alone.
"""

import dataclasses
import time

import numpy as np
from recording import count_parameters, machine

import minireformer as mr
from minireformer.training import accumulate

GB = 1e9


def say(text, began):
    """Print `text` with the time since `began`, the memory of the process now, and its highest so far."""
    now, highest = (machine.memory(field) / GB for field in ("VmRSS", "VmHWM"))
    print(f"{time.perf_counter() - began:7.1f} s   {now:5.2f} GB now, {highest:5.2f} GB at most   {text}", flush=True)


def one_step(config, length, batch=1, n_parts=1, tokens=None):
    """Build a float32 model and Adafactor, and make one step; -> what a record holds of it.

    tokens (batch, length + 1): random ones if None. `n_parts`: the batch is computed in so many parts.
    """
    machine.require_proc()
    prediction = mr.memory.predict(config, batch // n_parts, length)
    print(
        f"an array of activations {prediction.activation / GB:.2f} GB, a hidden array {prediction.hidden / GB:.2f} GB"
    )
    print(f"one attention matrix of one head {prediction.attention_matrix / GB:.1f} GB")
    print(
        f"stored: layer by layer {prediction.blocks / GB:.1f} GB, by reversible layers {prediction.stored / GB:.2f} GB"
    )
    began = time.perf_counter()
    say("start", began)
    model = mr.Reformer(config)
    optimizer = mr.Adafactor(model.params)
    n_params = count_parameters(model)
    say(f"model of {n_params / 1e6:.0f} million parameters and its optimizer", began)
    if tokens is None:
        tokens = np.random.default_rng(0).integers(0, config.vocab_size, (batch, length + 1))
    for i, block in enumerate(model.layers.blocks):
        for name, part in zip(("attention", "feed-forward"), block):
            part.backward = _told(part.backward, f"gradient of {name} {i}", began)
    step_began = time.perf_counter()
    loss, grads = accumulate.loss_and_grads(model, tokens[:, :-1], tokens[:, 1:], None, 0, n_parts)
    say(f"loss {loss:.3f} and {len(grads)} gradients", began)
    optimizer.step(grads)
    seconds, peak = time.perf_counter() - step_began, machine.memory("VmHWM")
    say("parameters moved: one training step", began)
    return {
        "config": dataclasses.asdict(config),
        "length": length,
        "batch": batch,
        "parts": n_parts,
        "loss": float(loss),
        "seconds": seconds,
        "peak_resident_bytes": peak,
        "predicted_bytes": prediction.stored,
        "parameters": n_params,
    }


def _told(backward, text, began):
    def told(dy, cache):
        caches = [cache]
        del cache  # handed over, so that the account does not keep alive what the step would have freed
        result = backward(dy, caches.pop())
        say(text, began)
        return result

    return told
