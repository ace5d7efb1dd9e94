"""The theory of the hash: how likely two vectors are to share a bucket, as a function of their angle alone.

Hashing by random rotations (`hashing.py`) is useful because this chance falls steeply with the angle. Notebook 03
plots the curve through measured points.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from minireformer import backend
from minireformer.backend import Array
from minireformer.checks import check_count
from minireformer.hashing import bucket_factors

_NEAR_0 = 1e-4  # radians: closer to 0, differences of almost equal numbers cost the quadrature its digits
_NEAR_PI = 0.005  # radians: closer to pi, too few of the quadrature's nodes fall on a narrow peak
_LARGEST = 2**63  # no 64-bit integer counts further
_FAR = 8.3  # standard deviations: a normal number lies farther out with probability 1e-16


def collision_probability(
    angle: Array | float, n_buckets: int | Sequence[int], n_hashes: int = 1, d_head: int = 64
) -> Any:
    """The chance that two vectors at `angle` (radians, a number or an array) share a bucket in at least one round.

    It is exact for 2 buckets, `1 - angle / pi`, and for 4, the square of that. For more, quadrature computes

        p = 2m * integral over u, v > 0 of  phi(u, v) * P(|U| < u and |V| < v)^(m - 1),      m = n_buckets / 2

    to about 1e-7. Here (U, V) are the projections of the two vectors on one random direction: standard normal numbers
    with correlation cos(angle) and density phi. In words: one of m directions, with one of two signs, has the largest
    projection of both vectors (u and v), and each of the other m - 1 stays below. Within 0.0001 radians of 0 and 0.005
    of pi, where the quadrature would be too coarse, p continues as a straight line to 1 and to 0.

    The chances for several factors multiply, and R rounds give `1 - (1 - p)^R`. The result is a NumPy array, or a
    number if `angle` is. You may pass `d_head`, but p does not depend on it: only the plane through the two vectors
    matters. ValueError or TypeError names an argument that is out of range.
    """
    check_count("n_hashes", n_hashes)
    check_count("d_head", d_head, at_least=2)  # a single dimension has no angles
    angles = backend.to_numpy(angle)  # the result, too, is in host memory
    if angles.dtype.kind not in "iuf":
        raise TypeError(f"angle: expected a number or an array of them; got {angle!r}")
    angles = angles.astype(np.float64)
    if not ((angles >= 0) & (angles <= math.pi)).all():
        raise ValueError(f"angle: expected radians between 0 and pi; got {angle!r}")
    factors = bucket_factors(n_buckets)
    for name, value in (("n_buckets", max(factors)), ("n_hashes", n_hashes)):
        if value > _LARGEST:
            raise ValueError(f"{name}: expected at most 2**63; got {value}")
    p = np.array([math.prod(_one_hash(a, int(f)) for f in factors) for a in angles.ravel()])
    with np.errstate(divide="ignore"):  # log(0) where p is 1
        some_round = -np.expm1(float(n_hashes) * np.log1p(-p))  # 1 - (1 - p)^R, also where p is tiny
    return some_round.reshape(angles.shape)[()]


def _one_hash(angle, n_buckets):
    """p of a single hash, for a single angle."""
    if n_buckets <= 4:
        return (1 - angle / math.pi) ** (n_buckets // 2)
    inside = min(max(angle, _NEAR_0), math.pi - _NEAR_PI)
    p = _quadrature(inside, n_buckets // 2)
    if angle < inside:
        return 1 - (1 - p) * angle / _NEAR_0
    return p * (math.pi - angle) / _NEAR_PI if angle > inside else p


def _quadrature(angle, m):
    """The integral for p, for m >= 2 directions: over the winner's u, and over v = rho u + sigma t.

    The largest of m numbers |U| almost surely lies between `low` and `high`: it is below `low` with probability e^-40,
    and above `high` with probability 1e-16.
    """
    rho, sigma, normal = math.cos(angle), math.sin(angle), NormalDist()
    low = -normal.inv_cdf(20 / m) if m > 40 else 0.0
    high = -normal.inv_cdf(1e-16 / m)
    nodes, weights = _nodes(64)
    u = low + (high - low) * nodes[:, None]  # (n, 1)
    t_low = np.maximum(-_FAR, (low - rho * u) / sigma)  # v must be above `low`, too
    t_range = np.maximum(_FAR - t_low, 0)
    t = t_low + t_range * nodes  # (n, n)
    v = np.maximum(rho * u + sigma * t, 1e-300)
    outside = np.minimum(_beyond(u, v, rho, sigma) + _beyond(v, u, rho, sigma), 1 - 1e-16)
    others = np.exp((m - 1) * np.log1p(-outside))  # P(|U| < u and |V| < v)^(m - 1), exact for large m as well
    density = np.exp(-(u**2 + t**2) / 2) / (2 * math.pi)
    return float(2 * m * (high - low) * weights @ (density * others * t_range) @ weights)


def _beyond(u, v, rho, sigma):
    """The chance that (U, V) leaves the parallelogram |U| < u and |V| < v through one of the two sides |U| = u.

    Think of U as the first coordinate of a random point in the plane, and of the range of angles that such a side
    covers as seen from the origin. In direction a, the side is at distance u / cos(a), and a normally distributed point
    lies farther out than r with probability exp(-r^2 / 2).
    """
    first = np.arctan2(-v - rho * u, sigma * u)
    span = np.arctan2(v - rho * u, sigma * u) - first
    total = 0
    for node, weight in zip(*_nodes(24)):
        total = total + weight * np.exp((u / np.cos(first + node * span)) ** 2 / -2)
    return total * span / math.pi


def _nodes(n):
    """Nodes and weights of Gauss-Legendre quadrature between 0 and 1."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return (nodes + 1) / 2, weights / 2
