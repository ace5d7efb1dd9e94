import math
import tracemalloc

import numpy as np
import pytest

from minireformer import backend
from minireformer.training.optimizers import Adafactor, Adam, clip_by_global_norm, warmup_cosine, warmup_inverse_sqrt
from runs import host_copy

SHAPES = {"matrix": (5, 7), "wide": (1, 9), "vector": (6,), "axial": (3, 1, 4)}


def random_arrays(seed, dtype="float64", scale=1.0, shapes=SHAPES):
    random = np.random.default_rng(seed)
    return {name: backend.asarray(random.standard_normal(shape) * scale, dtype) for name, shape in shapes.items()}


def assert_close(arrays, expected, rtol=1e-12):
    for name, array in arrays.items():
        np.testing.assert_allclose(backend.to_numpy(array), expected[name], rtol=rtol, err_msg=name)


def test_adam_divides_weighted_means_of_gradients_and_their_squares():
    lr, (b1, b2), eps = 0.03, (0.8, 0.95), 1e-3
    params = random_arrays(0)
    expected, history = host_copy(params), []
    opt = Adam(params, lr=lr, betas=(b1, b2), eps=eps)
    for t in range(1, 8):
        grads = random_arrays(t, scale=10.0 ** (t % 3))
        opt.step(grads)
        history.append(host_copy(grads))
        for name in SHAPES:  # the means written out, as weighted averages of everything seen so far
            seen = np.stack([g[name] for g in history])
            mean = np.average(seen, axis=0, weights=b1 ** np.arange(t)[::-1])
            square = np.average(seen**2, axis=0, weights=b2 ** np.arange(t)[::-1])
            expected[name] -= lr * mean / (np.sqrt(square) + eps)
        assert_close(params, expected)


def adafactor_from_the_paper(param, grads, relative_step):
    """Algorithms 4 and 5 of Shazeer & Stern, line by line, with the settings of their section 9."""
    eps1, eps2, d = 1e-30, 1e-3, 1.0

    def rms(x):
        return np.sqrt((x**2).sum() / x.size)

    rows, columns, second = (
        np.zeros((param.shape[0], 1)),
        np.zeros((1, param.shape[-1])),
        np.zeros(param.shape),
    )
    for t, grad in enumerate(grads, start=1):
        alpha = max(eps2, rms(param)) * relative_step(t)
        beta = 1 - t**-0.8
        squares = grad**2 + eps1
        if param.ndim == 2:
            rows = beta * rows + (1 - beta) * squares @ np.ones((param.shape[1], 1))
            columns = beta * columns + (1 - beta) * np.ones((1, param.shape[0])) @ squares
            second = rows @ columns / (np.ones((1, param.shape[0])) @ rows)
        else:
            second = beta * second + (1 - beta) * squares
        update = grad / np.sqrt(second)
        param = param - alpha * update / max(1, rms(update) / d)
    return param


@pytest.mark.parametrize("lr", [None, 0.05])
@pytest.mark.parametrize("scale", [1e-5, 1.0], ids=["tiny params", "ordinary params"])
def test_adafactor_follows_the_paper(lr, scale):
    params = random_arrays(0, scale=scale)
    before = host_copy(params)
    steps = [random_arrays(t, scale=10.0 ** (t % 3)) for t in range(1, 8)]  # large steps need the clipping
    opt = Adafactor(params, lr=lr)
    for grads in steps:
        opt.step(grads)
    for name in SHAPES:
        expected = adafactor_from_the_paper(
            before[name],
            [backend.to_numpy(grads[name]) for grads in steps],
            lambda t: min(1e-2, 1 / math.sqrt(t)) if lr is None else lr,
        )
        np.testing.assert_allclose(backend.to_numpy(params[name]), expected, rtol=1e-11, err_msg=name)


def test_relative_step_falls_after_ten_thousand_steps():
    moved = []
    for n_steps in (9_999, 39_999):
        params = {"p": backend.asarray(np.ones(4))}
        opt = Adafactor(params)
        opt.state["n_steps"][...] = n_steps
        opt.state["square.p"][...] = 1.0
        opt.step({"p": backend.asarray(np.ones(4))})
        moved.append(1 - float(params["p"][0]))
    assert moved == pytest.approx([1e-2, 0.5e-2])


def test_adafactor_remembers_rows_and_columns_only():
    params = random_arrays(0, shapes={"matrix": (300, 200), "vector": (50,)})
    assert sum(array.size for array in Adafactor(params).state.values()) == 300 + 200 + 50 + 1
    assert sum(array.size for array in Adam(params).state.values()) == 2 * (300 * 200 + 50) + 1


@pytest.mark.parametrize("make", [Adam, Adafactor])
def test_steps_are_in_place_keep_float32_and_leave_gradients_alone(make):
    params, grads = random_arrays(0, "float32"), random_arrays(1, "float32")
    arrays, before, grads_before = dict(params), host_copy(params), host_copy(grads)
    opt = make(params, lr=0.1)
    opt.step(grads, lr=np.float64(0.01))
    for name, array in arrays.items():
        assert params[name] is array and array.dtype == "float32"
        assert (backend.to_numpy(array) != before[name]).all()
        assert (backend.to_numpy(grads[name]) == grads_before[name]).all()
    assert {array.dtype.name for array in opt.state.values()} == {"float32", "int64"}
    assert opt.state["n_steps"] == 1


@pytest.mark.parametrize("make", [Adam, Adafactor])
def test_a_step_uses_its_own_learning_rate_once(make):
    first, second = random_arrays(0), random_arrays(0)
    one, two = make(first, lr=0.02), make(second, lr=0.5)
    for t in range(3):
        one.step(random_arrays(t))
        two.step(random_arrays(t), lr=0.02)
    assert_close(first, host_copy(second), rtol=0)
    one.step(random_arrays(3))
    two.step(random_arrays(3))
    assert (first["vector"] != second["vector"]).any()


@pytest.mark.parametrize("make", [Adam, Adafactor])
def test_a_gradient_that_was_always_zero_moves_nothing(make):
    params = random_arrays(0, "float32")
    before = host_copy(params)
    opt = make(params, lr=0.1)
    for _ in range(3):
        opt.step({name: param * 0 for name, param in params.items()})
    assert_close(params, before, rtol=0)


@pytest.mark.parametrize("make", [Adam, Adafactor])
def test_a_quadratic_is_minimised(make):
    target = random_arrays(1, scale=1.0)
    params = random_arrays(0)
    opt, schedule = make(params, lr=0.1), warmup_cosine(0.1, 10, 500)
    for step in range(500):
        opt.step({name: params[name] - target[name] for name in params}, lr=schedule(step))
    assert max(float(abs(params[name] - target[name]).max()) for name in params) < 1e-2


@pytest.mark.parametrize("make", [Adam, Adafactor])
def test_a_step_allocates_one_temporary_of_a_parameters_size(make):
    if backend.active() is not np:
        pytest.skip("tracemalloc follows NumPy's memory only")
    params = {name: np.ones((500, 500), "float32") for name in "abc"}  # 1 MB each
    grads = {name: np.ones((500, 500), "float32") for name in "abc"}
    opt = make(params, lr=0.1)
    tracemalloc.start()
    opt.step(grads)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.1 * params["a"].nbytes


@pytest.mark.parametrize("make", [Adam, Adafactor])
@pytest.mark.parametrize(
    "change, message",
    [
        (lambda grads: grads.pop("vector"), r"grads: missing \['vector'\]"),
        (lambda grads: grads.update(other=grads["vector"]), r"unknown \['other'\]"),
        (
            lambda grads: grads.update(wide=grads["wide"][:, :-1]),
            r"grads\['wide'\]: expected shape \(1, 9\); got \(1, 8\)",
        ),
    ],
)
def test_gradients_that_do_not_fit_are_refused_before_anything_changes(make, change, message):
    params, grads = random_arrays(0), random_arrays(1)
    before = host_copy(params)
    change(grads)
    opt = make(params, lr=0.1)
    with pytest.raises(ValueError, match=message):
        opt.step(grads)
    assert_close(params, before, rtol=0)
    assert opt.state["n_steps"] == 0


@pytest.mark.parametrize("make", [Adam, Adafactor])
@pytest.mark.parametrize(
    "lr, error, message",
    [
        (-0.1, ValueError, "lr: expected a finite learning rate >= 0; got -0.1"),
        (math.nan, ValueError, "lr: .* got nan"),
        (math.inf, ValueError, "lr: .* got inf"),
        (True, TypeError, "lr: expected a number; got True"),
    ],
)
def test_a_learning_rate_that_is_none_is_refused_before_anything_changes(make, lr, error, message):
    params = random_arrays(0)
    opt, before = make(params), host_copy(params)
    with pytest.raises(error, match=message):
        opt.step(random_arrays(1), lr=lr)
    assert opt.state["n_steps"] == 0
    opt.step(random_arrays(1), lr=0)  # where `warmup_cosine` ends
    assert_close(params, before, rtol=0)


def test_schedules_rise_to_their_peak_and_fall():
    inverse, cosine = warmup_inverse_sqrt(0.5, warmup=4), warmup_cosine(0.5, warmup=4, steps=104)
    for schedule in (inverse, cosine):
        assert [schedule(step) for step in range(4)] == pytest.approx([0.125, 0.25, 0.375, 0.5])
        rates = [schedule(step) for step in range(4, 104)]
        assert all(late <= early for early, late in zip(rates, rates[1:]))
    assert inverse(15) == pytest.approx(0.25)  # four times the warm-up: half the peak
    assert inverse(4 * 10_000 - 1) == pytest.approx(0.005)
    assert cosine(54) == pytest.approx(0.25)  # half-way down
    assert 0 < cosine(103) < 0.001
    assert cosine(104) == cosine(1000) == 0


def test_small_numpy_integers_do_not_overflow_in_a_schedule():
    small = [np.int8(n) for n in (3, 100, 120)]
    for make, n in ((warmup_inverse_sqrt, 2), (warmup_cosine, 3)):
        schedule, expected = make(*small[:n]), make(*(int(x) for x in small[:n]))
        assert [schedule(step) for step in (0, 99, 110, 500)] == [expected(step) for step in (0, 99, 110, 500)]


@pytest.mark.parametrize("factor", [0.5, 2.0, math.inf])
def test_clipping_bounds_the_norm_of_all_gradients_together(factor):
    grads = random_arrays(0)
    before = host_copy(grads)
    norm = np.linalg.norm(np.concatenate([g.ravel() for g in before.values()]))
    assert clip_by_global_norm(grads, factor * norm) == pytest.approx(norm)
    assert_close(grads, {name: g * min(1, factor) for name, g in before.items()})


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_clipping_reports_gradients_that_are_not_finite_and_leaves_them(bad):
    grads = random_arrays(0, "float32")
    grads["vector"][2] = bad
    before = host_copy(grads)
    assert not math.isfinite(clip_by_global_norm(grads, 1.0))
    for name, grad in grads.items():
        np.testing.assert_array_equal(backend.to_numpy(grad), before[name])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Adam({}, lr=0), "lr: expected a finite learning rate > 0; got 0"),
        (lambda: Adam({}, lr=None), "lr: expected a finite learning rate > 0; got None"),
        (lambda: Adam({}, lr=math.inf), "lr: expected a finite learning rate > 0; got inf"),
        (lambda: Adafactor({}, lr=math.inf), "lr: expected a finite learning rate > 0; got inf"),
        (lambda: Adam({}, betas=(0.9, 1.0)), "betas: expected two numbers"),
        (lambda: Adafactor({}, lr=math.nan), "lr: expected .* got nan"),
        (lambda: Adafactor({}, lr="0.1"), "lr: expected .* got '0.1'"),
        (lambda: Adam({}, betas=0.9), "betas: expected two numbers"),
        (lambda: Adam({}, eps=0), "eps: expected a number > 0; got 0"),
        (lambda: warmup_inverse_sqrt(None, 10), "peak: .* got None"),
        (lambda: warmup_cosine(1, 10, None), "steps: expected more than warmup"),
        (lambda: warmup_inverse_sqrt(-1, 10), "peak: .* got -1"),
        (lambda: warmup_inverse_sqrt(1, 0), "warmup: .* got 0"),
        (lambda: warmup_cosine(1, 10, 10), "steps: expected more than warmup"),
        (lambda: warmup_cosine(1, 10, math.nan), "steps: expected more than warmup .* got nan"),
        (lambda: warmup_cosine(math.inf, 10, 20), "peak: expected a finite learning rate > 0; got inf"),
        (lambda: warmup_inverse_sqrt(1, math.inf), "warmup: expected a finite number of steps >= 1; got inf"),
        (lambda: clip_by_global_norm({"a": np.ones(2)}, 0), "max_norm: .* got 0"),
    ],
)
def test_bad_settings_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("kind", [Adam, Adafactor])
def test_a_model_in_place_of_its_parameters_is_refused(kind):
    with pytest.raises(TypeError, match="params: expected a dict such as model.params; got object"):
        kind(object())


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: Adam({"a": [1.0]}), r"params\['a'\]: expected a NumPy or CuPy array; got list"),
        (lambda: Adam({"a": np.ones(2)}).step(None), "grads: expected a dict .*; got NoneType"),
        (lambda: Adam({"a": np.ones(2)}).step({"a": [1.0, 1.0]}), r"grads\['a'\]: expected a NumPy or CuPy array"),
        (lambda: Adam({"a": np.ones(2)}).step({"a": np.ones(2)}, lr="1"), "lr: expected a number; got '1'"),
        (lambda: clip_by_global_norm({}, 1.0), "grads: expected a dict with at least one gradient"),
    ],
)
def test_wrong_types_are_named(call, message):
    with pytest.raises(TypeError, match=message):
        call()
