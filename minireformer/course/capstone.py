"""The capstone of the course, at the end of notebook 05: a reader's backward pass of LSH attention, piece by piece.

`check_backward` looks at the pieces of the reader's gradient in the order in which they are made. The first one that
is wrong is held against what typical mistakes give; where one of them gives the same numbers, its hint is the
message, and else the place of the error. To know the mistakes it has to know the answer: who wants to solve the
exercise reads no further.
"""

import math
from types import SimpleNamespace

import numpy as np

from minireformer.attention import lsh_attention, lsh_attention_backward
from minireformer.backend import asarray, get_xp, to_numpy
from minireformer.hashing import hash_vectors, random_rotations, sort_by_bucket
from minireformer.rng import generator
from minireformer.tools.gradcheck import gradcheck
from minireformer.unit_length import unit_length

FORBIDDEN, SELF = -1e9, -1e3  # as in the notebook: e^(SELF - L) is 0 beside any other key, and costs no digits
PIECES = {  # in the order in which they are checked: what each one is
    "P": "(N, C, 2C), the weights of each chunk's queries over the keys of its window, with one L for all rounds",
    "dvw": "(N, 2C, D), the gradient of the values where they stand in the windows",
    "dv": "(T, D), the gradient of the values",
    "dS": "(N, C, 2C), the gradient of the logits",
    "dq_query": "(T, D), the gradient of the queries as queries",
    "dk": "(T, D), the gradient of the keys, which have length 1",
    "dq": "(T, D), the gradient of the queries, which are also the keys",
}
PROBLEMS = (  # length, D, rounds, chunk length, seed: from the easiest on
    (12, 3, 1, 4, 0),
    (24, 4, 3, 4, 1),
    (20, 5, 2, 10, 2),
)


def check_backward(backward):
    """Hold the pieces of `backward(dout, q, v, out, L, order, chunk_len)` against the right ones: one head, causal.

    `backward` gets dout, q, v and out (T, D), L (T), all float64, and order (R, T); it returns a dict of as many of
    `PIECES` as it has, from the first on. Raises AssertionError with a hint: what is right so far, and what is wrong
    with the next piece.
    """
    for length, d_head, n_rounds, chunk_len, seed in PROBLEMS:
        q, v, dout = (asarray(x) for x in generator(seed, "capstone").standard_normal((3, length, d_head)))
        q = 1.5 * q  # long enough that some keys matter more than others
        rotations = random_rotations(seed, 1, d_head, n_rounds, 2 * (length // chunk_len), dtype="float64")
        buckets = hash_vectors(q[None, None], rotations)
        case = f"{length} tokens, {n_rounds} round{'s' if n_rounds > 1 else ''}, chunks of {chunk_len}"
        _, cache = _attend(q, v, buckets, chunk_len)
        _check_pieces(backward(dout, *cache[:-1]), (dout, *cache[:-1]), case)
        _check_whole(backward, q, v, buckets, chunk_len, case)


def _attend(q, v, buckets, chunk_len):
    """LSH attention of one head: q, v (T, D) -> out (T, D), (q, v, out, L, order, chunk_len, the library's cache)."""
    out, cache = lsh_attention(q[None, None], v[None, None], buckets, chunk_len=chunk_len)
    alone = SELF + math.log(buckets.shape[2])  # a token that sees itself in every round, and nobody else
    sees_nothing = cache.l == 0
    L = get_xp(q).where(sees_nothing, alone, cache.m + get_xp(q).log(cache.l + sees_nothing))[0, 0]
    return out[0, 0], (q, v, out[0, 0], L, sort_by_bucket(buckets)[0, 0], chunk_len, cache)


def _check_pieces(found, given, case):
    assert isinstance(found, dict), f"Expected a dict of the pieces that you have: {', '.join(PIECES)}."
    unknown = found.keys() - PIECES.keys()
    assert not unknown, f"No piece is called {', '.join(sorted(unknown))}; they are {', '.join(PIECES)}."
    x, so_far = right_pieces(*given), []
    for piece, meaning in PIECES.items():
        start = f"{case}: {', '.join(so_far)} right. " if so_far else f"{case}: "
        assert piece in found, f"{start}The next piece is {piece}: {meaning}."
        right, shape = getattr(x, piece), getattr(found[piece], "shape", None)
        assert shape == right.shape, f"{start}{piece} is {meaning}: expected the shape {right.shape}, got {shape}."
        if not _equal(found[piece], right):
            hints = (hint for hint, wrong in mistakes(piece, x) if _equal(found[piece], wrong))
            raise AssertionError(f"{start}{piece} is not: {next(hints, None) or _where(found[piece], right)}")
        so_far.append(piece)


def _check_whole(backward, q, v, buckets, chunk_len, case):
    """Finite differences and the library, with another gradient of the output than the pieces were made with."""

    def gradients(dout, cache):
        found = backward(dout, *cache[:-1])
        return found["dq"], found["dv"]

    def attend(q, v):
        return _attend(q, v, buckets, chunk_len)

    for gradient in gradcheck((attend, gradients), q, v).gradients:
        wrong = f"All pieces are right, but d{gradient.name} is off by {gradient.error:.0%} with another dout."
        assert gradient.error < 1e-6, f"{case}: {wrong} Is anything kept from an earlier call?"
    cache = attend(q, v)[1]
    library = lsh_attention_backward(q[None, None], cache[-1])
    for name, mine, right in zip(("dq", "dv"), gradients(q, cache), library):
        assert _equal(mine, right[0, 0]), f"{case}: {name} is not the library's."


def right_pieces(dout, q, v, out, L, order, chunk_len):
    """-> the `PIECES`, and what mistakes are made of besides, as attributes."""
    xp, x = get_xp(q), SimpleNamespace(dout=dout, q=q, L=L, order=order, chunk_len=chunk_len)
    x.k = unit_length(q)
    x.token = order.reshape(-1, chunk_len)  # (N, C): the token of each slot
    x.window = xp.concatenate([xp.roll(x.token, 1, axis=0), x.token], axis=1)  # (N, 2C): of each key
    x.S, x.own, x.later = _logits(x, x.window)
    x.P = _weights(x)
    x.dvw = x.P.swapaxes(1, 2) @ dout[x.token]
    x.dv = _home(_halves(x.dvw), order)
    x.dP = dout[x.token] @ v[x.window].swapaxes(1, 2)
    x.delta = (dout * out).sum(axis=-1)  # (T)
    x.dS = x.P * (x.dP - x.delta[x.token][..., None])
    x.dqc = x.dS @ x.k[x.window]  # (N, C, D)
    x.dkw = x.dS.swapaxes(1, 2) @ q[x.token]  # (N, 2C, D)
    x.dq_query = _home(x.dqc, order)
    x.dk = _home(_halves(x.dkw), order)
    x.scale = 1 / xp.sqrt((q * q).sum(axis=-1, keepdims=True) + 1e-6 * q.shape[1])
    x.dq = x.dq_query + x.scale * _across(x.dk, x.k)
    return x


def mistakes(piece, x):
    """What typical mistakes make of a piece when all before it are right: pairs of a hint and the wrong numbers."""
    xp, order = get_xp(x.q), x.order
    unsorted = xp.arange(order.size).reshape(x.token.shape) % order.shape[1]  # slots taken for tokens
    shares = xp.maximum(x.P.sum(axis=-1, keepdims=True), 1e-300)  # of each round in each token's weight
    if piece == "P":
        masked = _masked(x)
        e = xp.exp(masked - masked.max(axis=-1, keepdims=True))
        of_round = "each round's weights add up to 1 by themselves. All rounds are one softmax: whose L is it?"
        yield of_round, e / e.sum(axis=-1, keepdims=True)
        yield of_round, x.P / shares
        ahead = xp.concatenate([xp.roll(x.token, -1, axis=0), x.token], axis=1)
        yield "the windows hold the chunk after, not the chunk before.", _weights(x, *_logits(x, ahead))
        raw = x.q[x.token] @ x.q[x.window].swapaxes(1, 2)
        yield "these keys are as long as the queries. What happens to a key before a query meets it?", _weights(x, raw)
        yield "tokens see keys that stand later in the text.", _weights(x, later=x.later & False)
        places = xp.concatenate([unsorted - x.chunk_len, unsorted], axis=1)
        by_slot = _weights(x, later=unsorted[:, :, None] < places[:, None, :])
        yield "the mask goes by slots. After sorting, who knows which of two tokens is the later one?", by_slot
        yield "tokens see themselves as they see any other.", _weights(x, own=x.own & False)
        nobody = _weights(x, later=x.later | x.own, own=x.own & False)
        yield "all is right but for tokens that see nobody else. Which key is left for them?", nobody
        not_back = (xp.arange(len(x.token)) == 0)[:, None, None] & (xp.arange(2 * x.chunk_len) < x.chunk_len)
        hint = "all is right but for chunk 0, which looks back at nothing. The chunks stand in a circle."
        yield hint, xp.where(not_back, 0, x.P)
        swapped = xp.roll(x.P, x.chunk_len, axis=2)
        yield "the halves of the windows are exchanged: the chunk before comes first, then the own.", swapped
        yield (
            "logits are divided by the root of D. The keys' length has done that.",
            _weights(x, x.S / x.q.shape[1] ** 0.5),
        )
        yield "L is by token, P by slot. Is your L sorted, as the queries are?", _weights(x, L=x.L[unsorted])
        yield "it holds dS: something was computed in place, over P.", x.dS
    if piece == "dvw":
        unsorted_dvw = x.P.swapaxes(1, 2) @ x.dout[unsorted]
        yield "dout is by token, P by slot. Is your dout sorted?", unsorted_dvw
    if piece in ("dv", "dk"):
        yield from _scatter_mistakes(x.dvw if piece == "dv" else x.dkw, x)
    if piece == "dS":
        zero = "over all rounds, the entries of a token's rows have to add up to 0, and yours do not."
        yield f"{zero} What keeps the weights of a softmax at a sum of 1?", x.P * x.dP
        sums = (x.P * x.dP).sum(axis=-1, keepdims=True)
        for of_round in (sums, sums / shares):
            yield "it takes a Δ for each round. One softmax has one Δ: of which output?", x.P * (x.dP - of_round)
        yield "Δ is by token, P by slot. Is your Δ sorted?", x.P * (x.dP - x.delta[unsorted][..., None])
        yield "every sign is turned round.", -x.dS
        yield "a key without weight gets a gradient. Where are the weights?", x.dP - x.delta[x.token][..., None]
        yield "the weights multiply Δ alone, and not dP.", x.dP - x.P * x.delta[x.token][..., None]
    if piece == "dq_query":
        longer = _home(x.dS @ x.q[x.window], order)
        yield "the keys that a query met had length 1; yours are as long as the queries.", longer
        yield from _home_mistakes(x.dqc, x)
    if piece == "dk":
        shorter = _home(_halves(x.dS.swapaxes(1, 2) @ x.k[x.token]), order)
        yield "the queries that a key met were not scaled to length 1; yours are.", shorter
    if piece == "dq":
        part = "stretching a token does not change its key, and yet your gradient as a key has a part along it."
        yield part, x.dq_query + x.scale * x.dk
        yield "dk comes in as it is. What lies between q and the key of length 1?", x.dq_query + x.dk
        turn = "the part along the key is gone. But how far does a given move turn the key of a long query?"
        yield turn, x.dq_query + _across(x.dk, x.k)
        along = x.scale * (x.dk - _across(x.dk, x.k))
        yield "only the part along the key is left, the one that should go.", x.dq_query + along
        yield "the query's part is there, the key's is missing.", x.dq_query
        yield "the key's part is there, the query's is missing.", x.dq - x.dq_query
        both = x.scale * _across(x.dq_query + x.dk, x.k)
        yield "both parts went through the scaling to length 1. Which of them was scaled?", both
        by_q = x.scale * (x.dk - (x.dk * x.q).sum(axis=-1, keepdims=True) * x.k)
        yield "the part along the key is measured with q, which has another length than k.", x.dq_query + by_q


def _scatter_mistakes(windows, x):
    """Those between a gradient in windows (N, 2C, D) and one by token: the look-back, then the sort and the rounds."""
    xp = get_xp(x.q)
    before, own = windows[:, : x.chunk_len], windows[:, x.chunk_len :]
    rounds = before.reshape(len(x.order), -1, *before.shape[1:])
    lost = xp.where((xp.arange(len(before)) == 0)[:, None, None], 0, before)
    for hint, wrong in (
        ("a window's first half has a gradient, too. Whose is it?", own),
        ("a window's second half has a gradient, too. Whose is it?", xp.roll(before, -1, axis=0)),
        ("half of a window's gradient belongs one chunk earlier; yours stays where it is.", own + before),
        ("half of a window's gradient belongs one chunk earlier; yours goes later.", own + xp.roll(before, 1, axis=0)),
        ("the halves of the windows are exchanged.", before + xp.roll(own, -1, axis=0)),
        (
            "it goes astray at the ends of the rounds. Which chunk looks back at the last one of a round?",
            own + xp.roll(rounds, -1, axis=1).reshape(before.shape),
        ),
        ("what chunk 0 looks back at gets nothing. Chunks stand in a circle.", own + xp.roll(lost, -1, axis=0)),
    ):
        yield f"it is right up to the look-back. {hint[0].upper()}{hint[1:]}", _home(wrong, x.order)
    yield from _home_mistakes(_halves(windows), x)


def _home_mistakes(chunks, x):
    """Those between a gradient by slot (N, C, D) and one by token: the sort, and the sum over the rounds."""
    slots = chunks.reshape(*x.order.shape, -1)
    each = get_xp(slots).arange(len(slots))[:, None]
    yield "it is right until the sort is to be undone. Yours is still by slot.", slots.sum(axis=0)
    again = slots[each, x.order].sum(axis=0)
    yield "the sort is done a second time instead of undone. Which permutation leads home?", again
    at_home = slots[each, x.order.argsort(axis=-1)]
    for one in (at_home[-1], at_home[0]):
        yield "one round arrives alone. What becomes of a token's gradient from the other rounds?", one
    yield "it is the mean over rounds. What becomes of a value that was used R times?", at_home.mean(axis=0)


def _logits(x, window):
    """Before the masks (N, C, 2C), and where the key is the query's own, where later in the text: booleans."""
    i, j = x.token[:, :, None], window[:, None, :]
    return x.q[x.token] @ x.k[window].swapaxes(1, 2), i == j, i < j


def _masked(x, S=None, own=None, later=None):
    xp, S = get_xp(x.q), x.S if S is None else S
    own, later = x.own if own is None else own, x.later if later is None else later
    return xp.where(own, SELF, xp.where(later, FORBIDDEN, S))


def _weights(x, S=None, own=None, later=None, L=None):
    """P (N, C, 2C), or what comes out with other logits, masks, or L by slot (N, C)."""
    xp, L = get_xp(x.q), x.L[x.token] if L is None else L
    return xp.exp(xp.minimum(_masked(x, S, own, later) - L[..., None], 700))  # a wrong one might overflow


def _halves(windows):
    """Gradient of the look-back: (N, 2C, D) -> (N, C, D)."""
    chunk_len = windows.shape[1] // 2
    return windows[:, chunk_len:] + get_xp(windows).roll(windows[:, :chunk_len], -1, axis=0)


def _home(chunks, order):
    """By slot (N, C, D) -> by token (T, D), added up over the rounds."""
    slots = chunks.reshape(*order.shape, -1)
    return slots[get_xp(slots).arange(len(order))[:, None], order.argsort(axis=-1)].sum(axis=0)


def _across(dk, k):
    return dk - (dk * k).sum(axis=-1, keepdims=True) * k


def _equal(a, b):
    """To nine digits; what overflows is as large as can be."""
    a, b = (to_numpy(x).clip(-1e300, 1e300) for x in (a, b))
    return np.allclose(a, b, rtol=1e-9, atol=1e-9)


def _where(found, right):
    """Where, and by how much, an array is wrong, for want of a better hint."""
    found, right = to_numpy(found), to_numpy(right)
    if not (abs(found) < math.inf).all():
        return "some entries are not finite."
    ratio = float((found * right).sum() / (right * right).sum())
    if _equal(found, ratio * right):
        return f"every entry is {ratio:.3g} times what it should be."
    if abs(found - right).max() < 1e-4 * abs(right).max():
        return "the first digits are right, the last are not. Is a small number left out, or is anything in float32?"
    wrong = abs(found - right).max(axis=tuple(range(1, right.ndim))) > 1e-9 * abs(right).max()
    what = "chunks" if right.ndim == 3 else "tokens"
    return f"{wrong.sum()} of {len(wrong)} {what} are wrong, the first is {what[:-1]} {wrong.argmax()}."
