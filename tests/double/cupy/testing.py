"""`cupy.testing`: comparisons that take arrays of CuPy and of NumPy alike."""

import numpy

from cupy._array import ndarray
from cupy._interface import check_call, look_up


def __getattr__(name):
    parameters, host = look_up("testing", name), getattr(numpy.testing, name)

    def compare(*args, **kwargs):
        check_call(f"testing.{name}", parameters, args, kwargs)
        return host(*map(_on_host, args), **kwargs)

    return compare


def _on_host(value):
    if isinstance(value, ndarray):
        return value.get()
    return type(value)(map(_on_host, value)) if type(value) in (list, tuple) else value
