"""Fair timing: each contender runs in a process of its own, they take turns, and every step's time and peak count.

A contender is a function of a size (a length, a depth) that returns `step`, a function without arguments. `contest`
starts a process for each contender, warms it up, and then lets one after the other do a step, round after round: if the
machine is busy with something else, that slows all of them alike. Peak memory is what the process needed during a step
beyond what it held before: inputs and parameters exist by then, outputs and gradients do not. Linux tells us in /proc;
on other systems the scripts that measure memory stop with a message.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from threadpoolctl import threadpool_info

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import machine
from machine import N_THREADS, surroundings

_OVERRIDES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")  # would hold NumPy's BLAS to another processor's kernels
_PATIENCE = 60  # seconds: a contender that needs longer for a step does only one


def main(script, description, contenders, sizes, results_path, what="lengths", smallest=1024):
    """The command line of a benchmark: run `contenders` (name: function of a size) on all sizes and write JSON.

    `what` names the sizes: lengths, depths. The size `smallest` serves to warm up.
    """
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument(f"--{what}", dest="sizes", type=int, nargs="+", default=sizes)
    parser.add_argument("--rounds", type=int, default=5, help="steps of each contender; the median counts")
    parser.add_argument("--worker", choices=contenders, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, default=results_path, help="the JSON file to write")
    options = parser.parse_args()
    machine.require_proc()
    if options.worker:
        work(contenders[options.worker], options.size, smallest)
        return
    results = {"surroundings": surroundings(), what: {}}
    for size in options.sizes:
        print(f"{what}: {size}", flush=True)
        results[what][size] = contest(script, contenders, size, options.rounds)
        options.results.parent.mkdir(parents=True, exist_ok=True)
        options.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def contest(script, names, size, n_rounds):
    """{name: {"seconds": median, "all": [...], "peak_mb": ..., "blas": [...]} or {"failed": why}} for a `script`.

    "blas" names the processor that OpenBLAS's kernels in that process were written for.

    A contender that fails beside the others, for lack of memory, tries again alone.
    """
    results = _by_turns(script, names, size, n_rounds)
    for name in [name for name in names if "failed" in results[name] and len(names) > 1]:
        results |= _by_turns(script, [name], size, n_rounds)
    for name in names:
        one = results[name]
        text = (
            f"failed, {one['failed']}" if "failed" in one else f"{one['seconds']:.3f} s, peak {one['peak_mb']:.0f} MB"
        )
        print(f"  {name}: {text}", flush=True)
    return results


def _by_turns(script, names, size, n_rounds):
    environment = {name: value for name, value in os.environ.items() if name not in _OVERRIDES}
    environment |= {"OMP_NUM_THREADS": str(N_THREADS), "TRANSFORMERS_VERBOSITY": "error"}
    results, running = {}, {}
    for name in names:
        command = [sys.executable, script, "--worker", name, "--size", str(size)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        worker = subprocess.Popen(command, env=environment, encoding="utf-8", **pipes)
        answer = worker.stdout.readline()
        if answer:
            results[name], running[name] = {"all": []} | json.loads(answer), worker
        else:
            results[name] = {"failed": _last_words(worker)}
    for done in range(n_rounds):
        for name, worker in list(running.items()):
            if done and max(results[name]["all"]) > _PATIENCE:
                continue
            answer = _ask(worker)
            if answer:
                results[name]["all"].append(json.loads(answer)["seconds"])
            else:
                results[name] = {"failed": _last_words(running.pop(name))}
    for name, worker in running.items():
        worker.stdin.close()
        worker.wait()
        results[name]["seconds"] = statistics.median(results[name]["all"])
    return results


def _ask(worker):
    """The answer to one more step, or nothing from a worker that has died."""
    try:
        print("step", file=worker.stdin, flush=True)
    except BrokenPipeError:
        return ""
    return worker.stdout.readline()


def work(make_step, size, smallest):
    """What a worker does: measure memory in the first step, then time one step for each line on its input."""
    make_step(smallest)()  # libraries load, and allocate, what they will keep
    step = make_step(size)
    held = machine.memory("VmRSS")
    machine.begin_new_peak()
    step()
    peak_mb = (machine.memory("VmHWM") - held) / 1e6
    step()
    kernels = sorted({blas["architecture"] for blas in threadpool_info() if "architecture" in blas})
    print(json.dumps({"peak_mb": peak_mb, "blas": kernels}), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        step()
        print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)


def _last_words(worker):
    lines = worker.communicate()[1].strip().splitlines()
    return lines[-1] if lines else f"exit code {worker.returncode} (out of memory?)"
