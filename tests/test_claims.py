"""The table of claims: each of its numbers is what a script recorded, and one command repeats it."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minireformer as mr

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "claims.py"
found = importlib.util.spec_from_file_location("claims", SCRIPT)
claims = importlib.util.module_from_spec(found)
found.loader.exec_module(claims)
each_row = pytest.mark.parametrize("name", claims.ROWS)


def run(*arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MINIREFORMER_BACKEND": "numpy"}
    command = [sys.executable, SCRIPT, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=True).stdout


@each_row
def test_what_we_found_is_what_the_scripts_recorded(name):
    assert claims.ROWS[name].ours() == claims.table()[name][2]


@each_row
def test_a_row_is_measured_by_scripts_that_are_there_and_a_quick_run_overwrites_no_result(name, tmp_path):
    for script in claims.ROWS[name].scripts:
        _, path, *arguments = claims.command(script, quick=True, build=tmp_path)
        assert Path(path).exists() and str(tmp_path) in " ".join(arguments)


def test_the_rows_are_listed_with_their_minutes():
    listed = run()
    for name, (claim, *_) in claims.table().items():
        assert f"{claims.ROWS[name].minutes}  {name:15}  {claim}\n" in listed


@pytest.mark.skipif(mr.backend.active() is not np, reason="a script for the CPU, in NumPy")
def test_one_command_repeats_a_row(tmp_path):
    printed = run("fixed-tokens", "--quick", "--build", tmp_path)
    claim, paper, ours, verdict, _ = claims.table()["fixed-tokens"]
    assert (tmp_path / "fixed_tokens_quick.json").exists()
    for text in claim, f"paper:    {paper}", f"recorded: {ours}", f"verdict:  {verdict} (":
        assert text in printed
