"""LayerNorm: normalise every row to mean 0 and standard deviation 1, then scale and shift it by learned parameters.

    n = (x - mean) / sqrt(variance + eps)        y = n * weight + bias

The maths is in two functions of rows, `norm_rows` and `norm_rows_backward`. The functions below them divide the
rows among threads, and the layer owns the parameters. Read next: `embedding.py`.
"""

from typing import Any, NamedTuple

from minireformer import backend
from minireformer.backend import get_xp, row_dot
from minireformer.checks import check_array, check_count, check_eps, float_dtype
from minireformer.layer import Layer
from minireformer.threads import parallel_rows


def norm_rows(x, weight, bias, eps, y, mean, scale):
    """From rows x (T, d), write y (T, d), and mean and scale = 1 / sqrt(variance + eps), both (T, 1)."""
    xp = get_xp(x)
    mean[:] = x.mean(axis=-1, keepdims=True)
    centred = xp.subtract(x, mean, out=y)
    variance = row_dot(centred, centred)[:, None] / x.shape[-1]
    scale[:] = 1 / xp.sqrt(variance + eps)
    normalised = xp.multiply(centred, scale, out=y)
    xp.multiply(normalised, weight, out=y)
    y += bias


def norm_rows_backward(dy, x, mean, scale, dx, weight):
    """From rows dy and x (T, d), write dx (T, d) -> these rows' part of dweight and dbias, both (d,).

    With dn = dy * weight, dx = scale * (dn - mean(dn) - n * mean(dn * n)). In words: LayerNorm cannot see a shift or a
    stretch of x, so dx has no part along either.
    """
    xp = get_xp(x)
    n = x - mean
    n *= scale
    dweight, dbias = xp.einsum("ti,ti->i", dy, n), dy.sum(axis=0)
    dn = xp.multiply(dy, weight, out=dx)
    shift, stretch = dn.mean(axis=-1, keepdims=True), row_dot(dn, n)[:, None] / x.shape[-1]  # T, 1
    n *= stretch
    dx -= n
    dx -= shift
    dx *= scale
    return dweight, dbias


class LayerNormCache(NamedTuple):
    """What `layer_norm_backward` needs."""

    x: Any
    weight: Any
    mean: Any  # (..., 1)
    scale: Any  # (..., 1): 1 / standard deviation


def layer_norm(x, weight, bias, eps=1e-12):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias, over the last axis of x (..., d) -> y, cache."""
    check_array("weight", weight, None)
    check_array("x", x, ..., None, like=weight)
    check_array("weight", weight, x.shape[-1])
    check_array("bias", bias, x.shape[-1], like=weight)
    eps = check_eps("eps", eps)
    y, mean, scale = (get_xp(x).empty((*x.shape[:-1], d), x.dtype) for d in (x.shape[-1], 1, 1))
    parallel_rows(lambda _, x, *out: norm_rows(x, weight, bias, eps, *out), x, y, mean, scale)
    return y, LayerNormCache(x, weight, mean, scale)


def layer_norm_backward(dy, cache):
    """-> dx, dweight, dbias: see `norm_rows_backward`."""
    x, weight, mean, scale = cache
    check_array("dy", dy, *x.shape, like=weight)
    dx = get_xp(dy).empty(dy.shape, dy.dtype)
    sums = parallel_rows(lambda _, *rows: norm_rows_backward(*rows, weight=weight), dy, x, mean, scale, dx)
    return dx, *(sum(parts) for parts in zip(*sums.values()))


class LayerNorm(Layer):
    """`layer_norm` with its parameters: weight (d,), which starts at 1, and bias (d,), which starts at 0."""

    def __init__(self, d, eps=1e-12, dtype="float32"):
        super().__init__()
        d, self.eps = check_count("d", d), check_eps("eps", eps)
        self.params["weight"] = backend.active().ones(d, dtype=float_dtype(dtype))
        self.params["bias"] = backend.active().zeros(d, dtype=float_dtype(dtype))

    def forward(self, x, seed=0, training=True):
        y, cache = layer_norm(x, self.params["weight"], self.params["bias"], self.eps)
        return y, cache._replace(weight=None)

    def backward(self, dy, cache):
        dx, *dparams = layer_norm_backward(dy, cache._replace(weight=self.params["weight"]))
        return dx, dict(zip(self.params, dparams))
