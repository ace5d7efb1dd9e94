"""Peak memory of one training step against the number of layers, beside the PyTorch Reformers.

    python benchmarks/speed/training_step_by_depth.py                       # part of make bench

The language models of training_step.py at 4,096 tokens, 2 to 24 layers deep. Parameters exist before a step and do not
count; their gradients, which every contender holds at the end of the step, do count. Writes
benchmarks/speed/results/training_step_by_depth.json.
"""

import functools
from pathlib import Path

import contest
import training_step

LENGTH = 4096
RESULTS = Path(__file__).parent / "results" / "training_step_by_depth.json"
CONTENDERS = {
    name: functools.partial(make_step, LENGTH) for name, make_step in training_step.CONTENDERS.items()
}  # functions of a depth


if __name__ == "__main__":
    contest.main(__file__, __doc__, CONTENDERS, [2, 6, 12, 24], RESULTS, what="depths", smallest=1)
