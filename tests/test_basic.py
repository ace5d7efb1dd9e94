"""The basic layers against the plain equation, finite differences, and the promises of their docstrings."""

import copy
import math

import hypothesis
import hypothesis.strategies as st
import pytest

from arrays import generator, xp
from minireformer import threads
from minireformer.dropout import Dropout, dropout, dropout_backward
from minireformer.embedding import Embedding, embedding, embedding_backward
from minireformer.layer_norm import LayerNorm, layer_norm, layer_norm_backward
from minireformer.linear import Linear, linear, linear_backward, normal_param
from minireformer.tools import memory

draw = generator(0, "test_basic")
SHAPES = [(5,), (1, 1), (2, 3, 4), (1, 17, 8)]


def normal(*shape, dtype="float64"):
    return draw.standard_normal(shape).astype(dtype)


def with_random_params(layer):
    """The layer with every parameter moved, so that no bias is 0 and no gain is 1."""
    for param in layer.params.values():
        param += normal(*param.shape).astype(param.dtype)
    return layer


LAYERS = {
    "Linear": lambda dtype: Linear(4, 3, seed=1, dtype=dtype),
    "Linear without bias": lambda dtype: Linear(4, 4, seed=1, bias=False, dtype=dtype),
    "LayerNorm": lambda dtype: LayerNorm(4, dtype=dtype),
    "Dropout": lambda dtype: Dropout(0.3),
}


@pytest.mark.parametrize("shape", [(4,), (1, 1, 4), (2, 3, 4), (7, 4)])
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_layers(assert_gradients, name, shape):
    for seed in (0, 1):
        assert_gradients(with_random_params(LAYERS[name]("float32")), normal(*shape), seed=seed)


@pytest.mark.parametrize("leading", [(), (1,), (2, 3), (2, 0)])
def test_gradients_of_functions(assert_gradients, leading):
    if math.prod(leading):
        x, weight, bias, gain = normal(*leading, 4), normal(3, 4), normal(3), normal(4)
        assert_gradients((linear, linear_backward), x, weight, bias)
        assert_gradients((linear, linear_backward), x, weight)
        assert_gradients((layer_norm, layer_norm_backward), x, gain, normal(4))
        assert_gradients((layer_norm, layer_norm_backward), x, gain, normal(4), eps=0.1)
    else:  # nothing to differentiate, but nothing may break either
        y, cache = linear(normal(*leading, 4), normal(3, 4), normal(3))
        assert [d.shape for d in linear_backward(y, cache)] == [(*leading, 4), (3, 4), (3,)]
        y, cache = layer_norm(normal(*leading, 4), normal(4), normal(4))
        assert [d.shape for d in layer_norm_backward(y, cache)] == [(*leading, 4), (4,), (4,)]


@pytest.mark.parametrize("shape", [(), (1,), (2, 5), (2, 0)])
@pytest.mark.parametrize("chunk_len", [1, 3, 1024])
def test_gradient_of_embedding_sums_over_the_positions_of_a_token(shape, chunk_len):
    tokens = draw.integers(0, 4, shape)  # 4 of 6 tokens: some twice, some never
    y, cache = embedding(tokens, normal(6, 3))
    dy = normal(*y.shape)
    expected = xp.zeros((6, 3))
    xp.add.at(expected, tokens, dy)
    xp.testing.assert_allclose(embedding_backward(dy, cache, chunk_len), expected, rtol=0, atol=1e-14)


def test_gradient_of_embedding_agrees_with_finite_differences(assert_gradients):
    for dtype in ("int64", "uint8"):
        tokens = draw.integers(0, 6, (2, 7)).astype(dtype)
        assert_gradients(with_random_params(Embedding(6, 3, seed=1)), tokens)


@pytest.mark.parametrize("shape", SHAPES)
def test_layer_norm_is_its_equation(shape):
    x, weight, bias = 3 * normal(*shape) + 5, normal(shape[-1]), normal(shape[-1])
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    expected = (x - mean) / xp.sqrt(variance + 1e-3) * weight + bias
    xp.testing.assert_allclose(layer_norm(x, weight, bias, eps=1e-3)[0], expected, rtol=1e-12, atol=1e-12)


def test_layer_norm_a_few_rows_at_a_time_is_the_same(monkeypatch):
    x, dy, weight, bias = normal(3, 50, 8), normal(3, 50, 8), normal(8), normal(8)
    y, cache = layer_norm(x, weight, bias)
    gradients = layer_norm_backward(dy, cache)
    monkeypatch.setattr(threads, "_ENTRIES", 8 * 7)  # 22 slices of at most 7 rows
    slices_y, slices_cache = layer_norm(x, weight, bias)
    xp.testing.assert_array_equal(slices_y, y)
    for found, expected in zip(layer_norm_backward(dy, slices_cache), gradients):
        xp.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_layer_norm_of_a_constant_row_is_its_bias_and_finite_in_float32():
    x, weight, bias = xp.full((2, 8), 7, "float32"), normal(8, dtype="float32"), normal(8, dtype="float32")
    y, cache = layer_norm(x, weight, bias)
    xp.testing.assert_array_equal(y, xp.broadcast_to(bias, y.shape))
    assert all(xp.isfinite(d).all() for d in layer_norm_backward(y, cache))


def test_layer_norm_in_float32_survives_a_large_mean():
    x = normal(4, 64) + 1000
    ones, zeros = xp.ones(64), xp.zeros(64)
    exact = layer_norm(x.astype("float32").astype("float64"), ones, zeros)[0]
    y = layer_norm(*(a.astype("float32") for a in (x, ones, zeros)))[0]
    xp.testing.assert_allclose(y, exact, atol=2e-4)  # x itself is known to 3e-5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LAYERS)
def test_dtype_in_is_dtype_out_and_nothing_given_is_changed(name, dtype):
    layer, x = LAYERS[name](dtype), normal(2, 3, 4, dtype=dtype)
    before = copy.deepcopy((layer.params, x))
    y, cache = layer.forward(x, seed=1)
    dy = xp.ones_like(y)
    dx, grads = layer.backward(dy, cache)
    assert {a.dtype.name for a in (y, dx, *layer.params.values(), *grads.values())} == {dtype}
    assert {name: grad.shape for name, grad in grads.items()} == {n: p.shape for n, p in layer.params.items()}
    for now, then in zip((*layer.params.values(), x, dy), (*before[0].values(), before[1], xp.ones_like(y))):
        xp.testing.assert_array_equal(now, then)


def test_a_layer_does_not_remember_its_weights_in_its_cache():
    x = normal(1, 2, 100, dtype="float32")
    assert memory.nbytes(Linear(100, 100, seed=0).forward(x)[1]) == x.nbytes
    assert memory.nbytes(LayerNorm(100).forward(x)[1]) == x.nbytes + 2 * 2 * 4
    assert memory.nbytes(Dropout(0.5).forward(x)[1]) == 0


def test_dropout_replays_its_mask_in_backward_and_draws_another_for_another_seed():
    x = normal(3, 50)
    y, cache = dropout(x, 0.4, seed=7)
    mask = y / x
    xp.testing.assert_allclose(xp.unique(mask.round(12)), [0, round(1 / 0.6, 12)])
    xp.testing.assert_allclose(dropout_backward(x, cache), mask * x, rtol=1e-14)
    assert (y != dropout(x, 0.4, seed=8)[0]).any()


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(rate):
    n = 200_000
    y = dropout(xp.ones(n), rate, seed=3)[0]
    five_sigma = 5 * math.sqrt(rate * (1 - rate) / n)
    assert abs((y == 0).mean() - rate) <= five_sigma
    assert abs(y.mean() - 1) <= five_sigma / (1 - rate) + 1e-12


@hypothesis.given(st.lists(st.integers(0, 90_000), max_size=4), st.integers(0, 2**63))
@hypothesis.settings(max_examples=15)
def test_dropout_of_parts_is_dropout_of_the_whole(cuts, seed):
    x = xp.ones(90_000, "float32")  # more than one block
    whole = dropout(x, 0.5, seed)[0]
    bounds = sorted({0, *cuts, len(x)})
    parts = [dropout(x[a:b], 0.5, seed, start=a)[0] for a, b in zip(bounds, bounds[1:])]
    xp.testing.assert_array_equal(xp.concatenate(parts), whole)


def test_dropout_in_place_and_on_a_view_that_is_not_contiguous_uses_the_same_mask():
    x = normal(6, 4)
    expected = dropout(x, 0.5, seed=1)[0]
    xp.testing.assert_array_equal(dropout(x.T.copy().T, 0.5, seed=1)[0], expected)
    assert dropout(x, 0.5, seed=1, out=x)[0] is x
    xp.testing.assert_array_equal(x, expected)


def test_dropout_is_off_in_inference():
    x = normal(3, 4)
    layer = Dropout(0.5)
    assert layer(x) is x
    y, cache = layer.forward(x, training=False)
    assert y is x and layer.backward(x, cache)[0] is x


def test_new_weights_have_the_size_that_their_layer_says_and_are_the_same_in_both_dtypes():
    weight = Linear(400, 300, seed=5, dtype="float64").params["weight"]
    assert float(weight.std()) * math.sqrt(400) == pytest.approx(1, rel=0.02)
    assert float(Embedding(400, 300, seed=5).params["weight"].std()) == pytest.approx(0.02, rel=0.02)
    single = Linear(400, 300, seed=5).params["weight"]
    xp.testing.assert_array_equal(single, weight.astype("float32"))
    assert (single != Linear(400, 300, seed=6).params["weight"]).any()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Linear(4, 3, seed=0)(normal(2, 5)), r"x: expected shape \(..., 4\); got \(2, 5\)"),
        (lambda: linear(normal(4), normal(4)), "weight: expected shape"),
        (lambda: linear(normal(4), normal(3, 4), normal(4)), "bias: expected shape"),
        (lambda: layer_norm(normal(2, 4), normal(3), normal(4)), "weight: expected shape"),
        (lambda: layer_norm(normal(2, 4), normal(4), normal(1)), "bias: expected shape"),
        (lambda: embedding(xp.array([0, 6]), normal(6, 2)), "tokens: expected ids from 0 to 5; got 0..6"),
        (lambda: embedding(xp.array([-1]), normal(6, 2)), "tokens: expected ids from 0 to 5; got -1"),
        (lambda: Dropout(1.0), "rate: expected a rate"),
        (lambda: dropout(normal(3), -0.1, seed=0), "rate: expected a rate"),
        (lambda: dropout(normal(3), "0.1", seed=0), "rate: expected a rate in .*; got '0.1'"),
        (lambda: dropout(normal(3), 0.1, seed=0, start=-1), "start: expected an integer >= 0"),
        (lambda: linear_backward(normal(2, 4), linear(normal(2, 4), normal(3, 4))[1]), "dy: expected shape"),
        (lambda: LayerNorm(4, eps=-1), "eps: expected a finite number >= 0; got -1"),
        (lambda: LayerNorm(4).backward(normal(2, 3), LayerNorm(4).forward(normal(2, 4))[1]), "dy: expected shape"),
        (lambda: dropout(normal(3, 4), 0.1, seed=0, out=normal(4, 3).T), "out: expected a contiguous array"),
        (lambda: Linear(0, 3, seed=0), "d_in: expected an integer >= 1; got 0"),
        (lambda: LayerNorm(-1), "d: expected"),
        (lambda: Embedding(2.5, 3, seed=0), "n: expected"),
        (lambda: normal_param(0, (2, 2), 1, "float16"), "dtype: expected float32 or float64"),
    ],
)
def test_bad_values_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: linear(xp.ones((2, 4), int), normal(3, 4)), "x: expected floats"),
        (lambda: linear([1.0, 2.0], normal(3, 2)), "expected a NumPy or CuPy array; got list"),
        (lambda: embedding(normal(3), normal(6, 2)), "tokens: expected integers"),
        (lambda: layer_norm(normal(2, 4), None, normal(4)), "weight: expected a NumPy or CuPy array; got NoneType"),
        (lambda: dropout(normal(3), 0.1, seed=0, out=[0.0]), "out: expected a NumPy or CuPy array; got list"),
        (lambda: Linear(2, 2, seed=0.5), "seed: expected an integer"),
        (lambda: dropout(normal(3), 0.1, seed=None), "seed: expected an integer"),
    ],
)
def test_wrong_types_are_named(call, message):
    with pytest.raises(TypeError, match=message):
        call()
