"""The attention kernel: what every attention layer here computes, forward and backward, tile by tile.

All hash rounds together are *one* softmax, over every key that a query meets in any round:

    S = Q K'               logits; keys have length 1 (LSH attention) or are divided by sqrt(D)
    m = max S              l = sum exp(S - m)          for each query, over all the keys that it meets
    P = exp(S - m) / l     O = P V                     (paper, eq. 2, whose z is m + log l)

    Δ = rowsum(dO * O)     dV = P' dO     dS = P * (dO V' - Δ)     dQ = dS K     dK = dS' Q

`attend` takes a few chunks of queries at a time and adds up the numerators and denominators of P. When a query meets a
larger logit, m rises to it and the sums so far are rescaled. So no exponent is ever above 0, and logits of any size are
safe. `attend_backward` takes a few chunks of keys at a time and computes their P again from S, m and l.

The paper gives each round a softmax of its own and merges the rounds with weights exp(z_r - z): that is the same sum.

In the code, `s` is the `Schedule`: it knows which slots `chunk` and `window` of a tile hold, and who may see whom. The
shapes: g heads, n chunks of C slots, windows of W C slots, vectors of length D. Read next: `attention.py`.
"""

from minireformer import backend, cuda
from minireformer.schedule import FAR
from minireformer.tables import add_chunks, add_windows, gather_queries_and_keys

LOWEST = -FAR / 8  # m of a query that has met no key yet: below every real logit, above every forbidden one


def attend(s, q, k, v, scale, out, m, l):
    """Attention for the heads of schedule `s`, by queries. Fills their rows of out (N, D), m (N,) and l (N,).

    q, k, v are tables of rows (`tables.py`). A key is a row of k times its entry of scale. A query that sees
    nothing ends with l = 0, and its output is 0, or its own value where tokens do not see themselves.
    """
    w, scale = s.scratch, scale[s.key_rows]
    for chunk, window in s.tiles():
        Q, K = gather_queries_and_keys(s, q, k, scale, chunk, window)  # (g, n, C, D) and (g, n, W C, D)
        V = s.windows(w.gather("V", v, s.key_rows[:, window]))
        S = w.matmul("S", Q, transpose(K))  # (g, n, C, W C)                                           (paper, eq. 2)
        P, rescale = running_softmax(s, S, m, l, chunk, window)
        if s.plan.dropout:
            P *= s.keep(chunk, window)
        add_chunks(s, out, s.query_rows, chunk, w.matmul("product", P, V), rescale)
    rows, sees_nothing = s.all_queries, l[s.all_queries] == 0
    out[rows] /= (l[rows] + sees_nothing)[:, None]
    if s.plan.exclude_self:
        some = backend.nonzero(sees_nothing)
        out[rows][some] += v[rows][some] * sees_nothing[some, None]


def running_softmax(s, S, m, l, chunk, window):
    """Turn S into P = exp(S - m), in place; update m and l. Returns P, and the factor that rescales older sums."""
    weights = s.weights(chunk, window)
    if cuda.compiles(s.xp):
        return cuda.running_softmax(s, S, m, l, chunk, window, weights)
    rows = s.query_rows[:, chunk]
    s.forbid(S, chunk, window, weights)  # leaves only keys that the query may see              (paper, eq. 3 and 4)
    m_old = m[rows]
    m_new = m[rows] = s.xp.maximum(m_old, row_max(S).reshape(rows.shape))
    S -= s.chunks(m_new)[..., None]
    P = s.xp.exp(S, out=S)
    if weights is not None:
        P *= weights  # 1 / N for a key that the query meets N times                                   (paper, eq. 16)
    rescale = s.xp.exp(m_old - m_new)
    l[rows] = rescale * l[rows] + (P @ s.xp.ones(P.shape[-1], P.dtype)).reshape(rows.shape)  # row sums: BLAS is fast
    return P, rescale


def attend_backward(s, dout, q, k, v, scale, m, l, delta, dq, dk, dv):
    """Gradients of `attend` for the heads of schedule `s`, by keys. Adds to the rows of dq and dv (N, D).

    Writes dk (g S, D), the gradient of the keys times scale, for these heads alone. `delta` (N,) is Δ. P goes without
    its 1 / l here: dO and Δ are divided by l instead.
    """
    w, sees_nothing, scale = s.scratch, l[s.all_queries] == 0, scale[s.key_rows]
    m, l, delta = (x[s.query_rows] for x in (m, l, delta))  # (g, slots)
    l = 1 / (l + (l == 0))
    delta *= l
    for chunk, window in s.tiles():  # rows of S are keys here, columns are queries
        Q, K = gather_queries_and_keys(s, q, k, scale, chunk, window)  # (g, n, W C, D) and (g, n, C, D)
        V = s.chunks(w.gather("V", v, s.key_rows[:, chunk]))
        dO = s.windows(w.gather("dO", dout, s.query_rows[:, window], l[:, window]))
        S, dP = w.matmul("S", K, transpose(Q)), w.matmul("dP", V, transpose(dO))  # (g, n, C, W C)
        P, dS = softmax_gradient(s, S, dP, m[:, window], delta[:, window], chunk, window)
        add_chunks(s, dv, s.key_rows, chunk, w.matmul("product", P, dO))
        add_chunks(s, dk, s.own_key_rows, chunk, w.matmul("product", dS, Q))
        add_windows(s, dq, s.query_rows, window, w.matmul("product", transpose(dS), K))
    if s.plan.exclude_self:
        some = backend.nonzero(sees_nothing)
        dv[s.all_queries][some] += dout[s.all_queries][some] * sees_nothing[some, None]


def softmax_gradient(s, S, dP, m, delta, chunk, window):
    """Turn S into P = exp(S - m) and dP = dO V' into dS = P * (dP - Δ), in place. m, delta (g, slots of the window)."""
    weights, keep = s.weights(chunk, window), s.keep(chunk, window) if s.plan.dropout else None
    if cuda.compiles(s.xp):
        return cuda.softmax_gradient(s, S, dP, m, delta, chunk, window, weights, keep)
    s.forbid(S, chunk, window, weights)
    m, delta = s.windows(m)[:, :, None], s.windows(delta)[:, :, None]
    s.xp.minimum(S, m, out=S)  # this S may be a rounding error above that of `attend`, and m with it
    S -= m
    P = s.xp.exp(S, out=S)
    if weights is not None:
        P *= weights
    if keep is not None:
        dP *= keep
    dP -= delta
    dS = s.xp.multiply(P, dP, out=dP)
    if keep is not None:  # the weights that V met were dropped out, too
        P *= keep
    return P, dS


def row_max(S):
    """The largest logit of each row, S (..., n) -> (rows,). On a CPU, argmax is several times as fast as max."""
    S = S.reshape(-1, S.shape[-1])
    return S[backend.get_xp(S).arange(len(S)), S.argmax(axis=-1)]


def transpose(x):
    """The last two axes exchanged: a view."""
    return x.swapaxes(-1, -2)
