"""Two processes with a thread each, beside one process with two threads and one with one: tokens a second.

    python benchmarks/speed/processes.py            # ten minutes; writes results/processes.json
    python benchmarks/speed/processes.py --quick    # a minute; writes build/processes_quick.json

All take whole training steps (loss, gradients, all-reduce, clipping, Adam) on the same batches, by turns: each turn is
a run of its own, in which the first step warms up. We also time the all-reduce itself, from 8 bytes to 64 MB, between
the two processes. Needs mpi4py and mpiexec: pip install -e '.[mpi]'.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import contest
import numpy as np

from minireformer.training import loop, parallel

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CONTENDERS = {"2 processes": (2, 1), "1 process, 2 threads": (1, 2), "1 process, 1 thread": (1, 1)}
LENGTHS, QUICK = [128, 512, 2048, 8192], [64, 128]
REDUCED = [8 * 8**power for power in range(8)]  # bytes, up to 16 MB; and then 64 MB
ROWS, LAYERS, D_MODEL = 2, 6, 256  # a row for each process


class TimedRanks(parallel.Ranks):
    """Ranks that note how long they waited for each other, and then how long the all-reduce took."""

    waited = reduced = 0.0

    def sum(self, loss, grads, params):
        """As in `Ranks`, but all begin at the same time."""
        began = time.perf_counter()
        if self.size > 1:
            self.comm.Barrier()
        together = time.perf_counter()
        sums = super().sum(loss, grads, params)
        self.waited += together - began
        self.reduced += time.perf_counter() - together
        return sums


def train(comm, length, steps):
    """Take `steps` steps -> what a record holds of one turn."""
    import minireformer as mr

    config = mr.ReformerConfig(
        d_model=D_MODEL,
        n_heads=4,
        d_head=D_MODEL // 4,
        d_ff=4 * D_MODEL,
        attn_layers=("lsh",) * LAYERS,
        lsh_chunk_len=64,
        n_hashes=4,
        axial_shape=(length // 64, 64),
        max_len=length,
    )
    model, corpus = mr.Reformer(config), mr.data.standard_library()
    opt, ranks = mr.Adam(model.params), TimedRanks(comm)

    def step(number):
        batch = corpus.batch("train", number, ROWS, length)
        loop.training_step(model, lambda _: batch, opt, number, None, 1.0, 0, 1, ranks)

    step(0)
    ranks.waited = ranks.reduced = 0.0
    began = time.perf_counter()
    for number in range(1, steps + 1):
        step(number)
    seconds = (time.perf_counter() - began) / steps
    return {
        "tokens_per_s": ROWS * length / seconds,
        "seconds_per_step": seconds,
        "waited": ranks.waited / steps,
        "reduced": ranks.reduced / steps,
        "gradient_bytes": 4 * sum(param.size for param in model.params.values()),
    }


def reduce(comm, repeats):
    """{bytes: median seconds} of an all-reduce, in place, of float32."""
    from mpi4py import MPI

    seconds = {}
    for n_bytes in [*REDUCED, 4 * REDUCED[-1]]:
        buffer, times = np.zeros(n_bytes // 4, "float32"), []
        for _ in range(repeats + 1):
            comm.Barrier()
            began = time.perf_counter()
            comm.Allreduce(MPI.IN_PLACE, buffer)
            times.append(time.perf_counter() - began)
        seconds[n_bytes] = statistics.median(times[1:])
    return seconds


def start(n_processes, n_threads, *arguments):
    """One turn in processes of its own; -> what its first process printed."""
    # Open MPI wants to be asked before it runs as root, or more processes than it counts cores.
    environment = os.environ | {"OMP_NUM_THREADS": str(n_threads), "MINIREFORMER_BACKEND": "numpy"}
    environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environment |= {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    mpiexec = Path(sys.executable).parent / "mpiexec"
    launcher = [str(mpiexec if mpiexec.exists() else "mpiexec"), "-n", str(n_processes)] if n_processes > 1 else []
    command = [sys.executable, str(HERE / "processes.py"), *map(str, arguments)]
    run = subprocess.run(launcher + command, env=environment, stdout=subprocess.PIPE, encoding="utf-8", check=True)
    return json.loads(run.stdout)


def work(job):
    """What a process of one turn does."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    name, *numbers = job
    if name == "reduce":
        result = reduce(comm, *map(int, numbers)) | {"library": MPI.Get_library_version().splitlines()[0]}
    else:
        result = train(comm if comm.Get_size() > 1 else None, *map(int, numbers))
    if comm.Get_rank() == 0:
        print(json.dumps(result))


def main():
    """Let the contenders take turns, and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="of the sequences")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender; the median counts")
    parser.add_argument("--quick", action="store_true", help="a tiny run, to see that all of it works")
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="where a quick run writes")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work)
        return
    rounds, steps = (2, 2) if options.quick else (options.rounds, 4)
    times = start(2, 1, "--work", "reduce", 5 if options.quick else 30)
    result = {"mpi": times.pop("library"), "allreduce": times, "training": {}}
    result |= {"rows": ROWS, "layers": LAYERS, "d_model": D_MODEL}
    for length in QUICK if options.quick else options.lengths:
        turns = {name: [] for name in CONTENDERS}
        for _ in range(rounds):
            for name, (n_processes, n_threads) in CONTENDERS.items():
                turns[name].append(start(n_processes, n_threads, "--work", "train", length, steps))
        result["training"][length] = {
            name: {key: statistics.median(one[key] for one in own) for key in own[0]}
            | {"all": [one["tokens_per_s"] for one in own]}
            for name, own in turns.items()
        }
        for name in CONTENDERS:
            tokens_per_s = result["training"][length][name]["tokens_per_s"]
            print(f"{length}: {name}: {tokens_per_s:.0f} tokens/s", flush=True)
    result["surroundings"] = contest.surroundings()
    path = options.build / "processes_quick.json" if options.quick else HERE / "results" / "processes.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
