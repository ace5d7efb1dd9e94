"""The attention kernel: what every attention layer here computes, forward and backward, tile by tile.

All hash rounds together are *one* softmax, over all keys that a query meets, round by round:

    S = Q K'               logits; keys have length 1 (LSH attention) or are divided by sqrt(D)
    m = max S              l = sum exp(S - m)          for each query, over the same keys
    P = exp(S - m) / l     O = P V                     (paper, eq. 2, whose z is m + log l)

    Δ = rowsum(dO * O)     dV = P' dO     dS = P * (dO V' - Δ)     dQ = dS K     dK = dS' Q

Here ' transposes and * multiplies entry by entry. In the code, P is exp(S - m), and we divide by l at the end.

`attend` takes a few chunks of queries at a time and adds up numerators and denominators, round after round. When a
query meets a larger logit, m rises to it and the sums so far are rescaled. So no exponent is ever above 0, and logits
of any size are safe. `attend_backward` takes a few chunks of keys at a time and computes their P again.

The paper gives each round r a softmax of its own, with log-sum-exp z_r, and merges the rounds with weights
exp(z_r - z). That is the same sum. A key that is met in N rounds counts N times, unless options say otherwise (eq. 16).

`s` is the `Schedule`; `chunk` and `window` are slices: the slots of a tile's chunks, and of their windows. Shapes:
g heads, n chunks of C slots, windows of W C slots, vectors of length D. Notebook 05c gets here from a plain
loop, one change at a time. Read next: `attention.py`.
"""

from minireformer import backend, cuda
from minireformer.schedule import FAR
from minireformer.tables import add_chunks, add_windows, gather_queries_and_keys
from minireformer.unit_length import unit_length_backward

LOWEST = -FAR / 8  # m of a query that has met no key yet: below every real logit, above every forbidden one


def attend(s, q, k, v, scale, out, m, l):
    """Attention for the heads of schedule `s`, by queries. Fills their rows of out (N, D), m (N,) and l (N,).

    q, k, v are tables of rows (`tables.py`), and a key is a row of k times its entry of scale. m starts at `LOWEST`, l
    and out at 0. A query that sees nothing keeps l = 0, and gets 0 or, where tokens do not see themselves, its value.
    """
    w, scale = s.scratch, scale[s.key_rows]  # w("name", *shape) is memory to write to
    for chunk, window in s.tiles():
        Q, K = gather_queries_and_keys(s, q, k, scale, chunk, window)  # (g, n, C, D) and (g, n, W C, D)
        V = s.windows(w.gather("V", v, s.key_rows[:, window]))
        S = w.matmul("S", Q, transpose(K))  # (g, n, C, W C)
        P, rescale = running_softmax(s, S, m, l, chunk, window)  # older sums are multiplied by `rescale`
        if s.plan.dropout:
            P *= s.keep(chunk, window)
        add_chunks(s, out, s.query_rows, chunk, w.matmul("product", P, V), rescale)  # P V              (paper, eq. 2)
    rows, sees_nothing = s.all_queries, l[s.all_queries] == 0
    out[rows] /= (l[rows] + sees_nothing)[:, None]
    if s.plan.exclude_self:
        some = backend.nonzero(sees_nothing)  # on a GPU: every row, and the product picks some
        out[rows][some] += v[rows][some] * sees_nothing[some, None]


def running_softmax(s, S, m, l, chunk, window):
    """Turn S into P = exp(S - m), in place; update m and l. Returns P, and the factor that rescales older sums."""
    weights = s.weights(chunk, window)
    if cuda.compiles(s.xp):
        return cuda.running_softmax(s, S, m, l, chunk, window, weights)
    rows = s.query_rows[:, chunk]
    s.forbid(S, chunk, window, weights)  # leaves only keys that the query may see              (paper, eq. 3 and 4)
    m_old = m[rows]
    m_new = m[rows] = s.xp.maximum(m_old, backend.row_max(S).reshape(rows.shape))
    S -= s.chunks(m_new)[..., None]
    P = s.xp.exp(S, out=S)
    if weights is not None:
        P *= weights  # 1 / N for a key that the query meets N times, 0 where not seen                 (paper, eq. 16)
    rescale = s.xp.exp(m_old - m_new)
    l[rows] = rescale * l[rows] + (P @ s.xp.ones(P.shape[-1], P.dtype)).reshape(rows.shape)  # row sums by BLAS
    return P, rescale


def attend_backward(s, dout, q, k, v, scale, m, l, delta, dq, dk, dv):
    """Gradients of `attend` for the heads of schedule `s`, by keys. Adds to the rows of dq, dk and dv (N, D).

    `delta` (N,) is Δ. With dk=None, keys are queries at unit length, and their gradient is added to dq. P is left
    unnormalised: dO and Δ are divided by l instead.
    """
    w, scale, sees_nothing = s.scratch, scale[s.key_rows], l[s.all_queries] == 0
    m, l, delta = m[s.query_rows], l[s.query_rows], delta[s.query_rows]  # (g, slots)
    inverse_l = 1 / (l + (l == 0))
    del l
    delta *= inverse_l
    for chunk, window in s.tiles():  # rows of S are keys here, columns are queries
        Q, K = gather_queries_and_keys(s, q, k, scale, chunk, window)  # (g, n, W C, D) and (g, n, C, D)
        V = s.chunks(w.gather("V", v, s.key_rows[:, chunk]))
        dO = s.windows(w.gather("dO", dout, s.query_rows[:, window], inverse_l[:, window]))
        S, dP = (
            w.matmul("S", K, transpose(Q)),
            w.matmul("dP", V, transpose(dO)),
        )  # transposed: S' and (dO V')', (g, n, C, W C)
        P, dS = softmax_gradient(s, S, dP, m[:, window], delta[:, window], chunk, window)
        add_chunks(s, dv, s.key_rows, chunk, w.matmul("product", P, dO))
        dK, dQ = w.matmul("V", dS, Q), w.matmul("product", transpose(dS), K)  # V is no longer needed
        if dk is None:
            unit_length_backward(dK, K, s.chunks(scale[:, chunk]))
            add_windows(s, dq, window, dQ, chunk, dK)
        else:
            dK *= s.chunks(scale[:, chunk])[..., None]
            add_chunks(s, dk, s.key_rows, chunk, dK)
            add_windows(s, dq, window, dQ)
    if s.plan.exclude_self:
        some = backend.nonzero(sees_nothing)
        dv[s.all_keys][some] += dout[s.all_queries][some] * sees_nothing[some, None]


def softmax_gradient(s, S, dP, m, delta, chunk, window):
    """Turn S into P = exp(S - m) and dP into dS = P * (dP - Δ), in place. m, delta (g, slots of the window)."""
    weights = s.weights(chunk, window)
    keep = s.keep(chunk, window) if s.plan.dropout else None
    if cuda.compiles(s.xp):
        return cuda.softmax_gradient(s, S, dP, m, delta, chunk, window, weights, keep)
    s.forbid(S, chunk, window, weights)
    m, delta = s.windows(m)[:, :, None], s.windows(delta)[:, :, None]
    s.xp.minimum(S, m, out=S)  # recomputed, S can exceed m by a rounding error
    S -= m
    P = s.xp.exp(S, out=S)
    if weights is not None:
        P *= weights
    if keep is not None:
        dP *= keep
    dP -= delta
    dS = s.xp.multiply(P, dP, out=dP)
    if keep is not None:  # dV needs P after dropout
        P *= keep
    return P, dS


def transpose(x):
    """The last two axes exchanged: a view."""
    return x.swapaxes(-1, -2)
