"""Rungs 21 to 23: chunks computed again, and the reversible pair, with measurements of what an answer keeps.

See `puzzle_rung.py` for what a rung consists of. Read next: `capstone.py`, which checks rung 24.
"""

import numpy as np

from minireformer.course.puzzle_rung import Rung
from minireformer.tools.memory import nbytes, peak


def hidden(m):
    """The hidden layer, after the ReLU."""
    return np.maximum(m.x @ m.W1, 0)


def dhidden(m, relu=True):
    """Its gradient, before the ReLU."""
    return m.dy @ m.W2.T * ((hidden(m) > 0) if relu else 1)


def last_chunk(m):
    """A slice: the tokens of the last chunk."""
    return slice((len(m.x) - 1) // m.chunk_len * m.chunk_len, None)


def n_chunks(m):
    """The number of chunks."""
    return -(-len(m.x) // m.chunk_len)


def pair(x1, x2):
    """The reversible pair: f is the cosine, g the sine of twice its argument."""
    y1 = x1 + np.cos(x2)
    return y1, x2 + np.sin(2 * y1)


def pair_backward(dy1, dy2, x1, x2, at=None):
    """The gradients of the pair's inputs; `at` is where g's derivative is taken (None: at y1, as it should be)."""
    at = x1 + np.cos(x2) if at is None else at
    dx1 = dy1 + 2 * np.cos(2 * at) * dy2
    return dx1, dy2 - np.sin(x2) * dx1


def run(m, n_layers):
    """(x1, x2) after so many layers."""
    x = m.x1, m.x2
    for _ in range(n_layers):
        x = pair(*x)
    return x


def through(m, rebuild=None):
    """Both gradients of the stack; `rebuild(y1, y2)` gives the inputs that each layer is thought to have had."""
    dy, x = tuple(m.dy), run(m, m.n_layers)
    for n in reversed(range(m.n_layers)):
        x = rebuild(*x) if rebuild else run(m, n)
        dy = pair_backward(*dy, *x)
    return dy


def added(y1, y2):
    """Inputs rebuilt with both signs wrong."""
    x2 = y2 + np.sin(2 * y1)
    return y1 + np.cos(x2), x2


def swapped(y1, y2):
    """Inputs rebuilt in the order of the forward pass."""
    x1 = y1 - np.cos(y2)
    return x1, y2 - np.sin(2 * x1)


def g_of_x1(y1, y2):
    """Inputs rebuilt at once, both from outputs only."""
    return y1 - np.cos(y2), y2 - np.sin(2 * y1)


def stack_mistakes(which):
    """Typical mistakes in dx1 (0) or dx2 (1) of rung 23."""
    return [
        (
            "You take gradients at each layer's outputs. Rebuild its inputs first: f and g read those.",
            lambda m: through(m, lambda y1, y2: (y1, y2))[which],
        ),
        ("You rebuild x1 first. f read x2, and you don't have it yet.", lambda m: through(m, swapped)[which]),
        ("You rebuild x1 from f(y2). f read x2.", lambda m: through(m, g_of_x1)[which]),
        ("You rebuild by adding. What was added must be subtracted.", lambda m: through(m, added)[which]),
        ("You went back through one layer only. How many are there?", lambda m: last_layer(m)[which]),
        ("You take the gradient before you rebuild. Rebuild a layer's inputs first.", lambda m: too_early(m)[which]),
        (
            "You use the last layer's inputs for every layer. What you rebuilt are the outputs of the layer before.",
            lambda m: through(m, lambda *_: run(m, m.n_layers - 1))[which],
        ),
        (
            "Your cache holds the first layer's inputs, but you rebuild as if they were the last one's outputs.",
            lambda m: from_inputs(m)[which],
        ),
        ("You take every gradient at the first layer's inputs.", lambda m: through(m, lambda *_: run(m, 0))[which]),
    ]


def from_inputs(m):
    """Inputs rebuilt as they should be, but from x1 and x2 in place of y1 and y2."""
    dy, (y1, y2) = tuple(m.dy), (m.x1, m.x2)
    for _ in range(m.n_layers):
        y2 = y2 - np.sin(2 * y1)
        y1 = y1 - np.cos(y2)
        dy = pair_backward(*dy, y1, y2)
    return dy


def too_early(m):
    """Each layer's gradient taken at its outputs, which are rebuilt as they should be, but only after it."""
    dy = tuple(m.dy)
    for n in reversed(range(m.n_layers)):
        dy = pair_backward(*dy, *run(m, n + 1))
    return dy


def last_layer(m):
    """The gradients of what the last layer read."""
    return pair_backward(*m.dy, *run(m, m.n_layers - 1))


def back_from_cache(functions, m):
    """What the reader's pair of functions makes of dy; AssertionError if the forward one is not the stack."""
    returned = functions[0](m.x1, m.x2, m.n_layers)
    three = isinstance(returned, tuple) and len(returned) == 3
    assert three, f"`{functions[0].__name__}` should return y1, y2 and the cache."
    same = all(np.shape(y) == x.shape and np.allclose(y, x) for y, x in zip(returned, m.y))
    assert same, f"`{functions[0].__name__}` should return the same y1 and y2 as `stack`."
    return functions[1](*m.dy, returned[2])


def chunk_peak(backward):
    """Rung 21 lets go of each chunk: AssertionError if `backward` keeps the hidden layer of many tokens."""
    random = np.random.default_rng(21)
    x, dy = random.standard_normal((2, 2048, 8))
    W1, W2 = random.standard_normal((8, 256)), random.standard_normal((256, 8))
    with peak() as measured:
        backward(dy, x, W1, W2, 64)
    whole, allowed = 2048 * 256 * 8, 8 * (6 * 64 * 256 + 4 * x.size + 6 * W1.size)
    times = f"{measured.bytes / whole:.1f} times the memory of their whole hidden layer"
    said = f"For 2,048 tokens your backward pass needs {times}"
    assert measured.bytes <= allowed, f"The gradients are right. {said}. Let each chunk go before you start the next."


def stack_memory(functions):
    """Rung 23 keeps two arrays: AssertionError if the cache, or the peak of the backward pass, grows with depth."""
    forward, backward = functions
    x1, x2, dy1, dy2 = np.random.default_rng(23).standard_normal((4, 4096))
    _, _, cache = forward(x1.copy(), x2.copy(), 32)
    arrays = nbytes(cache) / x1.nbytes
    start = "The gradients are right. With 32 layers"
    assert arrays <= 2.1, f"{start} your cache holds {arrays:.0f} arrays. Two are enough: which ones can't you rebuild?"
    with peak() as measured:
        backward(dy1, dy2, cache)
    arrays = measured.bytes / x1.nbytes
    assert arrays <= 24, (
        f"{start} your backward pass has {arrays:.0f} arrays alive at once. Rebuild one layer at a time."
    )


RUNGS = [
    Rung(
        21,
        "feed_forward",
        "a chunk recomputed",
        lambda random, n: {
            "x": random.standard_normal((n, 2)),
            "W1": random.standard_normal((2, 3)),
            "W2": random.standard_normal((3, 2)),
            "chunk_len": n // 2,
        },
        {
            "dx": (
                lambda m: dhidden(m) @ m.W1.T,
                [
                    (
                        "The ReLU is missing: where h is 0, nothing gets through.",
                        lambda m: dhidden(m, False) @ m.W1.T,
                    ),
                    (
                        "A ReLU lets a gradient through unchanged, or not at all. You multiply it by h.",
                        lambda m: dhidden(m) * hidden(m) @ m.W1.T,
                    ),
                    (
                        "You apply the ReLU to the gradient. Where it passes depends on h, not on its own sign.",
                        lambda m: np.maximum(dhidden(m, False), 0) @ m.W1.T,
                    ),
                    (
                        "Only the last chunk of dx is there. Where do the others go?",
                        lambda m: np.concatenate([0 * m.x[: last_chunk(m).start], m.right[last_chunk(m)]]),
                    ),
                    ("You return the last chunk alone.", lambda m: m.right[last_chunk(m)]),
                ],
            ),
            "dW1": (
                lambda m: m.x.T @ dhidden(m),
                [
                    (
                        "Only the last chunk counts. All chunks use the same W1: add.",
                        lambda m: m.x[last_chunk(m)].T @ dhidden(m)[last_chunk(m)],
                    ),
                    ("You take the mean over chunks. Each counts in full.", lambda m: m.right / n_chunks(m)),
                    ("The ReLU is missing: where h is 0, nothing gets through.", lambda m: m.x.T @ dhidden(m, False)),
                ],
            ),
            "dW2": (
                lambda m: hidden(m).T @ m.dy,
                [
                    (
                        "Only the last chunk counts. All chunks use the same W2: add.",
                        lambda m: hidden(m)[last_chunk(m)].T @ m.dy[last_chunk(m)],
                    ),
                    ("You take the mean over chunks. Each counts in full.", lambda m: m.right / n_chunks(m)),
                    ("The ReLU is missing: what was W2 multiplied by?", lambda m: (m.x @ m.W1).T @ m.dy),
                ],
            ),
        },
        "This is the widest layer of the model, and never more than a chunk of it is alive.",
        (4, 5),  # with tokens in the last chunk that get through the ReLU
        outputs=lambda f, inputs: f(inputs["x"], inputs["W1"], inputs["W2"]),
        extra=chunk_peak,
    ),
    Rung(
        22,
        "pair",
        "a reversible pair",
        lambda random, n: {"x1": random.standard_normal(n), "x2": random.standard_normal(n)},
        {
            "dx1": (
                lambda m: pair_backward(*m.dy, m.x1, m.x2)[0],
                [
                    ("A term is missing: x1 also acts through y1, and g reads y1.", lambda m: m.dy[0]),
                    (
                        "You take g's derivative at x1. What did g read?",
                        lambda m: pair_backward(*m.dy, m.x1, m.x2, at=m.x1)[0],
                    ),
                    (
                        "You take g's derivative at x2. What did g read?",
                        lambda m: pair_backward(*m.dy, m.x1, m.x2, at=m.x2)[0],
                    ),
                    (
                        "You take g's derivative at y2. What did g read?",
                        lambda m: pair_backward(*m.dy, m.x1, m.x2, at=m.y[1])[0],
                    ),
                    ("That is dx2. Return dx1 first.", lambda m: pair_backward(*m.dy, m.x1, m.x2)[1]),
                    (
                        "g gets dy1. To which stream did g add?",
                        lambda m: pair_backward(m.dy[0], m.dy[0], m.x1, m.x2)[0],
                    ),
                    ("f's part goes to x2, which f read; yours is in dx1.", lambda m: m.dy[0] * (1 - np.sin(m.x2))),
                    ("The gradient passes through g as if g were not there.", lambda m: m.dy.sum(axis=0)),
                    ("The direct path is missing: x1 is a part of y1.", lambda m: m.right - m.dy[0]),
                    ("A sign is wrong: x1 + f(x2) adds.", lambda m: 2 * m.dy[0] - m.right),
                ],
            ),
            "dx2": (
                lambda m: pair_backward(*m.dy, m.x1, m.x2)[1],
                [
                    (
                        "f gets dy1 alone. By then, what is the whole gradient of y1?",
                        lambda m: m.dy[1] - np.sin(m.x2) * m.dy[0],
                    ),
                    ("A term is missing: x2 also acts through f.", lambda m: m.dy[1]),
                    ("The direct path is missing: x2 is a part of y2.", lambda m: m.right - m.dy[1]),
                    (
                        "You take f's derivative at y2. What did f read?",
                        lambda m: m.dy[1] - np.sin(m.y[1]) * pair_backward(*m.dy, m.x1, m.x2)[0],
                    ),
                    (
                        "You take f's derivative at x1. What did f read?",
                        lambda m: m.dy[1] - np.sin(m.x1) * pair_backward(*m.dy, m.x1, m.x2)[0],
                    ),
                    ("f gets dy2. To which stream did f add?", lambda m: m.dy[1] - np.sin(m.x2) * m.dy[1]),
                ],
            ),
        },
        "What was added last comes first on the way back.",
        outputs=lambda f, inputs: np.stack(f(*inputs.values())),
        call=lambda backward, m: backward(*m.dy, m.x1, m.x2),
    ),
    Rung(
        23,
        "stack",
        "a reversible pair, its memory freed",
        lambda random, n: {"x1": random.standard_normal(n), "x2": random.standard_normal(n), "n_layers": n},
        {
            "dx1": (lambda m: through(m)[0], stack_mistakes(0)),
            "dx2": (lambda m: through(m)[1], stack_mistakes(1)),
        },
        "However many layers there are, two arrays are all that you keep.",
        outputs=lambda f, inputs: np.stack(f(*inputs.values())),
        call=back_from_cache,
        extra=stack_memory,
    ),
]
