"""The attention kernel: what the Reformer computes, tile by tile, forward and backward.

Every query attends to the keys of its window. All rounds of LSH are *one* softmax over (round, key) pairs:

    S = Q K'               the logits; keys have unit length (LSH) or are divided by sqrt(D)
    m = the largest S      l = the sum of exp(S - m)            of each query, over all rounds and keys
    P = exp(S - m) / l     O = P V                              (paper, eq. 2: its z is m + log l)

Forward goes through chunks of queries and adds up numerators and denominators. Whenever a tile brings a larger m, the
sums so far are rescaled to it. It keeps O, m and l. Backward goes through chunks of keys and makes P again:

    dV = P' dO     dS = P * (dO V' - Δ),  Δ = rowsum(dO * O)     dQ = dS K     dK = dS' Q

The paper merges rounds afterwards, each with its own softmax, by the weights exp(z_r - z). It is the same sum.
Each `s.` below is the `Schedule`: which tokens stand in a tile, and who may see whom. Read next: `attention.py`.
"""

from minireformer import backend, cuda
from minireformer.schedule import FAR

LOWEST = -FAR / 8  # m before a query has met a key: below every logit that counts, and above every forbidden one


def attend(s, q, k, v, scale, out, m, l):
    """Attention of the heads of a schedule `s` by queries, added up in their rows of out (N, D), m and l (N,).

    q, k, v are tables of rows (see `head_table.py`); a key is a row of k times its entry of scale. l is 0 for a query
    that sees nothing: its output is 0 or, where tokens do not see themselves, its own value.
    """
    scale = scale[s.key_rows]  # from here on slot by slot
    for chunk, window in s.tiles():
        Q, K = s.gather_queries_and_keys(q, k, scale, chunk, window)
        Q, K = s.chunks(Q), s.windows(K)  # g, n, C, D and g, n, W C, D
        V = s.windows(s.gather("V", v, s.key_rows[:, window]))
        S = s.matmul("S", Q, transpose(K))  # g, n, C, W C                                              (paper, eq. 2)
        P, rescale = running_softmax(s, S, m, l, chunk, window)
        if s.plan.dropout:
            P *= s.keep(chunk, window)
        s.add_chunk(out, s.query_rows, chunk, s.matmul("product", P, V), rescale)
    sees_nothing = l[s.all_queries] == 0
    out[s.all_queries] /= (l[s.all_queries] + sees_nothing)[:, None]
    if s.plan.exclude_self:
        some = backend.nonzero(sees_nothing)
        out[s.all_queries][some] += v[s.all_queries][some] * sees_nothing[some, None]


def running_softmax(s, S, m, l, chunk, window):
    """S -> P = exp(S - m), in place, and what sums by the old m are multiplied with; m and l are brought up to date."""
    weights = s.weights(chunk, window)
    if cuda.compiles(s.xp):
        return cuda.running_softmax(s, S, m, l, chunk, window, weights)
    rows = s.query_rows[:, chunk]
    s.forbid(S, chunk, window, weights)  # only keys that may be seen                                   (paper, eq. 3)
    m_old = m[rows]
    m_new = m[rows] = s.xp.maximum(m_old, S.max(axis=-1).reshape(rows.shape))
    S -= s.chunks(m_new)[..., None]
    P = s.xp.exp(S, out=S)
    if weights is not None:
        P *= weights  # 1/N for a key that is met N times                                              (paper, eq. 16)
    rescale = s.xp.exp(m_old - m_new)
    l[rows] = rescale * l[rows] + row_sum(P).reshape(rows.shape)
    return P, rescale


def attend_backward(s, dout, q, k, v, scale, m, l, delta, dq, dk, dv):
    """Gradients of `attend`, for a schedule `s` by keys: adds to the rows of dq, dv (N, D) and to dk (g S, D).

    dk is the gradient of the keys that were scaled, and `delta` (N,) is Δ. The 1 / l of P goes into dO and Δ.
    """
    sees_nothing = l[s.all_queries] == 0
    scale, m, l, delta = scale[s.key_rows], *(x[s.query_rows] for x in (m, l, delta))  # from here on slot by slot
    l = 1 / (l + (l == 0))
    delta *= l
    for chunk, window in s.tiles():  # keys go down, queries across: dV and dK come whole
        Q, K = s.gather_queries_and_keys(q, k, scale, chunk, window)
        Q, K = s.windows(Q), s.chunks(K)  # g, n, W C, D and g, n, C, D
        V = s.chunks(s.gather("V", v, s.key_rows[:, chunk]))
        dO = s.windows(s.gather("dO", dout, s.query_rows[:, window], l[:, window]))
        S, dP = s.matmul("S", K, transpose(Q)), s.matmul("dP", V, transpose(dO))  # g, n, C, W C
        P, dS = softmax_gradient(s, S, dP, m[:, window], delta[:, window], chunk, window)
        s.add_chunk(dv, s.key_rows, chunk, s.matmul("product", P, dO))
        s.add_chunk(dk, s.own_key_rows, chunk, s.matmul("product", dS, Q))
        add_windows(s, dq, window, s.matmul("product", transpose(dS), K))
    if s.plan.exclude_self:
        some = backend.nonzero(sees_nothing)
        dv[s.all_queries][some] += dout[s.all_queries][some] * sees_nothing[some, None]


def softmax_gradient(s, S, dP, m, delta, chunk, window):
    """S -> P = exp(S - m) and dP = dO V' -> dS = P * (dP - Δ), in place. Dropout multiplies P on its way to V alone."""
    weights, keep = s.weights(chunk, window), s.keep(chunk, window) if s.plan.dropout else None
    if cuda.compiles(s.xp):
        return cuda.softmax_gradient(s, S, dP, m, delta, chunk, window, weights, keep)
    s.forbid(S, chunk, window, weights)
    S -= s.windows(m)[:, :, None]
    P = s.xp.exp(S, out=S)
    if weights is not None:
        P *= weights
    if keep is not None:
        dP *= keep
    dP -= s.windows(delta)[:, :, None]
    dS = s.xp.multiply(P, dP, out=dP)
    if keep is not None:
        P *= keep
    return P, dS


def add_windows(s, dq, window, parts):
    """Add parts (g, n, W C, D) of windows that overlap to the rows of dq: first slot by slot, then token by token."""
    groups, n, window_len, d_head = parts.shape
    chunk_len = (window.stop - window.start - window_len) // (n - 1) if n > 1 else window_len
    width = window_len // chunk_len
    sums = s.scratch("by slot", groups, n + width - 1, chunk_len, d_head)
    sums[:, :n], sums[:, n:] = parts[:, :, :chunk_len], 0
    for w in range(1, width):
        sums[:, w : w + n] += parts[:, :, w * chunk_len : (w + 1) * chunk_len]
    sums = sums.reshape(groups, -1, d_head)
    for slots in s.parts(window):
        values = sums[:, slots.start - window.start : slots.stop - window.start]
        s.scatter_add(dq, s.query_rows[:, slots], values)


def row_sum(P):
    """Sums of the last axis, as a product with ones: BLAS adds faster."""
    return P @ backend.get_xp(P).ones(P.shape[-1], P.dtype)


def transpose(x):
    """The last two axes exchanged: a view."""
    return x.swapaxes(-1, -2)
