"""The cells of `notebooks/puzzles.ipynb` and of its solutions, as the tests of the ladder use them."""

import ast
import json
import re
import textwrap
from pathlib import Path

from minireformer.course.puzzles import LAST

FOLDER = Path(__file__).parents[2] / "notebooks"
NUMBERS = range(1, LAST + 1)


def cells(path, kind="code"):
    return [
        "".join(c["source"])
        for c in json.loads((FOLDER / path).read_text(encoding="utf-8"))["cells"]
        if c["cell_type"] == kind
    ]


def rungs_of(path):
    """{1: (the source of the rung's functions, the names that its check gets), ...}"""
    sources = cells(path)
    calls = {i: re.fullmatch(r'check\("Rung (\d+)", (.*)\)', source) for i, source in enumerate(sources)}
    return {int(call[1]): (sources[i - 1], call[2].split(", ")) for i, call in calls.items() if call}


LESSON, SOLUTION = rungs_of("puzzles.ipynb"), rungs_of("solutions/puzzles.ipynb")


def replaced(number, body):
    """The source of a rung's last function, with another body."""
    function = ast.parse(SOLUTION[number][0]).body[-1]
    return f"def {function.name}({ast.unparse(function.args)}):\n{textwrap.indent(body, '    ')}"
