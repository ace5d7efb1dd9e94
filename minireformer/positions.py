"""Position embeddings: a vector for each position, added to the embedding of the token there.

A learned table of T rows has as many parameters as a layer once T is 64K. *Axial* positions (appendix of the paper,
"axial positional embeddings") place t on an a-by-b grid, t = i * b + j, and concatenate row i of one small table with
row j of another: a + b rows instead of a * b. Read next: `unit_length.py`.
"""

import math
from typing import NamedTuple

import numpy as np

from minireformer import backend, rng
from minireformer.backend import get_xp
from minireformer.checks import check_array, check_count, check_sizes, expect, float_dtype
from minireformer.layer import Layer
from minireformer.linear import normal_param

_STD = 0.02  # of new tables: the same as for the token embeddings that they are added to


class PositionsCache(NamedTuple):
    """What backward needs: how many positions there were."""

    length: int


class Positions(Layer):
    """Base class: y = x + table(T) for x (B, T, d_model), T <= max_len.

    A subclass defines `table(T, like=None)`, which returns (T, d_model), and `table_backward(dtable)`, which returns
    the gradients of its parameters, given that of the table. A table without parameters is made with the module of the
    array `like`, or with the one in use.
    """

    def __init__(self, max_len, d_model):
        super().__init__()
        self.max_len, self.d_model = check_count("max_len", max_len), check_count("d_model", d_model)

    def forward(self, x, seed=0, training=True):
        """x (B, T, d_model) -> y, cache."""
        check_array("x", x, None, None, self.d_model, like=next(iter(self.params.values()), None))
        expect("x", x.shape[1], x.shape[1] <= self.max_len, f"at most {self.max_len} positions (max_len)")
        return x + self.table(x.shape[1], like=x), PositionsCache(x.shape[1])

    def backward(self, dy, cache):
        """dy (B, T, d_model) -> dx, grads; positions without a token get gradient 0."""
        check_array("dy", dy, None, cache.length, self.d_model, like=next(iter(self.params.values()), None))
        return dy, self.table_backward(dy.sum(axis=0))


class LearnedPositions(Positions):
    """A learned row for each position. Parameter `weight` (max_len, d_model)."""

    def __init__(self, max_len, d_model, seed=0, dtype="float32"):
        super().__init__(max_len, d_model)
        self.params["weight"] = normal_param(rng.fold(seed, "positions"), (self.max_len, self.d_model), _STD, dtype)

    def table(self, length, like=None):
        return self.params["weight"][:length]

    def table_backward(self, dtable):
        dweight = get_xp(dtable).zeros_like(self.params["weight"])
        dweight[: len(dtable)] = dtable
        return {"weight": dweight}


class SinusoidalPositions(Positions):
    """The Transformer's fixed waves: sines, then cosines, of wavelengths from 2 pi to 20,000 pi. No parameters."""

    def __init__(self, max_len, d_model, dtype="float32"):
        super().__init__(max_len, d_model)
        expect("d_model", d_model, d_model % 2 == 0, "an even number, for sinusoidal positions")
        self.dtype = float_dtype(dtype)

    def table(self, length, like=None):
        frequency = 10000.0 ** (-np.arange(0, self.d_model, 2) / self.d_model)
        angle = np.arange(length)[:, None] * frequency  # T, d_model / 2
        xp = backend.active() if like is None else get_xp(like)
        return xp.asarray(np.concatenate([np.sin(angle), np.cos(angle)], axis=1), self.dtype)

    def table_backward(self, dtable):
        return {}


class AxialPositions(Positions):
    """A grid of `shape` (a, b, ...). Each axis has a table, with `dims` (d_a, d_b, ...) columns, d_model in all.

    Position t has coordinates (i, j, ...) with t = (i * b + j) * ... in row-major order, and its vector is
    [weights.0[i], weights.1[j], ...]. Parameter `weights.n` has size `shape[n]` along axis n, 1 along the grid's
    other axes, and `dims[n]` along the last. Sequences shorter than the grid use its first positions, in training too.
    """

    def __init__(self, shape, dims, seed=0, dtype="float32"):
        shape, dims = check_sizes("shape", shape), check_sizes("dims", dims)
        expect("dims", dims, len(dims) == len(shape), f"one size for each axis of shape {shape}")
        super().__init__(math.prod(shape), sum(dims))
        self.shape, self.dims = shape, dims
        for axis, (size, d) in enumerate(zip(shape, dims)):
            table_shape = [1] * len(shape) + [d]
            table_shape[axis] = size
            self.params[f"weights.{axis}"] = normal_param(rng.fold(seed, f"axis {axis}"), table_shape, _STD, dtype)

    def table(self, length, like=None):
        xp, shape = get_xp(self.params["weights.0"]), self._grid_shape(length)
        tables = (table[: shape[0]] for table in self.params.values())  # only the first has more than 1 row there
        columns = [xp.broadcast_to(table, (*shape, table.shape[-1])) for table in tables]
        return xp.concatenate(columns, axis=-1).reshape(-1, self.d_model)[:length]

    def table_backward(self, dtable):
        xp, shape, grads = get_xp(dtable), self._grid_shape(len(dtable)), {}
        dgrid = xp.zeros((*shape, self.d_model), dtable.dtype)
        dgrid.reshape(-1, self.d_model)[: len(dtable)] = dtable
        parts = xp.split(dgrid, np.cumsum(self.dims)[:-1].tolist(), axis=-1)
        for axis, (name, columns) in enumerate(zip(self.params, parts)):
            others = tuple(a for a in range(len(shape)) if a != axis)
            grad = columns.sum(axis=others, keepdims=True)  # the gradient of a broadcast is a sum
            grads[name] = xp.zeros_like(self.params[name])
            grads[name][: len(grad)] = grad
        return grads

    def _grid_shape(self, length):
        """The grid's shape, with only as much of its first axis as `length` positions reach."""
        return (-(-length // math.prod(self.shape[1:])), *self.shape[1:])
