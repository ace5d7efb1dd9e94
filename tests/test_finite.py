"""Training stops where a number is no longer finite, names the step, and leaves the last checkpoint to go on from."""

import math

import pytest

from arrays import xp
from minireformer import backend
from minireformer.model import Reformer
from minireformer.training import train
from minireformer.training.optimizers import Adafactor, Adam
from runs import assert_same_bits, batches, host_copy, json_lines, noting, run, tiny_model


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_named_and_changes_nothing(tmp_path, monkeypatch, bad, where):
    before, true_step = {}, Reformer.loss_and_grads

    def loss_and_grads(model, tokens, targets, seed, mask):
        loss, grads = true_step(model, tokens, targets, seed=seed, mask=mask)
        calls.append(seed)
        if len(calls) == 6:
            before.update(host_copy(model.params))
            models.append(model)
            if where == "loss":
                return loss * bad, grads
            grads["head.bias"][1] = bad
        return loss, grads

    calls, models, path = [], [], tmp_path / "run.safetensors"
    monkeypatch.setattr(Reformer, "loss_and_grads", loss_and_grads)
    with pytest.raises(FloatingPointError, match=rf"step 5: the .*{where}.* is {bad}"):
        run(10, path, checkpoint_every=2)
    assert len(set(calls)) == 6
    for name, param in models[0].params.items():
        xp.testing.assert_array_equal(backend.to_numpy(param), before[name])
    monkeypatch.undo()
    assert_same_bits(Reformer.load(path), run(4)[0])  # the checkpoint of step 4 is kept


def too_fast_from(step):
    """A schedule whose rate is sensible first, and from `step` on finite but far too large for float32."""
    return lambda now: 0.02 if now < step else 1e300


@pytest.mark.parametrize("log_every", [1, 3, 100])  # noticed before the row, and by the loss of the next step
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_an_update_that_overflows_is_named_and_the_last_checkpoint_holds(tmp_path, log_every):
    path, asked = tmp_path / "run.safetensors", []

    settings = {"checkpoint_every": 2, "log_every": log_every}
    with pytest.raises(FloatingPointError, match="step 4: after its update, .* holds NaN or infinity .*parameters do"):
        run(10, path, batches=noting(asked), schedule=too_fast_from(4), **settings)
    assert asked == [0, 1, 2, 3, 4] + [5] * (log_every > 1)
    assert_same_bits(Reformer.load(path), run(4)[0])
    assert all(math.isfinite(row["loss"]) and row["step"] <= 4 for row in json_lines(path))
    slower, log = run(10, path, schedule=lambda step: 0.02, **settings)  # goes on as if nothing had happened
    assert_same_bits(slower, run(10)[0])
    assert log[-1]["step"] == 10


@pytest.mark.parametrize("make", [Adam, Adafactor])
@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_last_update_of_a_run_is_looked_at_too(tmp_path, make, checkpoint):
    path = tmp_path / "run.safetensors" if checkpoint else None
    with pytest.raises(FloatingPointError, match="step 0: after its update"):
        run(1, path, make=make, schedule=too_fast_from(0))
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_model_that_holds_nan_is_not_trained_but_may_be_resumed(tmp_path):
    path = tmp_path / "run.safetensors"
    whole, _ = run(4, path)
    model = tiny_model()
    model.params["head.bias"][1] = math.nan
    opt = Adam(model.params, lr=0.02)
    with pytest.raises(ValueError, match="model: head.bias holds NaN or infinity"):
        train(model, batches, opt, 4, progress=False)
    train(model, batches, opt, 4, checkpoint=path, progress=False)
    assert_same_bits(model, whole)


@pytest.mark.parametrize(
    "rate, error, message",
    [
        (-1, ValueError, "schedule: step 2: expected a finite learning rate >= 0; got -1"),
        (math.nan, ValueError, "schedule: step 2: .* got nan"),
        (math.inf, ValueError, "schedule: step 2: .* got inf"),
        (None, TypeError, "schedule: step 2: expected a number; got None"),
        ("0.1", TypeError, "schedule: step 2: expected a number; got '0.1'"),
    ],
)
def test_a_schedule_that_gives_no_learning_rate_is_named_with_the_step(tmp_path, rate, error, message):
    path, asked = tmp_path / "run.safetensors", []

    with pytest.raises(error, match=message):
        run(4, path, batches=noting(asked), schedule=lambda step: rate if step == 2 else 0.02, checkpoint_every=2)
    assert asked == [0, 1]
    assert_same_bits(Reformer.load(path), run(2)[0])


def test_a_schedule_may_give_zero_and_an_array_without_axes(tmp_path):
    still, log = run(2, schedule=lambda step: xp.zeros(()))
    assert_same_bits(still, tiny_model())
    assert log[0]["learning_rate"] == 0.0
