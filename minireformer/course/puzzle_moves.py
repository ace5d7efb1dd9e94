"""Rungs 1 to 7: copies, sums, gathers, sorts and windows, which only move numbers about.

See `puzzle_rung.py` for what a rung consists of. Read next: `puzzle_products.py`.
"""

import numpy as np

from minireformer.course.puzzle_rung import Rung, last_write, one_array, scatter, total

KEEPDIMS = "The numbers are right, but there is one axis of length 1 too many: `keepdims=True` keeps it."
STILL = "It is still in the order of y. Which row of x did y[i] come from?"


def circles(random, n):
    """Two permutations of n rows, neither of which undoes itself."""
    circle = random.permutation(n)
    first = np.empty(n, dtype=int)
    first[circle] = np.roll(circle, -1)
    return np.stack([first, np.roll(first, 1)])


def gathered(random, n):
    """Rung 4: n rows, and as many to take in the first problem, but more in the second."""
    return {"x": random.standard_normal((n, 2)), "index": np.array([2, 0, 2, 1, 5, 5, 0][: 3 * n // 2 - 2])}


def bucket(x):
    """A small hash: which of the arrows right, up, left and down each vector in the plane is nearest to."""
    return np.concatenate([x, -x], axis=-1).argmax(axis=-1)


def by_bucket(x):
    """The order that sorts vectors by bucket."""
    return bucket(x).argsort(kind="stable")


def spans(m):
    """The places (windows, 3) of what each sliding window holds."""
    return np.arange(len(m.dy))[:, None] + np.arange(3)


def ahead(m):
    """Of rung 7: the entries dy[i + j, j] summed for each i, where it should be dy[i - j, j]."""
    padded = np.vstack([m.dy, np.zeros((4, 3))])
    return sum(padded[j : j + len(m.x), j] for j in range(3))


RUNGS = [
    Rung(
        1,
        "broadcast",
        "broadcast",
        lambda random, n: {"b": random.standard_normal(3), "n": n + 1},
        {
            "db": (
                lambda m: m.dy.sum(axis=0),
                [
                    ("The sum over the broadcast axis is missing: b was copied to n rows.", lambda m: m.dy),
                    (KEEPDIMS, lambda m: total(m.dy, axis=0)),
                    ("You sum along the wrong axis. Along which one was b copied?", lambda m: m.dy.sum(axis=1)),
                    ("You take the mean over the copies. Each counts in full.", lambda m: m.dy.mean(axis=0)),
                    ("Only the first row of dy arrives. What about the other copies?", lambda m: m.dy[0]),
                    ("Only the last row of dy arrives. What about the other copies?", lambda m: m.dy[-1]),
                    ("You sum over both axes, but b has three numbers of its own.", lambda m: m.dy.sum()),
                ],
            )
        },
        "What is used n times gets n gradients, and they add up.",
    ),
    Rung(
        2,
        "row_sum",
        "sum",
        one_array("n", 3),
        {
            "dx": (
                lambda m: m.dy[:, None] + 0 * m.x,
                [
                    ("It is transposed. Into which number of y did row 0 of x go?", lambda m: m.dy + 0 * m.x),
                    ("It is not spread out yet. dx has a number for every entry of x.", lambda m: m.dy),
                    ("One column is not enough. dx has a number for every entry of x.", lambda m: m.dy[:, None]),
                    ("You divide by the number of columns. That is a mean, not a sum.", lambda m: m.right / 3),
                    (
                        "You multiply by x. If one entry grows by 1, by how much does the sum grow?",
                        lambda m: m.right * m.x,
                    ),
                ],
            )
        },
        "The gradient of a sum is a broadcast, just as that of a broadcast is a sum.",
    ),
    Rung(
        3,
        "repeat",
        "repeat",
        one_array("n", 2),
        {
            "dx": (
                lambda m: m.dy.reshape(len(m.x), 2, -1).sum(axis=1),
                [
                    (
                        "You pair rows that are half of y apart. Where does `np.repeat` put the copies of a row?",
                        lambda m: m.dy[: len(m.x)] + m.dy[len(m.x) :],
                    ),
                    (
                        "You take the first half of dy. Copies lie side by side.",
                        lambda m: m.dy[: len(m.x)],
                    ),
                    ("Only the first copy of each row sends its gradient home.", lambda m: m.dy[::2]),
                    ("Only the second copy of each row sends its gradient home.", lambda m: m.dy[1::2]),
                    ("You take the mean of the copies. Each counts in full.", lambda m: m.right / 2),
                    ("It is as long as y: the sum over the copies is missing.", lambda m: m.dy),
                    ("You repeat dy again. On the way back, copies come together.", lambda m: m.dy.repeat(2, axis=0)),
                ],
            )
        },
        "Every copy sends its gradient back to the original.",
    ),
    Rung(
        4,
        "gather",
        "gather",
        gathered,
        {
            "dx": (
                lambda m: scatter(m.dy, m.index, m.x),
                [
                    ("You gather where you should scatter: dy[i] goes to row index[i].", lambda m: m.dy[m.index]),
                    (
                        "Repeats are lost. With `dx[index] = dy`, and even with `+=`, each row is written only once.",
                        lambda m: last_write(m.dy, m.index, m.x),
                    ),
                    (
                        "argsort undoes only a permutation; index repeats a row.",
                        lambda m: m.dy[m.index.argsort()],
                    ),
                    (
                        "You take the mean of the repeats. Each counts in full.",
                        lambda m: m.right / np.bincount(m.index, minlength=len(m.x)).clip(1)[:, None],
                    ),
                    (STILL, lambda m: m.dy),
                ],
            )
        },
        "The gradient of a gather is a scatter that adds.",
        (4, 6),
    ),
    Rung(
        5,
        "permute",
        "permutation",
        lambda random, n: {"x": random.standard_normal((n, 2)), "order": circles(random, n)[0]},
        {
            "dx": (
                lambda m: m.dy[m.order.argsort()],
                [
                    ("You permute a second time. Which permutation undoes the first?", lambda m: m.dy[m.order]),
                    (STILL, lambda m: m.dy),
                    ("You reverse the rows. That undoes only a reversal.", lambda m: m.dy[::-1]),
                ],
            )
        },
        "The inverse permutation brings every row home.",
        (4, 6),
    ),
    Rung(
        6,
        "sort_by_key",
        "sort by key",
        one_array("n", 2),
        {
            "dx": (
                lambda m: m.dy[by_bucket(m.x).argsort()],
                [
                    (
                        "Buckets rehashed: you hash dy, but it was the buckets of x that sorted x.",
                        lambda m: m.dy[by_bucket(m.dy).argsort()],
                    ),
                    ("Buckets rehashed: you sort dy by buckets of its own.", lambda m: m.dy[by_bucket(m.dy)]),
                    ("You sort a second time. What undoes the first sort?", lambda m: m.dy[by_bucket(m.x)]),
                    (STILL, lambda m: m.dy),
                    ("You use bucket numbers as if they were rows.", lambda m: m.dy[bucket(m.x)]),
                ],
            )
        },
        "The key decides who goes where, and gets no gradient of its own.",
        (5, 9),
    ),
    Rung(
        7,
        "windows",
        "sliding windows",
        one_array("n"),
        {
            "dx": (
                lambda m: scatter(m.dy, spans(m), m.x),
                [
                    (
                        "Where windows overlap, only one counts. Do you add, or overwrite?",
                        lambda m: last_write(m.dy, spans(m), m.x),
                    ),
                    (
                        "You take the mean of the windows that overlap. Each counts in full.",
                        lambda m: m.right / np.bincount(spans(m).ravel()),
                    ),
                    ("You sum within each window. Do its numbers come from one place?", lambda m: m.dy.sum(axis=1)),
                    (
                        "You hand a window's whole sum to all of its places. Which of its numbers came from which?",
                        lambda m: scatter(total(m.dy) + 0 * m.dy, spans(m), m.x),
                    ),
                    (
                        "You hand a window's whole sum to its first place. Which of its numbers came from which?",
                        lambda m: np.append(m.dy.sum(axis=1), [0, 0]),
                    ),
                    (
                        "You look ahead: y[i, j] came from x[i + j], so x[i] is in the windows before row i.",
                        ahead,
                    ),
                    (
                        "Each window is mirrored: its first number came from its first place.",
                        lambda m: scatter(m.dy[:, ::-1], spans(m), m.x),
                    ),
                ],
            )
        },
        "A window is a gather with repeats, and you know how to undo those.",
        (6, 8),
    ),
]
