"""Training: what a step uses, what a model learns, how well it does, and which arguments are refused."""

import math

import numpy as np
import pytest

import minireformer as mr
from arrays import xp
from minireformer import backend, training
from minireformer.training import accuracy, bits_per_token
from minireformer.training.optimizers import Adam, Optimizer
from runs import batches, host_copy, run, tiny_model


class Plain(Optimizer):
    """Gradient descent with a rate of 1, to see what gradients arrive."""

    def update(self, name, param, grad, lr, t):
        param -= grad


def test_clipping_is_used():
    free, clipped = run(1, clip=None, log_every=1, make=Plain), run(1, clip=1e-3, log_every=1, make=Plain)
    assert clipped[1][0]["grad_norm"] == free[1][0]["grad_norm"] > 1e-3
    start = tiny_model().params
    moved = sum(float(((clipped[0].params[n] - p) ** 2).sum()) for n, p in start.items()) ** 0.5
    assert moved == pytest.approx(1e-3, rel=1e-2)


def test_a_mask_is_optional_and_used_where_it_is_given():
    masked = run(1, log_every=1)[1][0]["loss"]
    unmasked = run(1, log_every=1, batches=lambda step: batches(step)[:2])[1][0]["loss"]
    none = run(1, log_every=1, batches=lambda step: (*batches(step)[:2], None))[1][0]["loss"]
    assert masked != unmasked == none


def test_a_small_model_learns_to_count():
    tokens = backend.asarray(xp.arange(16)[None] % 6)
    targets = (tokens + 1) % 6
    model, log = run(60, batches=lambda step: (tokens, targets), log_every=20)
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    assert accuracy(model, tokens, targets) > 0.9
    assert bits_per_token(model, tokens, targets) < math.log2(6) / 2


def test_accuracy_and_bits_count_where_the_mask_is_true():
    p = xp.array([[[0.5, 0.25, 0.25], [0.125, 0.125, 0.75], [0.25, 0.5, 0.25]]])
    tokens, targets = xp.zeros((1, 3), int), xp.array([[0, 0, 1]])
    mask = xp.array([[True, True, False]])

    def model(tokens, seed=0):
        return xp.log(p)

    assert accuracy(model, tokens, targets) == pytest.approx(2 / 3)
    assert accuracy(model, tokens, targets, mask) == 0.5
    assert bits_per_token(model, tokens, targets) == pytest.approx((1 + 3 + 1) / 3)
    assert bits_per_token(model, tokens, targets, mask) == pytest.approx((1 + 3) / 2)


@pytest.mark.parametrize(
    "settings, error, message",
    [
        ({"batches": [1, 2]}, TypeError, "batches: expected a function of the step.*got list"),
        ({"batches": lambda step: None}, TypeError, r"batches: expected \(tokens, targets\) .*got NoneType"),
        ({"make": lambda params, lr: None}, TypeError, "opt: expected an optimizer .*got NoneType"),
        ({"schedule": 0.1}, TypeError, "schedule: expected a function; got float"),
        ({"evaluate": {}}, TypeError, "evaluate: expected a function; got dict"),
        ({"checkpoint": 5}, TypeError, "checkpoint: expected a path; got int"),
        ({"resume": "no"}, TypeError, "resume: expected True or False; got 'no'"),
        ({"progress": 1}, TypeError, "progress: expected True or False; got 1"),
        ({"seed": None}, TypeError, "seed: expected an integer"),
        ({"clip": "1"}, ValueError, "clip: .*got '1'"),
        ({"steps": 0}, ValueError, "steps: .*got 0"),
        ({"log_every": 2.5}, ValueError, "log_every: .*got 2.5"),
        ({"clip": 0}, ValueError, "clip: .*got 0"),
        ({"checkpoint": "run.pt"}, ValueError, "checkpoint: .*safetensors; got 'run.pt'"),
        ({"checkpoint_every": 5}, ValueError, "checkpoint_every: expected None, or a path in checkpoint"),
        ({"make": lambda params, lr: Adam(dict(host_copy(params)), lr)}, ValueError, "opt: .*model.params"),
    ],
)
def test_bad_settings_are_named(settings, error, message):
    with pytest.raises(error, match=message):
        run(**({"steps": 2} | settings))


@pytest.mark.parametrize("score", [accuracy, bits_per_token])
@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"model": None}, TypeError, "model: expected a Reformer; got NoneType"),
        ({"tokens": [[0]]}, TypeError, "tokens: expected a NumPy or CuPy array; got list"),
        ({"targets": xp.zeros((1, 2), int)}, ValueError, "targets: expected shape"),
        ({"mask": xp.ones((1, 3))}, TypeError, "mask: expected booleans"),
        ({"mask": xp.zeros((1, 3), bool)}, ValueError, "mask: no position is true"),
    ],
)
def test_bad_arguments_of_a_score_are_named(score, change, error, message):
    given = {"model": lambda tokens, seed: xp.zeros((1, 3, 2)), "tokens": xp.zeros((1, 3), int)}
    with pytest.raises(error, match=message):
        score(**(given | {"targets": given["tokens"]} | change))


def test_small_numpy_integers_do_not_overflow(tmp_path):
    log = run(np.int16(130), tmp_path / "run.safetensors", log_every=np.int8(100), checkpoint_every=np.int8(50))[1]
    assert [row["step"] for row in log] == [100, 130]


def test_the_folder_offers_the_loop_the_scores_and_the_data():
    assert training.train is mr.train and training.data is mr.data
    assert training.accuracy is accuracy and training.ByteCorpus is mr.data.ByteCorpus
