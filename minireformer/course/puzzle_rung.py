"""What a rung of the ladder in `notebooks/puzzles.ipynb` consists of, and how one of its problems is made.

A rung is a function f of a few arrays; the reader writes its backward pass. `puzzles.py` finds what is right from f
alone, by finite differences. The formulas kept with each rung have two other uses: mistakes are variations of them, and
where they disagree with the differences, f is no longer what it was. The rungs are in `puzzle_moves.py`,
`puzzle_products.py`, `puzzle_softmax.py`, `puzzle_attention.py` and `puzzle_memory.py`: if you want to solve them, read
no further.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np


class Rung(NamedTuple):
    """One rung. In its functions, m holds the inputs by name, the output y, the gradient dy, and `right` and `found`.

    `right` is the gradient in question as it should be, and `found` what the reader's function returned.
    """

    number: int
    name: str  # of f, in the notebook; its backward function is called f_backward
    title: str
    inputs: Callable  # (random, n) -> {name: an input of f}
    gradients: dict  # {"dx": (m -> the right gradient of x, [(hint, m -> what a mistake makes of it), ...])}
    praise: str
    sizes: tuple = (3, 5)  # n of the problem that is drawn, and n of a second one
    outputs: Callable = lambda f, inputs: f(*inputs.values())  # -> y as one array
    call: Callable = lambda backward, m: backward(m.dy, *(getattr(m, name) for name in m.names))
    extra: Callable = lambda backward: None  # raises AssertionError if right gradients are not enough


def problem(rung, f, n):
    """The n-th problem of this rung: its inputs, its output y and a random dy, as attributes."""
    random = np.random.default_rng(rung.number)
    inputs = rung.inputs(random, n)
    y = rung.outputs(f, inputs)
    return SimpleNamespace(**inputs, names=list(inputs), y=y, dy=random.standard_normal(y.shape))


def jacobian(rung, f, m, name, h=1e-6):
    """dy / d(input `name`) by central differences: (entries of y, entries of the input)."""
    columns, x = [], getattr(m, name)
    for index in np.ndindex(x.shape):
        ends = []
        for move in (h, -h):
            inputs = {other: getattr(m, other) for other in m.names} | {name: x.copy()}
            inputs[name][index] += move
            ends.append(np.asarray(rung.outputs(f, inputs), dtype=float).ravel())
        columns.append((ends[0] - ends[1]) / (2 * h))
    return np.stack(columns, axis=1)


def one_array(*shape):
    """`inputs` of a rung whose only input is x, of this shape; "n" is a side of length n."""
    return lambda random, n: {"x": random.standard_normal([n if side == "n" else side for side in shape])}


def total(x, axis=-1):
    """Sums that keep their axis."""
    return x.sum(axis=axis, keepdims=True)


def scatter(rows, index, like):
    """Add each of the `rows` to the place in an array `like` this one that it was taken from."""
    out = np.zeros_like(like)
    np.add.at(out, index, rows)
    return out


def last_write(rows, index, like):
    """What `out[index] += rows` does: of repeats, only the last one counts."""
    out = np.zeros_like(like)
    out[index] = rows
    return out
