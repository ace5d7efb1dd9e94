"""The one attention kernel: chunks of queries attend to their own and to neighbouring chunks of keys.

Full, local and LSH attention are this kernel on differently ordered tokens. Tokens stand in *slots*
(`order`: LSH sorts them by bucket, the others leave them in sequence), C slots make a chunk, and the kernel
walks over tiles of a few chunks, so that the logits of a tile fit in the CPU's cache and nothing of size
T * T or T * R * C ever exists.

Rounds of LSH are merged by their log-sum-exp, which makes the output **one** softmax over (round, key) pairs:

    o_i = sum_r sum_j exp(q_i . k_j - L_i) v_j          L_i = log sum_r sum_j exp(q_i . k_j)

So forward adds up numerators and denominators over all tiles, and backward needs only q, k, v, o and L
(derived in notebook 05):

    P = exp(Q K' - L)     dV = P' dO     dS = P * (dO V' - D)  with  D_i = do_i . o_i     dQ = dS K     dK = dS' Q

One more column does the bookkeeping inside the products: [Q, -L] [K, 1]' is Q K' - L, [dO, -D] [V, 1]' is
dO V' - D, and exp(S) [V, 1] holds the denominators. Read next: `attention.py`.
"""

from minireformer import backend
from minireformer.tiles import Walk, blocks

_SAFE_BOUND = {"float32": 40.0, "float64": 340.0}  # exp(-2 * bound) is still a normal number
LONELY = 1e9  # the log-sum-exp of a query that sees nothing: exp(q . k - 1e9) is 0 for every key


def chunked_attention(q, k, v, tokens, pattern):
    """q, k, v (G, T, D), T a multiple of `chunk_len` -> out (G, T, D), lse (G, T).

    Logits are q . k as they come (scale or normalise before). `lse` is the log-sum-exp over everything a query
    sees, `LONELY` for one that sees nothing: its output is 0, or its own value with `exclude_self`.
    """
    xp = backend.get_xp(q)
    n_groups, length, d_head = q.shape
    out, lse = xp.empty_like(v), xp.empty((n_groups, length), q.dtype)

    def work(groups):
        for block in blocks(groups, xp):
            walk = Walk(q.dtype, tokens, pattern, block, length, d_head, xp)
            keys, values = _with_column(k[block], 1), _with_column(v[block], 1)
            reference, steep = _reference(q[block], k[block], walk, xp)
            queries = _with_column(q[block], -reference)
            total = xp.zeros((values.shape[0], d_head + 1), q.dtype)  # numerators and, last, denominators
            for tile in walk:
                scores = _scores(walk, tile, queries, keys, steep)
                seen = walk.windows(walk.take(tile.keys, values, "values"))
                if tokens.dropout:
                    part = xp.empty((*scores.shape[:-1], d_head + 1), q.dtype)
                    part[..., -1] = scores.sum(axis=-1)
                    scores *= walk.keep(tile)
                    part[..., :-1] = scores @ seen[..., :-1]
                else:
                    part = xp.matmul(scores, seen, out=walk.buffer("part", (*scores.shape[:-1], d_head + 1)))
                total[tile.queries] += part.reshape(*tile.queries.shape, -1)
            total = total.reshape(-1, length, d_head + 1)
            lonely = total[..., -1] == 0
            total[..., -1] += lonely
            out[block] = total[..., :-1] / total[..., -1:]
            lse[block] = xp.where(lonely, LONELY, reference + xp.log(total[..., -1]))
            if pattern.exclude_self:
                out[block] += v[block] * lonely[..., None]

    backend.share_out(work, n_groups, xp)
    return out, lse


def chunked_attention_backward(dout, q, k, v, out, lse, tokens, pattern):
    """Gradients (dq, dk, dv), each (G, T, D), from what `chunked_attention` was given and gave."""
    xp = backend.get_xp(q)
    n_groups, length, d_head = q.shape
    dq, dk, dv = xp.zeros_like(q), xp.zeros_like(k), xp.zeros_like(v)

    def work(groups):
        for block in blocks(groups, xp):
            walk = Walk(q.dtype, tokens, pattern, block, length, d_head, xp)
            keys, values = _with_column(k[block], 1), _with_column(v[block], 1)
            delta = (dout[block] * out[block]).sum(axis=-1)
            queries = _with_column(q[block], -lse[block])
            douts = _with_column(dout[block], xp.zeros_like(delta) if tokens.dropout else -delta)
            steep = _reference(q[block], k[block], walk, xp, only_bound=True)[1]
            sums = [gradient[block].reshape(-1, d_head) for gradient in (dq, dk, dv)]
            for tile in walk:
                p = _scores(walk, tile, queries, keys, steep)  # (g, n, C, W C)
                tile_q = walk.take(tile.queries, queries, "queries").reshape(*p.shape[:-1], -1)
                tile_do = walk.take(tile.queries, douts, "douts").reshape(*p.shape[:-1], -1)
                tile_k = walk.windows(walk.take(tile.keys, keys, "keys"))
                tile_v = walk.windows(walk.take(tile.keys, values, "values"))
                ds = xp.matmul(tile_do, tile_v.swapaxes(-1, -2), out=walk.buffer("ds", p.shape))
                if tokens.dropout:
                    keep = walk.keep(tile)
                    ds *= keep
                    ds -= delta.reshape(-1)[tile.queries].reshape(*p.shape[:-1], 1)
                    ds *= p
                    p *= keep
                else:
                    ds *= p
                part = xp.matmul(ds, tile_k[..., :-1], out=walk.buffer("part", (*p.shape[:-1], d_head)))
                sums[0][tile.queries] += part.reshape(*tile.queries.shape, -1)
                _scatter(walk, tile, sums[1], ds, tile_q[..., :-1])
                _scatter(walk, tile, sums[2], p, tile_do[..., :-1])
            if pattern.exclude_self:
                dv[block] += dout[block] * (lse[block] == LONELY)[..., None]

    backend.share_out(work, n_groups, xp)
    return dq, dk, dv


def _scores(walk, tile, queries, keys, steep):
    """exp(q . k + column), weighted: (g, n, C, W C). Over all tiles it sums to the softmax's denominator."""
    xp = walk.xp
    tile_k = walk.windows(walk.take(tile.keys, keys, "keys"))
    shape = (walk.n_groups, tile_k.shape[1], walk.pattern.chunk_len, tile_k.shape[2])
    tile_q = walk.take(tile.queries, queries, "queries").reshape(*shape[:-1], -1)
    scores = xp.matmul(tile_q, tile_k.swapaxes(-1, -2), out=walk.buffer("scores", shape))
    if steep:  # what may not be seen can exceed the reference by far
        xp.minimum(scores, 0, out=scores)
    xp.exp(scores, out=scores)
    for weight in walk.weights(tile):
        scores *= weight
    return scores


def _scatter(walk, tile, total, left, right):
    """total[keys] += left' right, window by window: left (g, n, C, W C), right (g, n, C, d)."""
    chunk_len, width = walk.pattern.chunk_len, walk.pattern.width
    n, d = left.shape[1], right.shape[-1]
    product = walk.buffer("product", (walk.n_groups, n, width * chunk_len, d))
    walk.xp.matmul(left.swapaxes(-1, -2), right, out=product)
    part = walk.buffer("overlap", (walk.n_groups, n + width - 1, chunk_len, d))
    part[...] = 0
    for w in range(width):
        part[:, w : w + n] += product[:, :, w * chunk_len : (w + 1) * chunk_len]
    part = part.reshape(walk.n_groups, -1, d)
    for run in tile.runs:
        total[tile.keys[:, run]] += part[:, run]


def _with_column(x, column):
    """x (g, T, D) and a column -> (g T, D + 1)."""
    xp = backend.get_xp(x)
    out = xp.empty((*x.shape[:2], x.shape[2] + 1), x.dtype)
    out[..., :-1] = x
    out[..., -1] = column
    return out.reshape(-1, out.shape[-1])


def _reference(q, k, walk, xp, only_bound=False):
    """What to subtract from a query's logits before the exponential: (g, T), and whether logits are `steep`.

    No logit exceeds |q| max|k|, and while that bound is small, subtracting it loses nothing: there is no need to
    look for a maximum. Where it is so large that everything might underflow, the true maximum is found first.
    """
    bound = xp.sqrt((q * q).sum(axis=-1)) * xp.sqrt((k * k).sum(axis=-1).max())
    steep = float(bound.max()) > _SAFE_BOUND[q.dtype.name]
    if not steep or only_bound:
        return bound, steep
    top = xp.full(bound.size, -xp.inf, q.dtype)
    queries, keys = _with_column(q, 0), _with_column(k, 1)
    for tile in walk:
        tile_k = walk.windows(walk.take(tile.keys, keys, "keys"))
        tile_q = walk.take(tile.queries, queries, "queries").reshape(walk.n_groups, tile_k.shape[1], -1, keys.shape[-1])
        scores = xp.matmul(tile_q, tile_k.swapaxes(-1, -2))
        for weight in walk.weights(tile):
            scores = xp.where(weight > 0, scores, -xp.inf)
        best = scores.max(axis=-1).reshape(tile.queries.shape)
        top[tile.queries] = xp.maximum(top[tile.queries], best)
    return xp.where(xp.isinf(top), 0, top).reshape(bound.shape), True
