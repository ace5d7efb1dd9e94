"""What the scripts that repeat an experiment of the paper share: their command line, their seeds, the file they write.

Such a script trains models, which takes minutes, and leaves checkpoints in a folder of its own below `build`: killed
and started again with the same command, it goes on where it was.
"""

import argparse
import json
from pathlib import Path

import contest

from minireformer import backend

ROOT = Path(__file__).resolve().parents[1]


def options(description):
    """The command line: `quick`, and `build`, the folder for checkpoints and for what a quick run finds."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tiny run, in seconds, to see that all of it works")
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="where checkpoints lie")
    return parser.parse_args()


def places(name, options):
    """-> the folder for checkpoints, the JSON file to write: of a quick run below `build`, else among the results."""
    if options.quick:
        name += "_quick"
    results = options.build if options.quick else ROOT / "benchmarks" / "results"
    return options.build / name, results / f"{name}.json"


def write(path, result):
    """Write `result`, and what it depends on, to the JSON file `path`."""
    result |= {"surroundings": contest.surroundings() | {"threads": backend.n_threads()}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path.name}")


def over_seeds(values):
    """The mean of what was found with each seed, the least and the greatest of it."""
    return {"mean": sum(values) / len(values), "least": min(values), "greatest": max(values)}
