"""Activation functions: ReLU, which the paper uses, and GELU, exact or by its usual approximation.

Each works entry by entry, as a pair of functions that keeps the contract of `layer.py`. `out` says where to write the
result, so that the feed-forward layer can reuse its buffers. Read next: `feed_forward.py`.
"""

import math
from typing import Any, NamedTuple

from minireformer.backend import get_xp
from minireformer.checks import check_array
from minireformer.normal import normal_cdf

_A, _C = 0.044715, math.sqrt(2 / math.pi)  # a and c of `gelu_tanh`


def relu(x, out=None):
    """y = max(x, 0), for floats x of any shape -> y (like x), cache.

    The cache is x, but y would do as well, since both are above 0 at the same entries: `out` may be `x`.
    """
    _check("x", x, out, ...)
    return get_xp(x).maximum(x, 0, out=out), x


def relu_backward(dy, x, out=None):
    """-> dx = dy where x > 0, else 0: dy and dx (like x). `out` may be `dy`."""
    check_array("x", x, ...)
    _check("dy", dy, out, *x.shape, like=x)
    return get_xp(dy).multiply(dy, x > 0, out=out)


class GeluCache(NamedTuple):
    """What `gelu_backward` and `gelu_tanh_backward` need."""

    x: Any  # None if `out` was x, which is then overwritten
    cdf: Any  # Phi(x), or its approximation p(x)


def gelu(x, out=None):
    """y = x Phi(x), with Phi the cumulative distribution function of the normal distribution.

    For floats x of any shape -> y (like x), cache. `out` may be `x` itself only if no backward follows: x is then
    gone, and `gelu_backward` raises ValueError.
    """
    _check("x", x, out, ...)
    return _times_cdf(x, normal_cdf(x), out)


def gelu_backward(dy, cache, out=None):
    """-> dx = dy (Phi(x) + x phi(x)), with the normal density phi(x) = exp(-x^2 / 2) / sqrt(2 pi).

    dy and dx are like x. `out` may be `dy`.
    """
    x, cdf = _check_backward("gelu", dy, cache, out)
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
    _check("x", x, out, ...)
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
    """-> dx = dy (p + x p'), with p' = 2 p (1 - p) c (1 + 3 a x^2): dy and dx like x. `out` may be `dy`."""
    x, p = _check_backward("gelu_tanh", dy, cache, out)
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


def _check(name, values, out, *shape, like=None):
    check_array(name, values, *shape, like=like, whose="x")
    if out is not None:
        check_array("out", out, *values.shape, like=values, whose=name)


def _check_backward(name, dy, cache, out):
    if cache.x is None:
        raise ValueError(f"cache: {name} wrote its result over x (out=x); expected another out if backward follows")
    _check("dy", dy, out, *cache.x.shape, like=cache.x)
    return cache
