"""The contract that every layer keeps.

    y, cache = layer.forward(x, seed=7)      # training: cache is everything that backward needs
    dx, grads = layer.backward(dy, cache)    # grads has the names of layer.params
    y = layer(x)                             # inference: no dropout, no cache kept

A layer holds parameters and settings, never activations. So two calls of `forward` with the same seed give the same
bits, and a reversible layer may drop a cache and compute it again. `params` is one flat dict with dotted names, whose
arrays an optimizer changes in place: an optimizer is one loop, a checkpoint is one dict, and a gradient has the name of
its parameter. A cache leaves out the parameters, which the layer still has. Read next: `linear.py`, the simplest layer.
"""

from typing import Any

from minireformer.backend import Array
from minireformer.checks import check_like, expect_type


class Layer:
    """Base of all layers. A subclass fills `self.params`, adds its parts, and defines `forward` and `backward`."""

    def __init__(self) -> None:
        self.params: dict[str, Array] = {}

    def add(self, name: str, part: Any) -> Any:
        """Make layer `part` a part of this one: its parameters appear here with the prefix `name.`; returns `part`."""
        self.params.update(prefixed(name, part.params))
        return part

    def forward(self, x: Array, seed: int = 0, training: bool = True) -> tuple[Array, Any]:
        """-> (y, cache). With `training=False` dropout is off; everything else is the same."""
        raise NotImplementedError

    def backward(self, dy: Array, cache: Any) -> tuple[Any, ...]:
        """-> (dx, grads): gradients of the loss with respect to the input and to every parameter."""
        raise NotImplementedError

    def forward_and_backward(
        self, x: Array, dy: Array, seed: int = 0, training: bool = True, **kwargs: Any
    ) -> tuple[Any, ...]:
        """-> (y, dx, grads): both passes in one call, for callers that kept neither y nor a cache."""
        y, cache = self.forward(x, seed, training, **kwargs)
        return y, *self.backward(dy, cache)

    def __call__(self, x: Array, seed: int = 0, **kwargs: Any) -> Array:
        """Inference. `seed` matters only to layers that hash."""
        return self.forward(x, seed=seed, training=False, **kwargs)[0]

    def load_params(self, values: dict[str, Array]) -> None:
        """Copy `values`, a dict with exactly the names and shapes of `params`, into the parameters.

        Nothing is copied unless everything fits: a ValueError or TypeError names the parameter that doesn't.
        """
        expect_type("values", values, isinstance(values, dict), "a dict such as params")
        check_like("params", values, self.params)
        for name, param in self.params.items():
            param[...] = values[name]


def add_to(grads, more):
    """Add the gradients `more` to the dict `grads`, in place."""
    for name, gradient in more.items():
        if name in grads:
            grads[name] += gradient
        else:
            grads[name] = gradient


def prefixed(name, values):
    """The dict `values` with `name.` put before every key."""
    return {f"{name}.{key}": value for key, value in values.items()}
