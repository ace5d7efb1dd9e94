"""Heads as tables of rows: where a head's tokens lie in memory, and how a tile reads and updates its rows.

Projections leave heads in memory as (B, T, H, D); other callers have them as (B, H, T, D). Either way, they form a
table with a row for each token of each head. A tile gathers the rows that it needs and adds its results row by row.

Allocating an array of several megabytes costs as much as the arithmetic on it, because the system hands out memory page
by page. So each thread has a `Scratch`: it allocates once, and writes into the same memory for every tile. In the
functions here, `s` is the `Schedule` of the tile. Read next: `schedule.py`.
"""

import math

from minireformer import backend, cuda, threads


class HeadTable:
    """Heads (B, H, T, D) as a table (B H T, D), whichever way they lie in memory."""

    def __init__(self, heads):
        self.xp, self.dtype = backend.get_xp(heads), heads.dtype
        *self.shape, self.d_head = heads.shape
        self.by_token = heads.strides[1] < heads.strides[2]  # (B, T, H, D)

    def table(self, heads):
        """heads (B, H, T, ...) as a table. Copies only if their memory layout isn't that of the heads in `__init__`."""
        heads = heads.swapaxes(1, 2) if self.by_token else heads
        return self.xp.ascontiguousarray(heads).reshape(-1, *heads.shape[3:])

    def heads(self, table):
        """A table as heads (B, H, T, ...), a view."""
        n_batch, n_heads, length = self.shape
        if self.by_token:
            return table.reshape(n_batch, length, n_heads, *table.shape[1:]).swapaxes(1, 2)
        return table.reshape(n_batch, n_heads, length, *table.shape[1:])

    def rows(self, heads, tokens):
        """The rows of tokens (g, n), or (1, n), in each of g heads. `heads` is the range of their numbers, b H + h."""
        _, n_heads, length = self.shape
        head = self.xp.arange(heads.start, heads.stop)[:, None]
        if self.by_token:
            return tokens * n_heads + (head // n_heads * (length * n_heads) + head % n_heads)
        return tokens + head * length

    def all_rows(self, heads):
        """The rows of all tokens of one head, or of all heads, as a slice."""
        _, n_heads, length = self.shape
        if len(heads) > 1:
            return slice(None)
        if not self.by_token:
            return slice(heads.start * length, heads.stop * length)
        batch, head = divmod(heads.start, n_heads)
        return slice(batch * length * n_heads + head, (batch + 1) * length * n_heads, n_heads)


class Scratch:
    """A thread's arrays of one dtype, by name: `scratch(name, *shape)`.

    Arrays of the same name share their memory, whatever their shapes, so a call overwrites what the last one returned.
    """

    def __init__(self, xp, dtype):
        self.xp, self.dtype, self.memory = xp, dtype, {}

    def __call__(self, name, *shape):
        size, memory = math.prod(shape), self.memory.get(name)
        if memory is None or memory.size < size:
            memory = self.memory[name] = self.xp.empty(size, self.dtype)
        return memory[:size].reshape(shape)

    def matmul(self, name, a, b):
        """a @ b for matrices a (g, n, i, k) and b (g, n, k, j), which are read in place."""
        return threads.batched_matmul(a, b, self(name, *a.shape[:3], b.shape[3]))

    def gather(self, name, table, rows, factor=None):
        """table[rows] for a table (N, d) and rows (g, slots), times factor (g, slots) if there is one."""
        out = self(name, *rows.shape, *table.shape[1:])
        backend.gather(table, rows, out)
        if factor is not None:
            out *= factor[..., None]
        return out

    def scatter_add(self, table, rows, values, rescale=None):
        """table[rows] = table[rows] * rescale + values, for rows (g, slots) that are all different."""
        values = values.reshape(*rows.shape, -1)
        if cuda.compiles(self.xp):
            cuda.scatter_add(self.xp, table, rows, values, rescale)
            return
        sums = self.gather("sums", table, rows)
        if rescale is not None:
            sums *= rescale[..., None]
        sums += values
        table[rows] = sums


def gather_queries_and_keys(s, q, k, scale, chunk, window):
    """A tile's queries, and its keys times scale (g, slots): (g, n, C, D) in chunks, (g, n, W C, D) in windows.

    If tokens are both query and key, a chunk's tokens are also in its window, and one gather fetches both.
    """
    gather, by_queries = s.scratch.gather, s.by == "queries"
    queries, keys = (chunk, window) if by_queries else (window, chunk)
    if q is k and s.key_rows is s.query_rows:
        both = gather("Q", q, s.query_rows[:, window])
        own = both[:, chunk.start - window.start : chunk.stop - window.start]
        Q, K = (own, both) if by_queries else (both, own)
        K = s.xp.multiply(K, scale[:, keys, None], out=s.scratch("K", *K.shape))
    else:
        Q, K = gather("Q", q, s.query_rows[:, queries]), gather("K", k, s.key_rows[:, keys], scale[:, keys])
    return (s.chunks(Q), s.windows(K)) if by_queries else (s.windows(Q), s.chunks(K))


def add_chunks(s, table, rows, chunk, values, rescale=None):
    """`scatter_add` of values (g, n, C, D) to the rows of a tile's chunks. The table is 0 before the first round."""
    if s.all_pairs or chunk.stop > s.pad + s.n_keys:
        s.scratch.scatter_add(table, rows[:, chunk], values, rescale)
    else:  # the first round only writes
        table[rows[:, chunk]] = values.reshape(len(values), chunk.stop - chunk.start, -1)


def add_windows(s, dq, window, parts, chunk=None, own=None):
    """`scatter_add` of the windows' gradients, parts (g, n, W C, D), to the queries' rows of dq.

    Neighbouring windows overlap, so parts are first summed by slot. `own` (g, n, C, D) goes to the slots of `chunk`.
    """
    if s.all_pairs:  # a single window, in which every token is once
        if own is not None:
            s.scratch.scatter_add(dq, s.query_rows[:, chunk], own)
        s.scratch.scatter_add(dq, s.query_rows[:, window], parts)
        return
    g, n, _, d_head = parts.shape
    sums = s.scratch("by slot", g, n + s.options.width - 1, s.chunk_len, d_head)
    sums[:, :n], sums[:, n:] = parts[:, :, : s.chunk_len], 0
    for i in range(1, s.options.width):
        sums[:, i : i + n] += parts[:, :, i * s.chunk_len : (i + 1) * s.chunk_len]
    if own is not None:
        first = (chunk.start - window.start) // s.chunk_len
        sums[:, first : first + n] += own
    sums = sums.reshape(g, -1, d_head)
    for slots in without_repeats(s, window):
        values = sums[:, slots.start - window.start : slots.stop - window.start]
        s.scratch.scatter_add(dq, s.query_rows[:, slots], values)


def without_repeats(s, window):
    """`window` cut into slices that hold no token twice: the part in one round, and each chunk from another round."""
    first = s.pad + (window.start + s.before - s.pad) // s.n_keys * s.n_keys
    start, stop = max(window.start, first), min(window.stop, first + s.n_keys)
    beyond = [*range(window.start, start, s.chunk_len), *range(stop, window.stop, s.chunk_len)]
    return [slice(start, stop), *(slice(slot, slot + s.chunk_len) for slot in beyond)]
