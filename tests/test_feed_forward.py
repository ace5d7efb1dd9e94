"""The chunked feed-forward layer against the same layer put together from parts, and its bound on memory."""

import hypothesis
import hypothesis.strategies as st
import pytest

from arrays import generator, xp
from minireformer import rng
from minireformer.activations import gelu, relu
from minireformer.dropout import dropout
from minireformer.feed_forward import FeedForward
from minireformer.tools import memory

draw = generator(0, "test_feed_forward")


def normal(*shape, dtype="float64"):
    return draw.standard_normal(shape).astype(dtype)


def feed_forward(d_model, d_ff, **settings):
    layer = FeedForward(d_model, d_ff, seed=1, **settings)
    for param in layer.params.values():
        param += 0.3 * normal(*param.shape).astype(param.dtype)  # biases other than 0
    return layer


def from_parts(layer, x, seed):
    """The layer's equation, on all positions at once."""
    p, activation = layer.params, {"relu": relu, "gelu": gelu}
    hidden = x @ p["dense.weight"].T + p["dense.bias"]
    hidden = dropout(hidden, layer.rate, rng.fold(seed, "dense"))[0]
    name = "relu" if layer.activation is relu else "gelu"
    y = activation[name](hidden)[0] @ p["output.weight"].T + p["output.bias"]
    return dropout(y, layer.rate, rng.fold(seed, "output"))[0]


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("chunk_len", [0, 1, 4, 100])
def test_gradients(assert_gradients, activation, rate, chunk_len):
    layer = feed_forward(5, 7, activation=activation, dropout=rate, chunk_len=chunk_len)
    for shape in [(1, 1, 5), (2, 5, 5)]:
        assert_gradients(layer, normal(*shape), seed=3)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(6,), (1, 1, 6), (2, 9, 6), (2, 0, 6)])
def test_forward_is_its_equation_in_training_and_inference(activation, rate, shape):
    layer = feed_forward(6, 10, activation=activation, dropout=rate, chunk_len=4, dtype="float64")
    x = normal(*shape)
    xp.testing.assert_allclose(layer.forward(x, seed=5)[0], from_parts(layer, x, seed=5), rtol=1e-12, atol=1e-12)
    layer.rate, rate = 0.0, layer.rate
    expected = from_parts(layer, x, seed=5)
    layer.rate = rate
    xp.testing.assert_allclose(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_gradients_without_dropout_in_inference_mode(assert_gradients):
    assert_gradients(feed_forward(4, 6, dropout=0.5, chunk_len=3), normal(2, 4, 4), training=False)


@hypothesis.given(st.integers(1, 30), st.integers(0, 40), st.integers(0, 2**40))
@hypothesis.settings(max_examples=30)
def test_chunks_change_rounding_only_never_a_dropout_mask(length, chunk_len, seed):
    whole = feed_forward(4, 6, dropout=0.5, dtype="float64")
    chunked = FeedForward(4, 6, seed=1, dropout=0.5, chunk_len=chunk_len, dtype="float64")
    chunked.load_params(whole.params)
    x, dy = normal(1, length, 4), normal(1, length, 4)
    (y, cache), (y_chunked, cache_chunked) = whole.forward(x, seed), chunked.forward(x, seed)
    xp.testing.assert_array_equal(y == 0, y_chunked == 0)
    xp.testing.assert_allclose(y_chunked, y, rtol=1e-12, atol=1e-12)
    (dx, grads), (dx_chunked, grads_chunked) = whole.backward(dy, cache), chunked.backward(dy, cache_chunked)
    xp.testing.assert_allclose(dx_chunked, dx, rtol=1e-12, atol=1e-12)
    for name in grads:
        xp.testing.assert_allclose(grads_chunked[name], grads[name], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_in_is_dtype_out_and_nothing_given_is_changed(dtype):
    layer = feed_forward(4, 6, activation="gelu", dropout=0.2, chunk_len=3, dtype=dtype)
    x, dy = normal(2, 4, 4, dtype=dtype), normal(2, 4, 4, dtype=dtype)
    before = [a.copy() for a in (x, dy, *layer.params.values())]
    y, cache = layer.forward(x)
    dx, grads = layer.backward(dy, cache)
    assert {a.dtype.name for a in (y, dx, *grads.values())} == {dtype}
    assert {name: grad.shape for name, grad in grads.items()} == {n: p.shape for n, p in layer.params.items()}
    for now, then in zip((x, dy, *layer.params.values()), before):
        xp.testing.assert_array_equal(now, then)


def test_an_input_that_is_not_contiguous_gives_the_same():
    layer, x = feed_forward(4, 6, dropout=0.5, chunk_len=2), normal(4, 5, dtype="float32").T
    (y, cache), (expected, expected_cache) = layer.forward(x), layer.forward(x.copy())
    xp.testing.assert_array_equal(y, expected)
    xp.testing.assert_array_equal(layer.backward(x, cache)[0], layer.backward(x.copy(), expected_cache)[0])


def test_the_cache_is_the_input_and_nothing_else():
    x = normal(1, 64, 8, dtype="float32")
    y, cache = feed_forward(8, 64, dropout=0.1, chunk_len=4).forward(x)
    assert cache.x is x and memory.nbytes(cache) == x.nbytes


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_peak_memory_in_training_is_bounded_by_the_chunk(activation, rate):
    d_model, d_ff, length, chunk_len = 16, 256, 4096, 32
    x = normal(1, length, d_model, dtype="float32")
    chunk_bytes, whole_bytes = chunk_len * d_ff * 4, length * d_ff * 4  # of the hidden layer: 32 KB and 4 MB

    def peak(chunk_len):
        layer = FeedForward(d_model, d_ff, 1, activation, rate, chunk_len)
        param_bytes = memory.nbytes(layer.params)
        with memory.peak() as forward:
            y, cache = layer.forward(x)
        with memory.peak() as backward:
            layer.backward(y, cache)
        return forward.bytes - y.nbytes, backward.bytes - x.nbytes - 2 * param_bytes

    assert max(peak(chunk_len)) < 12 * chunk_bytes < whole_bytes / 5
    assert min(peak(0)) >= whole_bytes  # the bound is no accident


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"activation": "tanh"}, "activation: expected one of relu, gelu, gelu_tanh; got 'tanh'"),
        ({"dropout": 1.0}, "dropout: expected a rate"),
        ({"dropout": "0.1"}, "dropout: expected a rate"),
        ({"chunk_len": -1}, "chunk_len: expected an integer >= 0; got -1"),
        ({"chunk_len": 2.5}, "chunk_len: expected"),
        ({"dtype": "float16"}, "dtype: expected"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        FeedForward(4, 6, seed=0, **settings)


def test_bad_sizes_and_inputs_are_named():
    with pytest.raises(ValueError, match="d_ff: expected an integer >= 1; got 0"):
        FeedForward(4, 0, seed=0)
    with pytest.raises(ValueError, match="d_model: expected an integer >= 1; got 0"):
        FeedForward(0, 4, seed=0)
    with pytest.raises(ValueError, match=r"x: expected shape \(..., 4\); got \(2, 5\)"):
        FeedForward(4, 6, seed=0)(normal(2, 5))
