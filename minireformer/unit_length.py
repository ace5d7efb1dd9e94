"""Keys of length 1: what shared queries and keys need (section 2 of the paper, "shared-QK Transformer").

A token that is query and key at once would see mostly itself, because nothing is as close to a vector as the vector
itself. So keys are scaled to length 1, and a logit is q . k / |k| = |q| cos(angle). Read next: `hashing.py`.
"""

import numpy as np

from minireformer import backend, threads
from minireformer.backend import row_dot
from minireformer.checks import check_array

_BLOCK = 1024  # rows whose temporaries stay in a CPU's cache


def unit_length(x):
    """y = x * scale for vectors x (..., D), with scale = `inverse_length(x)` -> y (..., D)."""
    check_array("x", x, ..., None)
    return x * inverse_length(x)[..., None]


def inverse_length(x):
    """1 / |x| for x (..., D), in the original code's form: 1 / sqrt(mean(x^2) + 1e-6) / sqrt(D) -> (...)."""
    return 1 / backend.get_xp(x).sqrt(row_dot(x, x) + 1e-6 * x.shape[-1])


def add_unit_length_backward(dx, dy, x, scale):
    """Add the gradient of `unit_length` to dx: all (n, D), but scale (n,).

    dx = scale (dy - y (y . dy)): stretching x changes no y, so dx has no part along it.
    """
    xp = backend.get_xp(x)
    for rows in threads.slices(len(x), _BLOCK if xp is np else len(x)):
        y = x[rows] * scale[rows, None]
        y *= -row_dot(y, dy[rows])[:, None]
        y += dy[rows]
        y *= scale[rows, None]
        dx[rows] += y
