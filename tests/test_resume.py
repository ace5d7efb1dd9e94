"""A run that is killed and resumed is the run that was never killed; and what is no run to resume is refused."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.numpy

from arrays import xp
from minireformer import checkpoint
from minireformer.model import Reformer
from minireformer.training import train
from minireformer.training.optimizers import Adafactor, Adam
from runs import Stop, assert_same_bits, batches, json_lines, noting, run, stop_at, tiny_model, without_clock

SCRIPT = """
import sys
from runs import run
run(40, sys.argv[1], checkpoint_every=3)
"""


def start_run(path):
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(path)], cwd=Path(__file__).parent)


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
        kills += process.wait() != 0  # a run that was faster ends with 0
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

    resumed, resumed_log = run(10, path, make=Adafactor, batches=noting(asked))
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
    with open(path.with_suffix(".jsonl"), "a", encoding="utf-8") as file:
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
    old = (tmp_path / "run.jsonl.old").read_text(encoding="utf-8").splitlines()
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
    model = tiny_model()
    with pytest.raises(ValueError, match="seed: .*run.safetensors was trained with seed 0; got 1"):
        train(model, batches, Adam(model.params), 8, checkpoint=path, seed=1, progress=False)
    assert_same_bits(model, tiny_model())
    assert run(4, seed=1)[1][0]["loss"] != log[0]["loss"]
    assert run(4)[1][0]["loss"] == log[0]["loss"]


def test_progress_of_another_kind_is_not_resumed(tmp_path):
    path, model = tmp_path / "run.safetensors", tiny_model()
    for progress in ({"step": 2}, [1, 2], {"step": "2", "seed": 0, "log": [], "recent": []}):
        checkpoint.save_model(model, path, Adam(model.params), progress)
        with pytest.raises(ValueError, match="run.safetensors: holds no training run of `train`"):
            run(4, path)


def test_a_folder_is_no_checkpoint(tmp_path):
    (tmp_path / "run.safetensors").mkdir()
    for resume in (True, False):
        with pytest.raises(ValueError, match="checkpoint: expected a file, not a folder; got .*run.safetensors"):
            run(4, tmp_path / "run.safetensors", resume=resume)


def test_a_model_without_a_training_run_is_not_resumed(tmp_path):
    tiny_model().save(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="model.safetensors: holds a model, but no training run"):
        run(2, tmp_path / "model.safetensors")
    with pytest.raises(TypeError, match="model: expected a Reformer; got NoneType"):
        train(None, batches, None, 2)
