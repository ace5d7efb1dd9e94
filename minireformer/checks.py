"""The checks that every public function makes before it does any work.

Each error names the argument, says what was expected and shows what it got. `name` is always the argument's name.
Read next: `layer.py`.
"""

import math
import numbers
import os
from pathlib import Path

import numpy as np

from minireformer import backend

_FLOATS = ("float32", "float64")
_KINDS = {"f": "floats (float32 or float64)", "i": "integers", "b": "booleans"}


def expect(name, value, fits, expected):
    """Return `value` if it `fits`; otherwise raise a ValueError that says what was expected."""
    if not fits:
        raise ValueError(f"{name}: expected {expected}; got {value!r}")
    return value


def expect_type(name, value, fits, expected):
    """Return `value` if it `fits`; otherwise raise a TypeError that says what was expected."""
    if not fits:
        raise TypeError(f"{name}: expected {expected}; got {type(value).__name__}")
    return value


def float_dtype(dtype):
    """`dtype` as a NumPy dtype; ValueError unless float32 or float64."""
    try:
        name = np.dtype(dtype).name if dtype is not None else None  # NumPy takes None for float64
    except TypeError:
        name = None
    if name not in _FLOATS:
        raise ValueError(f"dtype: expected float32 or float64; got {name or repr(dtype)}")
    return np.dtype(name)


def check_module(name, array, like=None, whose="the parameters"):
    """The module of `array`; TypeError unless it is a NumPy or CuPy array, of the same module as the array `like`.

    `whose` says in words what `like` is, for the message.
    """
    try:
        xp = backend.get_xp(array)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None
    if like is not None and xp is not (expected := backend.get_xp(like)):
        raise TypeError(f"{name}: expected a {expected.__name__} array, like {whose}; got a {xp.__name__} one")
    return xp


def check_array(name, array, *shape, kind="f", like=None, whose="the parameters", optional=False):
    """Raise unless `array` is an array of `shape` (None: any size; ...: leading axes) and dtype kind `kind`.

    Kinds: "f" float32 or float64, "i" integers, "b" booleans. `like` and `whose` as in `check_module`. An `optional`
    array may be None.
    """
    if optional and array is None:
        return
    check_module(name, array, like, whose)
    fits = array.dtype.name in _FLOATS if kind == "f" else array.dtype.kind in ("iu" if kind == "i" else kind)
    if not fits:
        raise TypeError(f"{name}: expected {_KINDS[kind]}; got dtype {array.dtype}")
    sizes = (None,) * (array.ndim - len(shape) + 1) + shape[1:] if shape[:1] == (...,) else shape
    if len(sizes) != array.ndim or any(size not in (None, n) for size, n in zip(sizes, array.shape)):
        text = ", ".join("..." if s is ... else "any" if s is None else str(s) for s in shape)
        text += "," * (len(shape) == 1)  # as Python writes a tuple of one
        raise ValueError(f"{name}: expected shape ({text}); got {array.shape}")


def check_like(name, arrays, params):
    """Raise unless the dict `arrays` has the same names as `params`, and holds floats of the same shapes and module."""
    missing, unknown = params.keys() - arrays.keys(), arrays.keys() - params.keys()
    if missing or unknown:
        raise ValueError(f"{name}: missing {sorted(missing)[:5]}, unknown {sorted(unknown)[:5]}")
    for key, param in params.items():
        check_array(f"{name}[{key!r}]", arrays[key], *param.shape, like=param)


def check_tokens(name, tokens, n, like=None):
    """Raise unless `tokens` is an array of integers in 0..n-1, of the same module as the parameters `like`.

    On a GPU we have to check this ourselves, because CuPy takes an index out of range modulo n. The host then waits for
    the answer; `backend.deferred_sync` postpones that.
    """
    check_array(name, tokens, ..., kind="i", like=like)

    def check(low, high):
        if low < 0 or high >= n:
            raise ValueError(f"{name}: expected ids from 0 to {n - 1}; got {int(low)}..{int(high)}")

    if tokens.size:
        backend.check_later(backend.get_xp(tokens).stack([tokens.min(), tokens.max()]), check)


def check_count(name, value, at_least=1, at_most=None):
    """`value` as a Python int; ValueError unless it is an integer from `at_least` to `at_most` (None: any).

    Compute with the int that comes back: NumPy's small integers overflow, as `np.int8(100) + np.int8(100)` does.
    """
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    fits = is_integer and value >= at_least and (at_most is None or value <= at_most)
    limits = f">= {at_least}" if at_most is None else f"from {at_least} to {at_most}"
    return int(expect(name, value, fits, f"an integer {limits}"))


def check_sizes(name, sizes):
    """`sizes` as a tuple of Python ints; ValueError unless it is a tuple or list of one or more integers >= 1."""
    expect(name, sizes, isinstance(sizes, (tuple, list)) and sizes, "a tuple of sizes, such as (128, 128)")
    return tuple(check_count(f"{name}[{axis}]", size) for axis, size in enumerate(sizes))


def check_not_empty(name, array):
    """Raise ValueError if an array of tokens, (B, T) or with more axes, has an axis of size 0."""
    if 0 in array.shape:
        raise ValueError(f"{name}: expected at least one token, and no size of 0; got shape {array.shape}")


def is_number(value):
    """Whether `value` is a real number: an int or float, Python's or NumPy's, not a boolean."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_rate(name, rate):
    """`rate` as a float; ValueError unless it is a dropout rate, a number in [0, 1)."""
    return float(expect(name, rate, is_number(rate) and 0 <= rate < 1, "a rate in [0, 1)"))


def check_eps(name, eps):
    """`eps` as a float; ValueError unless it is a finite number >= 0."""
    return float(expect(name, eps, is_number(eps) and 0 <= eps < math.inf, "a finite number >= 0"))


def check_flags(**flags):
    """Raise TypeError unless each of the `flags` (name=value) is True or False."""
    for name, value in flags.items():
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{name}: expected True or False; got {value!r}")


def check_path(name, path):
    """`path` as a `Path`; TypeError unless it is a str or a path."""
    return Path(expect_type(name, path, isinstance(path, (str, os.PathLike)), "a path"))
