"""Positions: the table is the one that was promised, at every length, and its gradient is right."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arrays import xp
from minireformer import backend
from minireformer.positions import AxialPositions, LearnedPositions, SinusoidalPositions


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4)), min_size=1, max_size=4), st.data())
def test_axial_position_is_its_coordinates_rows_side_by_side(axes, data):
    shape, dims = zip(*axes)
    layer = AxialPositions(shape, dims, seed=1, dtype="float64")
    length = data.draw(st.integers(1, math.prod(shape)))
    y, _ = layer.forward(xp.zeros((1, length, sum(dims))))
    for t in range(length):
        at = xp.unravel_index(t, shape)
        rows = [layer.params[f"weights.{n}"].reshape(shape[n], dims[n])[i] for n, i in enumerate(at)]
        xp.testing.assert_array_equal(y[0, t], xp.concatenate(rows))


def test_axial_parameters_are_sums_where_a_learned_table_is_a_product():
    layer = AxialPositions((128, 128), (64, 192))
    assert layer.max_len == 16384
    assert {name: p.shape for name, p in layer.params.items()} == {
        "weights.0": (128, 1, 64),
        "weights.1": (1, 128, 192),
    }


@pytest.mark.parametrize("length", [1, 7, 12, 23, 24])
@pytest.mark.parametrize("seed", [0, 1])
def test_gradients(assert_gradients, length, seed):
    x = xp.random.default_rng(seed).standard_normal((2, length, 8))
    for layer in (
        AxialPositions((4, 6), (3, 5), seed, dtype="float64"),
        AxialPositions((2, 3, 4), (2, 2, 4), seed, dtype="float64"),
        LearnedPositions(24, 8, seed, dtype="float64"),
        SinusoidalPositions(24, 8, dtype="float64"),
    ):
        assert_gradients(layer, x, seed=seed)


def test_sinusoids_of_a_shifted_position_are_a_rotation_of_it():
    table = SinusoidalPositions(100, 16, dtype="float64").table(100)
    shift = table[:-5] * 0
    frequency = 10000.0 ** (-xp.arange(0, 16, 2) / 16)
    sine, cosine = xp.sin(5 * frequency), xp.cos(5 * frequency)
    shift[:, :8] = table[:-5, :8] * cosine + table[:-5, 8:] * sine
    shift[:, 8:] = table[:-5, 8:] * cosine - table[:-5, :8] * sine
    xp.testing.assert_allclose(table[5:], shift, atol=1e-12)


@pytest.mark.parametrize("before, after", [("numpy", "cupy"), ("cupy", "numpy")])
def test_positions_made_before_a_switch_keep_their_backend(cupy, before, after):
    backend.use(before)
    x = backend.asarray([[[0.0] * 8] * 5])
    layers = AxialPositions((4, 6), (3, 5), dtype="float64"), LearnedPositions(24, 8, dtype="float64")
    for layer in (*layers, SinusoidalPositions(24, 8, dtype="float64")):
        backend.use(before)
        expected = backend.to_numpy(layer(x))
        backend.use(after)
        y, cache = layer.forward(x)
        dx, grads = layer.backward(y, cache)
        assert {backend.get_xp(array) for array in (y, dx, *grads.values())} == {backend.get_xp(x)}
        np.testing.assert_array_equal(backend.to_numpy(y), expected)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"dims: expected one size for each axis of shape \(4, 6\); got \(8,\)"):
        AxialPositions((4, 6), (8,))
    with pytest.raises(ValueError, match=r"shape: expected a tuple of sizes, such as \(128, 128\); got 24"):
        AxialPositions(24, (3, 5))
    with pytest.raises(ValueError, match=r"dims\[0\]: expected an integer >= 1; got -4"):
        AxialPositions((4, 6), (-4, 12))
    with pytest.raises(ValueError, match=r"shape\[1\]: expected an integer >= 1; got 6.0"):
        AxialPositions((4, 6.0), (3, 5))
    with pytest.raises(ValueError, match="max_len: expected an integer >= 1; got 0"):
        LearnedPositions(0, 8)
    with pytest.raises(ValueError, match="at most 24 positions"):
        AxialPositions((4, 6), (3, 5)).forward(xp.zeros((1, 25, 8), "float32"))
    with pytest.raises(ValueError, match="x: expected shape"):
        LearnedPositions(24, 8).forward(xp.zeros((1, 5, 7), "float32"))
    with pytest.raises(ValueError, match="d_model"):
        SinusoidalPositions(24, 7)
