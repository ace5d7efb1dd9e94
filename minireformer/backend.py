"""NumPy or CuPy: which one is in use, which one an array belongs to, and the few calls that differ.

The package is written once, for both. A function that gets arrays asks them for their module (`xp = get_xp(x)`) and
calls only what NumPy >= 2.0 and CuPy 13 and 14 share. A function that makes arrays from nothing (a new parameter, a
position table) takes the module in use (`xp = active()`).

Switch with `backend.use("cupy")`, or set the environment variable `MINIREFORMER_BACKEND=cupy` before the import.
Read next: `threads.py`.
"""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from minireformer import cuda

Array = Any  # in signatures: a NumPy or a CuPy array; the text says which shape and dtype

_active: ModuleType = np
_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_wanted = os.environ.get("OMP_NUM_THREADS", "")  # BLAS reads it, too
_n_threads = int(_wanted) if _wanted.isdecimal() and int(_wanted) > 0 else _cores
_pending = None  # inside `deferred_sync`: the checks that wait for their values, [(array, function)]


def use(name: str) -> ModuleType:
    """Make `name` ("numpy" or "cupy") the module that new arrays come from; return the module.

    Arrays that exist already stay where they are: a model made before the switch keeps its backend.
    Raises ValueError for any other name, and ImportError if CuPy or its GPU is missing.
    """
    global _active
    if name not in ("numpy", "cupy"):
        raise ValueError(f"backend: expected one of numpy, cupy; got {name!r}")
    _active = np if name == "numpy" else _import_cupy()
    return _active


def active() -> ModuleType:
    """The module that new arrays come from: `numpy` or `cupy`."""
    return _active


def get_xp(array: Array) -> ModuleType:
    """The module that `array` belongs to. Raises TypeError for anything but a NumPy or CuPy array."""
    if isinstance(array, (np.ndarray, np.generic)):
        return np
    if _is_cupy(array):
        return _import_cupy()
    raise TypeError(f"expected a NumPy or CuPy array; got {type(array).__name__}")


def asarray(array: Any, dtype: Any = None) -> Array:
    """`array` (a list, a NumPy or a CuPy array) as an array of the module in use."""
    return _active.asarray(to_numpy(array) if _active is np else array, dtype=dtype)


def to_numpy(array: Any) -> np.ndarray:
    """`array` in host memory, for a plot, a file or a print. NumPy arrays pass through uncopied."""
    return array.get() if _is_cupy(array) else np.asarray(array)


def _is_cupy(array):
    return type(array).__module__.partition(".")[0] == "cupy"


@functools.cache  # `get_xp` calls it all the time
def _import_cupy():
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name != "cupy":  # CuPy is installed, and its own error says what it lacks
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


def set_threads(n: int) -> None:
    """Use `n` threads on the CPU. The default is OMP_NUM_THREADS if that is set, else one for each available core."""
    global _n_threads
    if not isinstance(n, (int, np.integer)) or isinstance(n, bool) or n < 1:
        raise ValueError(f"n: expected a number of threads >= 1; got {n!r}")
    _n_threads = int(n)


def n_threads() -> int:
    """How many threads the functions of `threads.py` use."""
    return _n_threads


@contextmanager
def deferred_sync() -> Iterator[Callable[..., list[Any]]]:
    """Inside this block, the host waits for the GPU only once, and fetches everything it needs at once.

    The block gets a function `fetch(*numbers)`, to call at its end: 0-d arrays -> a list of floats. Before it returns,
    `fetch` runs all pending checks (see `check_later`). Blocks may be nested: an inner `fetch` returns its
    arrays as they are and leaves the waiting to the outer one. On NumPy, nothing is deferred.
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
    fetched = [next(values) for _ in numbers]
    for array, check in _pending:
        check(*(next(values) for _ in range(array.size)))
    return fetched


def check_later(array: Array, check: Callable[..., None]) -> None:
    """Call `check` with the values of a small `array` (n,): now, or when the enclosing `deferred_sync` fetches."""
    if _pending is None or get_xp(array) is np:
        check(*array.tolist())
    else:
        _pending.append((array, check))


def gather(table: Array, rows: Array, out: Array) -> None:
    """`out[...] = table[rows]`, without a temporary: rows of a 2-D `table` (L, d) picked by integers `rows` (...).

    `rows` must be in range: NumPy's "clip" mode is used because only that one writes straight into `out`.
    """
    if isinstance(table, np.ndarray):
        table.take(rows, axis=0, out=out, mode="clip")
    else:
        get_xp(table).take(table, rows, axis=0, out=out)


def strided(array: Array, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    """A view of a contiguous `array` with another `shape` and `strides` (in bytes); its entries may overlap."""
    if isinstance(array, np.ndarray):  # like `numpy.lib.stride_tricks.as_strided`, at a tenth of the cost
        return np.ndarray(shape, array.dtype, array, strides=strides)
    return get_xp(array).lib.stride_tricks.as_strided(array, shape, strides)


def nonzero(conditions: Array) -> Array | slice:
    """Index of the entries where `conditions` (n,) is true; on a GPU, of all entries, so the host need not wait."""
    return np.flatnonzero(conditions) if get_xp(conditions) is np else slice(None)


def row_max(x: Array) -> Array:
    """The largest entry of each row of x (..., d) -> (rows,). NumPy's argmax is several times faster than its max."""
    rows = x.reshape(-1, x.shape[-1])
    return rows[get_xp(x).arange(len(rows)), rows.argmax(axis=-1)]


def row_dot(a: Array, b: Array) -> Array:
    """The dot products of the rows of a and b (..., d) -> (...), without the temporary a * b."""
    xp = get_xp(a)
    return cuda.row_dot(xp, a, b) if cuda.compiles(xp) else xp.einsum("...i,...i->...", a, b)


use(os.environ.get("MINIREFORMER_BACKEND", "numpy"))
