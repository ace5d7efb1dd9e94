"""The one attention kernel: chunks of queries attend to their own and to neighbouring chunks of keys.

Full, local and LSH attention are this kernel on differently ordered tokens. The kernel walks over rounds and tiles
(`tiles.py`), so that nothing of size T * T or T * R * C ever exists. Rounds of LSH are merged by their log-sum-exp,
which makes the output **one** softmax over all (round, key) pairs:

    o_i = sum_r sum_j exp(q_i . k_j - L_i) v_j          L_i = log sum_r sum_j exp(q_i . k_j)

So forward adds up numerators and denominators over all tiles (`fused.py`), and backward needs only q, k, v, o and L:

    P = exp(Q K' - L)     dV = P' dO     dS = P * (dO V' - Δ)  with  Δ_i = do_i . o_i     dQ = dS K     dK = dS' Q

Forward walks over chunks of queries, whose windows hold the keys they see; backward over chunks of keys, whose windows
hold the queries that see them: then dV and dK of a chunk come whole out of one product each.
Read next: `attention.py`.
"""

import math

from minireformer import backend, fused
from minireformer.basic import row_dot
from minireformer.tiles import Layout, Walk

_SAFE_BOUND = {"float32": 40.0, "float64": 340.0}  # exp(2 * bound) and exp(-2 * bound) are normal numbers
LONELY = 1e9  # the log-sum-exp of a query that sees nothing: exp(q . k - 1e9) is 0 for every key


def chunked_attention(q, k, v, tokens, pattern):
    """q, k, v (B, H, T, D), T a multiple of `chunk_len` -> out (B, H, T, D), lse (B, H, T).

    Logits are q . k / sqrt(D); with `k=None` the keys are the queries at unit length, and logits q . k. `lse` is
    the log-sum-exp over everything a query sees, `LONELY` for one that sees nothing: its output is 0, or its own
    value with `exclude_self`.
    """
    xp, layout = backend.get_xp(q), Layout(q)
    queries, values, keys = layout.table(q), layout.table(v), None if k is None else layout.table(k)
    out, total = xp.zeros_like(values), xp.zeros(len(values), q.dtype)  # numerators, denominators
    scale, reference = _scale(queries, keys), xp.empty_like(total)

    def work(groups):
        walk = Walk(layout, q.dtype, tokens, pattern)
        ones = xp.ones(pattern.width * pattern.chunk_len, q.dtype)
        for block in walk.blocks(groups):
            walk.enter(block)
            mine = layout.rows_of(block)
            steep = _set_scale(scale, queries, keys, mine)
            reference[mine] = fused.NOTHING_SEEN if steep else 0
            for of_round in walk.rounds():
                for tile in walk.tiles(of_round):
                    tile_q, tile_k = _queries_and_keys(walk, tile, queries, keys, scale)
                    tile_q, tile_k = walk.chunks(tile_q), walk.windows(tile_k)
                    tile_v = walk.windows(walk.take(values, of_round.rows[:, tile.keys], "values"))
                    scores = walk.buffer("scores", *tile_q.shape[:3], tile_k.shape[2])  # (g, n, C, W C)
                    backend.products(tile_q, tile_k.swapaxes(-1, -2), scores)
                    if steep:
                        shrink = fused.weigh_steep(walk, tile, scores, reference, total)
                    else:
                        fused.weigh(walk, tile, scores)
                        walk.add(total, of_round, tile.queries, scores @ ones[: scores.shape[-1]])
                        shrink = None
                    if tokens.dropout:
                        scores *= walk.keep(tile)
                    sums = backend.products(scores, tile_v, walk.buffer("outputs", *tile_q.shape))
                    walk.add(out, of_round, tile.queries, sums, shrink)
            lonely = total[mine] == 0
            total[mine] += lonely
            out[mine] /= total[mine, None]
            reference[mine] = xp.where(lonely, LONELY, reference[mine] + xp.log(total[mine]))
            if pattern.exclude_self:
                alone = backend.places(lonely)
                out[mine][alone] += values[mine][alone] * lonely[alone, None]

    backend.share_out(work, math.prod(q.shape[:2]), xp)
    return layout.heads(out), layout.heads(reference)


def chunked_attention_backward(dout, q, k, v, out, lse, tokens, pattern):
    """Gradients (dq, dk, dv), each (B, H, T, D), from what `chunked_attention` was given and gave.

    With `k=None`, dq holds the gradient through the keys as well, and dk is None.
    """
    xp, layout = backend.get_xp(q), Layout(q)
    queries, values, keys = layout.table(q), layout.table(v), None if k is None else layout.table(k)
    douts, outs, lse = layout.table(dout), layout.table(out), layout.table(lse)
    dqueries, dvalues, dkeys = xp.zeros_like(queries), xp.zeros_like(values), None if k is None else xp.zeros_like(keys)
    scale, delta, factor = _scale(queries, keys), xp.empty_like(lse), xp.empty_like(lse)

    def work(groups):
        walk = Walk(layout, q.dtype, tokens, pattern, of_keys=True)
        for block in walk.blocks(groups):
            walk.enter(block)
            mine = layout.rows_of(block)
            steep = _set_scale(scale, queries, keys, mine)
            delta[mine] = row_dot(douts[mine], outs[mine])
            if not steep:  # exp(S - L) = exp(S) exp(-L), and exp(-L) goes with dO and Δ
                factor[mine] = xp.exp(-lse[mine])
                delta[mine] *= factor[mine]
            for of_round in walk.rounds():
                for tile in walk.tiles(of_round):
                    rows_q, rows_k = of_round.rows[:, tile.queries], of_round.rows[:, tile.keys]
                    slot_q, slot_k = _queries_and_keys(walk, tile, queries, keys, scale)
                    tile_q, tile_k = walk.windows(slot_q), walk.chunks(slot_k)
                    slot_do = walk.take(douts, rows_q, "douts")
                    if not steep:
                        slot_do *= factor[rows_q][..., None]
                    tile_do = walk.windows(slot_do)
                    tile_v = walk.chunks(walk.take(values, rows_k, "values"))
                    p, ds = walk.buffer("logits", 2, *tile_k.shape[:3], tile_q.shape[2])  # each (g, n, C, W C)
                    backend.products(tile_k, tile_q.swapaxes(-1, -2), p)  # here keys go down and queries across
                    backend.products(tile_v, tile_do.swapaxes(-1, -2), ds)
                    keep = walk.keep(tile) if tokens.dropout else None
                    fused.gradient(walk, tile, p, ds, lse[rows_q], delta[rows_q], keep, steep)
                    tile_dv = backend.products(p, tile_do, walk.buffer("dvalues", *tile_v.shape))
                    walk.add(dvalues, of_round, tile.keys, tile_dv)
                    tile_dk = backend.products(ds, tile_q, walk.buffer("dkeys", *tile_k.shape))
                    tile_dq = _add_windows(walk, ds, tile_k)
                    if k is None:  # the keys were queries
                        slot_dk = unit_length_backward(tile_dk.reshape(slot_k.shape), slot_k, scale[rows_k])
                        tile_dq[:, _within(tile.keys, tile.queries)] += slot_dk
                    else:
                        tile_dk *= scale
                        walk.add(dkeys, of_round, tile.keys, tile_dk)
                    walk.add(dqueries, of_round, tile.queries, tile_dq)
            if pattern.exclude_self:
                lonely = lse[mine] == LONELY
                alone = backend.places(lonely)
                dvalues[mine][alone] += douts[mine][alone] * lonely[alone, None]

    backend.share_out(work, math.prod(q.shape[:2]), xp)
    return layout.heads(dqueries), None if k is None else layout.heads(dkeys), layout.heads(dvalues)


def _queries_and_keys(walk, tile, queries, keys, scale):
    """The queries (g, n, D) and the keys (g, m, D) of a tile, slot by slot; the keys as they enter the product."""
    rows_q, rows_k = tile.round.rows[:, tile.queries], tile.round.rows[:, tile.keys]
    if keys is not None:
        tile_k = walk.take(keys, rows_k, "keys")
        tile_k *= scale
        return walk.take(queries, rows_q, "queries"), tile_k
    if walk.of_keys:  # windows hold their own chunk: one gather has both
        tile_q = walk.take(queries, rows_q, "queries")
        as_keys = tile_q[:, _within(tile.keys, tile.queries)]
    else:
        as_keys = walk.take(queries, rows_k, "queries")
        tile_q = as_keys[:, _within(tile.queries, tile.keys)]
    tile_k = walk.xp.multiply(as_keys, scale[rows_k][..., None], out=walk.buffer("keys", *as_keys.shape))
    return tile_q, tile_k


def _within(part, whole):
    """The slice `part` of slots as a slice of what is at the slots `whole`."""
    return slice(part.start - whole.start, part.stop - whole.start)


def _add_windows(walk, left, right):
    """left' right for every window, added up by slot: left (g, n, C, W C), right (g, n, C, D) -> (g, n', D)."""
    groups, n, chunk_len, d = right.shape
    width = left.shape[-1] // chunk_len
    product = walk.buffer("product", groups, n, left.shape[-1], d)
    backend.products(left.swapaxes(-1, -2), right, product)
    sums = walk.buffer("by window", groups, n + width - 1, chunk_len, d)
    sums[:, n:] = 0
    sums[:, :n] = product[:, :, :chunk_len]
    for w in range(1, width):
        sums[:, w : w + n] += product[:, :, w * chunk_len : (w + 1) * chunk_len]
    return sums.reshape(groups, -1, d)


def _scale(queries, keys):
    """What keys are multiplied with before the product: 1 / sqrt(D), or room for each query's 1 / length."""
    xp = backend.get_xp(queries)
    return 1 / math.sqrt(queries.shape[1]) if keys is not None else xp.empty(len(queries), queries.dtype)


def _set_scale(scale, queries, keys, mine):
    """Fill in the rows `mine` of `scale`; return whether logits are `steep`: so large that exp is in danger."""
    xp = backend.get_xp(queries)
    squares = row_dot(queries[mine], queries[mine])
    if keys is None:
        scale[mine] = _inverse_length(squares, queries.shape[1])
    if xp is not backend.numpy:  # a GPU is not asked: the host would wait, and its kernel looks at every logit anyway
        return True
    longest = 1.0 if keys is None else xp.sqrt(row_dot(keys[mine], keys[mine]).max()) * scale
    bound = xp.sqrt(squares.max()) * longest  # no logit exceeds |q| max|k|
    return float(bound) > _SAFE_BOUND[squares.dtype.name]


def _inverse_length(squares, d_head):
    """1 / sqrt(mean(x^2) + 1e-6) / sqrt(D) of vectors of D entries, from the sums of their squares."""
    return 1 / backend.get_xp(squares).sqrt(squares + 1e-6 * d_head)


def unit_length(x):
    """x (..., D) at length 1: y = s x with s = 1 / sqrt(mean(x^2) + 1e-6) / sqrt(D)."""
    return x * _inverse_length(row_dot(x, x), x.shape[-1])[..., None]


def unit_length_backward(dy, y, scale):
    """Gradient of `unit_length`, from its y and s (...): dx = s (dy - y (y . dy)). Overwrites dy and y."""
    y *= row_dot(y, dy)[..., None]
    dy -= y
    dy *= scale[..., None]
    return dy
