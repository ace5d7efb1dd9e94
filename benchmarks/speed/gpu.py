"""LSH attention and the training of a language model on a GPU: time, memory, and the other Reformer on the same card.

    make gpu                                             # after the tests, on CuPy
    python benchmarks/speed/gpu.py --lengths 4096 16384  # some lengths
    python benchmarks/speed/gpu.py --quick               # small sizes: does the script run?

The sizes of attention.py and training_step.py, float32, at 4,096 to 262,144 tokens, and one training step of the model
that motivates the Reformer (12 layers, 64K tokens, d_model 1024) at batch 8. Where torch with CUDA is installed,
Hugging Face's Reformer and torch's exact attention run on the same card. If a contender runs out of memory, the result
says so. Each contender has a process of its own. Seconds are medians over steps, between two waits for the device,
after two steps to warm up. Peak memory is the most that was alive during a step beyond what was alive before it: inputs
and parameters exist by then. Writes benchmarks/speed/results/gpu_<card>.json.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import attention
import contest
import training_step

LENGTHS = [4096, 16384, 65536, 262144]
PATIENCE = 20  # seconds
OURS = "minireformer"
BIG = {"n_layers": 12, "length": 65536, "batch": 8, "d_model": 1024, "n_heads": 8, "d_ff": 4096}
SMALL = {"n_layers": 2, "length": 256, "batch": 2, "d_model": 32, "n_heads": 2, "d_ff": 64}


# Contenders: functions of a length that return `step`


def floor(length):
    """The seven batched products of the kernel alone, in tiles of one round."""
    import minireformer as mr

    xp = mr.backend.active()
    n, chunk_len, d_head = length // attention.CHUNK, attention.CHUNK, attention.D_HEAD
    shape = attention.BATCH * attention.HEADS, n, chunk_len, d_head
    queries, to_queries = xp.ones(shape, "float32"), xp.empty(shape, "float32")
    keys = xp.ones((*shape[:2], 2 * chunk_len, d_head), "float32")
    logits, to_keys = xp.empty((*shape[:3], 2 * chunk_len), "float32"), xp.empty_like(keys)

    def step():
        for _ in range(attention.HASHES):
            for _ in range(3):  # Q K' forward and backward, dO V'
                mr.threads.batched_matmul(queries, keys.swapaxes(-1, -2), logits)
            for _ in range(2):  # P V, dS K
                mr.threads.batched_matmul(logits, keys, to_queries)
            for _ in range(2):  # dS' Q, P' dO
                mr.threads.batched_matmul(logits.swapaxes(-1, -2), queries, to_keys)

    return step


def on_cuda(make_step):
    """A contender of torch's, on the GPU."""

    def make(length):
        import torch

        if not torch.cuda.is_available():
            raise ImportError("torch without CUDA")
        return make_step(length, device="cuda")

    return make


CONTESTS = {
    "attention": {
        OURS: attention.ours,
        f"{OURS}, TF32": attention.ours,
        f"{OURS} with projections": attention.ours_projected,
        "floor": floor,
        "Hugging Face": on_cuda(attention.huggingface),
        "exact (torch)": on_cuda(attention.exact),
    },
    "training_step": {
        OURS: training_step.ours,
        f"{OURS}, TF32": training_step.ours,
        "Hugging Face": on_cuda(training_step.huggingface),
    },
}


# Measuring


def measure(step, is_torch, patience=PATIENCE):
    """{"seconds": median, "all": [...], "peak_bytes": ...} of a step."""
    import minireformer as mr

    if is_torch:
        import torch

        wait = torch.cuda.synchronize
    else:
        wait = mr.backend.active().cuda.Device().synchronize
    step()
    wait()
    began = time.perf_counter()
    step()
    wait()
    n_steps = 7 if time.perf_counter() - began < patience else 1
    if is_torch:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        peak = torch.cuda.max_memory_allocated() - before
    else:
        with mr.memory.peak() as m:
            step()
        peak = m.bytes
    seconds = []
    for _ in range(n_steps):
        wait()
        began = time.perf_counter()
        step()
        wait()
        seconds.append(time.perf_counter() - began)
    return {"seconds": statistics.median(seconds), "all": seconds, "peak_bytes": peak}


def work(which, name, lengths, patience):
    """What a worker does: print one line of JSON for each length, until memory runs out."""
    is_torch = name in ("Hugging Face", "exact (torch)")
    for length in lengths:
        try:
            result = measure(CONTESTS[which][name](length), is_torch, patience)
            if which == "attention" and length == lengths[0] and name.startswith(OURS) and "with" not in name:
                result["error"] = largest_error(length)
        except Exception as error:  # of torch's or CuPy's: both are called OutOfMemoryError where memory is short
            result = {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
        print(json.dumps(result), flush=True)
        if "failed" in result:
            return


def largest_error(length):
    """The largest error of outputs and gradients in float32, beside the same in float64, relative to the largest."""
    import numpy as np

    import minireformer as mr

    draw, results = np.random.default_rng(0).standard_normal((3, 1, 2, length, attention.D_HEAD)), {}
    buckets = None
    for dtype in ("float64", "float32"):
        qk, v, dout = (mr.backend.asarray(x, dtype) for x in draw)
        if buckets is None:
            buckets = mr.hash_vectors(qk, mr.random_rotations(0, 2, attention.D_HEAD, attention.HASHES, 32, dtype))
        out, cache = mr.lsh_attention(qk, v, buckets, chunk_len=attention.CHUNK)
        results[dtype] = [out, *mr.lsh_attention_backward(dout, cache)]
    pairs = zip(*(results[dtype] for dtype in ("float64", "float32")))
    return max(float(abs(a - b).max() / abs(a).max()) for a, b in pairs)


def big_step(n_layers, length, batch, d_model, n_heads, d_ff):
    """One training step, loss to parameters: {"seconds": ..., "peak_bytes": ...} or {"failed": ...}."""
    import numpy as np

    import minireformer as mr

    config = mr.ReformerConfig(
        vocab_size=256,
        d_model=d_model,
        n_heads=n_heads,
        d_head=d_model // n_heads,
        d_ff=d_ff,
        attn_layers=("lsh",) * n_layers,
        n_hashes=4,
        max_len=length,
        axial_shape=(length // 64, 64),
        ff_chunk_len=length,
        loss_chunk_len=length,
    )
    wait = mr.backend.active().cuda.Device().synchronize
    try:
        with mr.memory.peak() as m:
            model = mr.Reformer(config)
            optimizer = mr.Adafactor(model.params)
            tokens = np.random.default_rng(0).integers(0, 256, (batch, length + 1))
            tokens, targets = map(mr.backend.asarray, (tokens[:, :-1], tokens[:, 1:]))
            wait()
            began = time.perf_counter()
            loss, grads = model.loss_and_grads(tokens, targets)
            optimizer.step(grads)
            wait()
        seconds = time.perf_counter() - began
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    n_params = sum(param.size for param in model.params.values())
    return {"seconds": seconds, "peak_bytes": m.bytes, "loss": float(loss), "parameters": n_params}


# The whole


def main():
    """Run all contenders and write down their results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="a folder")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.lengths = [256]
    import minireformer as mr

    mr.backend.use("cupy")
    big = SMALL if options.quick else BIG
    if options.worker:
        which, name = options.worker
        if which == "big":
            print(json.dumps(big_step(**big)))
        else:
            work(which, name, options.lengths, 0 if options.quick else PATIENCE)
        return
    card, about = describe_card(mr.backend.active())
    results = {"surroundings": contest.surroundings() | about}
    path = options.results / f"gpu_{re.sub(r'[^A-Za-z0-9]+', '_', card)}.json"
    print(f"{card}; results go to {path.name}")
    for which, contenders in CONTESTS.items():
        results[which] = {length: {} for length in options.lengths}
        for name in contenders:
            for length, result in zip(options.lengths, ask(which, name, options)):
                results[which][length][name] = result
                print(f"{which}, {length} tokens, {name}: {in_words(result)}", flush=True)
                path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (result,) = ask("big", OURS, options)
    print(f"one step of the big model: {in_words(result)}")
    results["big_model"] = big | result
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def ask(which, name, options):
    """The results that a worker prints, one a line; a worker that dies has failed."""
    command = [sys.executable, __file__, "--worker", which, name, "--lengths", *map(str, options.lengths)]
    environment = os.environ | {"CUPY_TF32": "1" if name.endswith("TF32") else "0", "TRANSFORMERS_VERBOSITY": "error"}
    command += ["--quick"] * options.quick
    worker = subprocess.Popen(
        command, env=environment, encoding="utf-8", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    said = [json.loads(line) for line in worker.stdout if line.startswith("{")]
    last_words = worker.communicate()[1].strip().splitlines()[-1:]
    if worker.returncode:
        said.append({"failed": "".join(last_words) or f"exit code {worker.returncode}"})
    return said


def describe_card(xp):
    """The card's name, and what a result depends on besides `contest.surroundings`."""
    runtime = xp.cuda.runtime
    properties = runtime.getDeviceProperties(0)
    name = properties["name"].decode()
    about = {
        "card": name,
        "compute_capability": f"{properties['major']}.{properties['minor']}",
        "card_bytes": runtime.memGetInfo()[1],
        "cupy": xp.__version__,
        "cuda_of_driver": runtime.driverGetVersion(),
        "cuda_of_cupy": runtime.runtimeGetVersion(),
    }
    return name, about


def in_words(result):
    """A result as text."""
    if "failed" in result:
        return f"failed, {result['failed']}"
    text = f"{1000 * result['seconds']:.1f} ms, peak {result['peak_bytes'] / 1e6:.0f} MB"
    return text + (f", error {result['error']:.1e}" if "error" in result else "")


if __name__ == "__main__":
    main()
