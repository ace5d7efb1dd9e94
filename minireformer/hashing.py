"""Locality-sensitive hashing by random rotations (section 2 of the paper, "LSH attention").

    h(x) = argmax([xΩ; -xΩ])          Ω a random (D, n_buckets / 2) matrix, which the paper calls R

Vectors that point in similar directions get the same bucket with a probability that depends on their
angle alone; `collision_probability` computes it, and notebook 03 draws it beside a measurement. Attention
then sorts tokens by bucket and looks only at near neighbours in that order. Read next: `collision.py`.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minireformer import backend, rng, threads
from minireformer.backend import Array
from minireformer.checks import check_array, check_count, check_module, check_not_empty, float_dtype

_BLOCK = 512  # tokens hashed at once: only their projections, for all rounds, are in memory


def default_n_buckets(length, chunk_len, max_len=None):
    """How many buckets a sequence of `length` tokens gets by default: about two for every chunk.

    We round `2 * (length // chunk_len)` down to a power of two, so that a bucket holds half a chunk to a whole one on
    average. If that exceeds `2 * max(sqrt(max_len // chunk_len), chunk_len)`, we split it into two factors `[a, b]`,
    because one hash with that many buckets would cost more than the attention.
    Returns an int, or a list of two ints whose product is that power of two.
    """
    for name, value in (("length", length), ("chunk_len", chunk_len), ("max_len", max_len or length)):
        check_count(name, value)
    power = max(1, (2 * (length // chunk_len)).bit_length() - 1)
    limit = 2 * max(math.isqrt((max_len or length) // chunk_len), chunk_len)
    return 2**power if 2**power <= limit else [2 ** (power // 2), 2 ** (power - power // 2)]


def bucket_factors(n_buckets):
    """`n_buckets` (an even int, or a list of even ints: factors) as a list. ValueError for odd numbers."""
    factors = list(n_buckets) if isinstance(n_buckets, (list, tuple)) else [n_buckets]
    if not factors or any(not isinstance(f, (int, np.integer)) or f < 2 or f % 2 for f in factors):
        raise ValueError(
            f"n_buckets: expected an even number >= 2, or a list of them; got {n_buckets!r} "
            "(a bucket is a direction or its opposite, so they come in pairs)"
        )
    return factors


def random_rotations(
    seed: int,
    n_heads: int,
    d_head: int,
    n_hashes: int,
    n_buckets: int | Sequence[int],
    dtype: Any = "float32",
    like: Array | None = None,
) -> Array:
    """Random matrices for `hash_vectors`: (H, D, R, n_buckets / 2), standard normal, shared over the batch.

    With `n_buckets=[a, b]` there are (a + b) / 2 columns: the first a/2 choose one of a buckets, the rest one of b.
    Both dtypes get the same numbers: float32 values are the float64 ones rounded. `like`: an array whose
    module they should come from (None: the one in use).
    """
    for name, value in (("n_heads", n_heads), ("d_head", d_head), ("n_hashes", n_hashes)):
        check_count(name, value)
    columns = sum(bucket_factors(n_buckets)) // 2
    xp = backend.active() if like is None else check_module("like", like)
    draws = rng.generator(seed, "rotations").standard_normal((n_heads, d_head, n_hashes, columns))
    return xp.asarray(draws, float_dtype(dtype))


def check_rotations(name, rotations, n_heads, d_head, n_hashes, n_buckets, like, whose="the parameters"):
    """Raise unless `rotations` is an array (n_heads, d_head, n_hashes, columns) of floats with enough columns.

    If `n_hashes` or `n_buckets` is None, any number but 0 will do. `name`, `like` and `whose` are as in `check_module`.
    Returns the factors of the number of buckets.
    """
    check_array(name, rotations, n_heads, d_head, None, None, like=like, whose=whose)
    n_rounds, columns = rotations.shape[2:]
    if n_hashes not in (None, n_rounds):
        raise ValueError(f"{name}: expected {n_hashes} rounds (n_hashes); got {n_rounds}")
    if not n_rounds or not columns:
        raise ValueError(f"{name}: expected at least one round and one column; got shape {rotations.shape}")
    factors = bucket_factors(2 * columns if n_buckets is None else n_buckets)
    if sum(factors) != 2 * columns:
        raise ValueError(f"{name}: expected {sum(factors) // 2} columns for n_buckets {n_buckets}; got {columns}")
    return factors


def hash_vectors(x: Array, rotations: Array, n_buckets: int | Sequence[int] | None = None) -> Array:
    """Buckets of the vectors `x` (B, H, T, D) under `rotations` (H, D, R, columns): (B, H, R, T) ints.

    The bucket is `argmax([xΩ; -xΩ])`, found as the column of the largest |xΩ| and the sign there. `n_buckets`
    is needed only when the buckets are a product of factors (default: 2 * columns): then
    `bucket = h_1 + a * h_2 + ...`. The result has the smallest of int16, uint16, int32, int64 that fits:
    buckets are kept for the backward pass, and integers of 16 bits sort ten times as fast as longer ones.

    x and rotations are floats; rotations of another float dtype are converted to that of x. Raises ValueError if
    shapes don't fit each other or `n_buckets`, and TypeError for wrong dtypes. Either error names the argument.
    """
    check_array("x", x, None, None, None, None)
    check_not_empty("x", x)
    xp, (n_batch, n_heads, length, d_head) = backend.get_xp(x), x.shape
    factors = check_rotations("rotations", rotations, n_heads, d_head, None, n_buckets, like=x, whose="x")
    n_hashes, columns = rotations.shape[2:]
    if rotations.dtype != x.dtype:
        rotations = rotations.astype(x.dtype)
    buckets = xp.empty((n_batch, n_heads, n_hashes, length), smallest_int(math.prod(factors)))

    block = _BLOCK
    if xp is not np:  # a GPU wants large blocks: as many projections as there are numbers in a head's vectors
        block = max(_BLOCK, length * d_head // (n_hashes * columns))

    def work(heads):
        buffer = xp.empty((min(block, length), n_hashes * columns), x.dtype)
        for b, h in (divmod(item, n_heads) for item in heads):
            matrix = rotations[h].reshape(d_head, n_hashes * columns)
            for start in range(0, length, block):
                tokens = x[b, h, start : start + block]
                projected = xp.matmul(tokens, matrix, out=buffer[: len(tokens)])
                largest = largest_directions(projected.reshape(-1, n_hashes, columns), factors, xp)
                buckets[b, h, :, start : start + block] = largest.T

    threads.parallel_for(work, n_batch * n_heads, xp)
    return buckets


def largest_directions(projected, factors, xp):
    """Buckets (tokens, R) from projections (tokens, R, columns)."""
    tokens, n_hashes, columns = projected.shape
    first = (xp.arange(tokens * n_hashes) * columns).reshape(tokens, n_hashes)  # index of each row's first entry
    entries = projected.reshape(-1)
    size = xp.abs(projected)
    bucket, scale, column = 0, 1, 0
    for factor in factors:
        best = size[..., column : column + factor // 2].argmax(axis=-1)
        negative = entries[first + (best + column)] < 0
        bucket = bucket + scale * (best + negative * (factor // 2))
        scale, column = scale * factor, column + factor // 2
    return bucket


def sort_by_bucket(buckets: Array) -> Array:
    """The order of the tokens after a sort by (round, bucket, position): (..., R, T) -> (..., R, T) ints.

    `order[..., r, s]` is the token in slot s of round r. Each round is sorted on its own, and the
    sort is stable, so the tokens of a bucket stay in sequence. This needs no combined key such as
    `bucket * T + position`, which would overflow 32 bits in long sequences.
    """
    check_array("buckets", buckets, ..., None, None, kind="i")
    return backend.get_xp(buckets).argsort(buckets, axis=-1, kind="stable")


def smallest_int(n):
    """The smallest of int16, uint16, int32 and int64 that holds 0..n."""
    return next(t for t in (np.int16, np.uint16, np.int32, np.int64) if n <= np.iinfo(t).max)
