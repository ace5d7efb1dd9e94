"""`cupy.random`: generators only, with NumPy's numbers and the methods that CuPy's have."""

import numpy

from cupy._array import unwrap, wrap
from cupy._interface import check_call, look_up


class Generator:
    """NumPy's `Generator` with CuPy's methods."""

    def __init__(self, host):
        self._host = host

    def __getattr__(self, name):
        parameters = look_up("random.Generator", name, "classes")

        def method(*args, **kwargs):
            check_call(f"random.Generator.{name}", parameters, args, kwargs)
            return wrap(getattr(self._host, name)(*unwrap(args), **unwrap(kwargs)))

        return method


def default_rng(seed=None):
    """A `Generator`."""
    return Generator(numpy.random.default_rng(seed))


def __getattr__(name):
    look_up("random", name)
    raise AttributeError(f"module 'cupy.random' has no attribute {name!r}: the double lacks it")
