"""The one attention kernel: chunks of queries attend to their own and to neighbouring chunks of keys.

Full, local and LSH attention are this kernel on differently ordered tokens. The kernel walks over rounds and tiles
(`tiles.py`), so that nothing of size T * T or T * R * C ever exists. Rounds of LSH are merged by their log-sum-exp,
which makes the output **one** softmax over all (round, key) pairs:

    o_i = sum_r sum_j exp(q_i . k_j - L_i) v_j          L_i = log sum_r sum_j exp(q_i . k_j)

So forward adds up numerators and denominators over all tiles, and backward needs only q, k, v, o and L:

    P = exp(Q K' - L)     dV = P' dO     dS = P * (dO V' - Δ)  with  Δ_i = do_i . o_i     dQ = dS K     dK = dS' Q

One more column does the bookkeeping inside the products: [Q, -L] [K, 1]' is Q K' - L, [dO, -Δ] [V, 1]' is
dO V' - Δ, and exp(S) [V, 1] holds the denominators. Read next: `attention.py`.
"""

import math

from minireformer import backend
from minireformer.basic import row_dot
from minireformer.tiles import Walk, blocks, get_groups, put_groups

_SAFE_BOUND = {"float32": 40.0, "float64": 340.0}  # exp(-2 * bound) is still a normal number
LONELY = 1e9  # the log-sum-exp of a query that sees nothing: exp(q . k - 1e9) is 0 for every key
_ROWS = 2048  # rows that are put back from slots to tokens at a time: few enough to stay in the cache


def chunked_attention(q, k, v, tokens, pattern):
    """q, k, v (B, H, T, D), T a multiple of `chunk_len` -> out (B, H, T, D), lse (B * H, T).

    Logits are q . k / sqrt(D); with `k=None` the keys are the queries at unit length, and logits q . k. `lse` is
    the log-sum-exp over everything a query sees, `LONELY` for one that sees nothing: its output is 0, or its own
    value with `exclude_self`.
    """
    xp = backend.get_xp(q)
    n_batch, n_heads, length, d_head = q.shape
    out, lse = _heads_like(v), xp.empty((n_batch * n_heads, length), q.dtype)

    def work(groups):
        walk = Walk(q.dtype, tokens, pattern, xp)
        for block in blocks(groups, xp):
            walk.enter(block)
            queries, values = get_groups(q, block), get_groups(v, block)
            keys = _keys(queries, k, block)
            reference, steep = _reference(walk, queries, keys)
            keys_values = _table(walk, "keys and values", keys, 1, values, 1)
            queries = _table(walk, "queries", queries, -reference)
            total = walk.buffer("total", *values.shape[:2], d_head + 1)  # numerators and, last, denominators
            total[...] = 0
            for of_round in walk.rounds():
                sums = walk.buffer("sums", *of_round.rows.shape, d_head + 1)
                for tile in walk.tiles(of_round):
                    tile_k, tile_v = _pair(_keys_of(walk, tile, keys_values))
                    tile_q = _queries_of(walk, tile, queries)
                    scores = walk.buffer("scores", *tile_q.shape[:3], tile_k.shape[2])  # (g, n, C, W C)
                    xp.matmul(tile_q, tile_k.swapaxes(-1, -2), out=scores)
                    _weigh(walk, tile, scores, steep)
                    tile_sums = walk.chunks(sums[:, tile.queries])
                    if tokens.dropout:
                        tile_sums[..., -1] = scores.sum(axis=-1)
                        scores *= walk.keep(tile)
                        tile_sums[..., :-1] = scores @ tile_v[..., :-1]
                    else:
                        xp.matmul(scores, tile_v, out=tile_sums)
                _add_tokens(walk, of_round, sums, [total])
            lonely = total[..., -1] == 0
            total[..., -1] += lonely
            total[..., :-1] /= total[..., -1:]
            if pattern.exclude_self:
                total[..., :-1] += values * lonely[..., None]
            put_groups(out, block, total[..., :-1])
            lse[block] = xp.where(lonely, LONELY, reference + xp.log(total[..., -1]))

    backend.share_out(work, n_batch * n_heads, xp)
    return out, lse


def chunked_attention_backward(dout, q, k, v, out, lse, tokens, pattern):
    """Gradients (dq, dk, dv), each (B, H, T, D), from what `chunked_attention` was given and gave.

    With `k=None`, dq holds the gradient through the keys as well, and dk is None.
    """
    xp = backend.get_xp(q)
    d_head = q.shape[-1]
    dq, dk, dv = _heads_like(q), None if k is None else _heads_like(k), _heads_like(v)

    def work(groups):
        walk = Walk(q.dtype, tokens, pattern, xp)
        for block in blocks(groups, xp):
            walk.enter(block)
            queries, values, douts = get_groups(q, block), get_groups(v, block), get_groups(dout, block)
            keys = _keys(queries, k, block)
            steep = _is_steep(_bound(queries, keys))
            delta = row_dot(douts, get_groups(out, block))
            keys_values = _table(walk, "keys and values", keys, 1, values, 1)
            delta_column = 0 if tokens.dropout else -delta
            queries_douts = _table(walk, "queries and douts", queries, -lse[block], douts, delta_column)
            totals = walk.buffer("totals", 3, *keys.shape)  # of dq, dv, dk
            totals[...] = 0
            del keys, values
            for of_round in walk.rounds():
                sums = walk.buffer("sums", *of_round.rows.shape, 3 * d_head)  # the same, by slot
                sums[...] = 0
                for tile in walk.tiles(of_round):
                    tile_q = _pair(_queries_of(walk, tile, queries_douts))
                    tile_k = _pair(_keys_of(walk, tile, keys_values))
                    logits = walk.buffer("logits", *tile_q.shape[:4], tile_k.shape[3])  # (2, g, n, C, W C)
                    p, ds = xp.matmul(tile_q, tile_k.swapaxes(-1, -2), out=logits)  # Q K' - L and dO V' - Δ
                    _weigh(walk, tile, p, steep)
                    if tokens.dropout:
                        keep = walk.keep(tile)
                        ds *= keep
                        ds -= walk.chunks(delta.reshape(-1)[of_round.rows[:, tile.queries]])[..., None]
                    ds *= p
                    if tokens.dropout:
                        p *= keep
                    xp.matmul(ds, tile_k[0, ..., :-1], out=walk.chunks(sums[:, tile.queries])[..., :d_head])
                    to_keys = _pair(walk.chunks(sums[:, tile.keys])[..., d_head:])
                    _add_windows(walk, logits, tile_q[::-1, ..., :-1], to_keys)  # P' dO and dS' Q
                _add_tokens(walk, of_round, sums, totals)
                _add_neighbours(of_round, sums[..., d_head:], totals[1:])
            dqueries, dvalues, dkeys = totals
            if pattern.exclude_self:
                dvalues += douts * (lse[block] == LONELY)[..., None]
            put_groups(dv, block, dvalues)
            if k is None:
                dqueries += unit_length_backward(dkeys, queries)
            else:
                dkeys *= 1 / math.sqrt(d_head)
                put_groups(dk, block, dkeys)
            put_groups(dq, block, dqueries)

    backend.share_out(work, len(lse), xp)
    return dq, dk, dv


def _weigh(walk, tile, scores, steep):
    """scores = exp(scores), weighted, in place: over all tiles they sum to the softmax's denominator."""
    xp = walk.xp
    if steep:  # what may not be seen can exceed the reference by far
        xp.minimum(scores, 0, out=scores)
    xp.exp(scores, out=scores)
    for weight in walk.weights(tile):
        scores *= weight


def _add_windows(walk, left, right, sums):
    """sums (2, g, n + W - 1, C, D) += left' right, window by window: left (2, g, n, C, W C), right (2, g, n, C, D)."""
    n, chunk_len = right.shape[2:4]
    product = walk.buffer("product", *left.shape[:3], left.shape[4], right.shape[4])
    walk.xp.matmul(left.swapaxes(-1, -2), right, out=product)
    for w in range(walk.pattern.width):
        sums[:, :, w : w + n] += product[..., w * chunk_len : (w + 1) * chunk_len, :]


def _add_tokens(walk, of_round, sums, totals):
    """totals += sums put back from slots to tokens: the gradient of a permutation is a gather by its inverse."""
    by_slot = sums.reshape(-1, sums.shape[-1])
    for start in range(0, walk.length, _ROWS):
        rows = slice(start, start + _ROWS)
        by_token, column = walk.take(by_slot, of_round.inverse[:, rows], "by token"), 0
        for total in totals:
            total[:, rows] += by_token[..., column : column + total.shape[-1]]
            column += total.shape[-1]


def _add_neighbours(of_round, sums, totals):
    """totals += what the chunks of neighbouring rounds got: few, and a token comes once in each."""
    for slots in of_round.neighbours:
        column = 0
        for total in totals:
            d = total.shape[-1]
            total.reshape(-1, d)[of_round.rows[:, slots]] += sums[:, slots, column : column + d]
            column += d


def unit_length(x):
    """x (..., D) at length 1: x / sqrt(mean(x^2) + 1e-6) / sqrt(D)."""
    xp = backend.get_xp(x)
    return x / xp.sqrt(row_dot(x, x) + 1e-6 * x.shape[-1])[..., None]


def unit_length_backward(dy, x):
    """Gradient of `unit_length`: dx = s (dy - x (x . dy) s^2), with s the factor that x was scaled by."""
    xp = backend.get_xp(x)
    squared = 1 / (row_dot(x, x) + 1e-6 * x.shape[-1])
    dx = dy - x * (row_dot(x, dy) * squared)[..., None]
    dx *= xp.sqrt(squared)[..., None]
    return dx


def _keys(queries, k, block):
    return unit_length(queries) if k is None else get_groups(k, block) * (1 / math.sqrt(k.shape[-1]))


def _heads_like(x):
    """An empty (B, H, T, D) array that lies in memory as (B, T, H, D): putting heads together costs no copy."""
    n_batch, n_heads, length, d_head = x.shape
    return backend.get_xp(x).empty((n_batch, length, n_heads, d_head), x.dtype).swapaxes(1, 2)


def _queries_of(walk, tile, table):
    """The queries' rows of a table: (g, n, C, d)."""
    return walk.chunks(walk.take(table, tile.round.rows[:, tile.queries], "tile's queries"))


def _keys_of(walk, tile, table):
    """The rows of a table that each chunk of queries sees: (g, n, W C, d), overlapping."""
    return walk.windows(walk.take(table, tile.round.rows[:, tile.keys], "tile's keys"))


def _table(walk, name, *parts):
    """Arrays (g, T, d) and columns (g, T), or numbers, side by side: one row a token, so that one gather gets all."""
    arrays, columns = parts[::2], parts[1::2]
    table, place = walk.buffer(name, *arrays[0].shape[:2], sum(a.shape[2] + 1 for a in arrays)), 0
    for array, column in zip(arrays, columns):
        table[..., place : place + array.shape[2]] = array
        place += array.shape[2]
        table[..., place] = column
        place += 1
    return table.reshape(-1, place)


def _pair(table):
    """The two halves of rows (g, n, m, 2 d), one after the other: (2, g, n, m, d), as a view."""
    return table.reshape(*table.shape[:3], 2, -1).transpose(3, 0, 1, 2, 4)


def _bound(q, keys):
    """What no logit exceeds: |q| max|k|, for each query (g, T)."""
    xp = backend.get_xp(q)
    return xp.sqrt(row_dot(q, q)) * xp.sqrt(row_dot(keys, keys).max())


def _is_steep(bound):
    if backend.get_xp(bound) is not backend.numpy:  # a GPU is not asked: the host would wait for it in every layer
        return True
    return float(bound.max()) > _SAFE_BOUND[bound.dtype.name]


def _reference(walk, q, keys):
    """What to subtract from a query's logits before the exponential: (g, T), and whether logits are `steep`.

    While the bound |q| max|k| is small, subtracting it loses nothing: there is no need to look for a maximum.
    Where it is so large that everything might underflow, the true maximum is found first.
    """
    xp, bound = walk.xp, _bound(q, keys)
    if not _is_steep(bound):
        return bound, False
    top = xp.full(bound.size, -xp.inf, q.dtype)
    for of_round in walk.rounds():
        for tile in walk.tiles(of_round):
            tile_q = _queries_of(walk, tile, q.reshape(-1, q.shape[-1]))
            scores = tile_q @ _keys_of(walk, tile, keys.reshape(-1, q.shape[-1])).swapaxes(-1, -2)
            for weight in walk.weights(tile):
                scores = xp.where(weight > 0, scores, -xp.inf)
            rows = of_round.rows[:, tile.queries]
            top[rows] = xp.maximum(top[rows], scores.max(axis=-1).reshape(rows.shape))
    return xp.where(xp.isinf(top), 0, top).reshape(bound.shape), True
