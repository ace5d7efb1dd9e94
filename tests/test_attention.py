"""Full, local and LSH attention equal the dense equations, in every option, and their gradients finite differences."""

import functools
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minireformer as mr
from arrays import xp
from minireformer import reference
from minireformer.attention import padded_length
from minireformer.unit_length import unit_length

FULL = (mr.full_attention, mr.full_attention_backward)
LOCAL = (mr.local_attention, mr.local_attention_backward)
LSH = (mr.lsh_attention, mr.lsh_attention_backward)


def heads(*shape, n=3, seed=0, dtype="float64"):
    rng = xp.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for _ in range(n)]


def buckets_for(qk, n_hashes, n_buckets=4, seed=1):
    _, n_heads, _, d_head = qk.shape
    rotations = mr.random_rotations(seed, n_heads=n_heads, d_head=d_head, n_hashes=n_hashes, n_buckets=n_buckets)
    return mr.hash_vectors(qk, rotations, n_buckets)


def some_keys(n_batch, length, seed=0):
    mask = xp.random.default_rng(seed).random((n_batch, length)) > 0.3
    mask[:, 0] = True
    return mask


def local_pairs(length, chunk_len, n_before, n_after):
    chunk, n_chunks = xp.arange(length) // chunk_len, length // chunk_len
    return (chunk[None, :] - chunk[:, None] + n_before) % n_chunks <= n_before + n_after


@pytest.mark.parametrize("length", [1, 5, 127, 300])
@pytest.mark.parametrize("causal, masked", list(itertools.product([True, False], repeat=2)))
def test_full_attention_is_the_dense_softmax(length, causal, masked):
    q, k, v = heads(2, 2, length, 8)
    key_mask = some_keys(2, length) if masked else None
    allowed = reference.causal_mask(length, xp) if causal else xp.ones((length, length), bool)
    if masked:
        allowed = allowed & key_mask[:, None, None, :]
    out, _ = mr.full_attention(q, k, v, causal=causal, key_mask=key_mask)
    xp.testing.assert_allclose(out, reference.dense_attention(q / xp.sqrt(8), k, v, allowed)[0], atol=1e-13)
    out, _ = mr.full_attention(q, None, v, causal=causal, key_mask=key_mask)
    expected = reference.dense_attention(q, unit_length(q), v, allowed, exclude_self=True)[0]
    xp.testing.assert_allclose(out, expected, atol=1e-13)


@pytest.mark.parametrize("length, chunk_len", [(64, 16), (48, 4)])
@pytest.mark.parametrize("n_before, n_after", [(1, 0), (0, 0), (1, 1), (2, 1)])
@pytest.mark.parametrize("causal", [True, False])
def test_local_attention_is_the_dense_softmax_over_a_window(length, chunk_len, n_before, n_after, causal):
    q, k, v = heads(1, 2, length, 8)
    allowed = local_pairs(length, chunk_len, n_before, n_after)
    if causal:
        allowed = allowed & reference.causal_mask(length, xp)
    window = {"chunk_len": chunk_len, "n_before": n_before, "n_after": n_after}
    out, _ = mr.local_attention(q, k, v, **window, causal=causal)
    xp.testing.assert_allclose(out, reference.dense_attention(q / xp.sqrt(8), k, v, allowed)[0], atol=1e-13)


@pytest.mark.parametrize("n_chunks, n_before, n_after", [(2, 2, 0), (2, 1, 1), (3, 2, 2), (2, 3, 1)])
@pytest.mark.parametrize("causal", [True, False])
def test_in_a_circle_smaller_than_the_window_a_key_weighs_as_often_as_it_is_met(n_chunks, n_before, n_after, causal):
    length, window = 4 * n_chunks, {"chunk_len": 4, "n_before": n_before, "n_after": n_after, "causal": causal}
    q, k, v = heads(1, 2, length, 8)
    ahead = xp.arange(length)[None] // 4 - xp.arange(length)[:, None] // 4
    times_met = sum((ahead - step) % n_chunks == 0 for step in range(-n_before, n_after + 1))
    assert times_met.max() > 1
    weights = xp.exp(q @ k.swapaxes(-1, -2) / xp.sqrt(8)) * times_met
    if causal:
        weights = weights * reference.causal_mask(length, xp)
    out, _ = mr.local_attention(q, k, v, **window)
    xp.testing.assert_allclose(out, weights / weights.sum(-1, keepdims=True) @ v, atol=1e-13)
    buckets = buckets_for(q, n_hashes=1)
    out, _ = mr.lsh_attention(q, v, buckets, **window)
    xp.testing.assert_allclose(out, reference.dense_lsh_attention(q, v, buckets, **window)[0], atol=1e-13)


@pytest.mark.parametrize("length, padded_len", [(13, 16), (13, 24), (8, 24), (3, 8), (17, 32)])
@pytest.mark.parametrize("causal", [True, False])
def test_a_padded_length_is_as_many_hidden_tokens(length, padded_len, causal):
    q, k, v = heads(2, 2, length, 8)
    buckets = buckets_for(q, n_hashes=2)
    hidden = xp.broadcast_to(xp.arange(padded_len)[None] < length, (2, padded_len)).copy()
    fill = ((0, 0),) * 2 + ((0, padded_len - length), (0, 0))
    q_long, k_long, v_long = (xp.pad(x, fill) for x in (q, k, v))
    buckets_long = xp.pad(buckets, ((0, 0),) * 3 + ((0, padded_len - length),))
    options = {"chunk_len": 8, "n_before": 1, "n_after": 0 if causal else 1, "causal": causal}
    for short, long, backward in [
        ((mr.local_attention, q, k, v), (q_long, k_long, v_long), mr.local_attention_backward),
        ((mr.lsh_attention, q, v, buckets), (q_long, v_long, buckets_long), mr.lsh_attention_backward),
    ]:
        function, *inputs = short
        out, cache = function(*inputs, padded_len=padded_len, **options)
        expected, long_cache = function(*long, key_mask=hidden, **options)
        xp.testing.assert_allclose(out, expected[:, :, :length], atol=1e-14)
        dout = xp.random.default_rng(1).standard_normal(out.shape)
        gradients = backward(dout, cache), backward(xp.pad(dout, fill), long_cache)
        for gradient, expected in zip(*gradients):
            xp.testing.assert_allclose(gradient, expected[:, :, :length], atol=1e-14)


@pytest.mark.parametrize("padded_len", [12, 20, 15.0])
def test_a_bad_padded_length_is_named(padded_len):
    q, k, v = heads(1, 1, 13, 4)
    with pytest.raises(ValueError, match="padded_len: expected"):
        mr.local_attention(q, k, v, chunk_len=8, padded_len=padded_len)


@pytest.mark.parametrize(
    "length, chunk_lens, expected",
    [(5, [4], 8), (4, [4], 4), (3, [4], 3), (17, [16, 64], 64), (16, [16, 64], 16), (50, [48, 64], 192)],
)
def test_the_layers_of_a_model_agree_on_a_padded_length(length, chunk_lens, expected):
    assert padded_length(length, chunk_lens) == expected


def test_one_round_with_one_chunk_is_full_shared_attention():
    qk, v = heads(1, 2, 40, 8, n=2)
    out, _ = mr.lsh_attention(qk, v, buckets_for(qk, n_hashes=2), chunk_len=64)
    xp.testing.assert_array_equal(out, mr.full_attention(qk, None, v)[0])


def test_every_token_in_one_bucket_and_wide_windows_is_full_shared_attention():
    qk, v = heads(1, 2, 64, 8, n=2)
    buckets = xp.zeros((1, 2, 1, 64), int)
    out, _ = mr.lsh_attention(qk, v, buckets, chunk_len=16, n_before=3)
    xp.testing.assert_allclose(out, mr.full_attention(qk, None, v)[0], atol=1e-13)


def test_a_token_alone_sees_itself():
    qk, v = heads(1, 1, 32, 8, n=2)
    out, cache = mr.lsh_attention(qk, v, buckets_for(qk, n_hashes=2), chunk_len=8)
    xp.testing.assert_array_equal(out[:, :, 0], v[:, :, 0])  # causal: the first token has nothing else
    dout = heads(1, 1, 32, 8, n=1, seed=2)[0]
    _, dv = mr.lsh_attention_backward(xp.where(xp.arange(32)[:, None] == 0, dout, 0), cache)
    xp.testing.assert_array_equal(dv[:, :, 0], dout[:, :, 0])


@settings(max_examples=25)
@given(st.integers(1, 70), st.integers(2, 20), st.booleans())
def test_any_length_equals_explicit_padding(length, chunk_len, causal):
    qk, v = heads(1, 2, length, 4, n=2)
    padded_len = -(-length // chunk_len) * chunk_len
    pad = ((0, 0), (0, 0), (0, padded_len - length), (0, 0))
    key_mask = xp.arange(padded_len)[None] < length
    buckets = buckets_for(qk, n_hashes=2)
    long_buckets = xp.pad(buckets, ((0, 0), (0, 0), (0, 0), (0, padded_len - length)))
    out, _ = mr.lsh_attention(qk, v, buckets, chunk_len=chunk_len, causal=causal)
    arguments = (xp.pad(qk, pad), xp.pad(v, pad), long_buckets)
    expected, _ = mr.lsh_attention(*arguments, chunk_len=chunk_len, causal=causal, key_mask=key_mask)
    xp.testing.assert_allclose(out, expected[:, :, :length], atol=1e-13)


@pytest.mark.parametrize("seed, length, chunk_len", [(0, 24, 8), (1, 50, 8), (2, 21, 4), (3, 9, 16)])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("extra", [{}, {"dropout": 0.3}, {"masked": True}])
def test_gradients(assert_gradients, seed, length, chunk_len, causal, extra):
    q, k, v = heads(2, 2, length, 6, seed=seed)
    options = {"causal": causal, "dropout": extra.get("dropout", 0.0), "seed": seed}
    if extra.get("masked"):
        options["key_mask"] = some_keys(2, length, seed)
    assert_gradients(FULL, q, k, v, **options)
    shared = (lambda qk, v, **o: mr.full_attention(qk, None, v, **o), mr.full_attention_backward)
    assert_gradients(shared, q, v, name="full_attention, shared", **options)
    window = {"chunk_len": chunk_len, "n_before": 1, "n_after": 0 if causal else 1}
    assert_gradients(LOCAL, q, k, v, **window, **options)
    buckets = buckets_for(q, n_hashes=3)
    assert_gradients(LSH, q, v, buckets=buckets, **window, **options)
    assert_gradients(LSH, q * 200, v, buckets=buckets, name="lsh_attention, large logits", **window, **options)
    paper = {"same_bucket": True, "count_once": True}
    assert_gradients(LSH, q, v, buckets=buckets, name="lsh_attention, paper", **window, **options, **paper)


@pytest.mark.parametrize("n_before, n_after, causal", [(0, 0, True), (2, 1, False), (2, 0, True), (0, 2, False)])
@pytest.mark.parametrize("paper", [{}, {"same_bucket": True}, {"count_once": True}])
def test_gradients_in_other_windows_and_with_each_of_the_papers_options(
    assert_gradients, n_before, n_after, causal, paper
):
    q, k, v = heads(1, 2, 30, 6)
    options = {"chunk_len": 6, "n_before": n_before, "n_after": n_after, "causal": causal}
    assert_gradients(LSH, q, v, buckets=buckets_for(q, n_hashes=3), **options, **paper)
    assert_gradients(LOCAL, q, k, v, **options)
    assert_gradients(LOCAL, q, k, v, **options | {"chunk_len": 15})  # two chunks: some windows meet a key twice


def test_dropout_keeps_the_expectation_and_is_replayed():
    q, k, _ = heads(1, 1, 64, 8)
    v = xp.ones((1, 1, 64, 8))
    outs = [mr.full_attention(q, k, v, causal=False, dropout=0.25, seed=s)[0] for s in range(200)]
    assert abs(xp.mean(outs) - 1) < 0.01
    assert xp.std(outs) > 0.02
    xp.testing.assert_array_equal(outs[3], mr.full_attention(q, k, v, causal=False, dropout=0.25, seed=3)[0])


@pytest.mark.parametrize(
    "change, error, name",
    [
        ({"v": xp.ones((1, 2, 9, 4))}, ValueError, "v: expected shape"),
        ({"v": xp.ones((1, 2, 8, 4), "float32")}, TypeError, "v: expected float64"),
        ({"qk": xp.ones((2, 8, 4))}, ValueError, "qk: expected shape"),
        ({"qk": xp.ones((1, 2, 8, 4), int)}, TypeError, "qk: expected floats"),
        ({"buckets": xp.zeros((1, 2, 1, 9), int)}, ValueError, "buckets"),
        ({"buckets": xp.zeros((1, 2, 1, 8))}, TypeError, "buckets: expected integers"),
        ({"chunk_len": 0}, ValueError, "chunk_len"),
        ({"chunk_len": 2.0}, ValueError, "chunk_len"),
        ({"n_before": -1}, ValueError, "n_before"),
        ({"key_mask": xp.ones((1, 9), bool)}, ValueError, "key_mask"),
        ({"key_mask": xp.ones((1, 8))}, TypeError, "key_mask: expected booleans"),
        ({"dropout": 1.0}, ValueError, r"^dropout: expected a rate in \[0, 1\); got 1.0"),
        ({"dropout": None}, ValueError, "^dropout: expected a rate"),
        ({"causal": "no"}, TypeError, "^causal: expected True or False; got 'no'"),
        ({"same_bucket": None}, TypeError, "^same_bucket: expected True or False"),
        ({"qk": xp.ones((1, 2, 8, 0)), "v": xp.ones((1, 2, 8, 0))}, ValueError, "qk: expected at least one token"),
        ({"qk": xp.ones((1, 2, 0, 4)), "v": xp.ones((1, 2, 0, 4))}, ValueError, "qk: expected at least one token"),
        ({"qk": xp.ones((1, 2, 8, 4), "float16")}, TypeError, "qk: expected floats .float32 or float64.; got"),
        ({"qk": None}, TypeError, "qk: expected a NumPy or CuPy array; got NoneType"),
        ({"buckets": xp.zeros((1, 2, 0, 8), int)}, ValueError, "buckets: expected at least one token"),
        (
            {"buckets": xp.zeros((1, 2, 1, 8), "uint8")},
            TypeError,
            "buckets: expected int16, uint16, int32 or int64, .* uint8",
        ),
        (
            {"buckets": xp.zeros((1, 2, 1, 8), "int8")},
            TypeError,
            "buckets: expected int16, uint16, int32 or int64, .* int8",
        ),
        ({"buckets": None}, TypeError, "buckets: expected a NumPy or CuPy array"),
    ],
)
def test_bad_arguments_are_named(change, error, name):
    given = {"qk": xp.ones((1, 2, 8, 4)), "v": xp.ones((1, 2, 8, 4)), "buckets": xp.zeros((1, 2, 1, 8), int)}
    with pytest.raises(error, match=name):
        mr.lsh_attention(**(given | {"chunk_len": 4} | change))


@pytest.mark.parametrize("attend", [mr.full_attention, functools.partial(mr.local_attention, chunk_len=4)])
@pytest.mark.parametrize(
    "change, error, message",
    [
        ({name: xp.ones((1, 2, 0, 4)) for name in "qkv"}, ValueError, "q: expected at least one token"),
        ({"q": xp.ones((1, 0, 8, 4))}, ValueError, "q: expected at least one token"),
        ({"k": xp.ones((1, 2, 7, 4))}, ValueError, "k: expected shape"),
        ({"v": None}, TypeError, "v: expected a NumPy or CuPy array; got NoneType"),
        ({"key_mask": xp.ones((1, 9), bool)}, ValueError, "key_mask: expected shape"),
        ({"dropout": -0.1}, ValueError, "dropout: expected a rate"),
        ({"dropout": 0.1, "seed": None}, TypeError, "seed: expected an integer"),
    ],
)
def test_bad_heads_are_named(attend, change, error, message):
    with pytest.raises(error, match=message):
        attend(**({name: xp.ones((1, 2, 8, 4)) for name in "qkv"} | change))


def test_a_gradient_that_does_not_fit_is_named():
    q, k, v = heads(1, 2, 8, 4)
    out, cache = mr.full_attention(q, k, v)
    with pytest.raises(ValueError, match="dout: expected shape"):
        mr.full_attention_backward(out[:, :, 1:], cache)
    with pytest.raises(TypeError, match="dout: expected float64, like the queries; got float32"):
        mr.full_attention_backward(out.astype("float32"), cache)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda x: reference.dense_attention(x, x[:, :, 1:], x), ValueError, "k: expected shape"),
        (lambda x: reference.dense_attention(x, x, x, xp.ones((8, 8))), TypeError, "allowed: expected booleans"),
        (
            lambda x: reference.dense_lsh_attention(x, x, xp.zeros((1, 2, 1, 8)), 4),
            TypeError,
            "buckets: expected integers",
        ),
        (
            lambda x: reference.dense_lsh_attention(x, x, xp.zeros((1, 2, 1, 8), int), 3),
            ValueError,
            "chunk_len: .*got 3",
        ),
        (
            lambda x: reference.dense_lsh_attention(x, x, xp.zeros((1, 2, 1, 8), int), 0),
            ValueError,
            "chunk_len: .*got 0",
        ),
    ],
)
def test_bad_arguments_of_the_oracle_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(xp.ones((1, 2, 8, 4)))
