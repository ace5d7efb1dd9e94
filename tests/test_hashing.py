"""Hashing: equal directions collide, the sort is stable and never overflows."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minireformer as mr
from arrays import xp
from minireformer import hashing


def buckets_of(x, n_hashes=2, n_buckets=8, seed=0):
    rotations = mr.random_rotations(seed, n_heads=x.shape[1], d_head=x.shape[3], n_hashes=n_hashes, n_buckets=n_buckets)
    return mr.hash_vectors(x, rotations, n_buckets)


@pytest.mark.parametrize("n_buckets", [2, 8, [4, 6], [2, 4, 8]])
def test_bucket_is_argmax_of_projections_and_their_negatives(n_buckets):
    x = xp.random.default_rng(0).standard_normal((2, 3, 50, 16)).astype("float32")
    factors = n_buckets if isinstance(n_buckets, list) else [n_buckets]
    rotations = mr.random_rotations(1, n_heads=3, d_head=16, n_hashes=4, n_buckets=n_buckets)
    assert rotations.shape == (3, 16, 4, sum(factors) // 2)
    projected = xp.einsum("bhtd,hdrc->bhrtc", x, rotations)
    expected, scale, start = 0, 1, 0
    for factor in factors:
        part = projected[..., start : start + factor // 2]
        expected = expected + scale * xp.concatenate([part, -part], axis=-1).argmax(-1)
        scale, start = scale * factor, start + factor // 2
    buckets = mr.hash_vectors(x, rotations, n_buckets)
    xp.testing.assert_array_equal(buckets, expected)
    assert buckets.dtype == xp.int16
    assert set(xp.unique(buckets).tolist()) <= set(range(math.prod(factors)))


def test_length_of_a_vector_does_not_matter_and_its_opposite_has_the_opposite_bucket():
    x = xp.random.default_rng(0).standard_normal((1, 2, 40, 8)).astype("float32")
    buckets = buckets_of(x)
    xp.testing.assert_array_equal(buckets, buckets_of(x * 7))
    xp.testing.assert_array_equal((buckets + 4) % 8, buckets_of(-x))


def test_hashing_in_blocks_equals_hashing_at_once(monkeypatch):
    x = xp.random.default_rng(0).standard_normal((1, 2, 100, 8))
    whole = buckets_of(x)
    monkeypatch.setattr(hashing, "_BLOCK", 7)
    xp.testing.assert_array_equal(buckets_of(x), whole)


def test_rotations_are_of_the_module_that_is_asked_for(cupy):
    sizes = {"n_heads": 2, "d_head": 4, "n_hashes": 2, "n_buckets": 6}
    mr.backend.use("numpy")
    host = np.random.default_rng(0).standard_normal((1, 2, 9, 4))
    expected = mr.hash_vectors(host, mr.random_rotations(5, **sizes))
    mr.backend.use("cupy")
    assert isinstance(mr.random_rotations(5, **sizes), cupy.ndarray)
    rotations = mr.random_rotations(5, **sizes, like=host)
    assert isinstance(rotations, np.ndarray)
    np.testing.assert_array_equal(mr.hash_vectors(host, rotations), expected)
    mr.backend.use("numpy")
    assert isinstance(mr.random_rotations(5, **sizes, like=cupy.zeros(1)), cupy.ndarray)
    with pytest.raises(TypeError, match="like: expected a NumPy or CuPy array; got str"):
        mr.random_rotations(5, **sizes, like="numpy")


@given(
    st.integers(1, 3),
    st.lists(st.integers(0, 5), min_size=1, max_size=40),
)
def test_sort_is_by_round_bucket_position(n_rounds, row):
    buckets = xp.stack([xp.roll(row, r) for r in range(n_rounds)])[None]
    order = hashing.sort_by_bucket(buckets)
    for r in range(n_rounds):
        expected = sorted(range(len(row)), key=lambda t: (buckets[0, r, t], t))
        assert order[0, r].tolist() == expected


def test_sort_holds_where_bucket_times_length_passes_32_bits():
    buckets = xp.array([[2**31 - 1, 2**31 - 2, 2**31 - 1, 0]], dtype=xp.int32)
    assert hashing.sort_by_bucket(buckets).tolist() == [[3, 1, 0, 2]]
    huge = xp.array([[2**40 + 1, 2**40, 1]], dtype=xp.int64)
    assert hashing.sort_by_bucket(huge).tolist() == [[2, 1, 0]]


@pytest.mark.parametrize("factors, dtype", [((2, 64), "int16"), ((128, 256), "uint16"), ((256, 256), "int32")])
def test_buckets_take_as_few_bits_as_hold_them_and_the_number_that_hides_a_key(factors, dtype):
    x = xp.random.default_rng(0).standard_normal((1, 1, 500, 8))
    rotations = mr.random_rotations(0, 1, 8, 1, factors, dtype="float64")
    buckets = mr.hash_vectors(x, rotations, factors)
    assert buckets.dtype == dtype and math.prod(factors) <= np.iinfo(dtype).max
    projected = xp.einsum("td,dc->tc", x[0, 0], rotations[0, :, 0])
    parts = projected[:, : factors[0] // 2], projected[:, factors[0] // 2 :]
    first, second = (xp.concatenate([part, -part], axis=-1).argmax(-1) for part in parts)
    xp.testing.assert_array_equal(buckets[0, 0, 0], first + factors[0] * second)
    expected = sorted(range(500), key=lambda t: (int(buckets[0, 0, 0, t]), t))
    assert hashing.sort_by_bucket(buckets)[0, 0, 0].tolist() == expected


@pytest.mark.parametrize(
    "length, chunk_len, max_len, expected",
    [
        (1024, 64, 1024, 32),
        (4096, 64, 4096, 128),
        (1000, 64, 1024, 16),
        (16384, 64, 16384, [16, 32]),
        (128, 64, 128, 4),
    ],
)
def test_default_number_of_buckets(length, chunk_len, max_len, expected):
    assert hashing.default_n_buckets(length, chunk_len, max_len) == expected


def test_rotations_are_a_function_of_the_seed():
    def draw(seed):
        return mr.random_rotations(seed, n_heads=2, d_head=4, n_hashes=2, n_buckets=6)

    xp.testing.assert_array_equal(draw(5), draw(5))
    assert (draw(5) != draw(6)).all()


@pytest.mark.parametrize("n_buckets", [3, 0, [4, 5], [], 2.0])
def test_bad_bucket_counts_are_named(n_buckets):
    with pytest.raises(ValueError, match="n_buckets"):
        mr.random_rotations(0, n_heads=1, d_head=4, n_hashes=1, n_buckets=n_buckets)


def test_bad_shapes_are_named():
    rotations = mr.random_rotations(0, n_heads=2, d_head=4, n_hashes=1, n_buckets=6)
    x = xp.ones((1, 2, 5, 4), "float32")
    with pytest.raises(ValueError, match="rotations"):
        mr.hash_vectors(x[..., :3], rotations)
    with pytest.raises(ValueError, match=r"rotations: expected 4 columns for n_buckets \[4, 4\]; got 3"):
        mr.hash_vectors(x, rotations, [4, 4])
    with pytest.raises(ValueError, match="x: expected at least one token"):
        mr.hash_vectors(x[:, :, :0], rotations)
    for empty in (rotations[:, :, :0], rotations[..., :0]):
        for n_buckets in (None, 6):
            with pytest.raises(ValueError, match="rotations: expected at least one round and one column; got shape"):
                mr.hash_vectors(x, empty, n_buckets)
    with pytest.raises(TypeError, match="x: expected a NumPy or CuPy array; got list"):
        mr.hash_vectors(x.tolist(), rotations)
    with pytest.raises(TypeError, match="rotations: expected floats"):
        mr.hash_vectors(x, rotations.astype(int))
    with pytest.raises(TypeError, match="buckets: expected integers"):
        mr.sort_by_bucket(x)
    with pytest.raises(TypeError, match="x: expected floats"):
        mr.hash_vectors(x.astype(int), rotations)


@pytest.mark.parametrize("name", ["n_heads", "d_head", "n_hashes"])
@pytest.mark.parametrize("value", [0, -1, 1.0, None])
def test_bad_counts_of_rotations_are_named(name, value):
    counts = {"n_heads": 1, "d_head": 4, "n_hashes": 1} | {name: value}
    with pytest.raises(ValueError, match=f"{name}: expected an integer >= 1; got {value}"):
        mr.random_rotations(0, **counts, n_buckets=4)
