"""The theory of the hash: how likely two vectors share a bucket, as a function of their angle alone.

Read next: `reference.py`.
"""

import math

import numpy as np

from minireformer import backend
from minireformer.checks import check_count
from minireformer.hashing import bucket_factors
from minireformer.normal import normal_cdf

_SMALL_ANGLE = 0.005  # radians: nearer to 0 or pi, 96 nodes see too little of the quadrature's narrow peak


def collision_probability(angle, n_buckets, n_hashes=1, d_head=64):
    """Chance that two vectors at `angle` (radians, scalar or array) share a bucket in one of the rounds.

    Exact for 2 buckets, `1 - angle / pi`, and for 4, its square; otherwise by quadrature of

        p = 2m * integral over u, v > 0 of  phi(u, v) * P(|U| < u and |V| < v)^(m - 1),      m = n_buckets / 2

    where (U, V) are the projections of the two vectors on one random direction: standard normal with
    correlation cos(angle). The winning direction has projections u and v; the other m - 1 must stay below.
    Closer to 0 and pi than 0.005, where it would be too coarse, p goes on as a straight line to 1 and to 0.
    Factors multiply; R rounds give `1 - (1 - p)^R`. The result does not depend on `d_head`, because only
    the plane through the two vectors matters: the argument is there so that nobody has to remember that.
    """
    check_count("n_hashes", n_hashes)
    check_count("d_head", d_head, at_least=2)  # with less there is no angle
    angles = backend.to_numpy(angle)  # the result, too, is in host memory
    if angles.dtype.kind not in "iuf":
        raise TypeError(f"angle: expected a number or an array of them; got {angle!r}")
    angles = angles.astype(np.float64)
    if not ((angles >= 0) & (angles <= math.pi)).all():
        raise ValueError(f"angle: expected radians between 0 and pi; got {angle!r}")
    factors = bucket_factors(n_buckets)
    p = np.array([math.prod(_one_hash(a, f) for f in factors) for a in angles.ravel()])
    return (1 - (1 - p) ** n_hashes).reshape(angles.shape)[()]


def _one_hash(angle, n_buckets):
    if n_buckets <= 4:
        return (1 - angle / math.pi) ** (n_buckets // 2)
    inside = min(max(angle, _SMALL_ANGLE), math.pi - _SMALL_ANGLE)
    p = _quadrature(math.cos(inside), math.sin(inside), n_buckets // 2)
    if angle < inside:
        return 1 - (1 - p) * angle / _SMALL_ANGLE
    return p * (math.pi - angle) / _SMALL_ANGLE if angle > inside else p


def _quadrature(rho, sigma, m, n_nodes=96):
    nodes, weights = np.polynomial.legendre.leggauss(n_nodes)
    u = 4 * (nodes + 1)[:, None]  # (n, 1): the first projection, 0..8 standard deviations
    low = np.maximum(-8, -rho * u / sigma)  # v = rho u + sigma t must stay positive
    t = low + (8 - low) * (nodes + 1) / 2  # (n, n)
    v = np.maximum(rho * u + sigma * t, 0)
    s = u[..., None] * nodes  # (n, 1, n): another direction's first projection, between -u and u
    between = normal_cdf((v[..., None] - rho * s) / sigma) - normal_cdf((-v[..., None] - rho * s) / sigma)
    below = (between * _normal_density(s) * weights).sum(-1) * u  # (n, n): P(|U| < u and |V| < v)
    inner = (_normal_density(t) * below ** (m - 1) * weights).sum(-1) * ((8 - low) / 2)[:, 0]
    return float(2 * m * (_normal_density(u[:, 0]) * inner * weights).sum() * 4)


def _normal_density(x):
    return np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
