"""The kernel: one softmax over all rounds, whatever the size of the logits, of a tile, or the number of threads."""

import itertools
import math

import numpy as np
import pytest

import minireformer as mr
from arrays import xp
from minireformer import backend, reference, schedule, threads
from minireformer.unit_length import inverse_length, unit_length, unit_length_backward
from test_attention import buckets_for, heads, some_keys


@pytest.mark.parametrize("scale", [1, 400])  # 400: logits so large that only their true maximum is safe
@pytest.mark.parametrize("n_before, n_after", [(1, 0), (1, 1), (0, 0), (2, 1)])
@pytest.mark.parametrize("causal, same_bucket, count_once", list(itertools.product([True, False], repeat=3)))
def test_rounds_merge_into_one_softmax(n_before, n_after, causal, same_bucket, count_once, scale):
    qk, v = heads(2, 2, 48, 8, n=2)
    buckets, key_mask = buckets_for(qk, n_hashes=3), some_keys(2, 48)
    options = {"n_before": n_before, "n_after": n_after, "causal": causal, "chunk_len": 8}
    options |= {"same_bucket": same_bucket, "count_once": count_once}
    out, cache = mr.lsh_attention(qk * scale, v, buckets, **options)
    expected, lse = reference.dense_lsh_attention(qk * scale, v, buckets, **options)
    xp.testing.assert_allclose(out, expected, atol=1e-11)
    seen = cache.l > 0  # the rest sees nothing but itself
    xp.testing.assert_allclose((cache.m + xp.log(cache.l + ~seen))[seen], lse.reshape(seen.shape)[seen], rtol=1e-11)
    out, _ = mr.lsh_attention(qk * scale, v, buckets, **options, key_mask=key_mask)
    sorted_last = xp.where(key_mask[:, None, None], buckets, 1000)
    expected, _ = reference.dense_lsh_attention(qk * scale, v, sorted_last, **options, key_mask=key_mask)
    xp.testing.assert_allclose(out, expected, atol=1e-11)


def test_float32_stays_float32_and_close():
    qk, v = heads(1, 2, 256, 16, n=2, dtype="float32")
    buckets = buckets_for(qk, n_hashes=4, n_buckets=8)
    for scale in (1, 1000):
        out, cache = mr.lsh_attention(qk * scale, v, buckets, chunk_len=16)
        expected, _ = reference.dense_lsh_attention((qk * scale).astype(float), v.astype(float), buckets, 16)
        assert out.dtype == xp.float32
        assert all(d.dtype == xp.float32 for d in mr.lsh_attention_backward(out, cache))
        # a float32 logit of size |q| is known to |q| * 2^-24, and that is the relative error of a weight
        xp.testing.assert_allclose(out, expected, atol=1e-6 * max(1, 10 * scale * 2**-4))


def test_m_is_the_largest_logit_and_l_the_sum_of_the_exponentials():
    q, k, v = heads(1, 2, 300, 8)
    cache = mr.full_attention(100 * q, k, v)[1]
    logits = xp.where(reference.causal_mask(300, xp), 100 * q @ k.swapaxes(-1, -2) / math.sqrt(8), -xp.inf)
    xp.testing.assert_allclose(cache.m, logits.max(axis=-1), rtol=1e-13)
    xp.testing.assert_allclose(cache.l, xp.exp(logits - cache.m[..., None]).sum(axis=-1), rtol=1e-11)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [1e-20, 1e5, 1e15])
def test_logits_of_any_size_give_weights_that_sum_to_one(scale, dtype):
    qk, _ = heads(1, 2, 96, 8, n=2, dtype=dtype)
    ones = xp.ones((1, 2, 96, 8), dtype)
    for sign in (1, -1):  # keys that all point the other way: only large negative logits
        q = xp.asarray(scale, dtype) * qk
        k = xp.asarray(sign, dtype) * qk
        for out, cache in (
            mr.lsh_attention(q, ones, buckets_for(qk, n_hashes=3), chunk_len=8),
            mr.local_attention(q, k, ones, chunk_len=8, causal=False),
            mr.full_attention(q, k, ones),
        ):
            xp.testing.assert_allclose(out, ones, rtol=1e-6 if dtype == "float32" else 1e-14)
            for gradient in mr.full_attention_backward(out, cache):
                assert bool(xp.isfinite(gradient).all())


@pytest.mark.parametrize("scale", [1, 1e6])
def test_a_query_that_sees_nothing_has_l_0_and_gives_0_or_its_own_value(scale):
    q, k, v = heads(2, 2, 24, 8)
    q, k, hidden = scale * q, scale * k, xp.zeros((2, 24), bool)
    for options in ({}, {"causal": False}):
        out, cache = mr.local_attention(q, k, v, chunk_len=8, key_mask=hidden, **options)
        assert not bool(out.any()) and not bool(cache.l.any())
        assert not any(bool(gradient.any()) for gradient in mr.local_attention_backward(v, cache))
        out, cache = mr.lsh_attention(q, v, buckets_for(q, n_hashes=2), chunk_len=8, key_mask=hidden, **options)
        xp.testing.assert_array_equal(out, v)
        dqk, dv = mr.lsh_attention_backward(k, cache)
        assert not bool(dqk.any())
        xp.testing.assert_array_equal(dv, k)


def test_a_nan_in_a_query_is_passed_on_and_not_hidden():
    q, k, v = heads(1, 1, 32, 4)
    q[0, 0, 20, 0] = np.nan
    with np.errstate(invalid="ignore"):
        out, cache = mr.full_attention(q, k, v)
        gradients = mr.full_attention_backward(v, cache)
    assert bool(xp.isfinite(out).all(axis=-1)[0, 0].tolist() == [i != 20 for i in range(32)])
    assert not all(bool(xp.isfinite(gradient).all()) for gradient in gradients)


def test_unit_length_gradient(assert_gradients):
    def forward(x):
        return unit_length(x), x

    def backward(dy, x):
        dx = dy.copy()
        unit_length_backward(dx, unit_length(x), inverse_length(x))
        return dx

    for scale in (1e-2, 1, 100):  # small vectors feel the epsilon
        assert_gradients((forward, backward), heads(2, 3, 5, 7, n=1)[0] * scale, name="unit_length")


@pytest.mark.parametrize("n_before, n_after, causal", [(1, 0, True), (1, 1, False), (0, 0, True)])
def test_tiles_of_one_chunk_and_of_many_agree(monkeypatch, n_before, n_after, causal):
    qk, v, dout = heads(1, 2, 96, 8)
    buckets = buckets_for(qk, n_hashes=3)
    options = {"chunk_len": 8, "n_before": n_before, "n_after": n_after, "causal": causal, "dropout": 0.2}

    def run():
        out, cache = mr.lsh_attention(qk, v, buckets, **options)
        return out, *mr.lsh_attention_backward(dout, cache)

    whole = run()
    for logits in (1, 2 * 64 * 3, 5 * 64 * 3):
        monkeypatch.setattr(schedule, "TILE_LOGITS", logits)
        for one, other in zip(whole, run()):
            xp.testing.assert_allclose(one, other, atol=1e-13)


@pytest.mark.parametrize("scale", [1, 400])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_blocks_of_full_attention_change_nothing(monkeypatch, causal, shared, scale):
    """A query meets its keys block by block; each block may bring a larger logit."""
    q, k, v = heads(1, 2, 50, 8)
    options = {"key_mask": some_keys(1, 50), "dropout": 0.2, "causal": causal}

    def run():
        out, cache = mr.full_attention(scale * q, None if shared else k, v, **options)
        return out, cache.m, *mr.full_attention_backward(v, cache)

    whole = run()
    for logits, block in ((1, 1), (7 * 20, 7), (16 * 32, 32)):
        monkeypatch.setattr(schedule, "TILE_LOGITS", logits)
        monkeypatch.setattr(schedule, "BLOCK_LEN", block)
        for one, other in zip(whole, run()):
            xp.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.skipif(backend.active().__name__ != "numpy", reason="a GPU takes many chunks at a time")
def test_causal_full_attention_computes_no_logit_of_a_later_chunk(monkeypatch):
    sizes, batched_matmul = [], threads.batched_matmul
    monkeypatch.setattr(
        threads, "batched_matmul", lambda a, b, out: sizes.append(out.shape) or batched_matmul(a, b, out)
    )
    n_chunks, chunk_len, d_head = 6, 128, 8
    q, k, v = heads(1, 1, n_chunks * chunk_len, d_head, dtype="float32")
    monkeypatch.setattr(schedule, "TILE_LOGITS", chunk_len * n_chunks * chunk_len)
    out, cache = mr.full_attention(q, k, v)
    mr.full_attention_backward(out, cache)
    n_logits = sum(math.prod(size) for size in sizes if size[-1] != d_head)
    expected = 3 * chunk_len**2 * n_chunks * (n_chunks + 1) // 2  # Q K' in both passes and dO V'
    assert n_logits == expected


def test_threads_change_no_bit():
    qk, v, dout = heads(2, 3, 200, 16, dtype="float32")
    buckets = buckets_for(qk, n_hashes=2)
    results, before = [], backend.n_threads()
    try:
        for n_threads in (1, 2, 3):
            backend.set_threads(n_threads)
            out, cache = mr.lsh_attention(qk, v, buckets, chunk_len=16)
            results.append((out, *mr.lsh_attention_backward(dout, cache)))
    finally:
        backend.set_threads(before)
    for other in results[1:]:
        for one, two in zip(results[0], other):
            xp.testing.assert_array_equal(one, two)


def test_memory_does_not_grow_with_the_square_of_the_length():
    peaks = []
    for length in (2048, 4096):
        qk, v = heads(1, 1, length, 16, n=2, dtype="float32")
        buckets = buckets_for(qk, n_hashes=2, n_buckets=64)
        with mr.memory.peak() as m:
            out, cache = mr.lsh_attention(qk, v, buckets, chunk_len=64)
            mr.lsh_attention_backward(out, cache)
        peaks.append(m.bytes)
    assert peaks[1] < 2 * peaks[0]
    assert peaks[1] < 4096 * 4096 * 4 / 4  # a quarter of one attention matrix
