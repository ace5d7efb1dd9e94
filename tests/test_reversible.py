"""Reversible layers: the gradient of the same network with stored activations, without storing them."""

import weakref

import pytest

import minireformer as mr
from arrays import xp
from minireformer.attention_layer import LocalAttention, LSHAttention
from minireformer.feed_forward import FeedForward
from minireformer.layer import Layer
from minireformer.reversible import PreNorm, ReversibleStack


def stack(
    depth=3, reversible=True, seed=0, dtype="float64", dropout=0.1, d_model=12, chunk_len=4, d_ff=20, heads_at_once=0
):
    blocks = []
    for i in range(depth):
        shared = {"dropout": dropout, "seed": seed + i, "dtype": dtype}
        sizes = {
            "d_model": d_model,
            "n_heads": 2,
            "d_head": 6,
            "chunk_len": chunk_len,
            "attention_dropout": dropout,
            "heads_at_once": heads_at_once,
        }
        attention = (
            LSHAttention(**sizes, n_hashes=2, n_buckets=4, **shared) if i % 2 else LocalAttention(**sizes, **shared)
        )
        parts = (attention, FeedForward(d_model, d_ff, **shared))
        blocks.append(tuple(PreNorm(part, d_model, dtype=dtype) for part in parts))
    made = ReversibleStack(blocks, reversible)
    rng = xp.random.default_rng(seed)
    for name, param in made.params.items():
        if "bias" in name or "norm" in name:  # zeros and ones would hide errors
            param += 0.3 * rng.standard_normal(param.shape)
    return made


def inputs(length=22, d_model=12, dtype="float64", seed=0):
    return xp.random.default_rng(seed).standard_normal((2, length, d_model)).astype(dtype)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("heads_at_once", [0, 1])
def test_gradients_equal_those_with_stored_activations(seed, masked, heads_at_once):
    x, key_mask = inputs(seed=seed), (xp.arange(22)[None] < xp.array([[22], [13]])) if masked else None
    dy = xp.random.default_rng(seed).standard_normal((2, 22, 24))
    results = []
    for reversible in (True, False):
        layer = stack(4, reversible, seed, heads_at_once=heads_at_once)
        y, cache = layer.forward(x, seed=7, key_mask=key_mask)
        results.append((y, *layer.backward(dy, cache)))
    (y, dx, grads), (y_stored, dx_stored, grads_stored) = results
    xp.testing.assert_array_equal(y, y_stored)
    xp.testing.assert_allclose(dx, dx_stored, rtol=0, atol=1e-10)
    assert grads.keys() == grads_stored.keys() == stack(4).params.keys()
    for name in grads:
        xp.testing.assert_allclose(grads[name], grads_stored[name], rtol=0, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("seed", [0, 1])
def test_gradients(assert_gradients, seed):
    layer = stack(1, seed=seed)  # local attention: nothing to hold fixed
    assert_gradients(layer, inputs(9, seed=seed), seed=seed)
    assert_gradients(layer.blocks[0][1], inputs(9, seed=seed), seed=seed)


def test_inference_stores_nothing():
    one, two = (stack(2, reversible).forward(inputs(), training=False) for reversible in (True, False))
    assert two[1].stored == []
    assert mr.memory.nbytes(one[1]) == mr.memory.nbytes(two[1])
    dy = xp.ones((2, 22, 24))
    xp.testing.assert_array_equal(stack(2).backward(dy, one[1])[0], stack(2, False).backward(dy, two[1])[0])


def test_backward_leaves_its_cache_as_it_was():
    layer, x = stack(2), inputs()
    y, cache = layer.forward(x, seed=1)
    first, second = layer.backward(y, cache), layer.backward(y, cache)
    xp.testing.assert_array_equal(first[0], second[0])


def test_backward_uses_the_buckets_and_the_seed_of_the_forward_pass():
    layer, x = stack(2), inputs(40)
    y, cache = layer.forward(x, seed=1)
    dx, _ = layer.backward(y, cache)
    _, other = layer.forward(x, seed=2)
    assert (other.replays[1]["buckets"] != cache.replays[1]["buckets"]).any()
    for wrong in (cache._replace(seed=2), cache._replace(replays=other.replays)):
        assert abs(layer.backward(y, wrong)[0] - dx).max() > 1e-3


class Cache:
    """An object that a weak reference can watch."""


class Nosy(Layer):
    """A part that looks whether anybody else still holds its input or its cache, once it has let go of them itself."""

    def forward(self, x, seed=0, training=True, **kwargs):
        if not callable(x):
            return x.copy(), Cache()
        normed = x()
        y, alive = normed.copy(), weakref.ref(normed)
        del normed
        assert alive() is None
        return y, Cache()

    def backward(self, dy, cache):
        alive = weakref.ref(cache)
        del cache
        assert alive() is None
        return dy.copy(), {}

    def replay(self, cache):
        return {}

    def terms(self, replay):
        return [replay]


def test_caches_are_handed_over_so_that_a_part_can_free_them():
    blocks = [(PreNorm(Nosy(), 12, dtype="float64"), PreNorm(Nosy(), 12, dtype="float64"))]
    layer = ReversibleStack(blocks)
    y, cache = layer.forward(inputs())
    layer.blocks[0][1].part.forward_and_backward = lambda x, dy, *args: (x.copy(), dy.copy(), {})
    layer.backward(y, cache)


def test_memory_is_flat_in_depth(monkeypatch):
    """What a block adds: its gradients and its buckets, and nothing that grows with T * d_model."""
    sizes = {"d_model": 32, "d_ff": 64, "chunk_len": 32, "dtype": "float32", "dropout": 0.0}
    x = inputs(2048, 32, "float32")
    monkeypatch.setattr(mr.backend, "_n_threads", 1)  # two threads peak together or apart, by chance
    measured = {}
    for reversible in (True, False):
        for depth in (2, 8):
            layer = stack(depth, reversible, **sizes)
            with mr.memory.peak() as m:
                y, cache = layer.forward(x)
                _, grads = layer.backward(y, cache)
            buckets = sum(mr.memory.nbytes(replay) for replay in cache.replays)
            measured[reversible, depth] = m.bytes - buckets - mr.memory.nbytes(grads)
            del y, cache, grads  # to let go of them in the next block would count there
    activation = x.nbytes
    assert measured[True, 8] - measured[True, 2] < 0.1 * activation
    assert measured[False, 8] - measured[False, 2] > 6 * 4 * activation
