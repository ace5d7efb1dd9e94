"""Activation functions: ReLU, which the paper uses, and GELU, exact or in its usual tanh approximation.

Each is a pair of functions that keeps the contract of `layer.py` and works elementwise on floats of any shape. `out`
says where to write the result, so that the feed-forward layer can reuse its buffers. In backward, it may be `dy`.
Read next: `feed_forward.py`.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial

from minireformer.backend import get_xp
from minireformer.checks import check_array

_A, _C = 0.044715, math.sqrt(2 / math.pi)  # a and c of `gelu_tanh`


def relu(x, out=None):
    """y = max(x, 0) -> y, cache (x). `out` may be `x`: y is positive exactly where x is, so backward can use either."""
    _check(x, out)
    return get_xp(x).maximum(x, 0, out=out), x


def relu_backward(dy, x, out=None):
    """-> dx = dy where x > 0, else 0."""
    _check_backward(dy, x, out)
    return get_xp(dy).multiply(dy, x > 0, out=out)


class GeluCache(NamedTuple):
    """What `gelu_backward` and `gelu_tanh_backward` need."""

    x: Any  # None if `out` was x, which is then overwritten
    cdf: Any  # Phi(x), or its approximation p(x)


def gelu(x, out=None):
    """y = x Phi(x), with Phi the cumulative distribution function of the normal distribution -> y, cache.

    `out` may be `x` itself only if no backward follows: x is then gone, and `gelu_backward` raises ValueError.
    """
    _check(x, out)
    return _times_cdf(x, normal_cdf(x), out)


def gelu_backward(dy, cache, out=None):
    """-> dx = dy (Phi(x) + x phi(x)), with the normal density phi(x) = exp(-x^2 / 2) / sqrt(2 pi)."""
    x, cdf = _check_gelu_backward("gelu", dy, cache, out)
    slope = x * x
    slope *= -0.5
    get_xp(x).exp(slope, out=slope)
    slope *= x
    slope *= 1 / math.sqrt(2 * math.pi)
    slope += cdf
    return get_xp(x).multiply(dy, slope, out=out)


def gelu_tanh(x, out=None):
    """y = x p(x), with p(x) = (1 + tanh(c (x + a x^3))) / 2, c = sqrt(2 / pi), a = 0.044715: p approximates Phi.

    It is off by up to 5e-4, but some checkpoints were trained with it. Arguments and results as for `gelu`.
    """
    _check(x, out)
    p = x * x
    p *= _A
    p += 1
    p *= x
    p *= _C
    get_xp(x).tanh(p, out=p)
    p += 1
    p *= 0.5
    return _times_cdf(x, p, out)


def gelu_tanh_backward(dy, cache, out=None):
    """-> dx = dy (p + x p'), with p' = 2 p (1 - p) c (1 + 3 a x^2)."""
    x, p = _check_gelu_backward("gelu_tanh", dy, cache, out)
    slope = x * x
    slope *= 3 * _A
    slope += 1
    slope *= x
    slope *= 1 - p
    slope *= 2 * _C
    slope += 1
    slope *= p
    return get_xp(x).multiply(dy, slope, out=out)


def _times_cdf(x, cdf, out):
    return get_xp(x).multiply(x, cdf, out=out), GeluCache(None if out is x else x, cdf)


def _check(x, out):
    check_array("x", x, ...)
    check_array("out", out, *x.shape, like=x, whose="x", optional=True)


def _check_backward(dy, x, out):
    _check(x, out)
    check_array("dy", dy, *x.shape, like=x, whose="x")


def _check_gelu_backward(name, dy, cache, out):
    if cache.x is None:
        raise ValueError(f"cache: {name} wrote its result over x (out=x); expected another out if backward follows")
    _check_backward(dy, cache.x, out)
    return cache


def normal_cdf(x):
    """Phi(x) = erfc(-x / sqrt 2) / 2 for each entry of x, within 1e-15 in float64."""
    xp = get_xp(x)
    z = xp.abs(x)
    z *= math.sqrt(0.5)
    xp.minimum(z, 6, out=z)  # beyond, Phi is 0 or 1 to the last bit
    s = 2 / (z + 2)
    s -= 0.625
    s /= 0.375
    tail = xp.full(x.shape, _ERFC[-1], dtype=x.dtype)
    for coefficient in _ERFC[-2::-1]:  # Horner's rule
        tail *= s
        tail += coefficient
    z *= z
    xp.negative(z, out=z)
    tail *= xp.exp(z, out=z)
    tail *= 0.5  # the probability of a value beyond |x|
    return xp.where(x > 0, 1 - tail, tail)


def _fit_erfc():
    """Coefficients a_k, lowest first, of erfc(z) = exp(-z^2) sum_k a_k s^k for 0 <= z <= 6.

    Without its Gaussian factor, erfc is a very smooth function of t = 2 / (2 + z): a polynomial of degree 20 in t is
    accurate to the last bits. We use s = (t - 0.625) / 0.375, which runs from -1 to 1.
    """
    s = np.cos(math.pi * (np.arange(200) + 0.5) / 200)
    z = 2 / (0.625 + 0.375 * s) - 2
    values = [math.erfc(value) * math.exp(value * value) for value in z]
    return Chebyshev.fit(s, values, 20, domain=[-1, 1]).convert(kind=Polynomial).coef.tolist()


_ERFC = _fit_erfc()
