"""Loops, row operations and matrix products, divided among threads: every core works, and the bits stay the same.

NumPy releases Python's lock (the GIL) inside its loops and products, so plain threads keep every core busy. How we
divide the work never depends on the number of threads, so neither do the results. On a GPU, one call does all the work.
Read next: `rng.py`.
"""

import functools
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import ThreadpoolController

from minireformer import backend, cuda
from minireformer.backend import get_xp

_LEAST_ROWS, _MOST_BLOCKS = 128, 16  # blocks for products: enough for many cores, each long enough for BLAS
_ENTRIES = 1 << 18  # in other blocks: about what a cache holds; with fewer, threads would wait for the GIL
_pool = functools.cache(functools.partial(ThreadPoolExecutor, thread_name_prefix="minireformer"))
_blas = functools.cache(ThreadpoolController)  # looks for BLAS in this process when it is first called


def slices(n, step):
    """0..n-1 cut into slices of `step`, of which the last may be shorter; none for n = 0."""
    return [slice(start, min(start + step, n)) for start in range(0, n, max(1, step))]


def parallel_for(work, n_items, xp):
    """Call `work(items)` with the integers 0..n_items-1 divided among threads; return when all are done.

    Each item is computed by one thread, from start to end. Meanwhile, BLAS is limited to one thread: its own threads
    would compete with ours, and they keep spinning for a while after each product. An error in `work` is raised here.

    Never nest these calls: a `work` that calls a function of this file holds its thread while it waits for others,
    and once all threads wait, the program hangs.
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


def parallel_rows(work, *arrays, products=False):
    """Call `work(first, *blocks)` on blocks of rows of `arrays` (..., d); a block's first row is row `first`.

    -> a dict from `first` to the result. Use it for a chain of steps on large arrays: a block goes through all steps
    while it is in the cache; whole arrays would be read and written at each step, on a single core. A block has about
    as many entries as a cache holds; with `products=True`, as many rows as BLAS needs for `xp.matmul` to be fast.
    `None` among the arrays stays `None`. Arrays that `work` writes to must be contiguous.
    """
    xp = get_xp(arrays[0])
    tables = [x if x is None else x.reshape(math.prod(x.shape[:-1]), x.shape[-1]) for x in arrays]
    n_rows, n_columns = tables[0].shape
    step = max(_LEAST_ROWS, -(-n_rows // _MOST_BLOCKS)) if products else _ENTRIES // n_columns
    blocks = slices(n_rows, step if xp is np else n_rows) or [slice(0, 0)]
    results = dict.fromkeys(rows.start for rows in blocks)  # in this order, whichever is done first

    def some(items):
        for rows in (blocks[item] for item in items):
            results[rows.start] = work(rows.start, *(table if table is None else table[rows] for table in tables))

    if products or len(blocks) > 1:
        parallel_for(some, len(blocks), xp)
    else:  # not worth a thread
        some([0])
    return results


def matmul(a, b, out=None):
    """The product of matrices a (n, k) and b (k, m), with the rows of `a` divided among our threads, not BLAS's."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
        raise ValueError(f"b: expected matrices (n, k) and (k, m); got {a.shape} and {b.shape}")
    xp = get_xp(a)
    if out is None:
        out = xp.empty((a.shape[0], b.shape[1]), xp.result_type(a, b))
    parallel_rows(lambda _, a, out: xp.matmul(a, b, out=out), a, out, products=True)
    return out


def batched_matmul(a, b, out):
    """out[g, n] = a[g, n] @ b[g, n], matrix by matrix: a (g, n, i, k), b (g, n, k, j), a contiguous out (g, n, i, j).

    Transposed matrices, and windows that overlap, are read in place, on a GPU too. This one uses no threads of its own.
    """
    xp = get_xp(out)
    return xp.matmul(a, b, out=out) if xp is np else cuda.batched_matmul(xp, a, b, out)
