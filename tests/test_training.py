import json
import math
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.numpy

from arrays import xp
from minireformer import backend, checkpoint, rng
from minireformer.model import Reformer, ReformerConfig
from minireformer.training.data import duplicate_task
from minireformer.training import accuracy, bits_per_token, train
from minireformer.training.optimizers import Adafactor, Adam, Optimizer, warmup_inverse_sqrt

CONFIG = ReformerConfig(
    vocab_size=12,
    d_model=8,
    n_heads=1,
    d_head=4,
    d_ff=8,
    attn_layers=("lsh",),
    lsh_chunk_len=8,
    n_hashes=2,
    axial_shape=(4, 8),
    axial_dims=(4, 4),
    max_len=32,
    dropout=0.1,
    attention_dropout=0.1,
)


def batches(step):
    return duplicate_task(step, batch=2, length=16, n_symbols=11)


def run(steps, checkpoint=None, make=Adam, seed=0, **settings):
    model = Reformer(CONFIG, seed=3)
    opt = make(model.params, lr=0.02)
    settings = {"log_every": 4, "clip": 1.0, "progress": False} | settings
    return model, train(
        model, settings.pop("batches", batches), opt, steps, checkpoint=checkpoint, seed=seed, **settings
    )


def host_copy(arrays):
    return {name: backend.to_numpy(array).copy() for name, array in arrays.items()}


def assert_same_bits(model, other):
    for name, param in model.params.items():
        xp.testing.assert_array_equal(backend.to_numpy(param), backend.to_numpy(other.params[name]), err_msg=name)


def without_clock(log):
    return [{k: v for k, v in row.items() if k not in ("tokens_per_s", "peak_memory")} for row in log]


def json_lines(path):
    return [json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines()]


def step_seed(step, seed=0):
    return rng.fold(seed, "step", step)


class Stop(Exception):
    pass


def stop_at(last):
    def stopping(step):
        if step == last:
            raise Stop
        return batches(step)

    return stopping


class Plain(Optimizer):
    """Gradient descent with a rate of 1, to see what gradients arrive."""

    def update(self, name, param, grad, lr, t):
        param -= grad


SCRIPT = """
import sys
from test_training import run
run(40, sys.argv[1], checkpoint_every=3)
"""


def start_run(path):
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(path)], cwd=Path(__file__).parent)


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_run_killed_at_any_moment_ends_with_the_same_bits(tmp_path):
    _, log = run(40, tmp_path / "unbroken.safetensors", checkpoint_every=3)
    path = tmp_path / "killed.safetensors"
    kills, seen = 0, None
    for attempt in range(3):
        process = start_run(path)
        until = time.monotonic() + 60
        # Wait for a new checkpoint, then for a moment of any length, and kill: in a step or amid a save.
        while process.poll() is None and time.monotonic() < until:
            if path.exists() and path.stat().st_mtime_ns != seen:
                time.sleep(random.Random(attempt).uniform(0, 0.05))
                break
            time.sleep(0.001)
        process.kill()
        kills += process.wait() == -signal.SIGKILL
        seen = path.stat().st_mtime_ns
        Reformer.load(path)  # whole, whenever the kill came
    assert kills >= 2
    assert start_run(path).wait(timeout=60) == 0
    unbroken = safetensors.numpy.load_file(tmp_path / "unbroken.safetensors")
    killed = safetensors.numpy.load_file(path)
    assert unbroken.keys() == killed.keys()
    for name, array in unbroken.items():
        xp.testing.assert_array_equal(array, killed[name], err_msg=name)
    assert without_clock(json_lines(path)) == without_clock(log)


def test_a_resumed_run_goes_on_from_its_last_checkpoint_and_logs_the_same(tmp_path):
    whole, log = run(10, make=Adafactor)
    path, asked = tmp_path / "deep" / "er" / "run.safetensors", []
    run(7, path, make=Adafactor, checkpoint_every=5)  # and at the end
    assert [row["step"] for row in json_lines(path)] == [4, 7]

    def watched(step):
        asked.append(step)
        return batches(step)

    resumed, resumed_log = run(10, path, make=Adafactor, batches=watched)
    assert asked == [7, 8, 9]
    assert_same_bits(resumed, whole)
    assert [row["step"] for row in resumed_log] == [4, 7, 8, 10]  # 7 was an end
    assert resumed_log[-1]["loss"] == log[-1]["loss"]
    assert json_lines(path) == resumed_log


def test_a_mean_that_spans_a_checkpoint_counts_the_steps_on_both_sides(tmp_path):
    _, log = run(8, log_every=8)
    path = tmp_path / "run.safetensors"
    with pytest.raises(Stop):
        run(8, path, log_every=8, checkpoint_every=3, batches=stop_at(5))
    _, resumed_log = run(8, path, log_every=8, checkpoint_every=3)
    assert without_clock(resumed_log) == without_clock(log)


def test_rows_that_no_checkpoint_holds_are_not_logged_twice(tmp_path):
    path = tmp_path / "run.safetensors"
    with pytest.raises(Stop):
        run(12, path, log_every=1, checkpoint_every=4, batches=stop_at(6))
    assert [row["step"] for row in json_lines(path)] == [1, 2, 3, 4, 5, 6]
    with open(path.with_suffix(".jsonl"), "a") as file:
        file.write('{"step": 7, "lo')  # killed amid a line
    run(12, path, log_every=1)
    assert [row["step"] for row in json_lines(path)] == [*range(1, 13)]


def test_a_finished_run_returns_its_log_at_once_and_resume_false_starts_over(tmp_path):
    path = tmp_path / "run.safetensors"
    first, log = run(4, path)
    again, again_log = run(4, path, batches=stop_at(0))
    assert again_log == log
    assert_same_bits(again, first)
    _, other_log = run(4, path, seed=5, resume=False)
    assert [row["step"] for row in other_log] == [4]
    assert other_log[0]["loss"] != log[0]["loss"]


def test_a_run_that_starts_over_puts_the_files_of_the_last_one_aside(tmp_path):
    path = tmp_path / "run.safetensors"
    first, log = run(4, path, log_every=1)
    with pytest.raises(Stop):  # killed before its first checkpoint
        run(8, path, seed=5, log_every=1, resume=False, batches=stop_at(2))
    assert not path.exists() and [row["step"] for row in json_lines(path)] == [1, 2]
    assert_same_bits(Reformer.load(tmp_path / "run.safetensors.old"), first)
    old = (tmp_path / "run.jsonl.old").read_text().splitlines()
    assert without_clock(map(json.loads, old)) == without_clock(log)
    again, again_log = run(8, path, seed=5, log_every=1)  # goes on with the new run, not the old one
    whole, whole_log = run(8, seed=5, log_every=1)
    assert_same_bits(again, whole)
    assert without_clock(again_log) == without_clock(whole_log)


def test_the_seed_decides_dropout_and_a_run_is_not_resumed_with_another(tmp_path):
    path = tmp_path / "run.safetensors"
    _, log = run(4, path)
    with pytest.raises(ValueError, match="seed: .*run.safetensors was trained with seed 0; got 1"):
        run(8, path, seed=1)
    model = Reformer(CONFIG, seed=3)
    with pytest.raises(ValueError, match="seed: .*run.safetensors was trained with seed 0; got 1"):
        train(model, batches, Adam(model.params), 8, checkpoint=path, seed=1, progress=False)
    assert_same_bits(model, Reformer(CONFIG, seed=3))
    assert run(4, seed=1)[1][0]["loss"] != log[0]["loss"]
    assert run(4)[1][0]["loss"] == log[0]["loss"]


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

    def watched(step):
        asked.append(step)
        return batches(step)

    settings = {"checkpoint_every": 2, "log_every": log_every}
    with pytest.raises(FloatingPointError, match="step 4: after its update, .* holds NaN or infinity .*parameters do"):
        run(10, path, batches=watched, schedule=too_fast_from(4), **settings)
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
    model = Reformer(CONFIG, seed=3)
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

    def watched(step):
        asked.append(step)
        return batches(step)

    with pytest.raises(error, match=message):
        run(4, path, batches=watched, schedule=lambda step: rate if step == 2 else 0.02, checkpoint_every=2)
    assert asked == [0, 1]
    assert_same_bits(Reformer.load(path), run(2)[0])


def test_a_schedule_may_give_zero_and_an_array_without_axes(tmp_path):
    still, log = run(2, schedule=lambda step: xp.zeros(()))
    assert_same_bits(still, Reformer(CONFIG, seed=3))
    assert log[0]["learning_rate"] == 0.0


def test_a_row_holds_what_was_measured():
    schedule = warmup_inverse_sqrt(0.02, warmup=3)
    rows = run(6, log_every=1, schedule=schedule, clip=None)[1]
    model = Reformer(CONFIG, seed=3)
    opt = Adam(model.params)
    for step, row in enumerate(rows):
        tokens, targets, mask = batches(step)
        loss, grads = model.loss_and_grads(tokens, targets, seed=step_seed(step), mask=mask)
        norm = math.sqrt(sum(float((grad.astype("float64") ** 2).sum()) for grad in grads.values()))
        opt.step(grads, lr=schedule(step))
        assert row["step"] == step + 1
        assert row["loss"] == loss
        assert row["bits_per_token"] == pytest.approx(loss / math.log(2))
        assert row["grad_norm"] == pytest.approx(norm, rel=1e-5)
        assert row["learning_rate"] == schedule(step)
    spread = run(6, log_every=3, schedule=schedule, clip=None)[1]
    assert spread[1]["loss"] == pytest.approx(sum(row["loss"] for row in rows[3:]) / 3)


def test_clipping_is_used():
    free, clipped = run(1, clip=None, log_every=1, make=Plain), run(1, clip=1e-3, log_every=1, make=Plain)
    assert clipped[1][0]["grad_norm"] == free[1][0]["grad_norm"] > 1e-3
    start = Reformer(CONFIG, seed=3).params
    moved = sum(float(((clipped[0].params[n] - p) ** 2).sum()) for n, p in start.items()) ** 0.5
    assert moved == pytest.approx(1e-3, rel=1e-2)


def test_tokens_per_second_count_tokens_and_neither_evaluation_nor_the_first_step(monkeypatch, tmp_path):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)

    def slow_batches(step):
        clock.now += [100.0, 0.5, 0.75, 1.25, 2.0][step]
        return batches(step)

    def evaluate(model):
        clock.now += 1000.0
        return {"score": xp.float32(7)}

    path = tmp_path / "run.safetensors"
    rows = run(5, path, log_every=2, batches=slow_batches, evaluate=evaluate)[1]
    assert [row["tokens_per_s"] for row in rows] == [32 / 0.5, 2 * 32 / (0.75 + 1.25), 32 / 2.0]
    assert [row["score"] for row in json_lines(path)] == [7.0] * 3
    assert run(1, batches=slow_batches)[1][0]["tokens_per_s"] is None


@pytest.mark.parametrize(
    "evaluate, error, message",
    [
        (lambda model: 0.5, TypeError, "evaluate: expected it to return a dict of numbers; got float"),
        (lambda model: None, TypeError, "evaluate: .*; got NoneType"),
        (lambda model: {"score": "7"}, TypeError, "evaluate: .*; got 'score': '7'"),
        (lambda model: {"score": xp.ones(2)}, TypeError, "evaluate: .*; got 'score': "),
        (lambda model: {7: 7.0}, TypeError, "evaluate: .*; got 7: 7.0"),
        (
            lambda model: {"score": 1, "step": 1, "loss": 1},
            ValueError,
            r"evaluate: expected other names .*'loss', 'step'",
        ),
    ],
)
def test_what_evaluate_returns_is_checked_at_the_first_row(tmp_path, evaluate, error, message):
    asked = []

    def watched(step):
        asked.append(step)
        return batches(step)

    with pytest.raises(error, match=message):
        run(4, tmp_path / "run.safetensors", log_every=2, evaluate=evaluate, batches=watched)
    assert asked == [0, 1] and json_lines(tmp_path / "run.safetensors") == []


def test_a_number_that_json_does_not_know_is_null(tmp_path):
    def evaluate(model):
        return {"none": math.nan, "high": math.inf, "low": -xp.ones(()) / 0.25, "count": 3}

    def refuse(name):
        raise ValueError(name)

    path = tmp_path / "run.safetensors"
    _, log = run(4, path, evaluate=evaluate)
    (line,) = path.with_suffix(".jsonl").read_text().splitlines()
    row = json.loads(line, parse_constant=refuse)
    assert [row[name] for name in ("none", "high", "low", "count")] == [None, None, -4.0, 3.0]
    assert run(4, path, evaluate=evaluate)[1] == log == [row]


def test_peak_memory_is_that_of_one_step_and_nothing_is_traced_after_it():
    tracing = []

    def watched(step):
        tracing.append(tracemalloc.is_tracing())
        return batches(step)

    model, log = run(4, batches=watched)
    if backend.active() is xp:
        assert tracing == [True, False, False, False]
    size = sum(param.nbytes for param in model.params.values())
    assert size < log[0]["peak_memory"] < 200 * size  # gradients at least


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


def test_the_progress_bar_can_be_turned_off(capsys):
    run(2)
    assert capsys.readouterr().err == ""
    run(2, progress=True)
    assert "2/2" in capsys.readouterr().err


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
        ({"checkpoint_every": 5}, ValueError, "checkpoint_every: expected a path in checkpoint"),
        ({"make": lambda params, lr: Adam(dict(host_copy(params)), lr)}, ValueError, "opt: .*model.params"),
    ],
)
def test_bad_settings_are_named(settings, error, message):
    with pytest.raises(error, match=message):
        run(**({"steps": 2} | settings))


def test_progress_of_another_kind_is_not_resumed(tmp_path):
    path, model = tmp_path / "run.safetensors", Reformer(CONFIG)
    for progress in ({"step": 2}, [1, 2], {"step": "2", "seed": 0, "log": [], "recent": []}):
        checkpoint.save_model(model, path, Adam(model.params), progress)
        with pytest.raises(ValueError, match="run.safetensors: holds no training run of `train`"):
            run(4, path)


def test_a_folder_is_no_checkpoint(tmp_path):
    (tmp_path / "run.safetensors").mkdir()
    for resume in (True, False):
        with pytest.raises(ValueError, match="checkpoint: expected a file; got the folder"):
            run(4, tmp_path / "run.safetensors", resume=resume)


def test_a_model_without_a_training_run_is_not_resumed(tmp_path):
    Reformer(CONFIG).save(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="model.safetensors: holds a model, but no training run"):
        run(2, tmp_path / "model.safetensors")
    with pytest.raises(TypeError, match="model: expected a Reformer; got NoneType"):
        train(None, batches, None, 2)


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
