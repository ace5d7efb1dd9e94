"""The linear layer, y = x W^T + b, and how new parameters are drawn.

It shows the form that all simple layers have: a pair of functions, `linear` and `linear_backward`, holds the maths,
and a `Layer` below them owns the parameters. Read next: `layer_norm.py`.
"""

import math
from typing import Any, NamedTuple

from minireformer import backend, rng
from minireformer.checks import check_array, check_count, float_dtype
from minireformer.layer import Layer
from minireformer.threads import matmul


class LinearCache(NamedTuple):
    """What `linear_backward` needs."""

    x: Any
    weight: Any
    has_bias: bool


def linear(x, weight, bias=None):
    """y = x W^T + b, for x (..., d_in), weight (d_out, d_in), bias (d_out,) or None -> y (..., d_out), cache."""
    check_array("weight", weight, None, None)
    d_out, d_in = weight.shape
    check_array("x", x, ..., d_in, like=weight)
    check_array("bias", bias, d_out, like=weight, optional=True)
    y = matmul(x.reshape(-1, d_in), weight.T)
    if bias is not None:
        y += bias
    return y.reshape(*x.shape[:-1], d_out), LinearCache(x, weight, bias is not None)


def linear_backward(dy, cache):
    """-> dx = dy W, dweight = dy^T x, and dbias, the sum of dy over all positions (None without a bias)."""
    x, weight, has_bias = cache
    check_array("dy", dy, *x.shape[:-1], len(weight), like=weight)
    dbias = dy.reshape(-1, dy.shape[-1]).sum(axis=0) if has_bias else None
    return input_gradient(dy, weight), weight_gradient(dy, x), dbias


def input_gradient(dy, weight):
    """dx = dy W, for dy (..., d_out) -> (..., d_in)"""
    return matmul(dy.reshape(-1, dy.shape[-1]), weight).reshape(*dy.shape[:-1], weight.shape[1])


def weight_gradient(dy, x):
    """dweight = dy^T x, for dy (..., d_out) and x (..., d_in) -> (d_out, d_in)"""
    return matmul(dy.reshape(-1, dy.shape[-1]).T, x.reshape(-1, x.shape[-1]))


def normal_param(seed, shape, std, dtype="float32"):
    """A new parameter, normally distributed; float32 values are the float64 ones, rounded."""
    return backend.asarray(std * rng.generator(seed).standard_normal(shape), float_dtype(dtype))


class Linear(Layer):
    """`linear` with its parameters: weight (d_out, d_in), and bias (d_out,) unless `bias=False`.

    Weights start with a standard deviation of 1 / sqrt(d_in), so that outputs are as large as inputs whatever the
    width. Biases start at 0.
    """

    def __init__(self, d_in, d_out, seed=0, bias=True, dtype="float32"):
        super().__init__()
        d_in, d_out = check_count("d_in", d_in), check_count("d_out", d_out)
        self.params["weight"] = normal_param(seed, (d_out, d_in), 1 / math.sqrt(d_in), dtype)
        if bias:
            self.params["bias"] = backend.active().zeros(d_out, dtype=float_dtype(dtype))

    def forward(self, x, seed=0, training=True):
        y, cache = linear(x, self.params["weight"], self.params.get("bias"))
        return y, cache._replace(weight=None)

    def backward(self, dy, cache):
        dx, *dparams = linear_backward(dy, cache._replace(weight=self.params["weight"]))
        return dx, dict(zip(self.params, dparams))  # without a bias, there is no gradient to name
