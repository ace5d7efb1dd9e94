"""Benchmarks run, small: what they measure is written down elsewhere."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOUBLE = ROOT / "tests" / "double"


def test_the_benchmark_for_a_gpu_runs_and_writes_down_what_it_ran_on(tmp_path):
    """On the double: that torch has no CUDA there is written down, too."""
    command = [sys.executable, ROOT / "benchmarks" / "gpu.py", "--quick", "--results", tmp_path]
    environment = os.environ | {"PYTHONPATH": f"{DOUBLE}:{ROOT}", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, env=environment, check=True)
    results = json.loads((tmp_path / "gpu_Stand_in.json").read_text())
    assert {"card", "card_bytes", "cupy", "cuda_of_driver", "numpy", "date"} <= results["surroundings"].keys()
    for which in ("attention", "training_step"):
        for name, result in results[which]["256"].items():
            if name in ("Hugging Face", "exact (torch)"):
                assert "failed" in result
            else:
                assert result["seconds"] > 0 and (result["peak_bytes"] > 0 or name == "floor"), name
    assert results["attention"]["256"]["minireformer"]["error"] < 1e-5
    assert results["big_model"]["loss"] > 0 and results["big_model"]["peak_bytes"] > 0


def test_the_benchmark_of_pictures_runs_resumes_and_records_both_parts(tmp_path):
    """In a copy of its folder, so that what it writes lies there; a second run finds every model trained."""
    (tmp_path / "benchmarks").mkdir()
    script = shutil.copy(ROOT / "benchmarks" / "images.py", tmp_path / "benchmarks")
    command = [sys.executable, script, "--quick"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environment, check=True)
    file = tmp_path / "build" / "images_quick.json"
    results = json.loads(file.read_text())
    model, rounds = results["model"], results["rounds"]
    assert [row["step"] for row in model["log"]] == [3, 6]
    assert rounds["logs"].keys() == {"LSH-1", "LSH-2", "LSH-4", "LSH-8", "full"}
    assert all(4 < row["held_out_bits"] < 9 for row in model["log"])
    assert model["baselines"]["difference to the left pixel"] < model["baselines"]["counts of values"]
    (truth,), (completed,) = model["completions"].values()
    assert truth[:4] == completed[:4] and truth[4:] != completed[4:]  # rows: the upper half is given
    subprocess.run(command, env=environment, check=True)
    again = json.loads(file.read_text())
    assert again["model"]["completions"] == model["completions"] and again["rounds"]["logs"] == rounds["logs"]
