"""The arithmetic of a tile between its matrix products: what becomes of its logits, and where sums go.

Each function is written here in NumPy, step by step, as one reads it. Where `gpu.py` has the kernel of the same name,
which takes all steps in one pass over memory, that is started instead: a GPU computes faster than it can read.
A `walk` and its tiles are those of `tiles.py`, which is next.
"""

from minireformer import backend, gpu

NOTHING_SEEN = -1e30  # the reference of a query that has met no key: below every logit


def weigh(walk, tile, scores):
    """scores = exp(scores), weighted, in place: over all tiles they sum to the softmax's denominator."""
    walk.xp.exp(scores, out=scores)
    for weight in walk.weights(tile):
        scores *= weight


def weigh_steep(walk, tile, scores, reference, total):
    """The same for logits of any size: scores = exp(scores - reference), weighted, in place.

    `reference` and `total` are tables of all queries: the largest logit that each has met so far, and the sum of
    exp(logit - reference) over all. Both are brought up to date. Returns `shrink` (g, n C): what else was summed up
    by the old reference has to be multiplied with it, exp(old - new).
    """
    xp, rows = walk.xp, tile.round.rows[:, tile.queries]
    if gpu.compiles(xp):
        return _weigh_on_gpu(walk, tile, scores, rows, reference, total)
    weights, logits = list(walk.weights(tile)), scores
    for weight in weights:
        logits = xp.where(weight > 0, logits, NOTHING_SEEN)
    before = reference[rows]
    now = xp.maximum(before, logits.max(axis=-1).reshape(rows.shape))
    scores -= walk.chunks(now)[..., None]
    xp.minimum(scores, 0, out=scores)  # what may not be seen can exceed the reference by far
    xp.exp(scores, out=scores)
    for weight in weights:
        scores *= weight
    shrink = xp.exp(before - now)
    reference[rows] = now
    total[rows] = total[rows] * shrink + scores.sum(axis=-1).reshape(rows.shape)
    return shrink


def gradient(walk, tile, p, ds, lse, delta, keep, steep):
    """From logits and dO V' to P and dS = P * (dO V' - Δ), in place: p and ds (g, n, C, W C), keys down.

    `lse` and `delta` (g, n') are those of the tile's queries, `keep` its dropout mask or None. Where logits are not
    `steep`, exp(-lse) has gone into dO and Δ already.
    """
    if gpu.compiles(walk.xp):
        return _gradient_on_gpu(walk, tile, p, ds, lse, delta, keep)
    if steep:
        p -= walk.windows(lse)[:, :, None, :]
        walk.xp.minimum(p, 0, out=p)
    weigh(walk, tile, p)
    if keep is not None:
        ds *= keep
    ds -= walk.windows(delta)[:, :, None, :]
    ds *= p
    if keep is not None:
        p *= keep


def add(walk, totals, rows, values, shrink=None):
    """totals[rows] = totals[rows] * shrink + values, for distinct `rows` (g, m) of a table; values (g, m, ...)."""
    if gpu.compiles(walk.xp):
        return _add_on_gpu(walk, totals, rows, values, shrink)
    sums = walk.buffer("sums", *values.shape)
    backend.take_rows(totals, rows, sums)
    if shrink is not None:
        sums *= shrink.reshape(*rows.shape, *(1 for _ in values.shape[2:]))
    sums += values
    totals[rows] = sums


# The kernels' arguments


def _weigh_on_gpu(walk, tile, scores, rows, reference, total):
    xp = walk.xp
    queries, keys = _places(walk, tile)
    weights = _paper_weights(walk, tile, scores)
    shrink, n_rows = xp.empty(rows.shape, scores.dtype), rows.size
    arrays = scores, queries, keys, _or_any(weights, scores), xp.ascontiguousarray(rows), reference, total, shrink
    gpu.launch(xp, "weigh", n_rows, arrays, (*_sizes(walk, scores), weights is not None))
    return shrink


def _gradient_on_gpu(walk, tile, p, ds, lse, delta, keep):
    queries, keys = _places(walk, tile)
    weights, drops = _paper_weights(walk, tile, p), keep is not None
    lse, delta, keep = map(walk.xp.ascontiguousarray, (lse, delta, _or_any(keep, p)))
    arrays = p, ds, keys, queries, lse, delta, _or_any(weights, p), keep
    numbers = (*_sizes(walk, p), weights is not None, drops)
    gpu.launch(walk.xp, "gradient", keys.size, arrays, numbers)


def _add_on_gpu(walk, totals, rows, values, shrink):
    row_len = totals[0].size
    arrays = totals, walk.xp.ascontiguousarray(rows), values, _or_any(shrink, values)
    numbers = rows.shape[1], row_len, values.strides[0] // values.itemsize, shrink is not None
    gpu.launch(walk.xp, "add", rows.size, arrays, numbers)


def _places(walk, tile):
    """Positions of the tile's queries (g, m) and keys (g, m') as int32, keys that the mask hides at -1."""
    xp, position = walk.xp, tile.round.position
    queries, keys = (xp.ascontiguousarray(position[:, slots].astype("int32")) for slots in (tile.queries, tile.keys))
    if walk.key_mask is not None:
        keys = xp.where(walk.key_mask[xp.arange(len(keys))[:, None], keys], keys, xp.int32(-1))
    return queries, keys


def _paper_weights(walk, tile, scores):
    """The paper's own weights of a tile in one array like `scores`; None where its equations are not asked for."""
    product = None
    for weight in walk.paper_weights(tile):
        product = weight if product is None else product * weight
    return product if product is None else walk.xp.ascontiguousarray(product).astype(scores.dtype)


def _sizes(walk, scores):
    pattern = walk.pattern
    return scores.shape[1], pattern.chunk_len, scores.shape[3], pattern.causal, pattern.exclude_self


def _or_any(array, another):
    """A kernel is given a pointer where it will not look, too."""
    return another if array is None else array
