"""What bends between two linear layers: ReLU, which the paper uses, and GELU, exact or by its usual fit.

Both work entry by entry, as pairs of functions that keep the contract of `layer.py`; `out` says where to
write, so that `feed_forward.py`, which is to be read next, can use its buffers again.
"""

import math
from typing import Any, NamedTuple

from minireformer import backend
from minireformer.checks import check_array
from minireformer.normal import normal_cdf

_CUBIC = 0.044715


def relu(x, out=None):
    """y = max(x, 0), for floats x of any shape -> y (like x), cache.

    The cache is x; y would do as well, for both are above 0 at the same entries: `out` may be `x`.
    """
    _check("x", x, out, ...)
    return backend.get_xp(x).maximum(x, 0, out=out), x


def relu_backward(dy, x, out=None):
    """-> dx = dy where x > 0, else 0: dy and dx (like x). `out` may be `dy`."""
    check_array("x", x, ...)
    _check("dy", dy, out, *x.shape, like=x)
    return backend.get_xp(dy).multiply(dy, x > 0, out=out)


class GeluCache(NamedTuple):
    """What `gelu_backward` needs."""

    x: Any  # None where `out` was x: overwritten
    cdf: Any  # Phi(x), or the fit to it


def gelu(x, out=None):
    """y = x Phi(x), with Phi the cumulative distribution of the normal distribution (`gelu_tanh` has a fit to it).

    For floats x of any shape -> y (like x), cache. `out` may be `x` itself only where no backward follows: x is
    then gone, and `gelu_backward` raises ValueError.
    """
    _check("x", x, out, ...)
    cdf = normal_cdf(x)
    return backend.get_xp(x).multiply(x, cdf, out=out), GeluCache(None if out is x else x, cdf)


def gelu_backward(dy, cache, out=None):
    """-> dx = dy (Phi(x) + x phi(x)), with the normal density phi(x) = exp(-x^2 / 2) / sqrt(2 pi).

    dy and dx are like x. `out` may be `dy`.
    """
    x, cdf = cache
    if x is None:
        raise ValueError("cache: gelu wrote its result over x (out=x); expected another out where backward follows")
    _check("dy", dy, out, *x.shape, like=x)
    xp = backend.get_xp(x)
    slope = x * x
    slope *= -0.5
    xp.exp(slope, out=slope)
    slope *= x
    slope *= 1 / math.sqrt(2 * math.pi)
    slope += cdf
    return xp.multiply(dy, slope, out=out)


def gelu_tanh(x, out=None):
    """y = x p(x), with p(x) = (1 + tanh(c (x + a x^3))) / 2, c = sqrt(2 / pi), a = 0.044715: a fit to Phi.

    Off by up to 5e-4, but what some checkpoints were trained with. Arguments and results as `gelu`.
    """
    _check("x", x, out, ...)
    xp = backend.get_xp(x)
    p = x * x
    p *= _CUBIC
    p += 1
    p *= x
    p *= math.sqrt(2 / math.pi)
    xp.tanh(p, out=p)
    p += 1
    p *= 0.5
    return xp.multiply(x, p, out=out), GeluCache(None if out is x else x, p)


def gelu_tanh_backward(dy, cache, out=None):
    """-> dx = dy (p + x p'), with p' = 2 p (1 - p) c (1 + 3 a x^2): dy and dx like x. `out` may be `dy`."""
    x, p = cache
    if x is None:
        raise ValueError("cache: gelu_tanh wrote its result over x (out=x); expected another out before a backward")
    _check("dy", dy, out, *x.shape, like=x)
    slope = x * x
    slope *= 3 * _CUBIC
    slope += 1
    slope *= x
    slope *= 1 - p
    slope *= 2 * math.sqrt(2 / math.pi)
    slope += 1
    slope *= p
    return backend.get_xp(x).multiply(dy, slope, out=out)


def _check(name, values, out, *shape, like=None):
    check_array(name, values, *shape, like=like, whose="x")
    if out is not None:
        check_array("out", out, *values.shape, like=values, whose=name)
