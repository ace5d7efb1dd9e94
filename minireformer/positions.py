"""Where a token stands: a vector per position, added to its embedding.

A learned table of T rows has as many parameters as a layer when T is 64K. *Axial* positions (appendix of the
paper, "axial positional embeddings") write t as coordinates of a grid, t = i * b + j, and put together a row of
one small table for i and of another for j: (a + b) rows instead of a * b. Read next: `hashing.py`.
"""

import math
from typing import NamedTuple

import numpy as np

from minireformer import backend, rng
from minireformer.checks import check_array, check_count, float_dtype
from minireformer.layer import Layer

_STD = 0.02  # of the initial tables, as of the token embeddings they are added to


class PositionsCache(NamedTuple):
    """What backward needs: how many positions there were."""

    length: int


class Positions(Layer):
    """Base: y = x + table(T) for x (B, T, d). A subclass makes `table` (T, d) and takes its gradient back.

    A table that is no parameter is made of the module of the array `like`, by default of the one in use.
    """

    def __init__(self, max_len, d_model):
        super().__init__()
        check_count("max_len", max_len)
        check_count("d_model", d_model)
        self.max_len, self.d_model = max_len, d_model

    def forward(self, x, seed=0, training=True):
        """x (B, T, d_model), T <= max_len -> (y, cache)."""
        check_array("x", x, None, None, self.d_model, like=next(iter(self.params.values()), None))
        if x.shape[1] > self.max_len:
            raise ValueError(f"x: expected at most {self.max_len} positions (max_len); got {x.shape[1]}")
        return x + self.table(x.shape[1], like=x), PositionsCache(x.shape[1])

    def backward(self, dy, cache):
        """dy (B, T, d_model) -> dx, grads; positions without a token get gradient 0."""
        check_array("dy", dy, None, cache.length, self.d_model, like=next(iter(self.params.values()), None))
        return dy, self.table_backward(dy.sum(axis=0))

    def table(self, length, like=None):
        raise NotImplementedError

    def table_backward(self, dtable):
        raise NotImplementedError


class LearnedPositions(Positions):
    """A learned row for each position. Parameter `weight` (max_len, d_model)."""

    def __init__(self, max_len, d_model, seed=0, dtype="float32"):
        super().__init__(max_len, d_model)
        self.params["weight"] = _draw(seed, "positions", (max_len, d_model), dtype)

    def table(self, length, like=None):
        return self.params["weight"][:length]

    def table_backward(self, dtable):
        dweight = backend.get_xp(dtable).zeros_like(self.params["weight"])
        dweight[: len(dtable)] = dtable
        return {"weight": dweight}


class SinusoidalPositions(Positions):
    """The Transformer's fixed waves: sines, then cosines, of wavelengths from 2 pi to 20,000 pi. No parameters."""

    def __init__(self, max_len, d_model, dtype="float32"):
        super().__init__(max_len, d_model)
        if d_model % 2:
            raise ValueError(f"d_model: sinusoidal positions need an even number; got {d_model}")
        self.dtype = float_dtype(dtype)

    def table(self, length, like=None):
        frequency = 10000.0 ** (-np.arange(0, self.d_model, 2) / self.d_model)
        angle = np.arange(length)[:, None] * frequency  # T, d / 2
        xp = backend.active() if like is None else backend.get_xp(like)
        return xp.asarray(np.concatenate([np.sin(angle), np.cos(angle)], axis=1), self.dtype)

    def table_backward(self, dtable):
        return {}


class AxialPositions(Positions):
    """A grid of `shape` (a, b, ...), its axes' tables side by side in `dims` (d_a, d_b, ...) of d_model.

    Position t has coordinates (i, j, ...) with t = (i * b + j) * ... in row-major order; its vector is
    [weights.0[i], weights.1[j], ...]. Parameter `weights.n` has the size of axis n at place n, 1 at the others,
    and `dims[n]` last. Sequences shorter than the grid use its first positions, in training too.
    """

    def __init__(self, shape, dims, seed=0, dtype="float32"):
        shape, dims = check_sizes("shape", shape), check_sizes("dims", dims)
        if len(shape) != len(dims):
            raise ValueError(f"dims: expected one size for each axis of shape {shape}; got {dims}")
        super().__init__(math.prod(shape), sum(dims))
        self.shape, self.dims = shape, dims
        for axis, (size, d) in enumerate(zip(shape, dims)):
            table_shape = [1] * len(shape) + [d]
            table_shape[axis] = size
            self.params[f"weights.{axis}"] = _draw(seed, f"axis {axis}", table_shape, dtype)

    def table(self, length, like=None):
        rows = self._rows(length)
        xp = backend.get_xp(self.params["weights.0"])
        out = xp.empty((*rows, sum(self.dims)), self.params["weights.0"].dtype)
        for axis, part in self._parts(out):
            weight = self.params[f"weights.{axis}"]
            part[...] = weight[: rows[0]] if axis == 0 else weight
        return out.reshape(-1, sum(self.dims))[:length]

    def table_backward(self, dtable):
        xp = backend.get_xp(dtable)
        rows = self._rows(len(dtable))
        padded = xp.zeros((math.prod(rows), dtable.shape[1]), dtable.dtype)
        padded[: len(dtable)] = dtable
        grads = {}
        for axis, part in self._parts(padded.reshape(*rows, -1)):
            others = tuple(a for a in range(len(rows)) if a != axis)
            grad = part.sum(axis=others, keepdims=True)  # the gradient of a broadcast is a sum
            grads[f"weights.{axis}"] = xp.zeros_like(self.params[f"weights.{axis}"])
            grads[f"weights.{axis}"][: grad.shape[0]] = grad
        return grads

    def _rows(self, length):
        """The grid's shape, with only as much of its first axis as `length` positions reach."""
        return (-(-length // math.prod(self.shape[1:])), *self.shape[1:])

    def _parts(self, grid):
        """(axis, view of its columns) for every axis of a grid (a, b, ..., d_model)."""
        start = 0
        for axis, d in enumerate(self.dims):
            yield axis, grid[..., start : start + d]
            start += d


def check_sizes(name, sizes):
    """`sizes` as a tuple of ints; ValueError unless they are one or more integers >= 1 in a tuple or list."""
    if not isinstance(sizes, (tuple, list)) or not sizes:
        raise ValueError(f"{name}: expected a tuple of sizes, such as (128, 128); got {sizes!r}")
    return tuple(check_count(f"{name}[{axis}]", size) for axis, size in enumerate(sizes))


def _draw(seed, label, shape, dtype):
    draws = rng.generator(seed, label).standard_normal(shape)
    return backend.asarray(draws * _STD, float_dtype(dtype))
