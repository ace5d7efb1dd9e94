"""Attention layers: projections around the functions, gradients of everything, buckets that can be replayed."""

import weakref

import numpy as np
import pytest

import minireformer as mr
from arrays import xp
from minireformer import rng
from minireformer.attention_layer import FullAttention, LocalAttention, LSHAttention, SharedFullAttention

SIZES = {"d_model": 12, "n_heads": 2, "d_head": 5, "dtype": "float64"}
LAYERS = [
    (FullAttention, {}),
    (SharedFullAttention, {}),
    (LocalAttention, {"chunk_len": 4}),
    (LSHAttention, {"chunk_len": 4, "n_hashes": 2, "n_buckets": 4}),
    (
        LSHAttention,
        {"chunk_len": 4, "n_hashes": 2, "n_buckets": [2, 4], "same_bucket": True, "count_once": True},
    ),
    (LSHAttention, {"chunk_len": 64, "n_hashes": 2}),
]


def inputs(length=19, seed=0):
    return xp.random.default_rng(seed).standard_normal((2, length, 12))


@pytest.mark.parametrize("kind, options", LAYERS)
@pytest.mark.parametrize("seed, causal, rate", [(0, True, 0.0), (1, False, 0.2)])
def test_gradients(assert_gradients, kind, options, seed, causal, rate):
    layer = kind(**SIZES, **options, causal=causal, dropout=rate, attention_dropout=rate, seed=seed)
    x = inputs(seed=seed)
    _, cache = layer.forward(x)
    assert_gradients(layer, x, seed=seed, **layer.replay(cache))
    key_mask = xp.arange(19)[None] < xp.array([[19], [11]])
    assert_gradients(layer, x, seed=seed, key_mask=key_mask, **layer.replay(cache))


def test_layer_is_the_function_between_projections():
    layer = LSHAttention(**SIZES, chunk_len=4, n_hashes=2, n_buckets=4, seed=3)
    x, p = inputs(), layer.params
    split = lambda y: y.reshape(2, 19, 2, 5).swapaxes(1, 2)  # noqa: E731
    query_key, value = split(x @ p["query_key.weight"].T), split(x @ p["value.weight"].T)
    rotations = mr.random_rotations(9, n_heads=2, d_head=5, n_hashes=2, n_buckets=4, dtype="float64")
    mixed, _ = mr.lsh_attention(query_key, value, mr.hash_vectors(query_key, rotations), chunk_len=4)
    expected = mixed.swapaxes(1, 2).reshape(2, 19, 10) @ p["output.weight"].T
    xp.testing.assert_allclose(layer.forward(x, rotations=rotations)[0], expected, atol=1e-13)


@pytest.mark.parametrize("kind, options", LAYERS)
@pytest.mark.parametrize("heads_at_once", [1, 2, 3])
def test_output_and_gradients_are_sums_over_groups_of_heads(kind, options, heads_at_once):
    """With the same dropout masks, for the second row of a batch, too."""
    sizes, rates = SIZES | {"n_heads": 4}, {"dropout": 0.2, "attention_dropout": 0.3}
    layer = kind(**sizes, **options, **rates, heads_at_once=heads_at_once)
    x, dy, seed = inputs(), inputs(seed=1), rng.RowSeed(5, first_row=3)
    y, cache = layer.forward(x, seed)
    dx, grads = layer.backward(dy, cache)
    terms = layer.terms(layer.replay(cache))
    assert len(terms) == -(-4 // heads_at_once)
    caches = [layer.forward(x, seed, **term) for term in terms]
    parts = [layer.backward(dy, cache) for _, cache in caches]
    xp.testing.assert_allclose(sum(y for y, _ in caches), y, atol=1e-13)
    xp.testing.assert_allclose(sum(dx for dx, _ in parts), dx, atol=1e-13)
    for name in layer.params:
        xp.testing.assert_allclose(sum(grads[name] for _, grads in parts), grads[name], atol=1e-12, err_msg=name)


def test_same_seed_same_bits_and_another_seed_other_buckets():
    layer = LSHAttention(**SIZES, chunk_len=4, n_hashes=2, n_buckets=4, dropout=0.1, attention_dropout=0.1)
    x = inputs()
    (y1, c1), (y2, c2), (_, c3) = (layer.forward(x, seed=s) for s in (5, 5, 6))
    xp.testing.assert_array_equal(y1, y2)
    xp.testing.assert_array_equal(c1.buckets, c2.buckets)
    assert (c1.buckets != c3.buckets).any()


def test_replayed_buckets_are_used_even_where_the_input_would_hash_otherwise():
    layer = LSHAttention(**SIZES, chunk_len=4, n_hashes=2, n_buckets=4)
    x = inputs()
    _, cache = layer.forward(x, seed=5)
    _, replayed = layer.forward(inputs(seed=8), seed=5, **layer.replay(cache))
    xp.testing.assert_array_equal(replayed.buckets, cache.buckets)


@pytest.mark.parametrize("kind, options", LAYERS)
def test_an_input_that_a_function_returns_is_freed_before_attention_and_asked_for_again(kind, options, monkeypatch):
    layer, x, returned = kind(**SIZES, **options), inputs(), []

    def function():
        returned.append(weakref.ref(array := x.copy()))
        return array

    attend, freed = layer.attend, []

    def watched(*args, **kwargs):
        freed.append(returned[-1]() is None)
        return attend(*args, **kwargs)

    y, cache = layer.forward(x)
    dx, grads = layer.backward(y, cache)
    monkeypatch.setattr(layer, "attend", watched)
    again, cache = layer.forward(function)
    dx_again, grads_again = layer.backward(y, cache)
    assert freed == [True] and len(returned) == 2 and returned[1]() is None
    for value, same in ((y, again), (dx, dx_again), *((grads[name], grads_again[name]) for name in grads)):
        xp.testing.assert_array_equal(value, same)


def test_inference_has_no_dropout():
    layer = SharedFullAttention(**SIZES, dropout=0.5, attention_dropout=0.5)
    x = inputs()
    xp.testing.assert_array_equal(layer(x), layer(x, seed=4))
    assert (layer(x) != layer.forward(x)[0]).any()


@pytest.mark.parametrize("kind", [LocalAttention, LSHAttention])
@pytest.mark.parametrize(
    "change, message",
    [
        ({"chunk_len": 0}, "chunk_len: expected an integer >= 1; got 0"),
        ({"n_before": -1}, "n_before: expected an integer >= 0; got -1"),
        ({"n_after": 0.5}, "n_after: expected an integer >= 0; got 0.5"),
        ({"d_model": 0}, "d_model: expected an integer >= 1; got 0"),
        ({"n_heads": None}, "n_heads: expected an integer >= 1; got None"),
        ({"d_head": -5}, "d_head: expected an integer >= 1; got -5"),
        ({"heads_at_once": -1}, "heads_at_once: expected an integer >= 0; got -1"),
        ({"dropout": 1.0}, r"^dropout: expected a rate in \[0, 1\); got 1.0"),
        ({"attention_dropout": "0.1"}, r"^attention_dropout: expected a rate in \[0, 1\); got '0.1'"),
        ({"dtype": "float16"}, "dtype: expected float32 or float64; got float16"),
    ],
)
def test_bad_settings_are_refused_when_the_layer_is_made(kind, change, message):
    with pytest.raises(ValueError, match=message):
        kind(**(SIZES | {"chunk_len": 4} | change))


@pytest.mark.parametrize(
    "kind, options, message",
    [
        (FullAttention, {"chunk_len": 4}, "chunk_len: FullAttention has no such option; got 4"),
        (SharedFullAttention, {"n_after": 1}, "n_after: SharedFullAttention has no such option; got 1"),
        (
            LocalAttention,
            {"chunk_len": 4, "count_once": True},
            "count_once: LocalAttention has no such option; got True",
        ),
        (LocalAttention, {"chunk_len": 4, "n_hashes": 2}, "unexpected keyword argument 'n_hashes'"),
        (LSHAttention, {"chunk_len": 4, "causal": "yes"}, "causal: expected True or False; got 'yes'"),
    ],
)
def test_options_that_a_layer_has_nothing_for_are_refused(kind, options, message):
    with pytest.raises(TypeError, match=message):
        kind(**SIZES, **options)


def test_the_options_of_a_layer_are_one_record():
    layer = LSHAttention(**SIZES, chunk_len=4, n_before=2, count_once=True)
    assert layer.options == mr.AttentionOptions(chunk_len=4, n_before=2, count_once=True)
    assert LSHAttention(**SIZES, **vars(layer.options)).options == layer.options


def test_small_integers_of_numpy_do_not_overflow():
    layer = FullAttention(d_model=8, n_heads=np.int8(16), d_head=np.int8(16))
    assert layer.params["output.weight"].shape == (8, 256)


@pytest.mark.parametrize("change", [{"n_buckets": 3}, {"n_hashes": 0}, {"max_len": 0}])
def test_bad_hashing_is_refused_when_the_layer_is_made(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))}: expected"):
        LSHAttention(**SIZES, chunk_len=4, **change)


def test_rotations_that_do_not_fit_are_named():
    layer = LSHAttention(**SIZES, chunk_len=4, n_hashes=2, n_buckets=4)
    draw = lambda *sizes: mr.random_rotations(0, *sizes, dtype="float64")  # noqa: E731
    for length in (19, 3):  # a chunk holds the latter: nothing is hashed
        with pytest.raises(ValueError, match=r"rotations: expected 2 rounds \(n_hashes\); got 3"):
            layer.forward(inputs(length), rotations=draw(2, 5, 3, 4))
        with pytest.raises(ValueError, match="rotations: expected shape"):
            layer.forward(inputs(length), rotations=draw(2, 6, 2, 4))
    with pytest.raises(ValueError, match="rotations: expected 2 columns for n_buckets 4; got 3"):
        layer.forward(inputs(), rotations=draw(2, 5, 2, 6))


def test_bad_inputs_are_named():
    layer = FullAttention(**SIZES)
    _, cache = layer.forward(inputs())
    with pytest.raises(ValueError, match="x: expected shape"):
        layer(inputs()[..., :5])
    with pytest.raises(ValueError, match="q: expected at least one token"):
        layer(inputs(0))
    with pytest.raises(ValueError, match="dy: expected shape"):
        layer.backward(inputs(5), cache)


def test_parameters_are_float32_unless_told():
    assert FullAttention(12, 2, 5).params["output.weight"].dtype == "float32"


@pytest.mark.parametrize("chunk_lens, message", [((6,), "expected chunk_len 4 among them"), (4, "a tuple of sizes")])
def test_chunk_lengths_of_a_model_that_do_not_fit_are_refused(chunk_lens, message):
    with pytest.raises(ValueError, match=f"chunk_lens: .*{message}"):
        LocalAttention(**SIZES, chunk_len=4, chunk_lens=chunk_lens)
