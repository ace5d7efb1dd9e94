"""All cores, the same bits: loops and matrix products whose work is shared out over threads.

Read next: `rng.py`.
"""

import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import ThreadpoolController

from minireformer import backend, cuda
from minireformer.backend import get_xp

_LEAST_ROWS, _MOST_BLOCKS = 128, 16  # how `matmul` cuts: enough blocks for many cores, each long enough for BLAS
_ENTRIES = 1 << 18  # how `by_rows` cuts: near the cache's size; less work would be spent waiting for Python's lock


def slices(n, step):
    """0..n-1 cut into slices of `step`, of which the last may be shorter; none for n = 0."""
    return [slice(start, min(start + step, n)) for start in range(0, n, max(1, step))]


def matmul(a, b, out=None, epilogue=None):
    """The product of matrices a (n, k) and b (k, m), with the rows of `a` shared out over threads.

    In place of BLAS's own threads: those go on spinning for a while after each product, and take the cores
    from the threads of `share_out`. The blocks of rows do not depend on the number of threads, nor do the results.
    `epilogue(rows)` is called with the slice of each block when its product is in `out`: what else is to be done to it
    is done while it is in the cache. On a GPU there is one block.
    """
    xp = get_xp(a)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
        raise ValueError(f"b: expected matrices (n, k) and (k, m); got {a.shape} and {b.shape}")
    if xp is not np:
        out = xp.matmul(a, b, out=out)
        if epilogue is not None:
            epilogue(slice(0, len(a)))
        return out
    if out is None:
        out = np.empty((a.shape[0], b.shape[1]), np.result_type(a, b))
    blocks = slices(len(a), max(_LEAST_ROWS, -(-len(a) // _MOST_BLOCKS)))

    def work(items):
        for rows in (blocks[item] for item in items):
            np.matmul(a[rows], b, out=out[rows])
            if epilogue is not None:
                epilogue(rows)

    parallel_for(work, len(blocks), np)
    return out


def parallel_rows(work, n_rows, n_columns, xp):
    """Call `work(rows)` for slices of 0..n_rows-1, shared out over threads: some hundred kilobytes of `n_columns` each.

    For a chain of steps on large arrays, each of which would else read and write all of it, on one core. On a GPU
    there is one slice. As in `matmul`, the slices do not depend on the number of
    """
    blocks = slices(n_rows, _ENTRIES // n_columns if xp is np else n_rows)
    if len(blocks) <= 1:
        work(slice(0, n_rows))
        return

    def some(items):
        for item in items:
            work(blocks[item])

    parallel_for(some, len(blocks), xp)


def batched_matmul(a, b, out):
    """out[g, n] = a[g, n] @ b[g, n], matrix by matrix: a (g, n, i, k), b (g, n, k, j), a contiguous out (g, n, i, j).

    Matrices that are transposed, or overlap as windows do, are read where they lie, on a GPU too.
    """
    xp = get_xp(out)
    return xp.matmul(a, b, out=out) if xp is np else cuda.batched_matmul(xp, a, b, out)


def parallel_for(work, n_items, xp):
    """Call `work(items)` with the integers 0..n_items-1 shared out over threads; return when all are done.

    NumPy lets go of Python's lock inside its loops and products, so plain threads keep every core busy;
    BLAS is held to one thread meanwhile, or its threads would fight ours. Each item is computed by one
    thread from start to end, so results do not depend on their number. On a GPU one call gets all items.

    Calls must not be nested: a `work` that calls `share_out`, or `matmul`, holds a thread while it waits for
    others, and once all of them wait, nothing goes on.
    """
    if xp is not np:
        work(range(n_items))
        return
    n = min(backend.n_threads(), n_items)
    with _blas().limit(limits=1, user_api="blas"):
        if n <= 1:
            work(range(n_items))
            return
        for done in [_pool(n).submit(work, range(start, n_items, n)) for start in range(n)]:
            done.result()


@functools.cache
def _pool(n):
    return ThreadPoolExecutor(n, thread_name_prefix="minireformer")


@functools.cache
def _blas():
    return ThreadpoolController()
