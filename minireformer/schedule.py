"""Which slots meet: the order of the tokens, chunks and their windows, tiles, and masks.

Tokens are put into *slots*: R rounds of T slots, each round in its own order. C slots make a chunk. A query sees the
keys in its *window* of W chunks: its own, and a few before and after it. The chunks of all rounds form one circle, so
the first chunk of a round looks back at the last chunk of the round before. In full attention and cross-attention every
query meets every key: tokens stay in their order, and one window holds them all.

A `Schedule` goes through this a *tile* at a time: a few chunks with their windows, so few that their logits stay in the
processor's cache. (On a GPU, a tile is as large as memory allows.) Nothing here multiplies a query with a key: that is
done in `kernel.py`. Read next: `kernel.py`.
"""

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from minireformer import backend, cuda, rng, threads

FAR = 2.0**100  # far beyond every logit; a power of two, so multiplying a position by it is exact
TILE_LOGITS = 3 << 16  # of a tile on a CPU: more overflow the cache, fewer make threads wait for Python's lock
BLOCK_LEN = 1024  # length of a tile's window on a CPU, in full attention


class Plan(NamedTuple):
    """Who meets whom, for G = B * H heads of T queries and S keys. Forward and backward follow the same plan."""

    options: Any  # `attention.AttentionOptions`
    exclude_self: bool = False  # a token sees itself only when it sees nothing else
    order: Any = None  # (G, R, T) ints: the token in each slot of each round; None: every query meets every key
    key_mask: Any = None  # (B, S) booleans: False for keys that nobody sees
    buckets: Any = None  # (G, R, T) ints, where `options.same_bucket` asks for them
    dropout: float = 0.0
    seeds: tuple = (0,)  # of the dropout masks, one for each round

    def window_len(self, n_keys):
        """How many keys a query meets in one round, before any mask."""
        return n_keys if self.order is None else self.options.width * self.options.chunk_len

    def logits_per_tile(self, queries, n_keys):
        """How many logits a tile may have, over all its heads. `queries` is a `HeadTable`."""
        return TILE_LOGITS if queries.xp is np else cuda.logits_per_tile(queries, self.window_len(n_keys))

    def groups(self, heads, queries, n_keys):
        """The ranges of heads to take together: one at a time on a CPU; on a GPU all of them, if there is room."""
        need = self.window_len(n_keys) * (1 if self.order is None else self.options.chunk_len)
        if queries.xp is not np and len(heads) * need <= self.logits_per_tile(queries, n_keys):
            return [heads]
        return [range(head, head + 1) for head in heads]


class Schedule:
    """The tiles of g heads (`heads` is the range of their numbers), and who may see whom in them.

    With `by="queries"`, chunks hold queries and windows the keys that they see: forward adds up a chunk's output. With
    `by="keys"`, chunks hold keys and windows the queries that see them: backward adds up the gradients of a chunk of
    keys and values. Every meeting is in one tile, whose chunks are of one round. queries, keys: `HeadTable`s.
    """

    def __init__(self, plan, heads, by, queries, keys, scratch):
        self.plan, self.options, self.heads, self.by, self.scratch = plan, plan.options, heads, by, scratch
        self.xp, (_, self.n_heads, self.n_queries), self.n_keys = queries.xp, queries.shape, keys.shape[2]
        self.chunk_len, self.n_rounds, self.all_pairs = plan.options.chunk_len, len(plan.seeds), plan.order is None
        self.window_len = plan.window_len(self.n_keys)
        self.logits_per_tile = plan.logits_per_tile(queries, self.n_keys) // len(heads)
        if self.all_pairs:
            self.query, self.key = (self.xp.arange(n)[None] for n in (self.n_queries, self.n_keys))
        else:
            around = [n * self.chunk_len for n in (self.options.n_before, self.options.n_after)]
            self.before, self.after = around if by == "queries" else around[::-1]  # slots of a window beside its chunk
            self.pad = max(around)
            slot = self.xp.arange(-self.pad, self.n_rounds * self.n_keys + self.pad)  # the circle, cut open
            circle = plan.order[heads.start : heads.stop].reshape(len(heads), -1)
            self.query = self.key = circle[:, slot % circle.shape[1]]  # (g, slots): the token in each slot
        self.query_rows = queries.rows(heads, self.query)
        same_rows = self.key is self.query and keys.by_token == queries.by_token
        self.key_rows = self.query_rows if same_rows else keys.rows(heads, self.key)
        self.all_queries, self.all_keys = queries.all_rows(heads), keys.all_rows(heads)

    # Tiles

    def tiles(self):
        """The slots of each tile's chunks and those of their windows, as two slices."""
        if self.all_pairs:
            yield from self._tiles_of_all_pairs()
            return
        chunks_per_tile = max(1, self.logits_per_tile // (self.chunk_len * self.window_len))
        for first in range(self.pad, self.pad + self.n_rounds * self.n_keys, self.n_keys):
            for tile in threads.slices(self.n_keys, chunks_per_tile * self.chunk_len):
                start, stop = first + tile.start, first + tile.stop
                yield slice(start, stop), slice(start - self.before, stop + self.after)

    def _tiles_of_all_pairs(self):
        """A chunk of queries and a block of keys, or the other way round. A causal mask leaves out later keys."""
        n_chunk, n_window = (self.n_queries, self.n_keys)[:: 1 if self.by == "queries" else -1]
        block_len = min(n_window, BLOCK_LEN) if self.xp is np else n_window
        for chunk in threads.slices(n_chunk, max(1, self.logits_per_tile // block_len)):
            start = chunk.start if self.options.causal and self.by == "keys" else 0
            stop = chunk.stop if self.options.causal and self.by == "queries" else n_window
            for block in threads.slices(stop - start, block_len):
                yield chunk, slice(start + block.start, start + block.stop)

    def chunks(self, x):
        """x (g, n C, ...) -> (g, n, C, ...), a view. In full attention, a tile has one chunk."""
        return x[:, None] if self.all_pairs else x.reshape(len(x), -1, self.chunk_len, *x.shape[2:])

    def windows(self, x):
        """x (g, (n + W - 1) C, ...) -> (g, n, W C, ...): a view: windows overlap. In full attention, n is 1."""
        if self.all_pairs:
            return x[:, None]
        x = self.xp.ascontiguousarray(x)
        group, slot, *rest = x.strides
        shape = len(x), (x.shape[1] - self.window_len) // self.chunk_len + 1, self.window_len, *x.shape[2:]
        return backend.strided(x, shape, (group, self.chunk_len * slot, slot, *rest))

    # Masks

    def forbid(self, S, chunk, window, weights):
        """Push logits S of forbidden pairs below -FAR / 4: by a comparison of positions, or mask by mask."""
        xp, bad = self.xp, []
        queries, keys = (chunk, window) if self.by == "queries" else (window, chunk)
        if self.options.causal:
            all_past = self.all_pairs and keys.stop <= queries.start  # every key before every query
            if not all_past or self.hidden is not None:
                query, key = self.pairs(*self.positions, chunk, window)
                xp.minimum(S, xp.subtract(query, key, out=self.scratch("product", *S.shape)), out=S)
        else:
            if self.plan.exclude_self:
                bad.append(xp.equal(*self.pairs(self.query, self.key, chunk, window)))
            if self.hidden is not None:
                bad.append(self.pairs(self.query, self.hidden, chunk, window)[1])
        if weights is not None:
            bad.append(weights == 0)
        for forbidden in bad:
            S -= xp.multiply(forbidden, S.dtype.type(FAR), out=self.scratch("product", *forbidden.shape))

    @cached_property
    def positions(self):
        """Positions (g, slots) of queries and keys: query - key is hugely positive, or hugely negative if key is late.

        A key is late if it comes after the query, is hidden, or is the query itself where tokens do not see themselves.
        """
        exact = self.scratch.dtype if self.n_keys < 1 << 22 else "float64"
        query, key = self.query.astype(exact), self.key.astype(exact)
        query += -0.5 if self.plan.exclude_self else 0.5
        query *= FAR
        key *= FAR
        return query, key if self.hidden is None else self.xp.where(self.hidden, key.dtype.type(np.inf), key)

    @cached_property
    def hidden(self):
        """Booleans (g, slots): true for keys that the key mask hides; None without one."""
        if self.plan.key_mask is None:
            return None
        return ~self.plan.key_mask[self.xp.arange(self.heads.start, self.heads.stop)[:, None] // self.n_heads, self.key]

    def weights(self, chunk, window):
        """The factors of exp(S) in the paper's own equations; None where the options do not ask for them.

        0 for a key of another round, or of another bucket with `same_bucket` (eq. 4); 1 / N for a key that the query
        meets in N rounds with `count_once` (the -log N of eq. 16).
        """
        options = self.options
        if not options.same_bucket and not options.count_once:
            return None
        seen = self.xp.equal(*self.pairs(self.round[None], self.round[None], chunk, window))
        if options.same_bucket:
            seen = seen & self._same_bucket((chunk.start - self.pad) // self.n_keys, chunk, window)
        if not options.count_once:
            return seen.astype(self.scratch.dtype)
        times = 0
        for r in range(self.n_rounds):
            query, key = self._of_tokens(self.chunk_of_token[:, r], chunk, window)
            met = (key >= query - options.n_before) & (key <= query + options.n_after)
            times = times + (met & self._same_bucket(r, chunk, window) if options.same_bucket else met)
        return seen / self.xp.maximum(times, 1).astype(self.scratch.dtype)

    def _same_bucket(self, r, chunk, window):
        buckets = self.plan.buckets[self.heads.start : self.heads.stop, r]
        return self.xp.equal(*self._of_tokens(buckets, chunk, window))

    @cached_property
    def round(self):
        """The round of each slot: (slots,). The two repeated ends of the circle are rounds -1 and R."""
        return self.xp.arange(-self.pad, self.n_rounds * self.n_keys + self.pad) // self.n_keys

    @cached_property
    def chunk_of_token(self):
        """The chunk that each token is in, in each round: (g, R, T)."""
        return self.xp.argsort(self.plan.order[self.heads.start : self.heads.stop], axis=-1) // self.chunk_len

    def keep(self, chunk, window):
        """The dropout mask, divided by 1 - rate: a function of (seed, head, round, query, key) and of nothing else."""
        query, key = self.pairs(*self.dropout_words, chunk, window)
        keep = (rng.hash_uint32(query + key) >= rng.keep_threshold(self.plan.dropout)).astype(self.scratch.dtype)
        keep *= self.scratch.dtype.type(1 / (1 - self.plan.dropout))
        return keep

    @cached_property
    def dropout_words(self):
        """Random integers (g, slots) of queries and of keys, whose sums are hashed once more for each pair."""
        head = self.xp.arange(self.heads.start, self.heads.stop)
        head = rng.head_numbers(self.plan.seeds[0], head // self.n_heads, head % self.n_heads, self.n_heads)
        head = head.astype("uint32")[:, None]
        seeds = self.xp.asarray([seed & 0xFFFFFFFF for seed in self.plan.seeds], self.xp.uint32)
        seeds = seeds if self.all_pairs else seeds[self.round % self.n_rounds]
        query = rng.hash_uint32(rng.hash_uint32(head ^ seeds) + self.query.astype("uint32"))
        return query, rng.hash_uint32(self.key.astype("uint32"))

    def pairs(self, of_queries, of_keys, chunk, window):
        """Arrays (g, slots) of queries and of keys, cut to a tile and shaped so that together they fit its logits."""
        x, y = (of_queries, of_keys) if self.by == "queries" else (of_keys, of_queries)
        return self._fitted(x[:, chunk], y[:, window])

    def _of_tokens(self, x, chunk, window):
        """`pairs` of an array (g, T) that has an entry for every token."""
        return self._fitted(*(self.xp.take_along_axis(x, self.query[:, slots], axis=1) for slots in (chunk, window)))

    def _fitted(self, of_chunks, of_windows):
        fitted = self.chunks(of_chunks)[..., None], self.windows(of_windows)[:, :, None]
        return fitted if self.by == "queries" else fitted[::-1]
