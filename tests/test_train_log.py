"""The log of a run: what a row holds, what `evaluate` may add, and what the progress bar shows."""

import json
import math
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from arrays import xp
from minireformer import backend, rng
from minireformer.training.optimizers import Adam, warmup_inverse_sqrt
from runs import batches, json_lines, noting, run, tiny_model


def test_a_row_holds_what_was_measured():
    schedule = warmup_inverse_sqrt(0.02, warmup=3)
    rows = run(6, log_every=1, schedule=schedule, clip=None)[1]
    model = tiny_model()
    opt = Adam(model.params)
    for step, row in enumerate(rows):
        tokens, targets, mask = batches(step)
        loss, grads = model.loss_and_grads(tokens, targets, seed=rng.fold(0, "step", step), mask=mask)
        norm = math.sqrt(sum(float((grad.astype("float64") ** 2).sum()) for grad in grads.values()))
        opt.step(grads, lr=schedule(step))
        assert row["step"] == step + 1
        assert row["loss"] == loss
        assert row["bits_per_token"] == pytest.approx(loss / math.log(2))
        assert row["grad_norm"] == pytest.approx(norm, rel=1e-5)
        assert row["learning_rate"] == schedule(step)
    spread = run(6, log_every=3, schedule=schedule, clip=None)[1]
    assert spread[1]["loss"] == pytest.approx(sum(row["loss"] for row in rows[3:]) / 3)


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
    with pytest.raises(error, match=message):
        run(4, tmp_path / "run.safetensors", log_every=2, evaluate=evaluate, batches=noting(asked))
    assert asked == [0, 1] and json_lines(tmp_path / "run.safetensors") == []


def test_a_number_that_json_does_not_know_is_null(tmp_path):
    def evaluate(model):
        return {"none": math.nan, "high": math.inf, "low": -xp.ones(()) / 0.25, "count": 3}

    def refuse(name):
        raise ValueError(name)

    path = tmp_path / "run.safetensors"
    _, log = run(4, path, evaluate=evaluate)
    (line,) = path.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()
    row = json.loads(line, parse_constant=refuse)
    assert [row[name] for name in ("none", "high", "low", "count")] == [None, None, -4.0, 3.0]
    assert run(4, path, evaluate=evaluate)[1] == log == [row]


def test_peak_memory_is_that_of_one_step_and_nothing_is_traced_after_it():
    tracing = []

    def watched(step):
        tracing.append(tracemalloc.is_tracing())
        return batches(step)

    model, log = run(4, batches=watched)
    if backend.active() is np:
        assert tracing == [True, False, False, False]
    size = sum(param.nbytes for param in model.params.values())
    assert size < log[0]["peak_memory"] < 200 * size  # gradients at least


def test_the_progress_bar_can_be_turned_off(capsys):
    run(2)
    assert capsys.readouterr().err == ""
    run(2, progress=True)
    assert "2/2" in capsys.readouterr().err


SCRIPT = """
import sys
from runs import run
run(2, sys.argv[1])
"""


def test_the_log_is_utf_8_whatever_the_systems_encoding(tmp_path):
    """Python warns where a file is opened without an encoding, if it is asked to."""
    ask = ["-X", "warn_default_encoding", "-W", "error::EncodingWarning:minireformer.training.record"]
    subprocess.run(
        [sys.executable, *ask, "-c", SCRIPT, str(tmp_path / "run.safetensors")], cwd=Path(__file__).parent, check=True
    )
