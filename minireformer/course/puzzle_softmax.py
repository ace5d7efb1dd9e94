"""Rungs 11, 12, 14 and 15: log-sum-exp, and the softmax, masked or merged from two.

See `puzzle_rung.py` for what a rung consists of. Read next: `puzzle_attention.py`.
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
                    ("dy is missing. What you have is dL/dx, only a factor of the answer.", lambda m: softmax(m.x)),
                    (
                        "The factor 1 / sum, which comes from the log, is missing.",
                        lambda m: m.dy[:, None] * np.exp(m.x),
                    ),
                    (
                        "The derivative of exp is missing: you have only that of the log.",
                        lambda m: m.dy[:, None] / total(np.exp(m.x)) + 0 * m.x,
                    ),
                    (
                        "The derivative of exp is missing, and dx needs one number for each entry of x.",
                        lambda m: m.dy[:, None] / total(np.exp(m.x)),
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
                        "A term is missing: each logit also lowers the other weights of its row.",
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
                    (
                        "y multiplies only the sum, and should multiply dy, too.",
                        lambda m: m.dy - m.y * total(m.y * m.dy),
                    ),
                    ("Every sign is reversed.", lambda m: -m.right),
                    (
                        "A sign is wrong: the second term should be subtracted.",
                        lambda m: centred(m.y, m.dy, -total(m.y * m.dy)),
                    ),
                ],
            )
        },
        "What one weight gains, the others lose: each row of dx adds up to 0.",
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
                    ("The mask is missing: hidden keys have weight in yours.", lambda m: centred(softmax(m.x), m.dy)),
                    (
                        "You mask a softmax over all keys. The weights of the keys that are left don't add up to 1.",
                        lambda m: centred(softmax(m.x) * m.mask, m.dy),
                    ),
                    (
                        "You mask the gradient of a softmax over all keys. Hide keys before the softmax, not after it.",
                        lambda m: centred(softmax(m.x), m.dy) * m.mask,
                    ),
                    ("A term is missing: y dy is only the first of two.", lambda m: masked(m) * m.dy),
                    (
                        "A hidden key has the logit 0 in yours, and e^0 = 1 is a weight like any other.",
                        lambda m: centred(softmax(m.x * m.mask), m.dy),
                    ),
                    (
                        "You multiply logits and dy by the mask, but a logit of 0 is a weight like any other: e^0 = 1.",
                        lambda m: centred(softmax(m.x * m.mask), m.dy * m.mask),
                    ),
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
                    ("The weights are missing: each round gets all of dy.", lambda m: m.dy + 0 * m.O),
                    ("Both rounds get the same share. Which of them counts more?", lambda m: m.dy / 2 + 0 * m.O),
                    ("Your weights don't add up to 1 over the rounds.", lambda m: np.exp(m.L)[..., None] * m.dy),
                    (
                        "Your weights add up to 1 over the tokens. They should do so over the rounds.",
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
                        "A term is missing: more weight for one round means less for the other.",
                        lambda m: share(m) * better(m, 0),
                    ),
                    (
                        "You treat each round by itself, as for a sigmoid. More of one round is less of the other.",
                        lambda m: share(m) * (1 - share(m)) * better(m, 0),
                    ),
                    (
                        "Your softmax runs over the tokens. The weights add up to 1 over the rounds.",
                        lambda m: centred(softmax(m.L), better(m, 0)),
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
