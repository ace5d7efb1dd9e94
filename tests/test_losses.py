"""Chunked cross-entropy against the plain equation on all logits at once, and its bound on memory."""

import math

import hypothesis
import hypothesis.strategies as st
import pytest

from arrays import generator, xp
from minireformer.losses import (
    chunked_cross_entropy,
    chunked_cross_entropy_backward,
    softmax_cross_entropy,
    softmax_cross_entropy_backward,
)
from minireformer.tools import memory

draw = generator(0, "test_losses")
CHUNKED = (chunked_cross_entropy, chunked_cross_entropy_backward)


def normal(*shape, dtype="float64"):
    return draw.standard_normal(shape).astype(dtype)


def problem(n_batch, length, d, n_tokens, dtype="float64"):
    """features, weight, bias, targets"""
    targets = draw.integers(0, n_tokens, (n_batch, length))
    return *(normal(*s, dtype=dtype) for s in [(n_batch, length, d), (n_tokens, d), (n_tokens,)]), targets


def plain_loss(features, weight, bias, targets, mask=None):
    """The mean of -log p(target), position by position."""
    losses = []
    for b, t in xp.ndindex(targets.shape):
        if mask is None or mask[b, t]:
            logits = features[b, t] @ weight.T + bias
            losses.append(-xp.log(xp.exp(logits[targets[b, t]]) / xp.exp(logits).sum()))
    return sum(map(float, losses)) / len(losses)


@pytest.mark.parametrize("n, n_tokens", [(1, 1), (1, 5), (6, 4)])
def test_gradient_of_softmax_cross_entropy(assert_gradients, n, n_tokens):
    for scale in (1.0, 0.25):
        assert_gradients(
            (softmax_cross_entropy, softmax_cross_entropy_backward),
            normal(n, n_tokens),
            targets=draw.integers(0, n_tokens, n),
            scale=scale,
        )


@pytest.mark.parametrize("shape", [(1, 1, 3, 2), (2, 5, 3, 7), (3, 4, 8, 2)])
@pytest.mark.parametrize("chunk_len", [1, 3, 512])
def test_gradients_of_chunked_cross_entropy(assert_gradients, shape, chunk_len):
    features, weight, bias, targets = problem(*shape)
    mask = draw.random(targets.shape) < 0.6
    mask[0, 0] = True
    for settings in ({}, {"mask": mask}):
        assert_gradients(CHUNKED, features, weight, bias, targets=targets, chunk_len=chunk_len, **settings)


def test_gradients_without_a_bias(assert_gradients):
    features, weight, _, targets = problem(2, 3, 4, 5)

    def without_bias(features, weight):
        return chunked_cross_entropy(features, weight, None, targets, chunk_len=4)

    assert_gradients((without_bias, chunked_cross_entropy_backward), features, weight, name=CHUNKED[0].__name__)


@hypothesis.given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 30), st.booleans(), st.integers(0, 2**32))
@hypothesis.settings(max_examples=40)
def test_loss_is_its_equation_whatever_the_chunk_and_the_mask(n_batch, length, chunk_len, masked, seed):
    features, weight, bias, targets = problem(n_batch, length, 4, 6)
    mask = generator(seed).random(targets.shape) < 0.5 if masked else None
    if masked and not mask.any():
        mask[-1, -1] = True
    loss, cache = chunked_cross_entropy(features, weight, bias, targets, mask, chunk_len)
    assert float(loss) == pytest.approx(plain_loss(features, weight, bias, targets, mask), rel=1e-12)
    if masked:
        assert not cache.dfeatures[~mask].any() and cache.dfeatures[mask].any()


def test_without_knowledge_the_loss_is_log_v():
    features, weight, bias, targets = problem(2, 8, 4, 256, dtype="float32")
    loss, _ = chunked_cross_entropy(features, 0 * weight, 0 * bias, targets)
    assert float(loss) == pytest.approx(math.log(256), rel=1e-6)


def test_targets_outside_the_mask_may_be_anything():
    features, weight, bias, targets = problem(1, 4, 3, 5)
    mask = xp.array([[True, True, False, True]])
    expected, _ = chunked_cross_entropy(features, weight, bias, targets, mask)
    targets[0, 2] = -100
    assert chunked_cross_entropy(features, weight, bias, targets, mask)[0] == expected


def test_large_logits_neither_overflow_nor_lose_the_loss():
    features, weight = xp.full((1, 2, 1), 1e4, "float32"), xp.array([[1], [-1]], "float32")
    loss, cache = chunked_cross_entropy(features, weight, None, xp.array([[0, 1]]))
    assert float(loss) == 1e4  # right and sure: 0; wrong and sure: 20000
    assert all(xp.isfinite(gradient).all() for gradient in cache[:2])


def test_loss_of_many_float32_positions_is_summed_in_float64():
    features, weight, bias, _ = problem(1, 1, 4, 6, dtype="float32")

    def loss_of(n_chunks):  # whole chunks only: BLAS may round a shorter one in another way
        n = 64 * n_chunks
        return chunked_cross_entropy(features.repeat(n, axis=1), weight, bias, xp.full((1, n), 2), chunk_len=64)[0]

    few, many = loss_of(1), loss_of(1600)
    assert many.dtype == "float64" and float(many) == pytest.approx(float(few), rel=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_have_the_dtype_of_their_arrays_and_nothing_given_is_changed(dtype):
    features, weight, bias, targets = given = problem(2, 5, 3, 7, dtype=dtype)
    before = [array.copy() for array in given]
    loss, cache = chunked_cross_entropy(features, weight, bias, targets, chunk_len=3)
    for dloss in (1.0, 0.5, xp.float64(0.5), xp.array(0.5)):
        gradients = chunked_cross_entropy_backward(dloss, cache)
        assert [g.dtype.name for g in gradients] == [dtype] * 3
        assert [g.shape for g in gradients] == [a.shape for a in given[:3]]
        for gradient, kept in zip(gradients, cache):
            xp.testing.assert_array_equal(gradient, kept * kept.dtype.type(float(dloss)))
    for now, then in zip(given, before):
        xp.testing.assert_array_equal(now, then)


def test_softmax_cross_entropy_leaves_the_logits_alone_unless_told_to_overwrite_them():
    logits, targets = normal(3, 4), xp.array([0, 3, 3])
    before = logits.copy()
    loss, dlogits = softmax_cross_entropy(logits, targets)
    xp.testing.assert_array_equal(logits, before)
    assert softmax_cross_entropy(logits, targets, out=logits)[0] == loss
    xp.testing.assert_array_equal(logits, dlogits)


def test_peak_memory_is_bounded_by_the_chunk():
    d, n_tokens, length, chunk_len = 8, 1000, 2048, 32
    features, weight, bias, targets = problem(1, length, d, n_tokens, dtype="float32")
    chunk_bytes, whole_bytes = chunk_len * n_tokens * 4, length * n_tokens * 4  # of logits: 128 KB and 8 MB

    def peak(chunk_len):
        with memory.peak() as m:
            _, cache = chunked_cross_entropy(features, weight, bias, targets, chunk_len=chunk_len)
        return m.bytes - memory.nbytes(cache)

    assert peak(chunk_len) < 3 * chunk_bytes < whole_bytes / 10
    assert peak(length) > whole_bytes  # the bound is no accident


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"mask": xp.zeros((2, 3), bool)}, ValueError, "mask: no position is true"),
        ({"mask": xp.ones((2, 4), bool)}, ValueError, r"mask: expected shape \(2, 3\); got \(2, 4\)"),
        ({"mask": xp.ones((2, 3))}, TypeError, "mask: expected booleans"),
        ({"targets": xp.full((2, 3), 5)}, ValueError, "targets: expected ids from 0 to 4; got 5..5"),
        ({"targets": xp.full((2, 3), -1)}, ValueError, "targets: expected ids from 0 to 4; got -1"),
        ({"targets": xp.zeros((3, 2), int)}, ValueError, r"targets: expected shape \(2, 3\)"),
        ({"targets": xp.zeros((2, 3))}, TypeError, "targets: expected integers"),
        (
            {"weight": xp.zeros((5, 3))},
            ValueError,
            r"features: expected shape \(any, any, 3\); got \(2, 3, 4\)",
        ),
        ({"bias": xp.zeros(4)}, ValueError, r"bias: expected shape \(5,\)"),
        (
            {"features": xp.zeros((2, 0, 4)), "targets": xp.zeros((2, 0), int)},
            ValueError,
            "nothing to take the mean",
        ),
        ({"chunk_len": 0}, ValueError, "chunk_len: expected an integer >= 1; got 0"),
    ],
)
def test_bad_input_is_named(change, error, message):
    features, weight, bias, targets = problem(2, 3, 4, 5)
    given = {"features": features, "weight": weight, "bias": bias, "targets": targets, **change}
    with pytest.raises(error, match=message):
        chunked_cross_entropy(**given)


def test_bad_logits_and_targets_are_named():
    with pytest.raises(ValueError, match="targets: expected ids from 0 to 3; got 0..4"):
        softmax_cross_entropy(normal(2, 4), xp.array([0, 4]))
    with pytest.raises(ValueError, match="logits: expected shape"):
        softmax_cross_entropy(normal(4), xp.array([0]))
