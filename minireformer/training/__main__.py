"""Train a small model of bytes from the command line, in one process or in several.

    python -m minireformer.training run.safetensors
    mpiexec -n 2 python -m minireformer.training run.safetensors --steps 400

If a run is killed, the same command goes on from its last checkpoint, with as many processes as you like. With
MINIREFORMER_BACKEND=cupy, each process takes a GPU of its own. `text` is a file or a folder; the default is the source
code of Python's standard library.
"""

import argparse
import os
import sys

import numpy as np

import minireformer as mr
from minireformer.training.optimizers import warmup_inverse_sqrt
from minireformer.training.parallel import use_own_gpu


def communicator():
    """MPI's communicator of all processes, or None if mpi4py is not installed.

    Ends the program if mpiexec started several processes that don't see each other: they would all do all the work.
    """
    try:
        from mpi4py import MPI
    except ImportError:
        comm, n_seen = None, 1
    else:
        comm = MPI.COMM_WORLD
        n_seen = comm.Get_size()
    n_started = int(os.environ.get("PMI_SIZE") or os.environ.get("OMPI_COMM_WORLD_SIZE") or 1)
    if n_started != n_seen:
        sys.exit(
            f"mpiexec started {n_started} processes, but Python sees {n_seen}. "
            "Install mpi4py (pip install -e '.[mpi]'), and take the mpiexec of the same MPI."
        )
    return comm


def config_of(length):
    """Two blocks, one of local and one of LSH attention, for sequences of `length`, a multiple of 32."""
    return mr.ReformerConfig(
        d_model=128,
        n_heads=4,
        d_head=32,
        d_ff=512,
        attn_layers=("local", "lsh"),
        local_chunk_len=32,
        lsh_chunk_len=32,
        axial_shape=(length // 32, 32),
        max_len=length,
    )


def main():
    """Train, and print how good the model is."""
    parser = argparse.ArgumentParser(prog="python -m minireformer.training", description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", help="a path that ends in .safetensors; the log goes beside it")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=8, help="sequences in each step, whatever the number of processes")
    parser.add_argument("--length", type=int, default=512, help="bytes in each sequence, a multiple of 32")
    parser.add_argument("--text", help="a file or a folder to train on")
    parser.add_argument("--checkpoint-every", type=int, default=20, metavar="STEPS")
    options = parser.parse_args()
    comm = communicator()
    if comm is not None and mr.backend.active() is not np:
        use_own_gpu(comm)
    corpus = mr.data.text_files(options.text) if options.text else mr.data.standard_library()
    model = mr.Reformer(config_of(options.length), seed=0)
    log = mr.train(
        model,
        lambda step: corpus.batch("train", step, options.batch, options.length),
        mr.Adam(model.params),
        options.steps,
        schedule=warmup_inverse_sqrt(2e-3, 50),
        clip=1.0,
        checkpoint=options.checkpoint,
        checkpoint_every=options.checkpoint_every,
        comm=comm,
    )
    if comm is None or comm.Get_rank() == 0:
        print(f"after {log[-1]['step']} steps: {log[-1]['bits_per_token']:.2f} bits per byte")


if __name__ == "__main__":
    main()
