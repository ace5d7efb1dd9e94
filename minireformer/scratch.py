"""Scratch memory: a thread's gathers, sums and products, without a fresh array for each.

New arrays of several megabytes cost as much as the arithmetic on them, because the system hands them out page by page.
So each thread allocates once and writes into the same memory for every tile. Read next: `schedule.py`.
"""

import math

from minireformer import backend, cuda, threads


class Scratch:
    """Arrays of one dtype by name: `scratch(name, *shape)`.

    Arrays of the same name share their memory, whatever their shapes, so each call overwrites what the last one gave.
    """

    def __init__(self, xp, dtype):
        self.xp, self.dtype, self.memory, self.views = xp, dtype, {}, {}

    def __call__(self, name, *shape):
        view = self.views.get((name, shape))
        if view is None:
            size, memory = math.prod(shape), self.memory.get(name)
            if memory is None or memory.size < size:
                memory = self.memory[name] = self.xp.empty(size, self.dtype)
            view = self.views[name, shape] = memory[:size].reshape(shape)
        return view

    def gather(self, name, table, rows, factor=None):
        """table[rows] for a table (N, d) and rows (g, slots), times factor (g, slots) where there is one."""
        out = self(name, *rows.shape, *table.shape[1:])
        backend.gather(table, rows, out)
        if factor is not None:
            out *= factor[..., None]
        return out

    def scatter_add(self, table, rows, values, rescale=None):
        """table[rows] = table[rows] * rescale + values, for rows (g, slots) that are all different."""
        values = values.reshape(*rows.shape, -1)
        if cuda.compiles(self.xp):
            cuda.scatter_add(self.xp, table, rows, values, rescale)
            return
        sums = self.gather("sums", table, rows)
        if rescale is not None:
            sums *= rescale[..., None]
        sums += values
        table[rows] = sums

    def matmul(self, name, a, b):
        """a @ b for matrices a (g, n, i, k) and b (g, n, k, j), which are read where they lie."""
        return threads.batched_matmul(a, b, self(name, *a.shape[:3], b.shape[3]))
