"""NumPy or CuPy: which one is in use, which one an array belongs to, and the few calls that differ.

The package is written once, for both. A function that is given arrays asks them for their module
(`xp = get_xp(x)`) and calls only what NumPy >= 2.0 and CuPy 13 and 14 share; a function that makes
arrays from nothing (a new parameter, a position table) takes the module in use (`xp = active()`).

Switch with `backend.use("cupy")`, or with the environment variable `MINIREFORMER_BACKEND=cupy` before
the import. Read next: `rng.py`, then `layer.py`.
"""

import functools
import os
from contextlib import contextmanager

import numpy as np

from minireformer import cuda

_NAMES = ("numpy", "cupy")
_active = np
_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_asked_for = os.environ.get("OMP_NUM_THREADS", "")  # what BLAS goes by, too
_n_threads = int(_asked_for) if _asked_for.isdecimal() and int(_asked_for) > 0 else _cores
_pending = None  # within `one_wait`: what is to be looked at when its values are known, [(array, function)]


def use(name):
    """Make `name` ("numpy" or "cupy") the module that new arrays come from; return the module.

    Arrays that exist already stay where they are: a model made before the switch keeps its backend.
    Raises ValueError for another name, ImportError where CuPy or its GPU is missing.
    """
    global _active
    if name not in _NAMES:
        raise ValueError(f"backend: expected one of {', '.join(_NAMES)}; got {name!r}")
    _active = np if name == "numpy" else _import_cupy()
    return _active


def active():
    """The module that new arrays come from: `numpy` or `cupy`."""
    return _active


def get_xp(array):
    """The module that `array` belongs to. Raises TypeError for anything but a NumPy or CuPy array."""
    if isinstance(array, (np.ndarray, np.generic)):
        return np
    if type(array).__module__.partition(".")[0] == "cupy":
        return _import_cupy()
    raise TypeError(f"expected a NumPy or CuPy array; got {type(array).__name__}")


def asarray(array, dtype=None):
    """`array` (a list, a NumPy or a CuPy array) as an array of the module in use."""
    if _active is np:
        array = to_numpy(array)
    return _active.asarray(array, dtype=dtype)


def to_numpy(array):
    """`array` in host memory, for a plot, a file or a print. NumPy arrays pass through uncopied."""
    return array.get() if type(array).__module__.partition(".")[0] == "cupy" else np.asarray(array)


@contextmanager
def deferred_sync():
    """Within this block, a GPU is waited for once: what the host has to know of it is fetched together.

    Gives a function `fetch(*numbers)`, to be called at the end: 0-d arrays -> a list of floats. Checks that were put
    off (see `when_known`) are made then, before it returns. In a block within another one, `fetch` gives the arrays
    back as they are, and leaves them to the outer one. On NumPy, nothing is put off.
    """
    global _pending
    if _pending is not None:
        yield lambda *numbers: list(numbers)
        return
    _pending = []
    try:
        yield _fetch
    finally:
        _pending = None


def _fetch(*numbers):
    xp = get_xp(numbers[0])
    arrays = [*numbers, *(array for array, _ in _pending)]
    values = iter(xp.concatenate([array.reshape(-1).astype(xp.float64) for array in arrays]).tolist())
    found = [next(values) for _ in numbers]
    for array, check in _pending:
        check(*(next(values) for _ in range(array.size)))
    return found


def check_later(array, check):
    """Call `check` with the values of a small `array` (n,): at once, or when the `one_wait` around it fetches."""
    if _pending is None or get_xp(array) is np:
        check(*array.tolist())
    else:
        _pending.append((array, check))


def gather(table, rows, out):
    """`out[...] = table[rows]`: rows of a 2-D `table` (L, d) picked by integers `rows` (...), no temporary.

    `rows` must lie in range: NumPy's "clip" mode is used because it writes straight into `out`.
    """
    if get_xp(table) is np:
        np.take(table, rows, axis=0, out=out, mode="clip")
    else:
        get_xp(table).take(table, rows, axis=0, out=out)


def strided(array, shape, strides):
    """A view of a contiguous `array` with another `shape` and `strides` (in bytes): entries may overlap."""
    if get_xp(array) is np:  # as `numpy.lib.stride_tricks.as_strided`, at a tenth of its cost
        return np.ndarray(shape, array.dtype, array, strides=strides)
    return get_xp(array).lib.stride_tricks.as_strided(array, shape, strides)


def nonzero(conditions):
    """Where `conditions` (n,) booleans are true, as an index. On a GPU everywhere: the host would have to wait."""
    return np.flatnonzero(conditions) if get_xp(conditions) is np else slice(None)


def set_threads(n):
    """Share heads out over `n` threads on the CPU.

    Until then it is OMP_NUM_THREADS where that is set, else the number of cores this process may use.
    """
    global _n_threads
    if not isinstance(n, (int, np.integer)) or isinstance(n, bool) or n < 1:
        raise ValueError(f"n: expected a number of threads >= 1; got {n!r}")
    _n_threads = int(n)


def n_threads():
    """How many threads `share_out` uses."""
    return _n_threads


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


def row_dot(a, b):
    """The dot products of the rows of a and b (..., d) -> (...), without the temporary a * b."""
    xp = get_xp(a)
    return cuda.row_dot(xp, a, b) if cuda.compiles(xp) else xp.einsum("...i,...i->...", a, b)
