"""The contract that every layer keeps.

    y, cache = layer.forward(x, seed=7)      # training: cache is everything that backward needs
    dx, grads = layer.backward(dy, cache)    # grads has the names of layer.params
    y = layer(x)                             # inference: no dropout, no cache kept

A layer holds parameters and settings, never activations, so that calling `forward` twice with the same
seed gives the same bits and a reversible layer may drop a cache and make it again. `params` is one flat
dict with dotted names, whose arrays are changed in place by an optimiser: an optimiser is one loop, a
checkpoint is one dict, and a gradient has the name of its parameter.

The checks at the end of this file are made by every function that a user may call, before any work: the error
names the argument, what was expected and what came. Read next: `basic.py` for the simplest layers that keep
this contract.
"""

import numbers
import os
from pathlib import Path

from minireformer import backend

_FLOATS = ("float32", "float64")


class Layer:
    """Base of all layers. A subclass fills `self.params`, calls `self.add` for its parts, and defines
    `forward(x, seed=0, training=True)` and `backward(dy, cache)`."""

    def __init__(self):
        self.params = {}

    def add(self, name, part):
        """Make layer `part` a part of this one: its parameters appear here under `name.`; returns `part`."""
        self.params.update(prefixed(name, part.params))
        return part

    def forward(self, x, seed=0, training=True):
        """-> (y, cache). With `training=False` dropout is off; everything else is the same."""
        raise NotImplementedError

    def backward(self, dy, cache):
        """-> (dx, grads): gradients of the loss with respect to the input and every parameter."""
        raise NotImplementedError

    def forward_and_backward(self, x, dy, seed=0, training=True, **given):
        """-> (y, dx, grads): both passes in one call, for whoever kept neither y nor a cache."""
        y, cache = self.forward(x, seed, training, **given)
        return y, *self.backward(dy, cache)

    def __call__(self, x, seed=0):
        """Inference. `seed` matters only to layers that hash."""
        return self.forward(x, seed=seed, training=False)[0]

    def load_params(self, values):
        """Copy `values` (a dict with exactly the names and shapes of `params`) into the parameters.

        Nothing is copied unless all of it fits: ValueError or TypeError names the parameter that doesn't.
        """
        if not isinstance(values, dict):
            raise TypeError(f"values: expected a dict such as params; got {type(values).__name__}")
        missing, unknown = self.params.keys() - values.keys(), values.keys() - self.params.keys()
        if missing or unknown:
            raise ValueError(f"params: missing {sorted(missing)[:5]}, unknown {sorted(unknown)[:5]}")
        for name, param in self.params.items():
            check_array(f"params[{name!r}]", values[name], *param.shape, like=param)
        for name, param in self.params.items():
            param[...] = values[name]


def prefixed(name, values):
    """The dict `values` with `name.` put before every key."""
    return {f"{name}.{key}": value for key, value in values.items()}


def float_dtype(dtype):
    """`dtype` as a NumPy dtype; ValueError unless float32 or float64."""
    try:
        name = backend.numpy.dtype(dtype).name if dtype is not None else None  # to NumPy, None is float64
    except TypeError:
        name = None
    if name not in _FLOATS:
        raise ValueError(f"dtype: expected float32 or float64; got {name or repr(dtype)}")
    return backend.numpy.dtype(name)


def check_module(name, array, like=None, whose="the parameters"):
    """Raise TypeError unless `array` is a NumPy or CuPy array, and of the same module as the array `like`.

    `name` is the argument's name and `whose` says in words what `like` is, for the message. Returns the module.
    """
    try:
        xp = backend.get_xp(array)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None
    if like is not None and xp is not (expected := backend.get_xp(like)):
        raise TypeError(f"{name}: expected a {expected.__name__} array, as {whose}; got a {xp.__name__} one")
    return xp


def check_array(name, array, *shape, kind="f", like=None, whose="the parameters"):
    """Raise unless `array` is an array of `shape` (None: any size; ...: leading axes) and dtype kind `kind`.

    Kinds: "f" float32 or float64, "i" integers, "b" booleans. `name`, `like` and `whose` as in `check_module`.
    """
    check_module(name, array, like, whose)
    kinds = {"f": "floats (float32 or float64)", "i": "integers", "b": "booleans"}
    fits = array.dtype.name in _FLOATS if kind == "f" else array.dtype.kind in ("iu" if kind == "i" else kind)
    if not fits:
        raise TypeError(f"{name}: expected {kinds[kind]}; got dtype {array.dtype}")
    leading = shape[:1] == (...,)
    sizes = shape[1:] if leading else shape
    found = array.shape[len(array.shape) - len(sizes) :] if leading else array.shape
    if len(found) != len(sizes) or any(want not in (None, have) for want, have in zip(sizes, found)):
        text = ", ".join("..." if s is ... else "any" if s is None else str(s) for s in shape)
        text += "," * (len(shape) == 1)  # as Python writes a tuple of one
        raise ValueError(f"{name}: expected shape ({text}); got {array.shape}")


def check_count(name, value, at_least=1):
    """Raise ValueError unless `value` is an integer >= `at_least`; `name` is the argument's name. Returns an int."""
    is_integer = isinstance(value, (int, backend.numpy.integer)) and not isinstance(value, bool)
    if not is_integer or value < at_least:
        raise ValueError(f"{name}: expected an integer >= {at_least}; got {value!r}")
    return int(value)


def check_not_empty(name, array):
    """Raise ValueError where an array of tokens, (B, T) or more axes, has a size of 0."""
    if 0 in array.shape:
        raise ValueError(f"{name}: expected at least one token, and no size of 0; got shape {array.shape}")


def is_number(value):
    """Whether `value` is a real number: an int or float of Python or NumPy, not a boolean."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_rate(name, rate):
    """Raise ValueError unless `rate` is a dropout rate, a number in [0, 1)."""
    if not is_number(rate) or not 0 <= rate < 1:
        raise ValueError(f"{name}: expected a rate in [0, 1); got {rate!r}")


def check_flags(**flags):
    """Raise TypeError unless all `flags` (name=value) are True or False."""
    for name, value in flags.items():
        if not isinstance(value, (bool, backend.numpy.bool_)):
            raise TypeError(f"{name}: expected True or False; got {value!r}")


def check_path(name, path):
    """`path` as a `Path`; TypeError unless it is a str or a path."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{name}: expected a path; got {type(path).__name__}")
    return Path(path)
