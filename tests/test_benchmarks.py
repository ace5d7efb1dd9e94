"""Benchmarks run, small: what they measure is written down elsewhere."""

import base64
import importlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minireformer as mr
from mpi import needs_mpi

ROOT = Path(__file__).parents[1]
DOUBLE = ROOT / "tests" / "double"
PAPER, SPEED = ROOT / "benchmarks" / "paper", ROOT / "benchmarks" / "speed"

on_numpy = pytest.mark.skipif(mr.backend.active() is not np, reason="a script for the CPU, in NumPy")


@pytest.mark.slow
def test_the_benchmark_for_a_gpu_runs_and_writes_down_what_it_ran_on(tmp_path):
    """On the double: that torch has no CUDA there is written down, too."""
    command = [sys.executable, SPEED / "gpu.py", "--quick", "--results", tmp_path]
    environment = os.environ | {"PYTHONPATH": f"{DOUBLE}{os.pathsep}{ROOT}", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, env=environment, check=True)
    results = json.loads((tmp_path / "gpu_Stand_in.json").read_text(encoding="utf-8"))
    assert {"card", "card_bytes", "cupy", "cuda_of_driver", "numpy", "date"} <= results["surroundings"].keys()
    for which in ("attention", "training_step"):
        for name, result in results[which]["256"].items():
            if name in ("Hugging Face", "exact (torch)"):
                assert "failed" in result
            else:
                assert result["seconds"] > 0 and (result["peak_bytes"] > 0 or name == "floor"), name
    assert results["attention"]["256"]["minireformer"]["error"] < 1e-5
    assert results["big_model"]["loss"] > 0 and results["big_model"]["peak_bytes"] > 0


def quick_run(script, folder, *options):
    """What a benchmark writes when it is run in small, with its checkpoints in `folder`. Once is enough, in NumPy."""
    if mr.backend.active() is not np:
        pytest.skip("a script for the CPU, in NumPy")
    command = [sys.executable, PAPER / f"{script}.py", "--quick", "--build", folder, *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MINIREFORMER_BACKEND": "numpy"}
    subprocess.run(command, env=environment, check=True)
    return json.loads((folder / f"{script}_quick.json").read_text(encoding="utf-8"))


@on_numpy
def test_where_linux_is_missing_benchmarks_say_so_and_the_others_run(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for folder in PAPER, SPEED:
        monkeypatch.syspath_prepend(folder)
    contest, example = (importlib.import_module(name) for name in ("contest", "motivating_example"))
    machine = importlib.reload(contest.machine)
    assert machine.N_THREADS >= 1
    monkeypatch.setattr(machine, "PROC", tmp_path)
    assert machine.surroundings()["numpy"] == np.__version__
    for script, main in (
        ("attention.py", lambda: contest.main("attention.py", "Attention", {}, [1024], tmp_path / "attention.json")),
        ("motivating_example.py", example.main),
    ):
        monkeypatch.setattr(sys, "argv", [script])
        with pytest.raises(SystemExit, match=f"{script}: .* only Linux has"):
            main()


@pytest.mark.slow
def test_a_model_of_bytes_learns_in_stages_and_is_held_against_compressors(tmp_path):
    result = quick_run("byte_model", tmp_path)
    assert result["samples"].keys() == {"10", "40"} and result["baselines"].keys() > {"gzip", "order 2"}
    assert result["log"][-1]["held_out_bits"] < result["log"][0]["held_out_bits"] < 8
    assert result["surroundings"]["numpy"] == np.__version__


@pytest.mark.slow
def test_the_duplicate_task_is_learned_better_than_by_chance_and_evaluated_with_every_attention(tmp_path):
    result = quick_run("duplicate_task", tmp_path)
    columns = {"full", "raw", "raw+self", "LSH-8", "LSH-4", "LSH-2", "LSH-1"}
    assert result["over_seeds"].keys() == columns - {"LSH-8"}
    assert all(row.keys() == columns for row in result["over_seeds"].values())
    assert result["over_seeds"]["full"]["full"]["mean"] > 10 * result["chance"]
    assert result["accuracy"]["full"] == result["runs"]["full"][0]["accuracy"]  # what notebook 08 draws
    assert result["logs"].keys() == result["accuracy"].keys() == result["paper"].keys()


def test_table_2_at_its_own_length_trains_every_row_for_the_same_steps(tmp_path):
    result = quick_run("table_2", tmp_path)
    assert result["runs"].keys() == result["paper"].keys()
    for runs in result["runs"].values():
        assert [run["seed"] for run in runs] == [0, 1] and runs[0]["accuracy"] != runs[1]["accuracy"]
        for run in runs:
            assert run["accuracy"].keys() == {"full", "raw", "raw+self", "LSH-8", "LSH-4", "LSH-2", "LSH-1"}
            assert [row["step"] for row in run["log"]] == [10, 20] and run["parameters"] > 0
            assert run["log"][-1]["bits"] < run["log"][0]["bits"]
    again = quick_run("table_2", tmp_path, "--trained", "LSH-1")["runs"]
    assert again["full"] == result["runs"]["full"]
    assert [run["accuracy"] for run in again["LSH-1"]] == [run["accuracy"] for run in result["runs"]["LSH-1"]]


@pytest.mark.slow
def test_byte_models_of_figure_3_have_equal_parameters_and_learn(tmp_path):
    result = quick_run("shared_and_reversible", tmp_path)
    variants = result["variants"]
    assert variants.keys() == {"separate", "shared", "regular"}
    counts = [variant["n_parameters"] for variant in variants.values()]
    assert max(counts) < 1.005 * min(counts)
    for variant in variants.values():
        assert variant["sweep"][str(variant["learning_rate"])] == min(variant["sweep"].values())
        assert variant["held_out_bits"]["greatest"] < 7  # of 8, before training
        assert [run["seed"] for run in variant["runs"]] == [0, 1]
    shared, separate = (variants[name]["held_out_bits"]["mean"] for name in ("shared", "separate"))
    assert abs(result["shared_minus_separate"]["mean"] - (shared - separate)) < 1e-9


@pytest.mark.slow
def test_byte_models_of_figure_4_differ_in_nothing_but_their_attention(tmp_path):
    result = quick_run("hash_rounds", tmp_path)
    assert list(result["held_out_bits"]) == ["LSH-1", "LSH-2", "LSH-4", "LSH-8", "full"]
    for name, bits in result["held_out_bits"].items():
        assert bits["least"] <= bits["mean"] <= bits["greatest"] < 7  # of 8, before training
        assert abs(result["evaluated_with"][name][name] - bits["mean"]) < 1e-9
    configs = list(result["configs"].values())
    assert {key for key in configs[0] if any(c[key] != configs[0][key] for c in configs)} == {"attn_layers", "n_hashes"}


@on_numpy
@pytest.mark.slow
@needs_mpi
def test_the_benchmark_of_processes_times_every_contender_and_the_all_reduce(tmp_path):
    subprocess.run([sys.executable, SPEED / "processes.py", "--quick", "--build", tmp_path], check=True)
    result = json.loads((tmp_path / "processes_quick.json").read_text(encoding="utf-8"))
    assert list(result["allreduce"])[0] == "8" and all(seconds > 0 for seconds in result["allreduce"].values())
    for contenders in result["training"].values():
        assert contenders.keys() == {"2 processes", "1 process, 2 threads", "1 process, 1 thread"}
        for name, one in contenders.items():
            assert len(one["all"]) == 2 and one["tokens_per_s"] > 0
            assert (one["reduced"] > 1e-5) == (name == "2 processes") and one["reduced"] < one["seconds_per_step"]


@on_numpy
@pytest.mark.parametrize("kind", ["RawFullAttention", "RawFullAttentionWithSelf"])
def test_full_attention_of_raw_keys_has_the_right_gradient(kind, monkeypatch):
    monkeypatch.syspath_prepend(PAPER)
    monkeypatch.setattr(mr.attention_layer, "ATTENTION", dict(mr.attention_layer.ATTENTION))
    layer = getattr(importlib.import_module("duplicate_task"), kind)(8, 2, 4)
    x = np.random.default_rng(0).standard_normal((2, 7, 8))
    report = mr.gradcheck(layer, x)
    assert report.ok, report


@on_numpy
def test_the_regular_transformer_has_the_right_gradient(monkeypatch):
    monkeypatch.syspath_prepend(PAPER)
    script = importlib.import_module("shared_and_reversible")
    model = script.make_model("regular", script.QUICK | {"d_model": 8, "length": 16})
    report = mr.gradcheck(model, np.arange(10).reshape(2, 5))
    assert report.ok, report


def test_the_benchmark_at_a_fixed_number_of_tokens_times_every_contender_at_every_length(tmp_path):
    result = quick_run("fixed_tokens", tmp_path)
    assert result["layer"].keys() == {"full", "LSH-1", "LSH-2", "LSH-4", "LSH-8"}
    assert result["model"].keys() == {"full", "LSH-4"}
    for lengths in (*result["layer"].values(), *result["model"].values()):
        times = [lengths[str(length)] for length in result["size"]["lengths"]]
        assert all(len(one["all"]) == result["size"]["rounds"] and one["seconds"] > 0 for one in times)
        assert lengths["longest_over_shortest"] == times[-1]["seconds"] / times[0]["seconds"]


@pytest.mark.slow
def test_memory_falls_term_by_term_and_the_plain_transformer_is_the_same_function(tmp_path):
    result = quick_run("memory_terms", tmp_path)
    length = str(result["size"]["lengths"][-1])
    steps = [by_length[length] for by_length in result["by_length"].values()]
    transformer, reversible, chunked, exact, lsh, not_chunked = steps
    assert transformer["measured"] > reversible["measured"] > exact["measured"] > lsh["measured"]
    assert abs(chunked["measured"] / reversible["measured"] - 1) < 0.01  # the peak is where the weights are
    assert lsh["peak_in"] == "attention" and not_chunked["peak_in"] == "feed-forward"
    assert not_chunked["terms"]["hidden"] == lsh["terms"]["hidden"] + 2 * int(length) * 512 * 4
    for one in (transformer, reversible, chunked):
        assert one["terms"]["weights"] and abs(one["loss"] - exact["loss"]) < 1e-4
    for step in (*result["by_length"].values(), *result["by_depth"].values()):
        for one in step.values():
            assert 0.7 < one["predicted"] / one["measured"] < 1.05


def test_a_step_over_a_long_text_is_recorded_length_by_length_with_what_its_memory_should_be(tmp_path):
    quick_run("million_tokens", tmp_path, "--lengths", "512")
    result = quick_run("million_tokens", tmp_path, "--lengths", "1024")
    assert result["lengths"].keys() == {"512", "1024"}  # the record keeps what was measured before
    for length, one in result["lengths"].items():
        assert one["length"] == int(length) and one["config"]["heads_at_once"] == 2 and 5 < one["loss"] < 7
        assert one["seconds"] > 0 and one["cpu_seconds"] > 0 and one["seconds_per_token"] * int(length) > 0
        prediction = mr.memory.predict(mr.ReformerConfig(**one["config"]), 1, int(length))
        assert one["predicted_bytes"] == prediction.stored
        assert one["terms"]["two streams and their gradients"] == 4 * prediction.activation
        assert 0.8 < sum(one["terms"].values()) / one["peak_resident_bytes"] < 1.2


@on_numpy
def test_generation_after_a_long_text_is_recorded_length_by_length(tmp_path):
    command = [sys.executable, SPEED / "long_context.py", "--layers", "1", "--tokens", "4"]
    command += ["--results", tmp_path / "long_context.json", "--lengths"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MINIREFORMER_BACKEND": "numpy"}
    for length in ("256", "512"):
        subprocess.run([*command, length], env=environment, check=True)
    result = json.loads((tmp_path / "long_context.json").read_text(encoding="utf-8"))
    assert result["lengths"].keys() == {"256", "512"} and result["surroundings"]["numpy"] == np.__version__
    for one in result["lengths"].values():
        assert one["layers"] == 1 and one["prompt_s"] > 0 and one["cached_s"] > 0
        assert 0 < one["resident_bytes"] <= one["peak_resident_bytes"]


@pytest.mark.slow
def test_the_comparison_with_full_attention_trains_takes_layers_out_and_adds_times(tmp_path):
    result = quick_run("match_full", tmp_path)
    (runs,) = result["runs"].values()
    assert runs.keys() == {"full", "local", "LSH", "local and full", "local and LSH"}
    for run in runs.values():
        assert run["log"][-1]["held_out_bits"] < run["log"][0]["held_out_bits"] < 8
        assert all(rise["mean"] != 0 for rise in run["rise_without_layer"].values())
    assert runs["full"]["more_than_full"]["mean"] == 0
    assert runs["LSH"]["rise_with_other_attention"]["4 rounds"]["mean"] == 0  # as it was trained
    assert runs["LSH"]["rise_with_other_attention"]["exact"]["mean"] != 0
    mixed = runs["local and LSH"]  # one LSH layer, the last
    assert mixed["rise_without_lsh"]["mean"] == mixed["rise_without_layer"]["2"]["mean"]
    without = runs["LSH"]["rise_without_layer"].values()
    assert runs["LSH"]["rise_without_lsh"]["mean"] not in [one["mean"] for one in without]  # but all three
    result = quick_run("match_full", tmp_path, "--time")
    short, whole = result["times"]["seconds_per_step"]["LSH"]
    rows = result["at_equal_seconds"]["0"]["LSH"]
    assert [row["steps"] for row in rows] == [5, 10, 15, 20]  # 15 of them with short pieces
    assert rows[1]["seconds"] == pytest.approx(10 * short) and short > 0
    assert rows[-1]["seconds"] == pytest.approx(15 * short + 5 * whole)
    with_another_seed = quick_run("match_full", tmp_path, "--seed", "1")
    assert with_another_seed["runs"]["0"] == result["runs"]["0"] != with_another_seed["runs"]["1"]
    assert with_another_seed["at_equal_seconds"].keys() == {"0", "1"}


@pytest.mark.slow
def test_lsh_misses_less_with_more_rounds_and_with_longer_chunks(tmp_path):
    result = quick_run("what_lsh_misses", tmp_path)
    assert len(result["by_rounds"]) == 6  # three layers, with trained and with random vectors
    for settings in (*result["by_rounds"].values(), *result["by_chunk_len"].values()):
        fewer, more = settings.values()
        assert fewer["recall"]["mean"] < more["recall"]["mean"] <= 1
        assert fewer["keys_met"]["mean"] < more["keys_met"]["mean"] <= 1
        for name in ("output", "once", "dqk", "dv"):
            assert fewer[name]["mean"] > more[name]["mean"] > 0


@pytest.mark.slow
def test_the_benchmark_of_pictures_runs_resumes_and_records_every_part(tmp_path):
    """A second run finds every model trained."""
    results = quick_run("images", tmp_path)
    model, rounds, long_rounds, rates = (results[part] for part in ("model", "rounds", "long_rounds", "rates"))
    assert [row["step"] for row in model["log"]] == [3, 6]
    assert rounds["logs"].keys() == {"LSH-1", "LSH-2", "LSH-4", "LSH-8", "full"}
    assert rounds["logs"].keys() == long_rounds["logs"].keys() == long_rounds["seconds_per_step"].keys()
    for seconds in long_rounds["seconds_per_step"].values():
        assert len(seconds) == len(long_rounds["size"]["stages"])
    (other_rate,) = rates["logs"]["LSH-8"].values()
    assert other_rate[-1]["held_out_bits"] != rounds["logs"]["LSH-8"]["0"][-1]["held_out_bits"]
    assert all(4 < row["held_out_bits"] < 9 for row in model["log"])
    assert model["baselines"]["difference to the left pixel"] < model["baselines"]["counts of values"]
    (truth,), (completed,), buckets = model["completions"].values()
    assert len(buckets) == 4 * 2 and all(len(bytes.fromhex(row)) == 8 for square in buckets for row in square)
    assert truth[:4] == completed[:4] and truth[4:] != completed[4:]  # rows: the upper half is given
    again = quick_run("images", tmp_path)
    assert again["model"]["completions"] == model["completions"] and again["rounds"]["logs"] == rounds["logs"]
    timed = quick_run("images", tmp_path, "--time")
    assert timed["rates"]["seconds_per_step"] != again["rates"]["seconds_per_step"]
    assert timed["rates"]["logs"] == again["rates"]["logs"] and timed["model"] == again["model"]


@pytest.mark.slow
def test_the_benchmark_of_long_texts_runs_resumes_and_measures_each_piece(tmp_path):
    """Tiny: that its numbers mean something is not tested here."""
    result = quick_run("far_context", tmp_path)
    n_pieces = result["size"]["n_pieces"]
    assert len(result["files"]) == n_pieces and all(name.endswith(".py") for name in result["files"])
    position, kept = result["position"], result["kept"]
    assert position["segments"].keys() == {"true", "another file", "shuffled"}
    for rows in (*position["segments"].values(), kept["bits"], position["bits"]):
        assert len(rows) == n_pieces and all(0 < bits < 20 for row in rows for bits in row)
    true, other, shuffled = position["segments"].values()
    assert true != other != shuffled
    for i in range(n_pieces):  # the last bin and the last segment are the same bytes, after the same bytes
        assert abs(position["bits"][i][-1] - true[i][-1]) < 1e-4
        assert kept["bits"][i][0] != kept["bits"][i][-1]
    gain = position["gain_at_the_end"]["another file"]["mean"]
    assert abs(gain - sum(row[-1] for row in other) / n_pieces + sum(row[-1] for row in true) / n_pieces) < 1e-9
    attention = result["attention"]
    for of_head in (*attention["mass"], *attention["met"]):
        assert abs(sum(of_head) - 1) < 1e-6
    assert attention["pairs"] and all(key < query for key, query in (pair["places"] for pair in attention["pairs"]))
    assert result["sample"]["text"]
    again = quick_run("far_context", tmp_path)  # training is done already
    assert again == result


@on_numpy
def test_weights_of_an_lsh_layer_give_its_output(monkeypatch):
    """The sum of values by these weights, and itself where a token meets nothing."""
    monkeypatch.syspath_prepend(PAPER)
    script = importlib.import_module("where_lsh_looks")
    config = importlib.import_module("far_context").config_of({"d_model": 32, "length": 1024})
    tokens = np.random.default_rng(0).integers(0, 256, (1, 256))
    cache = script.last_attention(mr.Reformer(config, seed=0), tokens)
    for head in range(config.n_heads):
        queries, keys, weights = script.weights_of(cache, head)
        v, out = cache.v[0, head], np.zeros((256, config.d_head))
        np.add.at(out, queries, weights[:, None] * v[keys])
        alone = np.bincount(queries, minlength=256) == 0
        out[alone] = v[alone]
        assert abs(out - cache.out[0, head]).max() < 1e-5


@on_numpy
def test_what_a_repeated_word_is_scored_on_stood_before(monkeypatch):
    monkeypatch.syspath_prepend(PAPER)
    script = importlib.import_module("copying")
    tokens, targets, mask = script.repeated_word(0, script.FULL)
    assert (tokens[:, 1:] == targets[:, :-1]).all()
    assert (mask.sum(axis=1) == script.FULL["word"] - 4).all()
    for row, row_targets, scored in zip(tokens, targets, mask):
        for t in np.flatnonzero(scored):  # the four symbols up to t stood before, with the target after them
            assert any(
                (row[s - 3 : s + 1] == row[t - 3 : t + 1]).all() and row[s + 1] == row_targets[t] for s in range(3, t)
            )


def test_the_benchmark_of_copying_trains_every_kind_with_every_seed(tmp_path):
    result = quick_run("copying", tmp_path)
    assert result["runs"].keys() == {"full", "shared_full", "lsh"}
    for runs in result["runs"].values():
        assert [run["seed"] for run in runs] == result["size"]["seeds"]
        assert all(0 <= run["accuracy"] <= 1 and [row["step"] for row in run["log"]] == [2, 4] for run in runs)


def test_what_heads_see_is_recorded_for_every_byte_of_a_passage(tmp_path):
    result = quick_run("what_heads_see", tmp_path)
    assert len(result["text"]) == 256 and result["text"].isascii() and result["bits"] < 8
    assert [(head["layer"], head["head"]) for head in result["heads"]] == [(1, 0), (1, 1), (3, 0), (3, 1)]
    for head in result["heads"]:
        vectors = np.frombuffer(base64.b64decode(head["vectors"]), "int8")
        assert vectors.size == 256 * 16 and abs(vectors).max() == 127
        buckets = [ord(letter) - ord("0") for letter in head["buckets"]]
        assert len(buckets) == 4 * 256 and 0 <= min(buckets) and 8 < max(buckets) < 32


@on_numpy
@pytest.mark.parametrize("name", ["shared_full", "full"])
def test_the_switches_of_attention_span_what_the_package_has(name, monkeypatch):
    """All three on: shared queries and keys as in the package; all off: its full attention. Gradients for all eight."""
    monkeypatch.syspath_prepend(PAPER)
    script = importlib.import_module("sharing")
    switches = dict.fromkeys(script.SWITCHES, name == "shared_full")
    layer = script.SwitchedAttention(16, 2, 8, **switches, dtype="float64")
    other = mr.Reformer(mr.ReformerConfig(d_model=16, n_heads=2, d_head=8, attn_layers=(name,)), dtype="float64")
    reference = other.layers.blocks[0][0].part
    for key in layer.params:
        reference.params[key][...] = layer.params[key]
    x = np.random.default_rng(0).standard_normal((2, 12, 16))
    np.testing.assert_allclose(layer(x), reference(x), rtol=0, atol=1e-13)


@on_numpy
@pytest.mark.parametrize("switches", list(itertools.product((False, True), repeat=3)))
def test_the_switches_of_attention_have_the_right_gradients(switches, monkeypatch, assert_gradients):
    monkeypatch.syspath_prepend(PAPER)
    script = importlib.import_module("sharing")
    settings = dict(zip(script.SWITCHES, switches))
    layer = script.SwitchedAttention(16, 2, 8, **settings, sharpness=1.5, dtype="float64")
    assert_gradients(layer, np.random.default_rng(0).standard_normal((2, 9, 16)))


def test_the_benchmark_of_sharing_trains_every_combination(tmp_path):
    result = quick_run("sharing", tmp_path)
    assert len(result["combinations"]) == 8 and result["combinations"].keys() >= {"none", "shared + unit + no_self"}
    rates, seeds = result["size"]["learning_rates"], result["size"]["seeds"]
    for runs in result["combinations"].values():
        assert [run["seed"] for run in runs] == [seeds[0]] * len(rates) + seeds[1:]
        assert len({run["parameters"] for run in runs}) == 1 and all(0 <= run["accuracy"] <= 1 for run in runs)
    parameters = [runs[0]["parameters"] for runs in result["combinations"].values()]
    assert max(parameters) < 1.01 * min(parameters)
    assert [run["seed"] for run in result["more"]["2 layers"]] == seeds[:2]
    three, wider = (result["more"][name][0]["parameters"] for name in ("3 layers", "wider"))
    assert abs(wider / three - 1) < 0.01
    again = quick_run("sharing", tmp_path, "--more", "3 layers")
    assert again.pop("added").keys() == {"3 layers"}
    assert again["more"].keys() == result["more"].keys()
    assert all(again[name] == result[name] for name in ("combinations", "surroundings", "size"))
