"""Repeat a row of the table of claims: `make claims ROW=sharing`, or `make claims` for a list of the rows.

    python benchmarks/claims.py                    # the rows, and how many minutes each took us
    python benchmarks/claims.py sharing            # measure again, and compare with the paper and with us
    python benchmarks/claims.py sharing --quick    # seconds: shows only that it works

The table is in docs/claims.md. ROWS has its rows in the same order, each with the scripts that measure it, and with the
function that reads "ours", the table's third column, from what these scripts recorded. If a run is killed, the same
command resumes it.
"""

import argparse
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "claims.md"
PAPER, SPEED = HERE / "paper" / "results", HERE / "speed" / "results"
ROUNDS = ("LSH-1", "LSH-2", "LSH-4", "LSH-8")


class Row(NamedTuple):
    """How one row of the table is measured."""

    minutes: int  # of one core; "speed" and "fixed-tokens" use all cores
    scripts: tuple[str, ...]  # with their arguments
    ours: Callable[[], str]


def read(name, folder=PAPER):
    """A recorded result."""
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def signed(values, digits=3):
    """Numbers with their signs: "+0.043, −0.005"."""
    return ", ".join(f"{value:+.{digits}f}" for value in values).replace("-", "−")


def mean(values):
    """The mean of any number of values."""
    values = list(values)
    return sum(values) / len(values)


def over_seeds(one):
    """Mean, least and greatest, as a script recorded them."""
    return f"{signed([one['mean']])} bits, {signed([one['least']])} to {signed([one['greatest']])}"


def right(trained, evaluated):
    """Correct symbols of the duplicate task in per cent: the mean over seeds."""
    return 100 * read("duplicate_task")["over_seeds"][trained][evaluated]["mean"]


def more_rounds():
    """Accuracy of the models trained with one round, evaluated with 1 and with 8."""
    return f"{right('LSH-1', 'LSH-1'):.1f} to {right('LSH-1', 'LSH-8'):.1f} %"


def training_with_four():
    """Accuracy with one round at evaluation, after training with four and with one."""
    return f"{right('LSH-4', 'LSH-1'):.1f} against {right('LSH-1', 'LSH-1'):.1f} %"


def full_at_chance():
    """Accuracy of the models trained with LSH under two kinds of full attention."""
    trained = ROUNDS[:3]
    full, raw = ([right(name, kind) for name in trained] for kind in ("full", "raw+self"))
    return f"{min(full):.1f} %; {min(raw):.1f} to {max(raw):.1f} % with raw keys and self"


def missed():
    """What share of the exact attention weights LSH meets."""
    layers = read("what_lsh_misses")["by_rounds"]
    recall = [f"{layers[f'layer {i}']['4']['recall']['mean']:.2f}" for i in range(3)]
    return "recall at 4 rounds {}, {} and {} in three layers".format(*recall)


def sharing():
    """Bits that shared queries and keys cost, paired by seed."""
    return over_seeds(read("shared_and_reversible")["shared_minus_separate"])


def reversible():
    """Bits that reversible layers cost, paired by seed."""
    return over_seeds(read("shared_and_reversible")["reversible_minus_regular"])


def rounds_on_text():
    """Bits above full attention on text."""
    above = read("hash_rounds")["above_full"]
    return f"1, 2, 4, 8 rounds: {signed(above[name]['mean'] for name in ROUNDS)} bits above full"


def last_above_full(logs, key):
    """For each number of rounds: bits above full attention in the last row of the logs, paired by seed; the mean."""
    return (mean(log[-1][key] - logs["full"][seed][-1][key] for seed, log in logs[name].items()) for name in ROUNDS)


def rounds_on_images():
    """Bits above full attention on squares of 32 x 32 pixels, held out."""
    above = last_above_full(read("images")["rounds"]["logs"], "held_out_bits")
    return f"1, 2, 4, 8 rounds: {signed(above)} bits above full"


def rounds_on_12288_values():
    """Bits above full attention on squares of 64 x 64 pixels, in training."""
    above = last_above_full(read("images")["long_rounds"]["logs"], "bits_per_token")
    return f"1, 2, 4, 8 rounds: {signed(above)} bits above full in training"


def beside_full_attention():
    """Bits above full attention on pieces of 4,096 bytes, paired by seed."""
    runs = read("match_full")["runs"].values()
    pairs = ("LSH", "full"), ("local and LSH", "local and full")
    above = [signed([mean(one[a]["mean"] - one[b]["mean"] for one in runs)]) for a, b in pairs]
    return "above full: {} bits with LSH throughout, {} above two local layers".format(*above)


def memory_growth(group, name):
    """The last measured peak over the first."""
    peaks = [cell["measured"] for cell in read("memory_terms")[group][name].values()]
    return peaks[-1] / peaks[0]


def memory_by_depth():
    """How memory grows from 2 layers to 8."""
    stored, kept = (memory_growth("by_depth", name) for name in ("Transformer", "reversible"))
    return f"depth ×4: memory ×{stored:.2f} stored, ×{kept:.2f} reversible"


def memory_by_length():
    """How memory grows from 512 tokens to 4,096."""
    dense, lsh = (memory_growth("by_length", name) for name in ("reversible", "LSH"))
    return f"length ×8: memory ×{dense:.1f} reversible, ×{lsh:.1f} LSH"


def speed():
    """How much longer exact attention takes."""
    lengths = read("attention", SPEED)["lengths"]
    ratio = {
        T: lengths[T]["exact (torch)"]["seconds"] / lengths[T]["minireformer"]["seconds"] for T in ("1024", "16384")
    }
    return "exact / LSH: {:.1f} at 1,024 tokens, {:.1f} at 16,384".format(*ratio.values())


def fixed_tokens():
    """How the time of a step with a fixed number of tokens changes from short sequences to long ones."""
    growth = {name: cells["longest_over_shortest"] for name, cells in read("fixed_tokens")["layer"].items()}
    full = growth.pop("full")
    return f"512 to 32,768 tokens: LSH ×{min(growth.values()):.2f} to ×{max(growth.values()):.2f}, full ×{full:.0f}"


def far_context():
    """What the bytes beyond 1,024 are worth: mean and standard error over pieces."""
    gain = read("far_context")["position"]["gain_at_the_end"]["another file"]
    return f"+{gain['mean']:.4f} ± {gain['standard_error']:.4f} bits a byte for all beyond 1,024 bytes"


ROWS = {
    "more-rounds": Row(10, ("paper/duplicate_task.py",), more_rounds),
    "training-rounds": Row(10, ("paper/duplicate_task.py",), training_with_four),
    "full-at-chance": Row(10, ("paper/duplicate_task.py",), full_at_chance),
    "missed": Row(10, ("paper/what_lsh_misses.py",), missed),
    "sharing": Row(15, ("paper/shared_and_reversible.py",), sharing),
    "reversible": Row(15, ("paper/shared_and_reversible.py",), reversible),
    "rounds-text": Row(10, ("paper/hash_rounds.py",), rounds_on_text),
    "rounds-images": Row(40, ("paper/images.py rounds", "paper/images.py rates"), rounds_on_images),
    "rounds-12288": Row(30, ("paper/images.py long_rounds",), rounds_on_12288_values),
    "beside-full": Row(60, ("paper/match_full.py",), beside_full_attention),
    "memory-depth": Row(3, ("paper/memory_terms.py",), memory_by_depth),
    "memory-length": Row(3, ("paper/memory_terms.py",), memory_by_length),
    "speed": Row(10, ("speed/attention.py",), speed),
    "fixed-tokens": Row(5, ("paper/fixed_tokens.py",), fixed_tokens),
    "far-context": Row(30, ("paper/far_context.py",), far_context),
}


def table():
    """The rows of the table on the page: {name: (claim, paper, ours, verdict, what was different)}."""
    lines = re.findall(r"^\| .* \| (?:holds|holds in part|not seen) \| .* \|$", PAGE.read_text(encoding="utf-8"), re.M)
    return {name: tuple(line[2:-2].split(" | ")) for name, line in zip(ROWS, lines, strict=True)}


def command(script, quick, build):
    """What to run for an entry of `Row.scripts`."""
    path, *arguments = script.split()
    if quick and path.startswith("speed"):
        arguments = ["--lengths", "1024", "--rounds", "1", "--results", str(build / "attention_quick.json")]
    elif quick:
        arguments += ["--quick", "--build", str(build)]
    return [sys.executable, str(HERE / path), *arguments]


def main():
    """List the rows, or repeat one."""
    parser = argparse.ArgumentParser(description="Repeat a row of the table of claims in docs/claims.md.")
    parser.add_argument("row", nargs="?", choices=list(ROWS), help="without it, all rows are listed")
    parser.add_argument("--quick", action="store_true", help="a tiny run, in seconds, to see that all of it works")
    parser.add_argument("--build", type=Path, default=HERE.parent / "build", help="where a quick run writes")
    options = parser.parse_args()
    rows = table()
    sys.stdout.reconfigure(encoding="utf-8")  # on Windows, output to a file may have no minus sign
    if options.row is None:
        print("minutes  row              claim")
        for name, row in ROWS.items():
            print(f"{row.minutes:7}  {name:15}  {rows[name][0]}")
        print("To repeat one: make claims ROW=sharing, or python benchmarks/claims.py sharing")
        return
    if options.row == "speed" and importlib.util.find_spec("torch") is None:
        sys.exit("The row speed times PyTorch, too. Install it with: python -m pip install --editable '.[parity]'")
    for script in ROWS[options.row].scripts:
        subprocess.run(command(script, options.quick, options.build), check=True)
    claim, paper, ours, verdict, different = rows[options.row]
    print(f"\n{claim}\n  paper:    {paper}\n  recorded: {ours}")
    if not options.quick:
        print(f"  now:      {ROWS[options.row].ours()}")
    print(f"  verdict:  {verdict} ({different})")


if __name__ == "__main__":
    main()
