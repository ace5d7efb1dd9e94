"""The theory of the hash: it is what a measurement finds, at any angle and for any number of buckets."""

import math

import numpy as np
import pytest

import minireformer as mr
from arrays import xp
from minireformer.collision import _quadrature


@pytest.mark.parametrize("n_buckets, n_hashes", [(2, 1), (4, 1), (8, 1), (32, 1), (8, 4), ([4, 6], 2)])
def test_collision_probability_is_what_a_monte_carlo_measures(n_buckets, n_hashes):
    n_trials = 20000
    for angle in (0.1, 0.6, 1.4, 2.5):
        x = xp.zeros((1, 1, 2, 16), "float32")
        x[..., 0, 0] = 1
        x[..., 1, :2] = xp.array([math.cos(angle), math.sin(angle)])
        rotations = mr.random_rotations(3, n_heads=1, d_head=16, n_hashes=n_hashes * n_trials, n_buckets=n_buckets)
        buckets = mr.hash_vectors(x, rotations, n_buckets)[0, 0].reshape(n_hashes, n_trials, 2)
        measured = (buckets[..., 0] == buckets[..., 1]).any(axis=0).mean()
        p = mr.collision_probability(angle, n_buckets, n_hashes)
        assert abs(measured - p) < 4.5 * math.sqrt(max(p * (1 - p), 1e-4) / n_trials)


def another_integral(angle, m, n=48):
    """p for m directions without polar coordinates: what lies outside |U| < u, |V| < v, integrated over |V|."""
    rho, sigma = math.cos(angle), math.sin(angle)
    nodes, weights = np.polynomial.legendre.leggauss(n)

    def between(low, high):
        return low + (high - low) * (nodes + 1) / 2, (high - low) * weights / 2

    def bell(x):
        return np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)

    def below(x):
        return np.vectorize(math.erfc)(-x / math.sqrt(2)) / 2

    total, corner = 0, min(9 * sigma / rho, 9)
    for low, high in ((0, corner), (corner, 9)):
        for u, of_u in zip(*between(low, high)):
            t, of_t = between(max(-9, -rho * u / sigma), 9)
            s, of_s = between(0, 18)
            y = rho * u + sigma * (t[:, None] + s)  # from v = rho u + sigma t upwards
            outside = 2 * sigma * (bell(y) * (below((u - rho * y) / sigma) - below((-u - rho * y) / sigma))) @ of_s
            others = np.maximum(math.erf(u / math.sqrt(2)) - outside, 0) ** (m - 1)
            total += of_u * bell(u) * (others * bell(t)) @ of_t
    return 2 * m * total


def test_the_other_integral_is_right_where_the_answer_is_known():
    for angle in (1e-4, 0.3):
        assert another_integral(angle, 2) == pytest.approx((1 - angle / math.pi) ** 2, abs=1e-10)


@pytest.mark.parametrize("n_buckets", [6, 8, 64])
@pytest.mark.parametrize("angle", [3e-5, 0.0025, 0.02, 0.3])
def test_quadrature_agrees_with_another_integral(angle, n_buckets):
    expected = another_integral(angle, n_buckets // 2)
    assert mr.collision_probability(angle, n_buckets) == pytest.approx(expected, rel=0, abs=1.5e-7)


@pytest.mark.parametrize("angle", [0.1, 0.6, 1.0])
def test_many_buckets_collide_as_often_as_the_largest_of_many_normal_numbers_coincide(angle):
    n_trials, m = 2000, 4096
    u, w = np.random.default_rng(0).standard_normal((2, n_trials, m), dtype="float32")
    v = math.cos(angle) * u + math.sin(angle) * w
    first, second = abs(u).argmax(axis=1), abs(v).argmax(axis=1)
    rows = np.arange(n_trials)
    measured = ((first == second) & (u[rows, first] * v[rows, first] > 0)).mean()
    p = mr.collision_probability(angle, 2 * m)
    assert abs(measured - p) < 4.5 * math.sqrt(p * (1 - p) / n_trials)


@pytest.mark.parametrize("angle", [0.6, 1.0, 1.4])
def test_the_chance_falls_with_the_number_of_buckets_as_it_must_in_the_limit(angle):
    """log p / log m tends to -tan^2(angle / 2): Andoni et al., Practical and Optimal LSH for Angular Distance, 2015."""
    p = [mr.collision_probability(angle, 2**power) for power in range(10, 64)]
    assert (np.diff(p) < 0).all() and 0 < p[-1] < p[0] < 1
    slope = (math.log(p[-1]) - math.log(p[-21])) / (20 * math.log(2))
    assert slope == pytest.approx(-(math.tan(angle / 2) ** 2), rel=0.2)  # as slowly as 1 / log m


@pytest.mark.parametrize("m", [1, 2])
def test_quadrature_agrees_with_the_exact_cases(m):
    for angle in np.linspace(0.02, 3.1, 30):
        assert abs(_quadrature(angle, m) - (1 - angle / math.pi) ** m) < 1e-5


def test_collision_probability_takes_arrays_and_falls_from_one_to_zero():
    p = mr.collision_probability(np.linspace(0, math.pi, 20), 16)
    assert p.shape == (20,) and p[0] == 1 and p[-1] == 0 and (np.diff(p) < 0).all()
    assert isinstance(float(mr.collision_probability(0.5, 16)), float)


@pytest.mark.parametrize("n_buckets", [2, 4, 6, 16, 64, 1024, [4, 6]])
def test_collision_probability_has_no_jump_near_zero_and_pi(n_buckets):
    near = np.concatenate([np.linspace(0, 0.01, 24), np.geomspace(0.011, 0.3, 12)])
    angles = np.concatenate([near, math.pi - near[::-1]])
    p = mr.collision_probability(angles, n_buckets)
    assert p[0] == 1 and p[-1] == 0
    assert (np.diff(p) <= 0).all() and (np.diff(p[:36]) < 0).all()
    for end in (slice(0, 24), slice(-24, None)):
        slopes = np.diff(p[end]) / np.diff(angles[end])
        np.testing.assert_allclose(slopes, slopes.mean(), rtol=0.05 if end.start == 0 else 0, atol=0.01)


def test_an_angle_may_be_an_array_of_the_backend_in_use(cupy):
    angles = np.array([0.1, 2.0])
    p = mr.collision_probability(cupy.asarray(angles), 16)
    assert isinstance(p, np.ndarray)  # theory is drawn, not trained on
    np.testing.assert_array_equal(p, mr.collision_probability(angles, 16))
    assert mr.collision_probability(cupy.asarray(angles)[0], 16) == p[0]


def test_rounds_are_right_where_one_round_is_rare_or_certain():
    p = mr.collision_probability(3.0, 16)
    assert 0 < p < 1e-8
    assert mr.collision_probability(3.0, 16, n_hashes=1000) == pytest.approx(1000 * p, rel=1e-5)
    assert mr.collision_probability(1.0, 16, n_hashes=2**62) == 1
    assert mr.collision_probability(math.pi, 16, n_hashes=2**62) == 0


def test_numbers_of_few_bits_do_not_overflow():
    expected = mr.collision_probability(1.0, 100, n_hashes=100)
    assert mr.collision_probability(1.0, np.int8(100), n_hashes=np.int8(100)) == expected
    assert mr.collision_probability(1.0, [np.int8(100)] * 2) == pytest.approx(mr.collision_probability(1.0, 100) ** 2)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"n_hashes": 0}, ValueError, "n_hashes: expected an integer >= 1; got 0"),
        ({"n_hashes": 2**70}, ValueError, r"n_hashes: expected at most 2\*\*63; got 1180591620717411303424"),
        ({"d_head": 1}, ValueError, "d_head: expected an integer >= 2; got 1"),
        ({"n_buckets": 5}, ValueError, "n_buckets"),
        ({"n_buckets": 2**70}, ValueError, r"n_buckets: expected at most 2\*\*63; got 1180591620717411303424"),
        ({"n_buckets": [4, 10**400]}, ValueError, r"n_buckets: expected at most 2\*\*63; got 10000"),
        ({"angle": 4.0}, ValueError, "angle: expected radians between 0 and pi"),
        ({"angle": math.nan}, ValueError, "angle: expected radians between 0 and pi"),
        ({"angle": None}, TypeError, "angle: expected a number"),
        ({"angle": "0.1"}, TypeError, "angle: expected a number"),
    ],
)
def test_bad_arguments_of_collision_probability_are_named(change, error, message):
    with pytest.raises(error, match=message):
        mr.collision_probability(**({"angle": 0.1, "n_buckets": 4} | change))


def test_a_huge_head_changes_nothing():
    assert mr.collision_probability(0.5, 16, d_head=2**70) == mr.collision_probability(0.5, 16)
