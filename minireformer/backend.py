"""NumPy or CuPy: which one is in use, which one an array belongs to, and the few calls that differ.

The package is written once, for both. A function that is given arrays asks them for their module
(`xp = get_xp(x)`) and calls only what NumPy >= 2.0 and CuPy 13 and 14 share; a function that makes
arrays from nothing (a new parameter, a position table) takes the module in use (`xp = active()`).

Switch with `backend.use("cupy")`, or with the environment variable `MINIREFORMER_BACKEND=cupy` before
the import. Read next: `rng.py`, then `layer.py`.
"""

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy
from threadpoolctl import ThreadpoolController

from minireformer import gpu

_NAMES = ("numpy", "cupy")
_active = numpy
_LEAST_ROWS, _MOST_BLOCKS = 128, 16  # how `matmul` cuts: enough blocks for many cores, each long enough for BLAS
_ENTRIES = 1 << 18  # how `by_rows` cuts: near the cache's size; less work would be spent waiting for Python's lock
_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_asked_for = os.environ.get("OMP_NUM_THREADS", "")  # what BLAS goes by, too
_n_threads = int(_asked_for) if _asked_for.isdecimal() and int(_asked_for) > 0 else _cores
_put_off = None  # within `one_wait`: what is to be looked at when its values are known, [(array, function)]


def use(name):
    """Make `name` ("numpy" or "cupy") the module that new arrays come from; return the module.

    Arrays that exist already stay where they are: a model made before the switch keeps its backend.
    Raises ValueError for another name, ImportError where CuPy or its GPU is missing.
    """
    global _active
    if name not in _NAMES:
        raise ValueError(f"backend: expected one of {', '.join(_NAMES)}; got {name!r}")
    _active = numpy if name == "numpy" else _import_cupy()
    return _active


def active():
    """The module that new arrays come from: `numpy` or `cupy`."""
    return _active


def get_xp(array):
    """The module that `array` belongs to. Raises TypeError for anything but a NumPy or CuPy array."""
    if isinstance(array, (numpy.ndarray, numpy.generic)):
        return numpy
    if type(array).__module__.partition(".")[0] == "cupy":
        return _import_cupy()
    raise TypeError(f"expected a NumPy or CuPy array; got {type(array).__name__}")


def asarray(array, dtype=None):
    """`array` (a list, a NumPy or a CuPy array) as an array of the module in use."""
    if _active is numpy:
        array = to_numpy(array)
    return _active.asarray(array, dtype=dtype)


def to_numpy(array):
    """`array` in host memory, for a plot, a file or a print. NumPy arrays pass through uncopied."""
    return array.get() if type(array).__module__.partition(".")[0] == "cupy" else numpy.asarray(array)


@contextmanager
def one_wait():
    """Within this block, a GPU is waited for once: what the host has to know of it is fetched together.

    Gives a function `fetch(*numbers)`, to be called at the end: 0-d arrays -> a list of floats. Checks that were put
    off (see `when_known`) are made then, before it returns. In a block within another one, `fetch` gives the arrays
    back as they are, and leaves them to the outer one. On NumPy, nothing is put off.
    """
    global _put_off
    if _put_off is not None:
        yield lambda *numbers: list(numbers)
        return
    _put_off = []
    try:
        yield _fetch
    finally:
        _put_off = None


def _fetch(*numbers):
    xp = get_xp(numbers[0])
    arrays = [*numbers, *(array for array, _ in _put_off)]
    values = iter(xp.concatenate([array.reshape(-1).astype(xp.float64) for array in arrays]).tolist())
    found = [next(values) for _ in numbers]
    for array, check in _put_off:
        check(*(next(values) for _ in range(array.size)))
    return found


def when_known(array, check):
    """Call `check` with the values of a small `array` (n,): at once, or when the `one_wait` around it fetches."""
    if _put_off is None or get_xp(array) is numpy:
        check(*array.tolist())
    else:
        _put_off.append((array, check))


def take_rows(table, rows, out):
    """`out[...] = table[rows]`: rows of a 2-D `table` (L, d) picked by integers `rows` (...), no temporary.

    `rows` must lie in range: NumPy's "clip" mode is used because it writes straight into `out`.
    """
    if get_xp(table) is numpy:
        numpy.take(table, rows, axis=0, out=out, mode="clip")
    else:
        get_xp(table).take(table, rows, axis=0, out=out)


def strided(array, shape, strides):
    """A view of a contiguous `array` with another `shape` and `strides` (in bytes): entries may overlap."""
    if get_xp(array) is numpy:  # as `numpy.lib.stride_tricks.as_strided`, at a tenth of its cost
        return numpy.ndarray(shape, array.dtype, array, strides=strides)
    return get_xp(array).lib.stride_tricks.as_strided(array, shape, strides)


def places(conditions):
    """Where `conditions` (n,) booleans are true, as an index. On a GPU everywhere: the host would have to wait."""
    return numpy.flatnonzero(conditions) if get_xp(conditions) is numpy else slice(None)


def slices(n, step):
    """0..n-1 cut into slices of `step`, of which the last may be shorter; none for n = 0."""
    return [slice(start, min(start + step, n)) for start in range(0, n, max(1, step))]


def matmul(a, b, out=None, then=None):
    """The product of matrices a (n, k) and b (k, m), with the rows of `a` shared out over threads.

    In place of BLAS's own threads: those go on spinning for a while after each product, and take the cores
    from the threads of `share_out`. The blocks of rows do not depend on the number of threads, nor do the results.
    `then(rows)` is called with the slice of each block when its product is in `out`: what else is to be done to it
    is done while it is in the cache. On a GPU there is one block.
    """
    xp = get_xp(a)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
        raise ValueError(f"b: expected matrices (n, k) and (k, m); got {a.shape} and {b.shape}")
    if xp is not numpy:
        out = xp.matmul(a, b, out=out)
        if then is not None:
            then(slice(0, len(a)))
        return out
    if out is None:
        out = numpy.empty((a.shape[0], b.shape[1]), numpy.result_type(a, b))
    blocks = slices(len(a), max(_LEAST_ROWS, -(-len(a) // _MOST_BLOCKS)))

    def work(items):
        for rows in (blocks[item] for item in items):
            numpy.matmul(a[rows], b, out=out[rows])
            if then is not None:
                then(rows)

    share_out(work, len(blocks), numpy)
    return out


def by_rows(work, n_rows, n_columns, xp):
    """Call `work(rows)` for slices of 0..n_rows-1, shared out over threads: some hundred kilobytes of `n_columns` each.

    For a chain of steps on large arrays, each of which would else read and write all of it, on one core. On a GPU
    there is one slice. As in `matmul`, the slices do not depend on the number of threads.
    """
    blocks = slices(n_rows, _ENTRIES // n_columns if xp is numpy else n_rows)
    if len(blocks) <= 1:
        work(slice(0, n_rows))
        return

    def some(items):
        for item in items:
            work(blocks[item])

    share_out(some, len(blocks), xp)


def products(a, b, out):
    """out[g, n] = a[g, n] @ b[g, n], matrix by matrix: a (g, n, i, k), b (g, n, k, j), a contiguous out (g, n, i, j).

    Matrices that are transposed, or overlap as windows do, are read where they lie, on a GPU too.
    """
    xp = get_xp(out)
    return xp.matmul(a, b, out=out) if xp is numpy else gpu.products(xp, a, b, out)


@functools.cache  # the driver takes its time
def device_bytes():
    """All memory of the GPU in use, in bytes."""
    return _import_cupy().cuda.runtime.memGetInfo()[1]


def set_threads(n):
    """Share heads out over `n` threads on the CPU.

    Until then it is OMP_NUM_THREADS where that is set, else the number of cores this process may use.
    """
    global _n_threads
    if not isinstance(n, (int, numpy.integer)) or isinstance(n, bool) or n < 1:
        raise ValueError(f"n: expected a number of threads >= 1; got {n!r}")
    _n_threads = int(n)


def n_threads():
    """How many threads `share_out` uses."""
    return _n_threads


def share_out(work, n_items, xp):
    """Call `work(items)` with the integers 0..n_items-1 shared out over threads; return when all are done.

    NumPy lets go of Python's lock inside its loops and products, so plain threads keep every core busy;
    BLAS is held to one thread meanwhile, or its threads would fight ours. Each item is computed by one
    thread from start to end, so results do not depend on their number. On a GPU one call gets all items.

    Calls must not be nested: a `work` that calls `share_out`, or `matmul`, holds a thread while it waits for
    others, and once all of them wait, nothing goes on.
    """
    if xp is not numpy:
        work(range(n_items))
        return
    n = min(_n_threads, n_items)
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


@functools.cache  # asked for with every look-up of an array's module
def _import_cupy():
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name != "cupy":  # it is installed, and lacks something: its own words say what
            raise
        raise ImportError(
            "backend: CuPy is not installed. For CUDA 12: pip install 'cupy-cuda12x[ctk]'; "
            "for CUDA 13: pip install 'cupy-cuda13x[ctk]' (nvidia-smi shows the driver's CUDA version)"
        ) from error
    try:
        n_devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise ImportError(f"backend: CuPy is installed but finds no GPU or driver ({error})") from error
    if not n_devices:
        raise ImportError("backend: CuPy and a driver are installed, but the driver finds no GPU")
    return cupy


use(os.environ.get("MINIREFORMER_BACKEND", "numpy"))
