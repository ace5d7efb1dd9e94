"""ReLU and GELU against the standard library's `erfc` and finite differences."""

import math

import pytest

from arrays import generator, xp
from minireformer.activations import (
    gelu,
    gelu_backward,
    gelu_tanh,
    gelu_tanh_backward,
    normal_cdf,
    relu,
    relu_backward,
)

draw = generator(0, "test_activations")
PAIRS = [(relu, relu_backward), (gelu, gelu_backward), (gelu_tanh, gelu_tanh_backward)]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("shape", [(1,), (3, 4), (2, 3, 50)])
def test_gradients(assert_gradients, pair, shape):
    assert_gradients(pair, 2 * draw.standard_normal(shape))


def test_normal_cdf_is_exact_to_rounding_in_both_dtypes():
    x = xp.concatenate([xp.linspace(-10, 10, 20_001), [-0.0, 1e-300, -1e-300, 1e30, -xp.inf, xp.inf]])
    exact = xp.array([math.erfc(-value / math.sqrt(2)) / 2 for value in x])
    xp.testing.assert_allclose(normal_cdf(x), exact, rtol=0, atol=1e-15)
    single = normal_cdf(x.astype("float32"))
    assert single.dtype == "float32"
    xp.testing.assert_allclose(single, exact, rtol=0, atol=4e-7)


def test_the_lower_tail_of_the_normal_cdf_keeps_its_digits():
    x = xp.linspace(-8, 0, 801)
    exact = xp.array([math.erfc(-value / math.sqrt(2)) / 2 for value in x])
    xp.testing.assert_allclose(normal_cdf(x), exact, rtol=1e-13)


def test_the_fit_to_gelu_is_its_equation_and_close_to_gelu():
    x = xp.linspace(-8, 8, 1601)
    y, _ = gelu_tanh(x)
    exact = [v / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in x.tolist()]
    xp.testing.assert_allclose(y, xp.array(exact), rtol=0, atol=1e-15)
    assert 1e-4 < xp.abs(y - gelu(x)[0]).max() < 5e-4


def test_relu_has_slope_zero_at_zero():
    x = xp.array([-1.0, 0.0, 2.0])
    y, cache = relu(x)
    xp.testing.assert_array_equal(y, [0, 0, 2])
    xp.testing.assert_array_equal(relu_backward(xp.ones(3), cache), [0, 0, 1])


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_out_is_written_to_and_dtype_in_is_dtype_out(pair, dtype):
    function, function_backward = pair
    x = draw.standard_normal((3, 4)).astype(dtype)
    expected, cache = function(x)
    dx = function_backward(expected, cache)
    assert expected.dtype == dx.dtype == dtype

    out = xp.empty_like(x)
    y, cache = function(x, out=out)
    assert y is out
    xp.testing.assert_array_equal(y, expected)
    assert function_backward(y, cache, out=y) is out
    xp.testing.assert_array_equal(out, dx)
    function(x, out=x)
    xp.testing.assert_array_equal(x, expected)


def test_gelu_in_place_has_no_gradient():
    x = draw.standard_normal(3)
    _, cache = gelu(x, out=x)
    with pytest.raises(ValueError, match=r"cache: gelu wrote its result over x \(out=x\)"):
        gelu_backward(xp.ones(3), cache)


def test_relu_in_place_has_the_same_gradient():
    x = draw.standard_normal(9)
    dx = relu_backward(xp.ones(9), relu(x)[1])
    xp.testing.assert_array_equal(relu_backward(xp.ones(9), relu(x, out=x)[1]), dx)


@pytest.mark.parametrize("pair", PAIRS)
def test_bad_arguments_are_named(pair):
    function, function_backward = pair
    x = draw.standard_normal(4)
    for bad in ([1.0], None, xp.ones(4, int), xp.ones(4, "float16")):
        with pytest.raises(TypeError, match="x: expected"):
            function(bad)
    with pytest.raises(ValueError, match=r"dy: expected shape \(4,\); got \(3,\)"):
        function_backward(x[:3], function(x)[1])
    with pytest.raises(ValueError, match=r"out: expected shape \(4,\); got \(3,\)"):
        function(x, out=xp.empty(3))


def test_nan_stays_nan():
    assert xp.isnan(gelu(xp.array([xp.nan]))[0]).all() and xp.isnan(relu(xp.array([xp.nan]))[0]).all()
