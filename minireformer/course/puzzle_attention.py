"""Rungs 13 and 18 to 20: a softmax seen in part, shared queries and keys, look-back, rounds.

See `puzzle_rung.py` for what a rung consists of. Read next: `puzzle_memory.py`.
"""

import numpy as np

from minireformer.course.puzzle_moves import circles
from minireformer.course.puzzle_products import unit, unit_backward
from minireformer.course.puzzle_rung import Rung, one_array, total
from minireformer.course.puzzle_softmax import centred, softmax


def some_keys(random, n):
    """Rung 13: logits and values of three keys that backward gets, L and O of five, and the two that it never sees."""
    S, V = random.standard_normal((n, 5)), random.standard_normal((5, 2))
    return {
        "S": S[:, :3],
        "V": V[:3],
        "L": np.log(np.exp(S).sum(axis=1)),
        "O": softmax(S) @ V,
        "rest": (S[:, 3:], V[3:]),
    }


def block(m, delta, P=None):
    """dS of rung 13, with this delta, and these weights or exp(S - L)."""
    return (np.exp(m.S - m.L[:, None]) if P is None else P) * (m.dy @ m.V.T - delta)


def delta(m):
    """Each row's sum of P dP over all keys, read off the output."""
    return total(m.dy * m.O)


def by_round(m, slots):
    """Rounds (R, n, D), each in the order of its `slots`."""
    return np.stack([dy[places] for dy, places in zip(m.dy, slots)])


def halves(m):
    """Of each window, the half from the chunk before, and the chunk's own."""
    return m.dy[:, : m.x.shape[1]], m.dy[:, m.x.shape[1] :]


def rolled(m, first, second):
    """Own halves, moved by `second` chunks, and halves from before, moved by `first`."""
    before, own = halves(m)
    return np.roll(before, first, axis=0) + np.roll(own, second, axis=0)


def no_circle(m):
    """The look-back of chunk 0, forgotten."""
    before, own = halves(m)
    return own + np.concatenate([before[1:], 0 * before[:1]])


RUNGS = [
    Rung(
        13,
        "attend",
        "softmax, through its output",
        some_keys,
        {
            "dS": (
                lambda m: block(m, delta(m)),
                [
                    (
                        "Your sum runs over these keys alone. What does the sum over all keys have to do with O?",
                        lambda m: centred(np.exp(m.S - m.L[:, None]), m.dy @ m.V.T),
                    ),
                    (
                        "Your weights add up to 1 over these keys alone. Which L belongs to all keys?",
                        lambda m: block(m, delta(m), softmax(m.S)),
                    ),
                    (
                        "You treat these keys as if they were all. L and O belong to all of them.",
                        lambda m: centred(softmax(m.S), m.dy @ m.V.T),
                    ),
                    (
                        "`dy @ O.T` pairs every row with every other. What belongs to row i alone?",
                        lambda m: block(m, m.dy @ m.O.T),
                    ),
                    (
                        "L is missing: exp(S) alone does not give the weights.",
                        lambda m: block(m, delta(m), np.exp(m.S)),
                    ),
                    ("You take one sum for all rows. Each row has its own.", lambda m: block(m, delta(m).sum())),
                    ("A term is missing: P dP is only the first of two.", lambda m: block(m, 0)),
                    ("The factor P in front is missing.", lambda m: block(m, delta(m), 1)),
                    (
                        "P multiplies only Δ, and should multiply dP, too.",
                        lambda m: block(m, np.exp(m.S - m.L[:, None]) * delta(m), 1),
                    ),
                    ("dy is missing from Δ: it is a sum of dy O.", lambda m: block(m, total(m.O))),
                    (
                        "Rows and columns are confused: without `keepdims=True`, Δ lines up with columns.",
                        lambda m: block(m, delta(m)[:, 0]),
                    ),
                    (
                        "Rows and columns are confused: L belongs to rows, and needs a second axis.",
                        lambda m: block(m, delta(m), np.exp(m.S - m.L)),
                    ),
                    ("A sign is wrong: the second term should be subtracted.", lambda m: block(m, -delta(m))),
                    ("Every sign is reversed.", lambda m: -m.right),
                ],
            ),
            "dV": (
                lambda m: np.exp(m.S - m.L[:, None]).T @ m.dy,
                [
                    ("P should be transposed, and isn't.", lambda m: np.exp(m.S - m.L[:, None]) @ m.dy),
                    (
                        "Your weights add up to 1 over these keys alone. Which L belongs to all keys?",
                        lambda m: softmax(m.S).T @ m.dy,
                    ),
                    ("You multiply by the logits, not by the weights.", lambda m: m.S.T @ m.dy),
                    (
                        "dy is missing: O is the output, not its gradient.",
                        lambda m: np.exp(m.S - m.L[:, None]).T @ m.O,
                    ),
                    (
                        "You multiply by dS. What was V multiplied by?",
                        lambda m: block(m, delta(m)).T @ m.dy,
                    ),
                ],
            ),
        },
        "You never saw the other keys, and needed only O and L. So nobody has to store P.",
        outputs=lambda f, inputs: f(
            np.hstack([inputs["S"], inputs["rest"][0]]), np.vstack([inputs["V"], inputs["rest"][1]])
        ),
        call=lambda backward, m: backward(m.dy, m.S, m.V, m.L, m.O),
    ),
    Rung(
        18,
        "shared_logits",
        "shared query and key",
        one_array("n", 3),
        {
            "dx": (
                lambda m: m.dy @ unit(m.x) + unit_backward(m.dy.T @ m.x, m.x),
                [
                    ("A term is missing: x is also the key.", lambda m: m.dy @ unit(m.x)),
                    ("A term is missing: x is also the query.", lambda m: unit_backward(m.dy.T @ m.x, m.x)),
                    (
                        "The key's part does not go through the unit length. What lies between x and k?",
                        lambda m: m.dy @ unit(m.x) + m.dy.T @ m.x,
                    ),
                    (
                        "Both parts go through the unit length. The query was not scaled.",
                        lambda m: unit_backward(m.dy @ unit(m.x) + m.dy.T @ m.x, m.x),
                    ),
                    (
                        "The key's part is not transposed: key j is in column j of the logits.",
                        lambda m: m.dy @ unit(m.x) + unit_backward(m.dy @ m.x, m.x),
                    ),
                    (
                        "The keys that a query meets have length 1; yours are as long as x.",
                        lambda m: m.dy @ m.x + unit_backward(m.dy.T @ m.x, m.x),
                    ),
                    ("Nothing in yours goes through the unit length.", lambda m: (m.dy + m.dy.T) @ m.x),
                    (
                        "That is the gradient of `k.T`. Transpose it before you go through the unit length.",
                        lambda m: m.dy @ unit(m.x) + unit_backward(m.x.T @ m.dy, m.x),
                    ),
                    (
                        "You go through the unit length at k. Which vector was divided by its length?",
                        lambda m: m.dy @ unit(m.x) + unit_backward(m.dy.T @ m.x, unit(m.x)),
                    ),
                    (
                        "You use k for both. The key met queries as long as x, and then went through the unit length.",
                        lambda m: (m.dy + m.dy.T) @ unit(m.x),
                    ),
                    ("You double the query's part. The key's part is different.", lambda m: 2 * m.dy @ unit(m.x)),
                    (
                        "The queries that a key meets are as long as x; yours have length 1.",
                        lambda m: m.dy @ unit(m.x) + unit_backward(m.dy.T @ unit(m.x), m.x),
                    ),
                ],
            )
        },
        "One vector, two roles, two gradients: they add up.",
    ),
    Rung(
        19,
        "look_back",
        "look-back",
        lambda random, n: {"x": random.standard_normal((n, 2, n - 2))},
        {
            "dx": (
                lambda m: rolled(m, -1, 0),
                [
                    ("The first half of a window has a gradient, too. Whose is it?", lambda m: halves(m)[1]),
                    (
                        "The second half of a window has a gradient, too. Whose is it?",
                        lambda m: np.roll(halves(m)[0], -1, axis=0),
                    ),
                    ("The first half belongs one chunk earlier; yours stays where it is.", lambda m: rolled(m, 0, 0)),
                    ("The first half belongs one chunk earlier; yours goes later.", lambda m: rolled(m, 1, 0)),
                    ("The halves are swapped: first comes the chunk before.", lambda m: rolled(m, 0, -1)),
                    ("The chunk before chunk 0 gets nothing. The chunks form a circle.", no_circle),
                    (
                        "Without `axis`, `np.roll` moves single numbers. It is whole chunks that move.",
                        lambda m: halves(m)[1] + np.roll(halves(m)[0], -1),
                    ),
                    (
                        "You roll within each chunk. It is whole chunks that move, along axis 0.",
                        lambda m: halves(m)[1] + np.roll(halves(m)[0], -1, axis=1),
                    ),
                    ("It is as long as the windows. Every chunk is in two of them: add.", lambda m: m.dy),
                ],
            )
        },
        "Half of what a window learns belongs to the chunk before.",
    ),
    Rung(
        20,
        "rounds",
        "rounds",
        lambda random, n: {"x": random.standard_normal((n, 2)), "order": circles(random, n)},
        {
            "dx": (
                lambda m: by_round(m, m.order.argsort(axis=1)).sum(axis=0),
                [
                    (
                        "Only the last round arrives. `dx[order] += dy` drops repeats, and every token repeats.",
                        lambda m: by_round(m, m.order.argsort(axis=1))[-1],
                    ),
                    ("Only round 0 arrives.", lambda m: m.dy[0][m.order[0].argsort()]),
                    ("You take the mean over rounds. Each counts in full.", lambda m: m.right / len(m.order)),
                    (
                        "Your argsort runs over the rounds. Each round is sorted by itself, along axis 1.",
                        lambda m: by_round(m, m.order.argsort(axis=0)).sum(axis=0),
                    ),
                    ("You add up slots, not tokens: undo each round's sort first.", lambda m: m.dy.sum(axis=0)),
                    ("You sort a second time. What undoes a sort?", lambda m: by_round(m, m.order).sum(axis=0)),
                    (
                        "All rounds are undone by the order of round 0. Each has its own.",
                        lambda m: m.dy.sum(axis=0)[m.order[0].argsort()],
                    ),
                    (
                        "Every round is home, but they are still side by side: the sum over rounds is missing.",
                        lambda m: by_round(m, m.order.argsort(axis=1)),
                    ),
                ],
            )
        },
        "Every round sends its gradient home, and there they add up.",
        (4, 6),
    ),
]
