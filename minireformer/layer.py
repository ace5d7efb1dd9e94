"""The contract that every layer keeps.

    y, cache = layer.forward(x, seed=7)      # training: cache is everything that backward needs
    dx, grads = layer.backward(dy, cache)    # grads has the names of layer.params
    y = layer(x)                             # inference: no dropout, no cache kept

A layer holds parameters and settings, never activations, so that calling `forward` twice with the same
seed gives the same bits and a reversible layer may drop a cache and make it again. `params` is one flat
dict with dotted names, whose arrays are changed in place by an optimiser: an optimiser is one loop, a
checkpoint is one dict, and a gradient has the name of its parameter.

Read next: `basic.py` for the simplest layers that keep this contract.
"""

from minireformer import backend


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

    def __call__(self, x, seed=0):
        """Inference. `seed` matters only to layers that hash."""
        return self.forward(x, seed=seed, training=False)[0]

    def load_params(self, values):
        """Copy `values` (a dict with exactly the names and shapes of `params`) into the parameters."""
        missing, unknown = self.params.keys() - values.keys(), values.keys() - self.params.keys()
        if missing or unknown:
            raise ValueError(f"params: missing {sorted(missing)[:5]}, unknown {sorted(unknown)[:5]}")
        for name, param in self.params.items():
            if values[name].shape != param.shape:
                raise ValueError(f"params[{name!r}]: expected shape {param.shape}; got {values[name].shape}")
        for name, param in self.params.items():
            param[...] = values[name]


def prefixed(name, values):
    """The dict `values` with `name.` put before every key."""
    return {f"{name}.{key}": value for key, value in values.items()}


def float_dtype(dtype):
    """`dtype` as a NumPy dtype; ValueError unless float32 or float64."""
    dtype = backend.numpy.dtype(dtype)
    if dtype.name not in ("float32", "float64"):
        raise ValueError(f"dtype: expected float32 or float64; got {dtype.name}")
    return dtype


def check_array(name, array, *shape, kind="f"):
    """Raise unless `array` is an array of `shape` (None: any size; ...: leading axes) and dtype kind `kind`.

    `name` is the argument's name, for the message. Kinds: "f" floats, "i" integers, "b" booleans.
    """
    try:
        backend.get_xp(array)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None
    kinds = {"f": "floats", "i": "integers", "b": "booleans"}
    wanted = "iu" if kind == "i" else kind
    if array.dtype.kind not in wanted:
        raise TypeError(f"{name}: expected {kinds[kind]}; got dtype {array.dtype}")
    leading = shape[:1] == (...,)
    sizes = shape[1:] if leading else shape
    found = array.shape[len(array.shape) - len(sizes) :] if leading else array.shape
    if len(found) != len(sizes) or any(want not in (None, have) for want, have in zip(sizes, found)):
        text = ", ".join("..." if s is ... else "any" if s is None else str(s) for s in shape)
        raise ValueError(f"{name}: expected shape ({text}); got {array.shape}")


def check_count(name, value, at_least=1):
    """Raise ValueError unless `value` is an integer >= `at_least`; `name` is the argument's name."""
    is_integer = isinstance(value, (int, backend.numpy.integer)) and not isinstance(value, bool)
    if not is_integer or value < at_least:
        raise ValueError(f"{name}: expected an integer >= {at_least}; got {value!r}")
