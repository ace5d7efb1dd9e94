"""Keys of length 1: what shared queries and keys need (section 2 of the paper, "shared-QK Transformer").

A token that is both query and key would attend mostly to itself, because nothing is closer to a vector than the
vector itself. So keys are scaled to length 1, and a logit is q . k / |k| = |q| cos(angle). Read next: `hashing.py`.
"""

from minireformer import backend
from minireformer.backend import row_dot
from minireformer.checks import check_array


def unit_length(x):
    """y = x * scale for vectors x (..., D), with scale = `inverse_length(x)` -> y (..., D)."""
    check_array("x", x, ..., None)
    return x * inverse_length(x)[..., None]


def inverse_length(x):
    """1 / |x| for x (..., D), in the original code's form: 1 / sqrt(mean(x^2) + 1e-6) / sqrt(D) -> (...)."""
    return 1 / backend.get_xp(x).sqrt(row_dot(x, x) + 1e-6 * x.shape[-1])


def unit_length_backward(dy, y, scale):
    """Turn dy into dx, in place, and overwrite y: dy, y (..., D), scale (...), with y = x * scale.

    dx = scale (dy - y (y . dy)). In words: stretching x does not change y, so dx has no part along y.
    """
    y *= row_dot(y, dy)[..., None]
    dy -= y
    dy *= scale[..., None]
