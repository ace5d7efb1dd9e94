"""A CuPy double: found by `import cupy` where this folder's parent is on the path, for machines without a GPU.

Its arrays are an own type that computes with NumPy and has CuPy's manners: no implicit conversion to or from NumPy,
only those functions, keywords and methods that CuPy 13.6 and 14 both have, 0-d arrays from reductions. Where CuPy
would be undefined (an assignment with duplicate indices) or lets NumPy call it (`numpy.exp(x)`), the double refuses.
`cupy._memory.counts` counts transfers and waits.
"""

import numpy

from cupy import _array, _functions, cuda, lib, linalg, random, testing
from cupy._array import ndarray
from cupy._functions import ufunc
from cupy._interface import check_call, look_up

__version__ = "14.0.1"
__all__ = ["array", "asarray", "asnumpy", "cuda", "get_array_module", "lib", "linalg", "ndarray", "random", "testing"]
__all__ += ["ufunc"]


def array(*args, **kwargs):
    """`asarray` with a copy."""
    check_call("array", look_up("", "array"), args, kwargs)
    names = ("obj", "dtype", "copy", "order")
    given = dict(zip(names, args)) | kwargs
    copy = True if given.get("copy", True) else None
    result = _array.asarray(given["obj"], given.get("dtype"), given.get("order"), copy)
    for _ in range(given.get("ndmin", 0) - result.ndim):
        result = result[None]
    return result


def asarray(*args, **kwargs):
    """An array of the double's, from one of NumPy's, lists or numbers."""
    check_call("asarray", look_up("", "asarray"), args, kwargs)
    kwargs.pop("blocking", None)
    return _array.asarray(*args, **kwargs)


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    """An array of NumPy's, from anything."""
    return a.get() if isinstance(a, ndarray) else numpy.asarray(a)


def get_array_module(*args):
    """This module where one of the arguments is of it, else NumPy."""
    import cupy

    return cupy if any(isinstance(a, ndarray) for a in args) else numpy


def ascontiguousarray(a, dtype=None):
    """`asarray` in C order."""
    return _array.asarray(a, dtype, "C")


__getattr__ = _functions.members("", numpy, globals())
