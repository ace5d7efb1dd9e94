"""Data-parallel training over MPI: each process takes some rows of every batch, and all of them take the same step.

The gradient of a batch is a weighted sum over its rows (see `accumulate.py`). One process may compute the terms one
after the other, or several may compute them at the same time. So each process, a *rank* of an MPI communicator,
computes the terms of its own rows; then one all-reduce adds them up and gives everyone the sum:

    from mpi4py import MPI
    mr.train(model, batches, opt, steps, comm=MPI.COMM_WORLD)       # mpiexec -n 4 python script.py

All ranks begin with rank 0's parameters, so after the same steps they still have the same. Rank 0 keeps the log, draws
the bar and reads and writes the files, which the other ranks need not even see. Nothing here imports mpi4py before it
gets a communicator. Read next: `record.py`.
"""

import contextlib
import json
import os
import sys
import time
import traceback

import numpy as np

from minireformer import backend
from minireformer.checks import check_flags, expect_type


def use_own_gpu(comm):
    """Switch to CuPy, and to a GPU that no other process of this machine uses; -> its number.

    Call it before you make the model, because arrays stay on the GPU where they were made. If there are more processes
    than GPUs, they take turns in sharing them.
    """
    from mpi4py import MPI

    here = comm.Split_type(MPI.COMM_TYPE_SHARED)  # the processes of this machine
    rank = here.Get_rank()
    here.Free()
    cuda = backend.use("cupy").cuda
    gpu = rank % cuda.runtime.getDeviceCount()
    cuda.Device(gpu).use()
    return gpu


class Ranks:
    """The processes that train together, as one of them sees them: it is number `rank` of `size`.

    `comm` is a communicator of mpi4py; with None, this process is alone and every method does nothing. CuPy arrays go
    through pinned host memory, or, if `cuda_aware`, to MPI as they are. `str(ranks)` says which.
    """

    def __init__(self, comm=None, cuda_aware=False):
        fits = comm is None or hasattr(comm, "Allreduce")
        self.comm = expect_type("comm", comm, fits, "a communicator of mpi4py, such as MPI.COMM_WORLD")
        check_flags(cuda_aware=cuda_aware)
        self.cuda_aware = cuda_aware
        self.rank, self.size = (0, 1) if comm is None else (comm.Get_rank(), comm.Get_size())
        self._pinned = None

    def __str__(self):
        if backend.active() is np:
            return f"{self.size} processes with {backend.n_threads()} thread{'s'[: backend.n_threads() - 1]} each"
        way = "to a CUDA-aware MPI as they are" if self.cuda_aware else "to MPI through pinned host memory"
        return f"{self.size} processes; gradients go from the GPU {way}"

    @contextlib.contextmanager
    def ending_together(self):
        """An exception in this block ends all ranks. The others would otherwise wait for this one forever."""
        try:
            yield
        except BaseException:
            if self.size == 1:
                raise
            traceback.print_exc()
            print(
                f"Rank {self.rank} of {self.size} failed, so the whole run ends. "
                "If it wrote a checkpoint, the same command goes on from there.",
                file=sys.stderr,
                flush=True,
            )
            time.sleep(1)  # `Abort` would also end mpiexec, which may not have passed the message on yet
            self.comm.Abort(1)
            os._exit(1)  # where `Abort` returns, because the end takes a moment to arrive

    def sum(self, loss, grads, params):
        """Add up `loss` and `grads` over all ranks, with one call of MPI; -> loss, grads.

        The gradients move into one buffer, and what is returned are views of it. A rank without rows adds zeros.
        """
        if self.size == 1:
            return loss, grads
        like = next(iter(params.values()))
        buffer = backend.get_xp(like).zeros(sum(param.size for param in params.values()) + 1, like.dtype)
        sums, stop = {}, 0
        for name, param in params.items():
            start, stop = stop, stop + param.size
            sums[name] = buffer[start:stop].reshape(param.shape)
            if name in grads:
                sums[name][...] = grads.pop(name)  # frees it, so that there are never two sets in full
        buffer[stop] = loss
        self._call("Allreduce", buffer)
        return buffer[stop], sums

    def take_from_first(self, model, opt):
        """Give every rank the parameters and the optimizer state of rank 0.

        Unlike processors may round differently. Doing this at every checkpoint keeps such differences from growing, and
        a resumed run starts with the same numbers as one that was not interrupted.
        """
        if self.size > 1:
            for array in (*model.params.values(), *opt.state.values()):
                self._call("Bcast", array)

    def told_by_first(self, value):
        """`value` of rank 0, which is anything that JSON can hold, on every rank."""
        if self.size == 1:
            return value
        text = np.frombuffer(json.dumps(value).encode(), "uint8").copy()
        length = np.array(len(text))
        self.comm.Bcast(length)
        text = text if self.rank == 0 else np.empty(int(length), "uint8")
        self.comm.Bcast(text)
        return json.loads(text.tobytes())

    def expect_same(self, **arguments):
        """Raise ValueError unless all ranks have the same `arguments` (name=value): else they would wait forever."""
        for name, value in self.told_by_first(arguments).items():
            if arguments[name] != value:
                raise ValueError(f"{name}: expected that of rank 0, {value}; got {arguments[name]} on rank {self.rank}")

    def _call(self, name, array):
        """Let MPI's "Allreduce" or "Bcast" change `array`, which is contiguous, in place."""
        if isinstance(array, np.ndarray):
            self._mpi(name, array)
        elif self.cuda_aware:
            backend.get_xp(array).cuda.get_current_stream().synchronize()  # MPI knows nothing of CUDA's streams
            self._mpi(name, array)
        else:
            host = self._host_memory(array)
            array.get(out=host)
            self._mpi(name, host)
            array.set(host)

    def _mpi(self, name, array):
        from mpi4py import MPI

        self.comm.Bcast(array) if name == "Bcast" else self.comm.Allreduce(MPI.IN_PLACE, array)

    def _host_memory(self, array):
        """Pinned host memory (which a GPU copies to and from fastest) like `array`; kept for the next call."""
        if self._pinned is None or len(self._pinned) < array.nbytes:
            memory = backend.get_xp(array).cuda.alloc_pinned_memory(array.nbytes)
            self._pinned = np.frombuffer(memory, "uint8", array.nbytes)
        return self._pinned[: array.nbytes].view(array.dtype).reshape(array.shape)
