"""The capstone of the course, at the end of notebook 05b: checks your backward pass of LSH attention, piece by piece.

`check_backward` looks at the pieces of your gradient in the order in which you compute them. It compares the first
wrong one with the results of typical mistakes. If a mistake gives the same numbers, you get a hint about it;
otherwise the message says where the error is. To know the mistakes, this file has to know the answer: if you want to
solve the exercise, read no further.
"""

import functools
import math
from types import SimpleNamespace

import numpy as np

from minireformer.attention import lsh_attention, lsh_attention_backward
from minireformer.backend import asarray, get_xp, to_numpy
from minireformer.hashing import hash_vectors, random_rotations, sort_by_bucket
from minireformer.rng import generator
from minireformer.tools.gradcheck import gradcheck
from minireformer.unit_length import inverse_length, unit_length

FORBIDDEN, SELF = -1e9, -1e3  # as in 05a: e^(SELF - L) is 0 next to any other key, and loses no digits
PIECES = {  # what each one is, in the order in which they are checked
    "P": "(N, C, 2C), the weights of each chunk's queries over the keys of its window, with one L for all rounds",
    "dvw": "(N, 2C, D), the gradient of the values in each window",
    "dv": "(T, D), the gradient of the values",
    "dS": "(N, C, 2C), the gradient of the logits",
    "dq_query": "(T, D), the gradient of the queries as queries",
    "dk": "(T, D), the gradient of the keys, which have length 1",
    "dq": "(T, D), the gradient of the queries, which are also the keys",
}
# Length, D, rounds, chunk length, seed; the easiest problem first.
PROBLEMS = ((12, 3, 1, 4, 0), (24, 4, 3, 4, 1), (20, 5, 2, 10, 2))


class Unfinished(AssertionError):
    """All pieces so far are right, and there are some to come."""


def check_backward(backward):
    """Compare the pieces of `backward(dout, q, v, out, L, order, chunk_len)` with the right ones: one head, causal.

    `backward` gets dout, q, v and out (T, D), L (T), all float64, and order (R, T). It returns a dict with the
    `PIECES` that you have so far, from the first on. Raises AssertionError with a hint: what is right so far, and what
    is wrong with the next piece. If nothing is wrong in any of the `PROBLEMS`, but pieces are missing: Unfinished.
    """
    unfinished = None
    for length, d_head, n_rounds, chunk_len, seed in PROBLEMS:
        q, v, dout = (asarray(x) for x in generator(seed, "capstone").standard_normal((3, length, d_head)))
        q = 1.5 * q  # long enough that some keys matter more than others
        rotations = random_rotations(seed, 1, d_head, n_rounds, 2 * (length // chunk_len), dtype="float64")
        buckets = hash_vectors(q[None, None], rotations)
        case = f"{length} tokens, {n_rounds} round{'s' if n_rounds > 1 else ''}, chunks of {chunk_len}"
        attend = functools.partial(_attend, buckets=buckets, chunk_len=chunk_len)
        *arguments, _ = attend(q, v)[1]
        try:
            _check_pieces(backward(dout, *arguments), right_pieces(dout, *arguments), case)
            _check_whole(backward, attend, q, v, case)
        except Unfinished as error:  # with one round, a piece may be right by chance: look at the other problems, too
            unfinished = error
    if unfinished:
        raise unfinished


def _attend(q, v, buckets, chunk_len):
    """LSH attention of one head: q, v (T, D) -> out (T, D), (q, v, out, L, order, chunk_len, the library's cache)."""
    out, cache = lsh_attention(q[None, None], v[None, None], buckets, chunk_len=chunk_len)
    xp, sees_nothing = get_xp(q), cache.l == 0
    only_itself = SELF + math.log(buckets.shape[2])  # L of a token that sees itself in every round, and nothing else
    L = xp.where(sees_nothing, only_itself, cache.m + xp.log(cache.l + sees_nothing))[0, 0]
    return out[0, 0], (q, v, out[0, 0], L, sort_by_bucket(buckets)[0, 0], chunk_len, cache)


def _check_pieces(found, x, case):
    """Compare the pieces in the dict `found` with those of x, the `right_pieces`."""
    assert isinstance(found, dict), f"Expected a dict of the pieces that you have: {', '.join(PIECES)}."
    unknown = found.keys() - PIECES.keys()
    assert not unknown, f"No piece is called {', '.join(sorted(unknown))}. The pieces are {', '.join(PIECES)}."
    so_far = []
    for piece, meaning in PIECES.items():
        start = f"{case}. Right so far: {', '.join(so_far)}. " if so_far else f"{case}. "
        if piece not in found:
            right = f"Right so far: {', '.join(so_far)}. " if so_far else ""
            raise Unfinished(f"{right}The next piece is {piece}: {meaning}.")
        right, shape = getattr(x, piece), getattr(found[piece], "shape", None)
        assert shape == right.shape, f"{start}{piece} is {meaning}: expected the shape {right.shape}, got {shape}."
        if not _equal(found[piece], right):
            hints = (hint for hint, wrong in mistakes(piece, x) if _equal(found[piece], wrong))
            raise AssertionError(f"{start}{piece} is wrong. {next(hints, None) or _where(found[piece], right)}")
        so_far.append(piece)


def _check_whole(backward, attend, q, v, case):
    """Compare with finite differences and with the library, for a different dout from that of the pieces."""

    def gradients(dout, cache):
        found = backward(dout, *cache[:-1])
        return found["dq"], found["dv"]

    for gradient in gradcheck((attend, gradients), q, v).gradients:
        wrong = f"All pieces are right, but d{gradient.name} is off by {gradient.error:.0%} with another dout."
        assert gradient.error < 1e-6, f"{case}: {wrong} Do you keep anything from an earlier call?"
    cache = attend(q, v)[1]
    library = lsh_attention_backward(q[None, None], cache[-1])
    for name, yours, right in zip(("dq", "dv"), gradients(q, cache), library):
        assert _equal(yours, right[0, 0]), f"{case}: {name} differs from the library's."


def right_pieces(dout, q, v, out, L, order, chunk_len):
    """-> the `PIECES` as attributes, and the ingredients of typical mistakes."""
    xp, x = get_xp(q), SimpleNamespace(dout=dout, q=q, L=L, order=order, chunk_len=chunk_len)
    x.k = unit_length(q)
    x.token = order.reshape(-1, chunk_len)  # (N, C): the token of each slot
    x.window = xp.concatenate([xp.roll(x.token, 1, axis=0), x.token], axis=1)  # (N, 2C): the token of each key
    x.L_of_slot = L[x.token]  # (N, C)
    x.S, x.own, x.later = _logits(x, x.window)
    x.P = _weights(x)
    x.dvw = x.P.swapaxes(1, 2) @ dout[x.token]
    x.dv = _by_token(_by_slot(x.dvw), order)
    x.dP = dout[x.token] @ v[x.window].swapaxes(1, 2)
    x.delta = (dout * out).sum(axis=-1)  # (T)
    x.dS = x.P * (x.dP - x.delta[x.token][..., None])
    x.dqc = x.dS @ x.k[x.window]  # (N, C, D)
    x.dkw = x.dS.swapaxes(1, 2) @ q[x.token]  # (N, 2C, D)
    x.dq_query = _by_token(x.dqc, order)
    x.dk = _by_token(_by_slot(x.dkw), order)
    x.scale = inverse_length(q)[:, None]
    x.dq = x.dq_query + x.scale * _turning(x.dk, x.k)
    return x


def mistakes(piece, x):
    """Typical mistakes in a piece when all before it are right: pairs of a hint and the wrong numbers."""
    xp, order = get_xp(x.q), x.order
    unsorted = xp.arange(order.size).reshape(x.token.shape) % order.shape[1]  # slots mistaken for tokens
    shares = xp.maximum(x.P.sum(axis=-1, keepdims=True), 1e-300)  # of each round in each token's weight
    if piece == "P":
        masked = _masked(x)
        e = xp.exp(masked - masked.max(axis=-1, keepdims=True))
        hint = "Each round's weights add up to 1 by themselves, but all rounds share one softmax. Whose L is it?"
        yield hint, e / e.sum(axis=-1, keepdims=True)
        yield hint, x.P / shares
        S, own, later = _logits(x, xp.concatenate([xp.roll(x.token, -1, axis=0), x.token], axis=1))
        yield "Your windows hold the chunk after, not the chunk before.", _weights(x, S=S, own=own, later=later)
        raw = x.q[x.token] @ x.q[x.window].swapaxes(1, 2)
        yield "Your keys are as long as the queries. What happens to a key before a query meets it?", _weights(x, S=raw)
        yield "Tokens see keys that come later in the text.", _weights(x, later=x.later & False)
        slots = xp.concatenate([unsorted - x.chunk_len, unsorted], axis=1)
        by_slot = _weights(x, later=unsorted[:, :, None] < slots[:, None, :])
        yield "Your mask goes by slots. After sorting, what tells you which of two tokens comes later?", by_slot
        yield "Tokens see themselves just as they see any other key.", _weights(x, own=x.own & False)
        never = _weights(x, later=x.later | x.own, own=x.own & False)
        yield "Only tokens that see nothing else are wrong. Which key is left for them?", never
        not_back = x.P.copy()
        not_back[0, :, : x.chunk_len] = 0
        yield "Only chunk 0 is wrong: yours looks back at nothing. The chunks form a circle.", not_back
        swapped = xp.roll(x.P, x.chunk_len, axis=2)
        yield "The halves of the windows are swapped: first comes the chunk before, then the chunk itself.", swapped
        hint = "Your logits are divided by the square root of D. Keys of length 1 make that unnecessary."
        yield hint, _weights(x, S=x.S / x.q.shape[1] ** 0.5)
        yield (
            "L is in token order, P in slot order. Is your L sorted, as the queries are?",
            _weights(x, L_of_slot=x.L[unsorted]),
        )
        yield "It holds dS: you overwrote P by computing something in place.", x.dS
    if piece == "dvw":
        yield "dout is in token order, P in slot order. Is your dout sorted?", x.P.swapaxes(1, 2) @ x.dout[unsorted]
    if piece in ("dv", "dk"):
        yield from _look_back_mistakes(x.dvw if piece == "dv" else x.dkw, x)
    if piece == "dS":
        hint = "Over all rounds, the entries of a token's rows must add up to 0, and yours do not."
        yield f"{hint} What keeps the weights of a softmax at a sum of 1?", x.P * x.dP
        sums = (x.P * x.dP).sum(axis=-1, keepdims=True)
        for delta in (sums, sums / shares):
            yield "You take a Δ for each round. One softmax has one Δ: for which output?", x.P * (x.dP - delta)
        alone = x.P / shares * (x.dP - sums / shares)
        yield "Each round's weights add up to 1 by themselves, but all rounds share one softmax: use P.", alone
        yield "Δ is in token order, P in slot order. Is your Δ sorted?", x.P * (x.dP - x.delta[unsorted][..., None])
        yield "Every sign is reversed.", -x.dS
        yield "A key without weight gets a gradient. Where are the weights?", x.dP - x.delta[x.token][..., None]
        yield "The weights multiply only Δ, and not dP.", x.dP - x.P * x.delta[x.token][..., None]
    if piece == "dq_query":
        longer = _by_token(x.dS @ x.q[x.window], order)
        yield "The keys that a query met had length 1; yours are as long as the queries.", longer
        yield from _sort_mistakes(x.dqc, x)
    if piece == "dk":
        shorter = _by_token(_by_slot(x.dS.swapaxes(1, 2) @ x.k[x.token]), order)
        yield "The queries that a key met were not scaled to length 1; yours are.", shorter
    if piece == "dq":
        hint = "Stretching a token does not change its key, and yet the gradient through the key has a part along it."
        yield hint, x.dq_query + x.scale * x.dk
        yield "You add dk as it is. What lies between q and the key of length 1?", x.dq_query + x.dk
        hint = "The part along the key is gone. But how far does a given move turn the key of a long query?"
        yield hint, x.dq_query + _turning(x.dk, x.k)
        along = x.scale * (x.dk - _turning(x.dk, x.k))
        yield "You kept only the part along the key, which is the one that should go.", x.dq_query + along
        yield "The query's part is there, but the key's is missing.", x.dq_query
        yield "The key's part is there, but the query's is missing.", x.dq - x.dq_query
        both = x.scale * _turning(x.dq_query + x.dk, x.k)
        yield "Both parts went through the scaling to length 1. Which of them was scaled?", both
        by_q = x.scale * (x.dk - (x.dk * x.q).sum(axis=-1, keepdims=True) * x.k)
        yield "You measure the part along the key with q, which does not have length 1.", x.dq_query + by_q


def _look_back_mistakes(windows, x):
    """Mistakes between a gradient in windows (N, 2C, D) and one by token: the look-back, and after it the sort."""
    xp = get_xp(x.q)
    before, own = windows[:, : x.chunk_len], windows[:, x.chunk_len :]
    by_round = before.reshape(len(x.order), -1, *before.shape[1:])
    astray = own + xp.roll(by_round, -1, axis=1).reshape(before.shape)
    no_circle = own + xp.concatenate([before[1:], xp.zeros_like(before[:1])])
    for hint, wrong in (
        ("The first half of a window has a gradient, too. Whose is it?", own),
        ("The second half of a window has a gradient, too. Whose is it?", xp.roll(before, -1, axis=0)),
        ("Half of a window's gradient belongs one chunk earlier; yours stays where it is.", own + before),
        ("Half of a window's gradient belongs one chunk earlier; yours goes later.", own + xp.roll(before, 1, axis=0)),
        ("The halves of the windows are swapped.", before + xp.roll(own, -1, axis=0)),
        ("It goes wrong at the ends of the rounds. Which chunk looks back at the last one of a round?", astray),
        ("The chunk before chunk 0 gets nothing. The chunks form a circle.", no_circle),
    ):
        yield f"It is right up to the look-back. {hint}", _by_token(wrong, x.order)
    yield from _sort_mistakes(_by_slot(windows), x)


def _sort_mistakes(chunks, x):
    """Mistakes between a gradient by slot (N, C, D) and one by token: the sort, and the sum over the rounds."""
    by_slot = chunks.reshape(*x.order.shape, -1).sum(axis=0)
    yield "It is right until you undo the sort. Yours is still by slot.", by_slot
    again = _by_round(chunks, x.order).sum(axis=0)
    yield "You sort a second time instead of undoing the sort. Which permutation undoes it?", again
    by_round = _by_round(chunks, x.order.argsort(axis=-1))
    for alone in (by_round[-1], by_round[0]):
        yield "Only one round arrives. What happens to a token's gradient from the other rounds?", alone
    yield "It is the mean over rounds. What is the gradient of a value that was used R times?", by_round.mean(axis=0)


def _logits(x, window):
    """Logits S (N, C, 2C) before the masks, and two masks: the key is the query's own token; it comes later."""
    i, j = x.token[:, :, None], window[:, None, :]
    return x.q[x.token] @ x.k[window].swapaxes(1, 2), i == j, i < j


def _masked(x):
    xp = get_xp(x.q)
    return xp.where(x.own, SELF, xp.where(x.later, FORBIDDEN, x.S))


def _weights(x, **changes):
    """P (N, C, 2C), or what it would be with `changes`: other logits, masks, or L_of_slot."""
    x = SimpleNamespace(**vars(x) | changes)
    xp = get_xp(x.q)
    return xp.exp(xp.minimum(_masked(x) - x.L_of_slot[..., None], 700))  # a wrong one might overflow


def _by_slot(windows):
    """In windows (N, 2C, D) -> by slot (N, C, D): the first half of each window belongs to the chunk before."""
    chunk_len = windows.shape[1] // 2
    return windows[:, chunk_len:] + get_xp(windows).roll(windows[:, :chunk_len], -1, axis=0)


def _by_token(chunks, order):
    """By slot (N, C, D) -> by token (T, D), summed over the rounds."""
    return _by_round(chunks, order.argsort(axis=-1)).sum(axis=0)


def _by_round(chunks, slots):
    """By slot (N, C, D) -> (R, T, D): of each round, what is in its `slots` (R, T)."""
    return get_xp(chunks).take_along_axis(chunks.reshape(*slots.shape, -1), slots[:, :, None], axis=1)


def _turning(dk, k):
    """dk without its part along k: only a change perpendicular to a key turns it."""
    return dk - (dk * k).sum(axis=-1, keepdims=True) * k


def _equal(a, b):
    """Whether a and b agree to nine digits; numbers that overflow agree with each other."""
    a, b = (to_numpy(x).clip(-1e300, 1e300) for x in (a, b))
    return np.allclose(a, b, rtol=1e-9, atol=1e-9)


def _where(found, right):
    """Where, and by how much, an array is wrong: used when no typical mistake fits."""
    found, right = to_numpy(found), to_numpy(right)
    if not (abs(found) < math.inf).all():
        return "Some entries are not finite."
    ratio = float((found * right).sum() / (right * right).sum())
    if _equal(found, ratio * right):
        return f"Every entry is {ratio:.3g} times what it should be."
    if abs(found - right).max() < 1e-4 * abs(right).max():
        return "The first digits are right, the last are not. Did you leave out a small number, or use float32?"
    wrong = abs(found - right).max(axis=tuple(range(1, right.ndim))) > 1e-9 * abs(right).max()
    what = "chunks" if right.ndim == 3 else "tokens"
    return f"{wrong.sum()} of {len(wrong)} {what} are wrong; the first is {what[:-1]} {wrong.argmax()}."
