"""Cross-attention: the dense equations, its gradients, masks, dropout and memory."""

import functools

import numpy as np
import pytest

import minireformer as mr
from arrays import xp
from minireformer import backend, schedule
from minireformer.translation import cross_attention
from minireformer.translation.cross_attention import CrossAttention, attention_weights, cross_attention_backward


def heads(n_queries=9, n_keys=13, seed=0, dtype="float64"):
    random = xp.random.default_rng(seed)
    return [random.standard_normal((2, 3, n, 5)).astype(dtype) for n in (n_queries, n_keys, n_keys)]


def mask_of(n_keys):
    """The first row sees all, the second two thirds."""
    return xp.arange(n_keys)[None] < xp.array([[n_keys], [max(1, 2 * n_keys // 3)]])


def dense(q, k, v, key_mask=None):
    logits = q @ k.swapaxes(-1, -2) / 5**0.5
    if key_mask is not None:
        logits = xp.where(key_mask[:, None, None], logits, -xp.inf)
    weights = xp.exp(logits - logits.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights @ v, weights


@pytest.fixture
def small_tiles(monkeypatch):
    """Four queries and five keys a tile, so that short sequences have several, and an incomplete one."""
    monkeypatch.setattr(schedule, "TILE_LOGITS", 20)
    monkeypatch.setattr(schedule, "BLOCK_LEN", 5)


@pytest.mark.parametrize("sizes", [(9, 13), (13, 9), (1, 7), (7, 1), (8, 8)])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_dense_equation_for_any_two_lengths(sizes, masked, small_tiles):
    q, k, v = heads(*sizes)
    key_mask = mask_of(sizes[1]) if masked else None
    out, cache = cross_attention.cross_attention(q, k, v, key_mask=key_mask)
    expected, weights = dense(q, k, v, key_mask)
    xp.testing.assert_allclose(out, expected, rtol=0, atol=1e-14)
    xp.testing.assert_allclose(attention_weights(cache), weights, rtol=0, atol=1e-14)


@pytest.mark.parametrize("masked, dropout", [(False, 0.0), (True, 0.0), (True, 0.3)])
def test_gradients(masked, dropout, assert_gradients, small_tiles):
    function = functools.partial(cross_attention.cross_attention, dropout=dropout, seed=3)
    pair = (function, cross_attention_backward)
    assert_gradients(pair, *heads(), name="cross_attention", key_mask=mask_of(13) if masked else None)


def test_logits_of_any_size_are_no_trouble(assert_gradients):
    q, k, v = heads(dtype="float32")
    out, cache = cross_attention.cross_attention(300 * q, 300 * k, v)
    xp.testing.assert_allclose(out, dense(300 * q, 300 * k, v)[0], atol=1e-4)
    assert all(xp.isfinite(d).all() for d in cross_attention_backward(out, cache))


def test_who_sees_nothing_gets_nothing_and_gives_no_gradient():
    q, k, v = heads()
    key_mask = xp.arange(13)[None] < xp.array([[13], [0]])
    out, cache = cross_attention.cross_attention(q, k, v, key_mask=key_mask)
    assert (out[1] == 0).all()
    for gradient in cross_attention_backward(xp.ones(out.shape), cache):
        assert (gradient[1] == 0).all() and xp.isfinite(gradient).all()


def test_dropout_sets_weights_to_zero_at_its_rate_and_the_seed_decides_which():
    q, k, v = heads(40, 50)
    ones = xp.ones(v.shape)
    one, other = (cross_attention.cross_attention(q, k, ones, dropout=0.25, seed=s)[0] for s in (0, 1))
    assert (one != other).any()
    xp.testing.assert_array_equal(one, cross_attention.cross_attention(q, k, ones, dropout=0.25, seed=0)[0])
    assert abs(float(one.mean()) - 1) < 0.02  # 240 rows of weights, 12,000 draws
    equal = xp.zeros(q.shape)  # all weights alike: the sum tells how many were kept
    kept = cross_attention.cross_attention(equal, k, ones, dropout=0.25, seed=0)[0][..., 0] * 0.75
    assert abs(float(kept.mean()) - 0.75) < 5 * (0.25 * 0.75 / 12000) ** 0.5
    assert len(set(backend.to_numpy(kept).round(6).ravel().tolist())) > 5  # every row draws its own


def test_tiles_and_threads_change_no_more_than_rounding(monkeypatch):
    q, k, v = heads(100, 70)
    results = []
    for block_len, n_threads in ((1000, 1), (16, 1), (16, 3)):
        monkeypatch.setattr(schedule, "TILE_LOGITS", 16 * block_len)
        monkeypatch.setattr(schedule, "BLOCK_LEN", block_len)
        monkeypatch.setattr(mr.backend, "_n_threads", n_threads)
        out, cache = cross_attention.cross_attention(q, k, v, key_mask=mask_of(70), dropout=0.1)
        results.append((out, *cross_attention_backward(out, cache)))
    for whole, tiled, threaded in zip(*results):
        xp.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-13)
        xp.testing.assert_array_equal(threaded, tiled)


def test_memory_grows_with_the_inputs_and_not_with_their_product(monkeypatch):
    monkeypatch.setattr(mr.backend, "_n_threads", 1)
    random = xp.random.default_rng(0)
    q, k, v = (random.standard_normal((1, 1, 4096, 8)).astype("float32") for _ in range(3))
    with mr.memory.peak() as m:
        out, cache = cross_attention.cross_attention(q, k, v)
        cross_attention_backward(out, cache)
    if backend.active() is np:  # on a GPU all heads, and so their tiles, are taken at once
        assert (
            m.bytes < 4 * q.nbytes + 6 * 4 * schedule.TILE_LOGITS < 4 * 4096**2 / 10
        )  # a tenth of one matrix of weights


def layer_and_inputs(**settings):
    layer = CrossAttention(12, 7, n_heads=2, d_head=5, seed=1, dtype="float64", **settings)
    random = xp.random.default_rng(0)
    return layer, random.standard_normal((2, 9, 12)), random.standard_normal((2, 13, 7))


def test_the_layer_projects_attends_and_projects_back():
    layer, x, memory = layer_and_inputs()
    p = layer.params
    split = lambda y: y.reshape(2, -1, 2, 5).swapaxes(1, 2)  # noqa: E731
    q, k, v = split(x @ p["query.weight"].T), split(memory @ p["key.weight"].T), split(memory @ p["value.weight"].T)
    mixed = dense(q, k, v, mask_of(13))[0].swapaxes(1, 2).reshape(2, 9, 10)
    y, _ = layer.forward(x, memory, memory_mask=mask_of(13))
    xp.testing.assert_allclose(y, mixed @ p["output.weight"].T, rtol=0, atol=1e-13)


def test_gradients_of_the_layer_of_its_input_and_of_the_memory(assert_gradients):
    layer, x, memory = layer_and_inputs(dropout=0.2, attention_dropout=0.2)

    def forward(x, memory, *params):
        layer.params.update(zip(layer.params, params))
        for name, part in (*layer.parts.items(), ("output", layer.output)):
            part.params["weight"] = layer.params[f"{name}.weight"]
        return layer.forward(x, memory, seed=5, memory_mask=mask_of(13))

    def backward(dy, cache):
        *inputs, grads = layer.backward(dy, cache)
        return *inputs, *(grads[name] for name in layer.params)

    assert_gradients((forward, backward), x, memory, *layer.params.values(), name="CrossAttention")


def test_bad_input_is_named():
    q, k, v = heads()
    function = cross_attention.cross_attention
    with pytest.raises(ValueError, match="k: expected shape"):
        function(q, k[:1], v)
    with pytest.raises(ValueError, match="v: expected shape"):
        function(q, k, v[:, :, 1:])
    with pytest.raises(ValueError, match="k: expected at least one token"):
        function(q, k[:, :, :0], v[:, :, :0])
    with pytest.raises(TypeError, match="v: expected float64, like the queries; got float32"):
        function(q, k, v.astype("float32"))
    with pytest.raises(TypeError, match="q: expected floats"):
        function(q.astype(int), k, v)
    with pytest.raises(ValueError, match="key_mask: expected shape"):
        function(q, k, v, key_mask=mask_of(9))
    with pytest.raises(ValueError, match="dropout: expected a rate"):
        function(q, k, v, dropout=1)
    with pytest.raises(ValueError, match="dout: expected shape"):
        cross_attention_backward(k, function(q, k, v)[1])
    layer, x, memory = layer_and_inputs()
    with pytest.raises(ValueError, match="memory: expected shape"):
        layer.forward(x, x)
    with pytest.raises(ValueError, match="d_memory: expected an integer >= 1; got 0"):
        CrossAttention(12, 0, 2, 5)
