"""What `gradcheck` says about functions and layers that break the contract."""

import pytest

from arrays import generator, xp
from known_gradients import Scale, product, product_backward, square, square_backward
from minireformer.layer import Layer
from minireformer.tools.gradcheck import gradcheck

draw = generator(0, "test_gradcheck")


def normal(*shape, dtype="float32"):
    return draw.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize(
    "target, error, message",
    [
        ((square, lambda dout, x: ()), ValueError, "backward returned no gradient of x"),
        ((square, lambda dout, x: None), ValueError, "no gradient of x"),
        ((square, lambda dout, x: dout.sum(0)), ValueError, r"the gradient of x: expected shape \(3, 4\); got \(4,\)"),
        ((lambda x: (x.astype("float32"), x), square_backward), ValueError, "float64 into float32"),
        ((lambda x: (x / 0.0, x), square_backward), ValueError, "NaN or infinity"),
        ((lambda x: (x * draw.random(), x), square_backward), ValueError, "two results for one input"),
        (
            (square, lambda dout, x: [2 * x * dout]),
            TypeError,
            "the gradient of x: expected a NumPy or CuPy array; got list",
        ),
        (
            (square, lambda dout, x: {"x": 2 * x * dout}),
            TypeError,
            "the gradient of x: expected a NumPy or CuPy array; got dict",
        ),
        (
            (square, lambda dout, x: "dx"),
            TypeError,
            "square: the gradient of x: expected a NumPy or CuPy array; got str",
        ),
        (
            (square, lambda dout, x: (2 * x * dout).astype("float32")),
            ValueError,
            "square: backward turned float64 into float32, for x",
        ),
        (
            (lambda x: x * x, square_backward),
            TypeError,
            r"expected forward to return the tuple \(out, cache\); got ndarray",
        ),
        ((lambda x: (x, x, x), square_backward), TypeError, r"the tuple \(out, cache\); got 3 of them"),
        ((lambda x: (x[:0], x), square_backward), ValueError, r"forward gave an empty array, of shape \(0, 4\)"),
        (square, TypeError, "target: expected a Layer or a pair"),
        ((square,), TypeError, "target: expected a Layer or a pair"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_what_breaks_the_contract_gets_a_message(target, error, message):
    with pytest.raises(error, match=message):
        gradcheck(target, normal(3, 4))


def test_inputs_that_have_no_gradient_get_a_message():
    with pytest.raises(TypeError, match="b: only arrays of floats"):
        gradcheck((product, product_backward), normal(3, 4), xp.ones((4, 5), dtype=int))
    with pytest.raises(ValueError, match=r"b: expected at least one entry to move; got shape \(4, 0\)"):
        gradcheck((product, product_backward), normal(3, 4), normal(4, 0))
    with pytest.raises(TypeError, match="at least one array"):
        gradcheck((square, square_backward))
    with pytest.raises(TypeError, match=r"inputs: Scale.forward takes \(x\); got 2"):
        gradcheck(Scale(normal(4)), normal(4), normal(4))
    with pytest.raises(TypeError, match="Layer has no parameters"):
        gradcheck(Layer(), xp.arange(3))


def test_a_layer_that_forgets_a_gradient_gets_a_message():
    class Forgetful(Scale):
        def backward(self, dy, cache):
            return dy * self.params["weight"], {}

    with pytest.raises(ValueError, match="Forgetful: backward returned no gradient of weight"):
        gradcheck(Forgetful(normal(4)), normal(4))


@pytest.mark.parametrize(
    "returned, message",
    [
        (lambda dx, grads: dx, r"Careless: expected backward to return the tuple \(dx, grads\); got ndarray"),
        (lambda dx, grads: [dx, grads], r"the tuple \(dx, grads\); got list"),
        (lambda dx, grads: (dx, *grads.values(), 0), r"the tuple \(dx, grads\); got 3 of them"),
        (lambda dx, grads: (dx, *grads.values()), "Careless: expected backward to return grads as a dict; got ndarray"),
    ],
)
def test_a_layer_whose_backward_returns_no_pair_gets_a_message(returned, message):
    class Careless(Scale):
        def backward(self, dy, cache):
            return returned(*super().backward(dy, cache))

    with pytest.raises(TypeError, match=message):
        gradcheck(Careless(normal(4)), normal(4))
    with pytest.raises(ValueError, match=r"x: expected at least one entry to move; got shape \(0, 4\)"):
        gradcheck(Careless(normal(4)), normal(0, 4))
