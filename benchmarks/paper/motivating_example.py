"""The model whose sums motivate the Reformer, for one whole training step on this CPU.

    python benchmarks/paper/motivating_example.py                            # the real size: about a quarter of an hour
    python benchmarks/paper/motivating_example.py --layers 2 --length 8192   # smaller

12 layers, all LSH, 64K tokens, d_model 1024, 8 heads of 128, d_ff 4096, vocabulary 256, batch 1, float32, with
Adafactor. A Transformer that stores its activations would keep several times 12 * 0.25 GB of them, and one
attention matrix of one head alone takes 16 GB. Prints the memory of the process as it goes, which it reads from /proc:
this works on Linux alone. Writes benchmarks/paper/results/motivating_example.json at the real size.
"""

import argparse
import dataclasses
import time
from pathlib import Path

import numpy as np
import recording
from recording import machine

import minireformer as mr

RESULTS = Path(__file__).parent / "results" / "motivating_example.json"
GB = 1e9


def say(text, began):
    """Print `text` with the time since `began`, the memory of the process now, and its highest so far."""
    now, highest = (machine.memory(field) / GB for field in ("VmRSS", "VmHWM"))
    print(f"{time.perf_counter() - began:7.1f} s   {now:5.2f} GB now, {highest:5.2f} GB at most   {text}", flush=True)


def main():
    """Build the model, make one step, write down time and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--length", type=int, default=65536)
    options = parser.parse_args()
    machine.require_proc()
    config = mr.ReformerConfig(
        vocab_size=256,
        d_model=1024,
        n_heads=8,
        d_head=128,
        d_ff=4096,
        attn_layers=("lsh",) * options.layers,
        n_hashes=4,
        max_len=options.length,
        axial_shape=(options.length // 64, 64),
    )
    prediction = mr.memory.predict(config, 1, options.length)
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
    n_params = sum(param.size for param in model.params.values())
    say(f"model of {n_params / 1e6:.0f} million parameters and its optimizer", began)
    tokens = np.random.default_rng(0).integers(0, 256, (1, options.length + 1))
    for i, block in enumerate(model.layers.blocks):
        for name, part in zip(("attention", "feed-forward"), block):
            part.backward = _told(part.backward, f"gradient of {name} {i}", began)
    step_began = time.perf_counter()
    loss, grads = model.loss_and_grads(tokens[:, :-1], tokens[:, 1:])
    say(f"loss {loss:.3f} and {len(grads)} gradients", began)
    optimizer.step(grads)
    seconds, peak = time.perf_counter() - step_began, machine.memory("VmHWM")
    say("parameters moved: one training step", began)
    if (options.layers, options.length) == (12, 65536):
        results = {"config": dataclasses.asdict(config), "loss": loss}
        results |= {"seconds": seconds, "peak_resident_bytes": peak, "parameters": n_params}
        recording.write(RESULTS, results)


def _told(backward, text, began):
    def told(dy, cache):
        result = backward(dy, cache)
        say(text, began)
        return result

    return told


if __name__ == "__main__":
    main()
