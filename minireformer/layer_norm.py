"""LayerNorm: every row is shifted and scaled to mean 0 and standard deviation 1. Read next: `embedding.py`."""

import math
from typing import Any, NamedTuple

from minireformer import backend, threads
from minireformer.backend import row_dot
from minireformer.checks import check_array, check_count, float_dtype, is_number
from minireformer.layer import Layer


class LayerNormCache(NamedTuple):
    """What `layer_norm_backward` needs."""

    x: Any
    weight: Any
    mean: Any  # (..., 1)
    scale: Any  # (..., 1): 1 / standard deviation


def layer_norm(x, weight, bias, eps=1e-12):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias, over the last axis of x (..., d)."""
    check_array("weight", weight, None)
    check_array("x", x, ..., None, like=weight)
    check_array("weight", weight, x.shape[-1])
    check_array("bias", bias, x.shape[-1], like=weight)
    _check_eps(eps)
    xp, d = backend.get_xp(x), x.shape[-1]
    x_rows, y = x.reshape(-1, d), xp.empty(x.shape, x.dtype)
    y_rows = y.reshape(-1, d)
    mean, scale = (xp.empty((len(x_rows), 1), x.dtype) for _ in range(2))

    def work(rows):
        mean[rows] = x_rows[rows].mean(axis=-1, keepdims=True)
        y = xp.subtract(x_rows[rows], mean[rows], out=y_rows[rows])
        scale[rows] = 1 / xp.sqrt(row_dot(y, y)[:, None] / d + eps)
        y *= scale[rows]
        y *= weight
        y += bias

    threads.parallel_rows(work, len(x_rows), d, xp)
    return y, LayerNormCache(x, weight, *(a.reshape(*x.shape[:-1], 1) for a in (mean, scale)))


def layer_norm_backward(dy, cache):
    """-> dx, dweight, dbias.

    With n = (x - mean) * scale, the normalised x, and dn = dy * weight:
    dx = scale * (dn - the mean of dn - n * the mean of dn * n): LayerNorm cannot see a shift or a
    stretch of x, so dx has no part along either.
    """
    check_array("dy", dy, *cache.x.shape, like=cache.weight)
    xp, d, weight = backend.get_xp(dy), dy.shape[-1], cache.weight
    x, dy_rows, mean, scale = (a.reshape(-1, a.shape[-1]) for a in (cache.x, dy, cache.mean, cache.scale))
    dx_rows, sums = xp.empty(dy_rows.shape, dy.dtype), {}

    def work(rows):  # a few at a time, see `by_rows`
        normalised = x[rows] - mean[rows]
        normalised *= scale[rows]
        dweight, dbias = xp.einsum("ti,ti->i", dy_rows[rows], normalised), dy_rows[rows].sum(axis=0)
        dx = xp.multiply(dy_rows[rows], weight, out=dx_rows[rows])  # dn
        shift, stretch = dx.mean(axis=-1, keepdims=True), row_dot(dx, normalised)[:, None] / d
        normalised *= stretch
        dx -= normalised
        dx -= shift
        dx *= scale[rows]
        sums[rows.start] = dweight, dbias

    threads.parallel_rows(work, len(x), d, xp)
    dweight, dbias = (sum(part[i] for _, part in sorted(sums.items())) for i in range(2))
    return dx_rows.reshape(dy.shape), dweight, dbias


class LayerNorm(Layer):
    """`layer_norm` with its parameters: weight (d,), from 1, and bias (d,), from 0."""

    def __init__(self, d, eps=1e-12, dtype="float32"):
        super().__init__()
        check_count("d", d)
        _check_eps(eps)
        self.eps = eps
        self.params["weight"] = backend.active().ones(d, dtype=float_dtype(dtype))
        self.params["bias"] = backend.active().zeros(d, dtype=float_dtype(dtype))

    def forward(self, x, seed=0, training=True):
        y, cache = layer_norm(x, self.params["weight"], self.params["bias"], self.eps)
        return y, cache._replace(weight=None)

    def backward(self, dy, cache):
        dx, dweight, dbias = layer_norm_backward(dy, cache._replace(weight=self.params["weight"]))
        return dx, {"weight": dweight, "bias": dbias}


def _check_eps(eps):
    if not is_number(eps) or not 0 <= eps < math.inf:
        raise ValueError(f"eps: expected a finite number >= 0; got {eps!r}")
