"""The table of claims: each of its numbers is what a script recorded, and one command repeats it."""

import importlib.util
import os
import re
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


# docs/claims.md


PAGE = claims.PAGE.read_text(encoding="utf-8")


def rows_below(heading):
    """The first cells of the table below a heading, a name each, and the last ones."""
    section = re.search(rf"^## {heading}\n(.*?)^## ", PAGE, flags=re.MULTILINE | re.DOTALL)[1]
    cells = [line[2:-2].split(" | ") for line in section.splitlines() if line.startswith("| ")][1:]
    return {name: last for first, *_, last in cells for name in first.split(", ")}


@pytest.mark.parametrize("heading", ["What is behind each row", "What would have contradicted the claims"])
def test_the_page_says_of_every_row_what_is_behind_it_and_what_would_have_contradicted_it(heading):
    assert list(rows_below(heading)) == list(claims.ROWS)


def test_table_2_at_its_own_length_is_what_was_recorded():
    record = claims.read("table_2")
    columns = ["full", "LSH-8", "LSH-4", "LSH-2", "LSH-1"]
    for trained, paper in record["paper"].items():
        runs = record["runs"][trained]
        assert [run["seed"] for run in runs] == record["size"]["seeds"]
        ours = [sorted(100 * run["accuracy"][evaluated] for run in runs) for evaluated in columns]
        cells = (f"{paper[name]} / {one[0]:.1f} to {one[-1]:.1f}" for name, one in zip(columns, ours))
        assert f"| {trained} | {' | '.join(cells)} |" in PAGE


def n_parameters(config):
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in config.items()}
    return sum(param.size for param in mr.Reformer(mr.ReformerConfig(**settings)).params.values())


def tokens_of(size):
    """What training read, from the sizes that images.py and match_full.py record."""
    values = 3 * size["side"] if "side" in size else 1  # of a row of pixels
    stages = size.get("stages") or [(size["batch"], size["side"], size["steps"])]
    return sum(batch * length * values * steps for batch, length, steps in stages)


def test_the_page_gives_the_tokens_that_training_read_for_each_parameter():
    read, found = claims.read, {}
    table = read("duplicate_task")
    size, tokens = n_parameters(table["configs"]["LSH-1"]), table["training"]["batch"] * table["size"]["length"]
    steps = {name: sorted(run["steps"] * tokens / size for run in runs) for name, runs in table["runs"].items()}
    for kind in "LSH-4", "LSH-1":
        found[kind] = f"{steps[kind][0]:.1f} to {steps[kind][-1]:.1f}"
    assert rows_below("What is behind each row")["more-rounds"] == found["LSH-1"]
    assert rows_below("What is behind each row")["training-rounds"] == f"{found['LSH-4']} against {found['LSH-1']}"
    match, far, text, pair = (read(n) for n in ("match_full", "far_context", "hash_rounds", "shared_and_reversible"))
    models = {name: tokens_of(match["size"]) / n_parameters(config) for name, config in match["configs"].items()}
    batch, length, steps = far["size"]["short"]
    of_far = batch * length * steps + (far["size"]["steps"] - steps) * far["size"]["length"]
    expected = {
        "missed": f"{models['LSH']:.1f}",
        "beside-full": f"{min(models.values()):.1f} to {max(models.values()):.1f}",
        "far-context": f"{of_far / far['n_parameters']:.1f}",
    }
    for names, size, parameters in (
        (["rounds-text"], text["size"], text["n_parameters"]),
        (["sharing", "reversible"], pair["size"], pair["variants"]["shared"]["n_parameters"]),
    ):
        per_parameter = size["steps"] * size["batch"] * size["length"] / parameters
        expected |= dict.fromkeys(names, f"{per_parameter:.1f}")
    for name, part in ("rounds-images", "rounds"), ("rounds-12288", "long_rounds"):
        of_part = read("images")[part]
        expected[name] = f"{tokens_of(of_part['size']) / n_parameters(of_part['config']):.1f}"
    assert expected.items() <= rows_below("What is behind each row").items()
