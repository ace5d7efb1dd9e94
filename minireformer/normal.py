"""The cumulative distribution function of the normal distribution, which NumPy lacks. Read next: `activations.py`."""

import math

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial

from minireformer.backend import get_xp
from minireformer.checks import check_array


def _fit_erfc():
    """Coefficients a_k, lowest first, of erfc(z) = exp(-z^2) sum_k a_k s^k for 0 <= z <= 6.

    Without its Gaussian, erfc is a very smooth function of t = 2 / (2 + z): a polynomial of degree 20 in t gives it to
    the last bits. We use s = (t - 0.625) / 0.375, which runs from -1 to 1.
    """
    s = np.cos(math.pi * (np.arange(200) + 0.5) / 200)
    z = 2 / (0.625 + 0.375 * s) - 2
    values = [math.erfc(value) * math.exp(value * value) for value in z]
    return Chebyshev.fit(s, values, 20, domain=[-1, 1]).convert(kind=Polynomial).coef.tolist()


_ERFC = _fit_erfc()


def normal_cdf(x):
    """Phi(x) = erfc(-x / sqrt 2) / 2 for each entry of x, within 1e-15 in float64."""
    check_array("x", x, ...)
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
