"""`gradcheck` judges every backward pass; here it judges gradients that are known to be right or wrong."""

import functools

import pytest

from arrays import generator, xp
from known_gradients import Scale, product, product_backward, square, square_backward
from minireformer.layer import Layer
from minireformer.tools.gradcheck import TOLERANCE, gradcheck

draw = generator(0, "test_gradcheck")


def relu(x):
    return xp.maximum(x, 0), x


def relu_backward(dout, x):
    return dout * (x > 0)


class Outer(Layer):
    def __init__(self, part):
        super().__init__()
        self.part = self.add("part", part)

    def forward(self, x, seed=0, training=True):
        return self.part.forward(x)

    def backward(self, dy, cache):
        dx, grads = self.part.backward(dy, cache)
        return dx, {f"part.{name}": grad for name, grad in grads.items()}


class Bilinear(Layer):
    """y = x weight memory': a layer with two inputs."""

    def __init__(self, weight, slips=(1.0, 1.0)):
        super().__init__()
        self.slips = slips  # what the gradients of x and memory are wrongly multiplied by
        self.params["weight"] = weight

    def forward(self, x, memory, seed=0, training=True, scale=1.0):
        weight = scale * self.params["weight"]
        return x @ weight @ memory.T, (x, memory, weight, scale)

    def backward(self, dy, cache):
        x, memory, weight, scale = cache
        dx, dmemory = dy @ memory @ weight.T, dy.T @ x @ weight
        return self.slips[0] * dx, self.slips[1] * dmemory, {"weight": scale * (x.T @ dy @ memory)}


def normal(*shape, dtype="float32"):
    return draw.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("shape", [(), (1,), (3, 4), (2, 1, 3), (50, 40)])
def test_right_gradients_pass_far_below_the_tolerance(shape):
    assert gradcheck((square, square_backward), normal(*shape)).worst < 1e-8


def test_two_inputs_are_named_after_the_parameters_of_the_function():
    report = gradcheck((product, product_backward), normal(3, 4), normal(4, 5))
    assert report.ok and [gradient.name for gradient in report.gradients] == ["a", "b"]
    assert str(report).startswith("product: every gradient is right")


def test_only_the_wrong_one_of_two_gradients_is_blamed():
    def wrong(dout, cache):
        da, db = product_backward(dout, cache)
        return da, 2 * db

    a, b = gradcheck((product, wrong), normal(3, 4), normal(4, 5)).gradients
    assert a.error < TOLERANCE and a.entry is None
    assert b.error == pytest.approx(0.5) and b.entry.n_wrong == b.entry.n_seen == 20


@pytest.mark.parametrize("shape, index", [((3, 4), (2, 1)), ((200, 50), (123, 7))])
def test_a_single_wrong_entry_is_found_even_in_a_large_array(shape, index):
    def wrong(dout, x):
        dx = square_backward(dout, x)
        dx[index] += 0.5
        return dx

    report = gradcheck((square, wrong), normal(*shape))
    entry = report.gradients[0].entry
    assert not report.ok
    assert entry.index == index and entry.n_wrong == 1 and not entry.kink
    assert entry.exact - entry.approximate == pytest.approx(0.5, abs=1e-6)
    assert f"WRONG: at {list(index)}" in str(report)


def test_a_slip_of_one_part_in_ten_thousand_is_caught():
    assert gradcheck((square, lambda dout, x: 2.0002 * x * dout), normal(6, 7)).worst == pytest.approx(1e-4, rel=0.01)


def test_nan_in_a_gradient_is_an_infinite_error():
    def wrong(dout, x):
        dx = square_backward(dout, x)
        dx[1, 1] = xp.nan
        return dx

    report = gradcheck((square, wrong), normal(3, 3))
    assert report.worst == xp.inf and report.gradients[0].entry.index == (1, 1)


def test_a_gradient_that_is_exactly_zero_is_not_compared_with_rounding_noise():
    def sum_of_softmax(x):  # 1, but for rounding
        p = xp.exp(x)
        return (p / p.sum()).sum(), x

    assert gradcheck((sum_of_softmax, lambda dout, x: 0 * x), normal(50)).ok
    assert not gradcheck((sum_of_softmax, lambda dout, x: 0 * x + 1e-5), normal(50)).ok


def test_a_kink_at_the_point_is_named_as_one():
    x = normal(4, 5)
    assert gradcheck((relu, relu_backward), x).ok
    x[3, 2] = 0
    report = gradcheck((relu, relu_backward), x)
    assert report.gradients[0].entry.kink and report.gradients[0].entry.index == (3, 2)
    assert "kink at [3, 2]" in str(report) and "WRONG" not in str(report)


def test_a_kink_near_the_point_is_not_blamed_on_an_entry():
    x = normal(400)
    x[:] = xp.where(x > 0, x + 0.1, x - 0.1)
    x[7] = 2e-6  # further than one entry is moved by, nearer than a direction can go
    reports = [gradcheck((relu, relu_backward), x, seed=seed) for seed in range(20)]
    unsure = [report for report in reports if not report.ok]
    assert unsure and all(report.gradients[0].entry.n_wrong == 0 for report in unsure)
    assert "a kink is close by" in str(unsure[0])


def test_a_layer_is_checked_in_float64_and_left_as_it_was():
    weight, x = normal(5), normal(2, 3, 5)
    layer, before = Outer(Scale(weight)), (weight.copy(), x.copy())
    report = gradcheck(layer, x)
    assert report.worst < 1e-8 and [gradient.name for gradient in report.gradients] == ["x", "part.weight"]
    assert layer.part.params["weight"] is layer.params["part.weight"] is weight and weight.dtype == "float32"
    assert xp.array_equal(weight, before[0]) and xp.array_equal(x, before[1])


def test_a_wrong_parameter_gradient_inside_a_layer_is_found():
    report = gradcheck(Outer(Scale(normal(5), slip=-1.0)), normal(4, 5))
    assert [gradient.error < TOLERANCE for gradient in report.gradients] == [True, False]


def test_a_layer_may_have_two_inputs_which_are_named_after_the_parameters_of_forward():
    layer, x, memory = Bilinear(normal(4, 5)), normal(3, 4), normal(6, 5)
    report = gradcheck(layer, x, memory, scale=0.5)
    assert report.worst < 1e-8 and [gradient.name for gradient in report.gradients] == ["x", "memory", "weight"]
    assert x.dtype == memory.dtype == layer.params["weight"].dtype == "float32"
    for slips in ((2.0, 1.0), (1.0, 2.0)):
        x_gradient, memory_gradient, weight = gradcheck(Bilinear(normal(4, 5), slips), x, memory).gradients
        assert [x_gradient.error < TOLERANCE, memory_gradient.error < TOLERANCE] == [slip == 1 for slip in slips]
        assert weight.error < TOLERANCE


def test_a_layer_with_two_inputs_may_have_one_without_a_gradient():
    class Rows(Bilinear):
        """Takes the rows of x that `memory` numbers."""

        def forward(self, x, memory, seed=0, training=True):
            return x[memory], (x.shape, memory)

        def backward(self, dy, cache):
            dx = xp.zeros(cache[0])
            for row, index in enumerate(cache[1].tolist()):
                dx[index] += dy[row]
            return dx, None, {"weight": xp.zeros(self.params["weight"].shape)}

    report = gradcheck(Rows(normal(2)), normal(3, 4), xp.array([2, 0, 2]))
    assert report.ok and [gradient.name for gradient in report.gradients] == ["x", "weight"]


def test_a_layer_with_two_inputs_that_breaks_the_contract_gets_a_message():
    class Careless(Bilinear):
        def backward(self, dy, cache):
            dx, dmemory, grads = super().backward(dy, cache)
            return (dx, dmemory), grads

    inputs = normal(3, 4), normal(6, 5)
    with pytest.raises(TypeError, match=r"to return the tuple \(dx, dmemory, grads\); got 2 of them"):
        gradcheck(Careless(normal(4, 5)), *inputs)
    for wrong in (inputs[:1], inputs * 2):
        with pytest.raises(TypeError, match=rf"inputs: Bilinear.forward takes \(x, memory\); got {len(wrong)}"):
            gradcheck(Bilinear(normal(4, 5)), *wrong)
    with pytest.raises(TypeError, match="memory: expected a NumPy or CuPy array; got list"):
        gradcheck(Bilinear(normal(4, 5)), inputs[0], [1.0])
    with pytest.raises(ValueError, match=r"memory: expected at least one entry to move; got shape \(0, 5\)"):
        gradcheck(Bilinear(normal(4, 5)), inputs[0], normal(0, 5))


def test_an_integer_input_of_a_layer_needs_no_gradient():
    class Pick(Scale):
        def forward(self, x, seed=0, training=True):
            return self.params["weight"][x], x

        def backward(self, dy, cache):
            one_hot = cache[:, None] == xp.arange(self.params["weight"].size)
            return None, {"weight": dy @ one_hot}

    report = gradcheck(Pick(normal(5)), xp.array([0, 3, 3]))
    assert report.ok and [gradient.name for gradient in report.gradients] == ["weight"]


def test_settings_reach_the_function_and_its_floats_become_float64():
    def scaled(x, *, scale, power):
        assert scale.dtype == "float64"
        return scale * x**power, (x, scale, power)

    def scaled_backward(dout, cache):
        x, scale, power = cache
        return dout * scale * power * x ** (power - 1)

    assert gradcheck((scaled, scaled_backward), normal(4), scale=normal(4), power=3).ok


def test_a_layer_gets_the_seed_and_a_function_may_have_it_bound():
    def noisy(x, seed):
        factor = generator(seed).standard_normal(x.shape)
        return factor * x, factor

    report = gradcheck((functools.partial(noisy, seed=3), lambda dout, factor: factor * dout), normal(4))
    assert report.ok and report.target == "noisy"

    class Noisy(Layer):
        def forward(self, x, seed=0, training=True):
            assert seed == 11
            return noisy(x, seed)

        def backward(self, dy, cache):
            return cache * dy, {}

    assert gradcheck(Noisy(), normal(4), seed=11).ok


def test_a_scalar_loss_can_be_checked():
    def mean(x):
        return float(x.mean()), x

    assert gradcheck((mean, lambda dout, x: xp.full(x.shape, dout / x.size)), normal(3, 4)).ok


def test_an_output_that_is_a_view_of_the_input_is_compared_with_its_old_values():
    assert gradcheck((lambda x: (x.T, None), lambda dout, cache: dout.T), normal(3, 4)).ok
    assert not gradcheck((lambda x: (x.T, None), lambda dout, cache: 2 * dout.T), normal(3, 4)).ok


def test_the_same_seed_gives_the_same_report():
    reports = [gradcheck((product, product_backward), *2 * [xp.eye(3)], seed=s) for s in (1, 1, 2)]
    assert reports[0] == reports[1] != reports[2]
