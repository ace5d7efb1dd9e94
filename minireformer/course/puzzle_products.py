"""Rungs 8 to 10, 16 and 17: products, unit length, dropout and LayerNorm.

See `puzzle_rung.py` for what a rung consists of. Read next: `puzzle_softmax.py`.
"""

import numpy as np

from minireformer.course.puzzle_moves import KEEPDIMS
from minireformer.course.puzzle_rung import Rung, total


def length(x):
    """|x| of each row, with the small number that the package's `unit_length` has."""
    return np.sqrt(total(x * x) + 1e-6 * x.shape[-1])


def unit(x):
    """x at length 1."""
    return x / length(x)


def unit_backward(dk, x):
    """Through k = x / |x|: dk without its part along k, divided by |x|."""
    return (dk - unit(x) * total(unit(x) * dk)) / length(x)


def turned(m, sums):
    """`unit_backward` with other sums of y * dy."""
    return (m.dy - m.y * sums) / length(m.x)


def without_tiny(m):
    """`unit_backward` with a length that leaves out the small number."""
    size = np.linalg.norm(m.x, axis=-1, keepdims=True)
    return (m.dy - m.x / size**2 * total(m.x * m.dy)) / size


def kept(m):
    """Which entries dropout keeps."""
    return np.random.default_rng(m.seed).random(m.x.shape) >= m.rate


def normalised(m):
    """LayerNorm's x - mean, divided by the deviation, and 1 / deviation."""
    scale = 1 / np.sqrt(m.x.var(axis=-1, keepdims=True) + 1e-5)
    return (m.x - m.x.mean(axis=-1, keepdims=True)) * scale, scale


def norm_backward(m, shift=1, stretch=1, weight=True, divide=True):
    """LayerNorm's dx, or what is left of it."""
    n, scale = normalised(m)
    dn = m.dy * m.weight if weight else m.dy
    dx = dn - shift * dn.mean(axis=-1, keepdims=True) - stretch * n * (dn * n).mean(axis=-1, keepdims=True)
    return dx * scale if divide else dx


def by_length(m):
    """LayerNorm's dx as if x - mean were divided by its length."""
    dx = unit_backward(m.dy * m.weight, m.x - m.x.mean(axis=-1, keepdims=True))
    return dx - dx.mean(axis=-1, keepdims=True)


def norm_columns(m):
    """LayerNorm's dx with both means taken over the rows of x, not along each."""
    n, scale = normalised(m)
    dn = m.dy * m.weight
    return scale * (dn - dn.mean(axis=0) - n * (dn * n).mean(axis=0))


RUNGS = [
    Rung(
        8,
        "product",
        "matrix product",
        lambda random, n: {"A": random.standard_normal((n, 3)), "B": random.standard_normal((3, n))},
        {
            "dA": (
                lambda m: m.dy @ m.B.T,
                [
                    ("B should be transposed, and isn't. Which side of B does dy meet?", lambda m: m.dy @ m.B),
                    ("The factors are in the wrong order: dy goes where y was.", lambda m: m.B.T @ m.dy),
                    ("dy is transposed, and should not be.", lambda m: m.dy.T @ m.B.T),
                    ("The whole result is transposed.", lambda m: m.right.T),
                    ("You multiply by A. Which is the other factor?", lambda m: m.dy @ m.A.T),
                    ("You multiply entry by entry. A product of matrices is a sum of products.", lambda m: m.dy * m.B),
                    ("That is dB. Return dA first.", lambda m: m.A.T @ m.dy),
                    ("dy is missing.", lambda m: m.B),
                ],
            ),
            "dB": (
                lambda m: m.A.T @ m.dy,
                [
                    ("A should be transposed, and isn't. Which side of A does dy meet?", lambda m: m.A @ m.dy),
                    ("The factors are in the wrong order: A was on the left.", lambda m: m.dy @ m.A.T),
                    ("dy is transposed, and should not be.", lambda m: m.A.T @ m.dy.T),
                    ("The whole result is transposed.", lambda m: m.right.T),
                    ("You multiply by B. Which is the other factor?", lambda m: m.B.T @ m.dy),
                ],
            ),
        },
        "Two products. If no two sizes are equal, the shapes leave you no other choice.",
    ),
    Rung(
        9,
        "scale_rows",
        "row scaling",
        lambda random, n: {"s": random.standard_normal(n), "x": random.standard_normal((n, 3))},
        {
            "ds": (
                lambda m: (m.dy * m.x).sum(axis=1),
                [
                    ("The sum over the broadcast axis is missing: s[i] is used in every column.", lambda m: m.dy * m.x),
                    (KEEPDIMS, lambda m: total(m.dy * m.x)),
                    (
                        "The factor x is missing. If s[i] grows by 1, by how much does y[i, j] grow?",
                        lambda m: m.dy.sum(axis=1),
                    ),
                    ("You sum along the wrong axis. Where is s[i] used?", lambda m: (m.dy * m.x).sum(axis=0)),
                    ("You take the mean. Each column counts in full.", lambda m: m.right / 3),
                    ("You multiply by y. Which is the other factor?", lambda m: (m.dy * m.y).sum(axis=1)),
                    ("dy is missing.", lambda m: m.x.sum(axis=1)),
                    (
                        "A product of sums is not a sum of products: multiply first.",
                        lambda m: m.dy.sum(axis=1) * m.x.sum(axis=1),
                    ),
                ],
            ),
            "dx": (
                lambda m: m.dy * m.s[:, None],
                [
                    ("The factor s is missing.", lambda m: m.dy),
                    ("Rows and columns are confused: you scale the columns.", lambda m: m.dy * m.s),
                    ("You multiply by x. Which is the other factor?", lambda m: m.dy * m.x),
                    ("You divide by s. That undoes y, which is another matter.", lambda m: m.dy / m.s[:, None]),
                ],
            ),
        },
        "Each factor's derivative is the other factor, and a broadcast wants its sum.",
    ),
    Rung(
        10,
        "unit_length",
        "unit length",
        lambda random, n: {"x": random.standard_normal((n, 3)) * np.linspace(0.2, 1, n)[:, None]},
        {
            "dx": (
                lambda m: unit_backward(m.dy, m.x),
                [
                    (
                        "A term is missing: a longer x gives the same y, and yet your dx has a part along x.",
                        lambda m: m.dy / length(m.x),
                    ),
                    (
                        "The part along x is gone. But how far does a given move turn a long vector?",
                        lambda m: m.right * length(m.x),
                    ),
                    ("You keep only the part along x, the one that should go.", lambda m: m.dy / length(m.x) - m.right),
                    (
                        "A sign is wrong: the part along x should go, and yours is doubled.",
                        lambda m: turned(m, -total(m.y * m.dy)),
                    ),
                    (
                        "You measure the part along x with x, which does not have length 1. What does?",
                        lambda m: (m.dy - m.x * total(m.x * m.dy)) / length(m.x),
                    ),
                    (
                        "The part along x is measured with vectors of length 1. Yours are as long as x.",
                        lambda m: m.dy / length(m.x) - m.x * total(m.x * m.dy),
                    ),
                    (
                        "Your second term is too large by a factor: use y twice, then divide both terms by the length.",
                        lambda m: turned(m, total(m.x * m.dy)),
                    ),
                    (
                        "You project each entry by itself. The part along y is one number for a row: a sum.",
                        lambda m: turned(m, m.y * m.dy),
                    ),
                    ("You divide by the length once too often.", lambda m: m.right / length(m.x)),
                    (
                        "You take one sum for all rows. Each vector has its own.",
                        lambda m: turned(m, (m.y * m.dy).sum()),
                    ),
                    (
                        "Rows and columns are confused: you sum over the vectors.",
                        lambda m: turned(m, total(m.y * m.dy, axis=0)),
                    ),
                    (
                        "Rows and columns are confused: without `keepdims=True`, sums line up with columns.",
                        lambda m: turned(m, (m.y * m.dy).sum(axis=-1)),
                    ),
                    ("Almost: the tiny number is left out. `length(x)` has it.", without_tiny),
                ],
            )
        },
        "Only what turns a vector gets through. The keys of LSH attention will need this.",
    ),
    Rung(
        16,
        "dropout",
        "dropout replayed",
        lambda random, n: {"x": random.standard_normal((n, 4)), "rate": 0.4, "seed": n},
        {
            "dx": (
                lambda m: m.dy * kept(m) / (1 - m.rate),
                [
                    ("The factor 1 / (1 - rate) is missing.", lambda m: m.dy * kept(m)),
                    ("The mask is missing: dropped entries get a gradient.", lambda m: m.dy / (1 - m.rate)),
                    ("Mask and factor are both missing.", lambda m: m.dy),
                    ("You divide by rate. Forward divides by 1 - rate.", lambda m: m.dy * kept(m) / m.rate),
                    ("You multiply by 1 - rate. Forward divides by it.", lambda m: m.dy * kept(m) * (1 - m.rate)),
                    (
                        "Your mask is upside down: it keeps what forward dropped.",
                        lambda m: m.dy * ~kept(m) / (1 - m.rate),
                    ),
                    ("You multiply by y. What was each entry of x multiplied by?", lambda m: m.dy * m.y),
                    (
                        "You drew another mask. Which seed, and which shape, give the same one again?",
                        lambda m: np.where(m.found == 0, 0, m.dy / (1 - m.rate)),
                    ),
                    (
                        "You drew another mask, and the factor 1 / (1 - rate) is missing.",
                        lambda m: np.where(m.found == 0, 0, m.dy),
                    ),
                ],
            )
        },
        "A seed is all that you keep of a mask.",
    ),
    Rung(
        17,
        "layer_norm",
        "LayerNorm",
        lambda random, n: {"x": random.standard_normal((n, 4)), "weight": random.standard_normal(4)},
        {
            "dx": (
                norm_backward,
                [
                    ("The weight is missing. What is the gradient of n?", lambda m: norm_backward(m, weight=False)),
                    (
                        "You multiply by the weight last. It comes first: start with the gradient of n.",
                        lambda m: norm_backward(m, weight=False) * m.weight,
                    ),
                    (
                        "A term is missing: shifting a row does not change y, but your rows of dx don't add up to 0.",
                        lambda m: norm_backward(m, shift=0),
                    ),
                    (
                        "A term is missing: stretching a row does not change y, and yet your dx has a part along it.",
                        lambda m: norm_backward(m, stretch=0),
                    ),
                    (
                        "Two terms are missing: x also acts through the mean, and through the deviation.",
                        lambda m: norm_backward(m, shift=0, stretch=0),
                    ),
                    ("The factor 1 / deviation is missing.", lambda m: norm_backward(m, divide=False)),
                    (
                        "scale is 1 / deviation already. Multiply by it.",
                        lambda m: m.right / normalised(m)[1] ** 2,
                    ),
                    ("Rows and columns are confused: your means run down the columns.", norm_columns),
                    (
                        "You take sums in place of means.",
                        lambda m: norm_backward(m, m.x.shape[-1], m.x.shape[-1]),
                    ),
                    (
                        "You measure the stretch with x, which has neither mean 0 nor deviation 1. What has?",
                        lambda m: (
                            norm_backward(m, stretch=0)
                            - normalised(m)[1] * m.x * (m.x * m.dy * m.weight).mean(axis=-1, keepdims=True)
                        ),
                    ),
                    (
                        "You divide by the length of x - mean. The deviation is smaller: its squares are averaged.",
                        by_length,
                    ),
                    ("A sign is wrong: both terms should be subtracted.", lambda m: norm_backward(m, -1, -1)),
                    ("A sign is wrong: the stretch should be subtracted, too.", lambda m: norm_backward(m, stretch=-1)),
                ],
            ),
            "dweight": (
                lambda m: (m.dy * normalised(m)[0]).sum(axis=0),
                [
                    ("The sum over the rows is missing: weight is used in each.", lambda m: m.dy * normalised(m)[0]),
                    ("You multiply by x. What was the weight multiplied by?", lambda m: (m.dy * m.x).sum(axis=0)),
                    ("You multiply by y, which has the weight in it.", lambda m: (m.dy * m.y).sum(axis=0)),
                    ("n is missing. That would be the gradient of a bias.", lambda m: m.dy.sum(axis=0)),
                    ("You take the mean over rows. Each counts in full.", lambda m: m.right / len(m.x)),
                ],
            ),
        },
        "LayerNorm cannot see a shift or a stretch, so dx has no part along either.",
    ),
]
