"""Where results of a benchmark lie, and what is written beside them."""

import json
from pathlib import Path

import contest

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"


def path_of(name, quick):
    """The JSON file of a benchmark: recorded results are kept, those of a quick run are for nobody."""
    return BUILD / f"{name}_quick.json" if quick else ROOT / "benchmarks" / "results" / f"{name}.json"


def write(name, quick, result):
    """Write `result`, a dict, with the surroundings it was measured in; -> the path."""
    path = path_of(name, quick)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"surroundings": contest.surroundings()} | result, indent=1) + "\n")
    print(f"wrote {path.relative_to(ROOT)}", flush=True)
    return path
