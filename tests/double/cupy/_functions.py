"""The double's functions and ufuncs: NumPy's, where CuPy has them, with the parameters that CuPy has."""

import functools

from cupy._array import unwrap, unwrap_operand, wrap
from cupy._interface import check_call, check_kind, look_up
from cupy._memory import counts

# The size of what these return is known only when the device has counted.
_WAITS = {"unique", "nonzero", "flatnonzero", "argwhere", "extract", "bincount", "compress", "union1d", "setdiff1d"}


class ufunc:
    """One of NumPy's ufuncs with CuPy's arguments: no `where`, nothing but CuPy's arrays and numbers."""

    __module__ = "cupy"

    def __init__(self, host):
        self._host = host
        self.__name__ = host.__name__

    def __call__(self, *args, **kwargs):
        for keyword in kwargs:
            if keyword not in ("out", "dtype", "casting"):
                raise TypeError(f"Wrong arguments {{{keyword!r}: ...}}: cupy.{self.__name__} does not have it")
        out = kwargs.get("out")
        kwargs = {key: unwrap(value) for key, value in kwargs.items() if value is not None}
        args = tuple(map(unwrap_operand, args))
        if self.__name__ == "matmul" and args[0].ndim == args[1].ndim == 2 and not kwargs.keys() - {"out"}:
            result = _in_blocks(*args, **kwargs)
        else:
            result = self._host(*args, **kwargs)
        return wrap(result) if out is None else out

    def __getattr__(self, name):
        look_up("ufunc", name, "classes")
        host = getattr(self._host, name)
        if not callable(host):
            return host
        return lambda *args, **kwargs: wrap(host(*unwrap(args), **unwrap(kwargs)))


def _in_blocks(*args, **kwargs):
    """The product of two matrices in the blocks of rows that `minireformer` takes on NumPy: the same bits."""
    from minireformer import threads  # not before it is needed: `minireformer` imports CuPy

    return threads.matmul(*args, **kwargs)


def function(group, name, host):
    """NumPy's function `host` under CuPy's `name`, with the recorded parameters."""
    parameters = look_up(group, name)

    @functools.wraps(host)
    def call(*args, **kwargs):
        check_call(name, parameters, args, kwargs)
        check_kind(name, kwargs)
        if name in _WAITS or name == "where" and len(args) == 1:
            counts["synchronize"] += 1
        result = host(*unwrap(args), **unwrap(kwargs))
        return wrap(result, args, kwargs) if kwargs.get("out") is None else kwargs["out"]

    return call


def members(group, numpys, module):
    """The `__getattr__` of module `cupy.<group>`: what is recorded there, made from the module `numpys`."""

    def get(name):
        kind = look_up(group, name)
        host = getattr(numpys, name, None)
        if host is None or name.startswith("_"):
            raise AttributeError(f"module 'cupy.{group}' has no attribute {name!r}: the double lacks it")
        if kind == "ufunc":
            made = ufunc(host)
        else:
            made = host if kind in ("class", "value", "module") else function(group, name, host)
        module[name] = made
        return made

    return get
