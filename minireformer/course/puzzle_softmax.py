"""Rungs 11 to 15: log-sum-exp, and the softmax whole, in parts, masked and merged.

See `puzzle_rung.py` for what a rung consists of. Read next: `puzzle_memory.py`.
"""

import numpy as np

from minireformer.course.puzzle_rung import Rung, one_array, total


def softmax(x, axis=-1):
    """Weights that add up to 1 along `axis`."""
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def centred(P, dP, delta=None):
    """The gradient of a softmax's logits: P (dP - delta), where delta is each row's sum of P dP."""
    return P * (dP - (total(P * dP) if delta is None else delta))


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


def shown(random, n):
    """A mask (n, n), whose row 1 shows nothing."""
    return (random.random((n, n)) < 0.6) & (np.arange(n) != 1)[:, None]


def masked(m, mask=None):
    """The softmax of each row over the keys that a mask shows; zeros in a row that shows none."""
    e = np.exp(m.x) * (m.mask if mask is None else mask)
    return e / np.maximum(total(e), 1e-300)


def share(m):
    """Each round's weight (R, n) in the merged output."""
    return softmax(m.L, axis=0)


def better(m, than):
    """Each round's sum of dy (O - than), over the columns: (R, n)."""
    return ((m.O - than) * m.dy).sum(axis=-1)


RUNGS = [
    Rung(
        11,
        "log_sum_exp",
        "log-sum-exp",
        one_array("n", 4),
        {
            "dx": (
                lambda m: m.dy[:, None] * softmax(m.x),
                [
                    ("dy is forgotten. What you have is dL/dx, a factor of it.", lambda m: softmax(m.x)),
                    ("The 1 / sum is missing, which comes from the log.", lambda m: m.dy[:, None] * np.exp(m.x)),
                    (
                        "The derivative of exp is missing: you have only that of the log.",
                        lambda m: m.dy[:, None] / total(np.exp(m.x)) + 0 * m.x,
                    ),
                    (
                        "Rows and columns are confused: your weights add up to 1 in each column.",
                        lambda m: m.dy[:, None] * softmax(m.x, axis=0),
                    ),
                    (
                        "Your weights add up to 1 over all rows together. Each row has its own sum.",
                        lambda m: m.dy[:, None] * np.exp(m.x) / np.exp(m.x).sum(),
                    ),
                    ("You only spread dy out. That would be the gradient of a sum.", lambda m: m.dy[:, None] + 0 * m.x),
                    ("Every sign is reversed.", lambda m: -m.right),
                ],
            )
        },
        "The derivative of log-sum-exp is the softmax.",
    ),
    Rung(
        12,
        "softmax",
        "softmax",
        one_array("n", 3),
        {
            "dx": (
                lambda m: centred(m.y, m.dy),
                [
                    (
                        "A term is forgotten: each logit also lowers the other weights of its row.",
                        lambda m: m.y * m.dy,
                    ),
                    (
                        "You treat each entry by itself, as for a sigmoid. In a softmax, each logit moves a whole row.",
                        lambda m: m.y * (1 - m.y) * m.dy,
                    ),
                    (
                        "Rows and columns are confused: you sum over columns.",
                        lambda m: centred(m.y, m.dy, total(m.y * m.dy, axis=0)),
                    ),
                    (
                        "Rows and columns are confused: without `keepdims=True`, sums line up with columns.",
                        lambda m: centred(m.y, m.dy, (m.y * m.dy).sum(axis=-1)),
                    ),
                    (
                        "Your sum runs over the whole matrix. Each row is a softmax by itself.",
                        lambda m: centred(m.y, m.dy, (m.y * m.dy).sum()),
                    ),
                    ("The sum you subtract lacks the weights y.", lambda m: centred(m.y, m.dy, total(m.dy))),
                    ("You subtract a plain mean of dy. Weights matter.", lambda m: centred(m.y, m.dy, total(m.dy) / 3)),
                    ("The factor y in front is missing.", lambda m: m.dy - total(m.y * m.dy)),
                    (
                        "y multiplies only dy, and should multiply the sum, too.",
                        lambda m: m.y * m.dy - total(m.y * m.dy),
                    ),
                    ("Every sign is reversed.", lambda m: -m.right),
                    (
                        "A sign is wrong: the second term is subtracted.",
                        lambda m: centred(m.y, m.dy, -total(m.y * m.dy)),
                    ),
                ],
            )
        },
        "What one weight gains, the others lose: each row of dx adds up to 0.",
    ),
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
                        "`dy @ O.T` meets every row with every other. What belongs to row i alone?",
                        lambda m: block(m, m.dy @ m.O.T),
                    ),
                    ("A term is forgotten: P dP is only the first of two.", lambda m: block(m, 0)),
                    ("The factor P in front is missing.", lambda m: block(m, delta(m), 1)),
                    (
                        "Rows and columns are confused: without `keepdims=True`, Δ lines up with columns.",
                        lambda m: block(m, delta(m)[:, 0]),
                    ),
                    (
                        "Rows and columns are confused: L belongs to rows, and needs a second axis.",
                        lambda m: block(m, delta(m), np.exp(m.S - m.L)),
                    ),
                    ("A sign is wrong: the second term is subtracted.", lambda m: block(m, -delta(m))),
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
                        "The weights were already the right ones for dS. Use P, not dS.",
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
        14,
        "masked_softmax",
        "masked softmax",
        lambda random, n: {"x": random.standard_normal((n, n)), "mask": shown(random, n)},
        {
            "dx": (
                lambda m: centred(masked(m), m.dy),
                [
                    ("The mask is forgotten: hidden keys have weight in yours.", lambda m: centred(softmax(m.x), m.dy)),
                    (
                        "You mask a softmax over all keys. The weights of the keys that are left don't add up to 1.",
                        lambda m: centred(softmax(m.x) * m.mask, m.dy),
                    ),
                    (
                        "You mask the gradient of a softmax over all keys. Hide keys before the softmax, not after it.",
                        lambda m: centred(softmax(m.x), m.dy) * m.mask,
                    ),
                    ("A term is forgotten: y dy is only the first of two.", lambda m: masked(m) * m.dy),
                    (
                        "Your mask is upside down: True means that a key is seen.",
                        lambda m: centred(masked(m, ~m.mask), m.dy),
                    ),
                    (
                        "Rows and columns are confused: your mask is transposed.",
                        lambda m: centred(masked(m, m.mask.T), m.dy),
                    ),
                    (
                        "Row 1 is NaN: it sees nothing, so its sum is 0. `masked_softmax` knows what to do.",
                        lambda m: np.where(m.mask.any(axis=1, keepdims=True), m.right, np.nan),
                    ),
                    (
                        "Row 1 sees nothing, so its weights are 0. Yours spread over all keys.",
                        lambda m: np.where(
                            m.mask.any(axis=1, keepdims=True), m.right, centred(0 * m.x + 1 / len(m.x), m.dy)
                        ),
                    ),
                    (
                        "Rows and columns are confused: without `keepdims=True`, sums line up with columns.",
                        lambda m: centred(masked(m), m.dy, (masked(m) * m.dy).sum(axis=-1)),
                    ),
                ],
            )
        },
        "A hidden key has weight 0, and so its gradient is 0: no second mask needed.",
        (4, 6),
    ),
    Rung(
        15,
        "merge",
        "two softmaxes merged",
        lambda random, n: {"O": random.standard_normal((2, n, 2)), "L": random.standard_normal((2, n))},
        {
            "dO": (
                lambda m: share(m)[..., None] * m.dy,
                [
                    ("The weights are forgotten: each round gets all of dy.", lambda m: m.dy + 0 * m.O),
                    ("Both rounds get the same share. Which of them counts more?", lambda m: m.dy / 2 + 0 * m.O),
                    ("Your weights don't add up to 1 over the rounds.", lambda m: np.exp(m.L)[..., None] * m.dy),
                    (
                        "Your weights add up to 1 over the tokens. They should over the rounds.",
                        lambda m: softmax(m.L)[..., None] * m.dy,
                    ),
                    ("It has no axis for rounds: each of them has a gradient.", lambda m: m.dy),
                    ("The rounds are swapped.", lambda m: m.right[::-1]),
                ],
            ),
            "dL": (
                lambda m: share(m) * better(m, m.y),
                [
                    (
                        "A term is forgotten: more weight for one round means less for the other.",
                        lambda m: share(m) * better(m, 0),
                    ),
                    ("The factor w in front is missing.", lambda m: better(m, m.y)),
                    ("w and the second term are missing.", lambda m: better(m, 0)),
                    (
                        "The second term has one round's O. Which output do all rounds share?",
                        lambda m: share(m) * better(m, m.O.sum(axis=0)),
                    ),
                    (
                        "You subtract the plain mean of the rounds. Merged, they have weights.",
                        lambda m: share(m) * better(m, m.O.mean(axis=0)),
                    ),
                    (
                        "The sum over the columns is missing: one L weighs a whole row.",
                        lambda m: share(m)[..., None] * (m.O - m.y) * m.dy,
                    ),
                    ("The sum over the columns is missing, and so is w.", lambda m: (m.O - m.y) * m.dy),
                    ("Every sign is reversed.", lambda m: -m.right),
                ],
            ),
        },
        "A round gets more weight if it does better than the merged output. Softmaxes merge into a softmax.",
    ),
]
