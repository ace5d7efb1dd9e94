"""Benchmarks run, small: what they measure is written down elsewhere."""

import json
import os
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
