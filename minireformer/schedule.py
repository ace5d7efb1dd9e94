"""Which slots meet: the order of the tokens, chunks and their windows, tiles, and masks.

Tokens are put into *slots*: R rounds of T slots, each round in its own order. C slots make a chunk. A query sees the
keys in its *window*: its own chunk, and a few chunks before and after it. The chunks of all rounds form one circle, so
the first chunk of a round looks back at the last one of the round before. Where everything meets everything, as in full
attention and cross-attention, tokens stay where they are, and a window is all of them.

A `Schedule` goes through all this a *tile* at a time: a few chunks with their windows, so few that their logits stay in
the processor's cache. (On a GPU, a tile is as large as memory allows.) Nothing here multiplies a query with a key: that
is `kernel.py`, which you can read first or next.
"""

from typing import Any, NamedTuple

import numpy as np

from minireformer import backend, cuda, rng, threads

FAR = 2.0**100  # far beyond every logit, and exact when it multiplies a position
TILE_LOGITS = 1 << 17  # of a tile on a CPU: half a megabyte in float32 stays in a core's own cache
BLOCK_LEN = 1024  # of a tile's window on a CPU, where all meet all


class Plan(NamedTuple):
    """Who meets whom, for G = B * H heads of T queries and S keys: the same for forward and backward."""

    options: Any  # `attention.AttentionOptions`
    exclude_self: bool = False  # a token sees itself only when it sees nothing else
    order: Any = None  # (G, R, T) ints: the token in each slot of each round; None: all meet all, in their own order
    key_mask: Any = None  # (B, S) booleans: False for keys that nobody sees
    buckets: Any = None  # (G, R, T) ints, where `options.same_bucket` asks for them
    dropout: float = 0.0
    seeds: tuple = (0,)  # of the dropout masks, one for each round

    def window_len(self, n_keys):
        """How many keys a query meets in a round, masks apart."""
        return n_keys if self.order is None else self.options.width * self.options.chunk_len

    def logits_per_tile(self, queries, n_keys):
        """How many logits a tile may have, those of all its heads together. `queries` is a `HeadTable`."""
        return TILE_LOGITS if queries.xp is np else cuda.logits_per_tile(queries, self.window_len(n_keys))

    def groups(self, heads, queries, n_keys):
        """The ranges of heads that go through together: one by one on a CPU; on a GPU with room for them, all."""
        least = self.window_len(n_keys) * (1 if self.order is None else self.options.chunk_len)
        if queries.xp is not np and len(heads) * least <= self.logits_per_tile(queries, n_keys):
            return [heads]
        return [range(head, head + 1) for head in heads]


class Schedule:
    """The tiles of g heads (`heads` is the range of their numbers), and who may see whom in them.

    With `by="queries"`, the chunks of a tile hold queries, and their windows the keys that these see. With `by="keys"`
    the chunks hold keys, and their windows the queries that see them: that way, backward gets the gradients of a chunk
    of keys and values whole. Either way, every pair that meets does so once.
    """

    def __init__(self, plan, heads, by, queries, keys, scratch):
        self.plan, self.options, self.heads, self.by, self.scratch = plan, plan.options, heads, by, scratch
        self.xp, self.n_queries, self.n_keys = queries.xp, queries.shape[2], keys.shape[2]
        self.chunk_len, self.n_rounds, self.all_pairs = plan.options.chunk_len, len(plan.seeds), plan.order is None
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
        self.own_key_rows = self.key if len(heads) == 1 else self.key_rows  # in a table of these heads alone
        # A query's position is half a place early where it does not see itself, and else half a place late. So
        # FAR * (query - key) is far above every logit where the key may be seen, and far below where it comes too late.
        half, exact = -0.5 if plan.exclude_self else 0.5, scratch.dtype if self.n_keys < 1 << 22 else "float64"
        self.query_position, self.key_position = self.query.astype(exact), self.key.astype(exact)
        self.query_position += half
        self.query_position *= FAR
        self.key_position *= FAR
        self.hidden = None
        if plan.key_mask is not None:
            batch = self.xp.arange(heads.start, heads.stop)[:, None] // queries.shape[1]
            self.hidden = ~plan.key_mask[batch, self.key]
            if self.options.causal:  # a hidden key is later than every query
                self.key_position = self.xp.where(self.hidden, self.key_position.dtype.type(np.inf), self.key_position)
        if self.options.count_once and not self.all_pairs:
            inverse = self.xp.argsort(plan.order[heads.start : heads.stop], axis=-1)
            self.chunk_of_token = inverse // self.chunk_len  # (g, R, T)
        if plan.dropout or plan.options.same_bucket or plan.options.count_once:
            self.round = None if self.all_pairs else slot // self.n_keys
        if plan.dropout:
            head = self.xp.arange(heads.start, heads.stop, dtype=self.xp.uint32)[:, None]
            seeds = self.xp.asarray([seed & 0xFFFFFFFF for seed in plan.seeds], self.xp.uint32)
            seeds = seeds if self.all_pairs else seeds[self.round % self.n_rounds]
            self.query_word = rng.hash_uint32(rng.hash_uint32(head ^ seeds) + self.query.astype("uint32"))
            self.key_word = rng.hash_uint32(self.key.astype("uint32"))

    # Tiles

    def tiles(self):
        """The slots of each tile's chunks and those of their windows, as two slices."""
        if self.all_pairs:
            yield from self._tiles_of_all_pairs()
            return
        chunks_per_tile = self.logits_per_tile // (self.chunk_len * self.plan.window_len(self.n_keys))
        for first in range(self.pad, self.pad + self.n_rounds * self.n_keys, self.n_keys):
            for tile in threads.slices(self.n_keys, max(1, chunks_per_tile) * self.chunk_len):
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

    def parts(self, window):
        """`window` in slices in which no token comes twice: what lies in one round, and each chunk beyond it."""
        if self.all_pairs:
            return [window]
        first = self.pad + (window.start + self.before - self.pad) // self.n_keys * self.n_keys
        start, stop = max(window.start, first), min(window.stop, first + self.n_keys)
        beyond = [*range(window.start, start, self.chunk_len), *range(stop, window.stop, self.chunk_len)]
        return [slice(start, stop), *(slice(slot, slot + self.chunk_len) for slot in beyond)]

    def chunks(self, x):
        """x (g, n C, ...) -> (g, n, C, ...), a view."""
        return x[:, None] if self.all_pairs else x.reshape(len(x), -1, self.chunk_len, *x.shape[2:])

    def windows(self, x):
        """x (g, (n + W - 1) C, ...) -> (g, n, W C, ...): windows that overlap, a view."""
        if self.all_pairs:
            return x[:, None]
        x = self.xp.ascontiguousarray(x)
        (group, slot, *rest), window_len = x.strides, self.plan.window_len(self.n_keys)
        shape = len(x), (x.shape[1] - window_len) // self.chunk_len + 1, window_len, *x.shape[2:]
        return backend.strided(x, shape, (group, self.chunk_len * slot, slot, *rest))

    # Rows of tables

    def gather_queries_and_keys(self, q, k, scale, chunk, window):
        """The rows of a tile's queries, and those of its keys times scale (g, slots): (g, slots, D) each.

        Where tokens are query and key at once, those of a chunk are in its window: one gather has both.
        """
        queries, keys = (chunk, window) if self.by == "queries" else (window, chunk)
        if q is not k or self.key_rows is not self.query_rows:
            K = self.scratch.gather("K", k, self.key_rows[:, keys], scale[:, keys])
            return self.scratch.gather("Q", q, self.query_rows[:, queries]), K
        both = self.scratch.gather("Q", q, self.query_rows[:, window])
        own = both[:, chunk.start - window.start : chunk.stop - window.start]
        Q, K = (own, both) if self.by == "queries" else (both, own)
        return Q, self.xp.multiply(K, scale[:, keys, None], out=self.scratch("K", *K.shape))

    def add_chunk(self, table, rows, chunk, values, rescale=None):
        """`scatter_add` of a tile's own chunks to the rows of a table that is 0 before. The first round only writes."""
        if self.all_pairs or chunk.stop > self.pad + self.n_keys:
            self.scratch.scatter_add(table, rows[:, chunk], values, rescale)
        else:
            table[rows[:, chunk]] = values.reshape(len(values), chunk.stop - chunk.start, -1)

    # Masks

    def forbid(self, S, chunk, window, weights):
        """Lower the logits S of keys that their queries may not see to less than -FAR / 4. `weights` as below."""
        keys, queries = (window, chunk) if self.by == "queries" else (chunk, window)
        if self.options.causal and not (self.all_pairs and self.hidden is None and keys.stop <= queries.start):
            query, key = self.pairs(self.query_position, self.key_position, chunk, window)
            cap = self.xp.subtract(query, key, out=self.scratch("product", *S.shape))
            self.xp.minimum(S, cap, out=S)
        bad = []
        if self.plan.exclude_self and not self.options.causal:
            bad.append(self.xp.equal(*self.pairs(self.query, self.key, chunk, window)))
        if self.hidden is not None and not self.options.causal:
            bad.append(self.pairs(self.hidden, self.hidden, chunk, window)[1])
        if weights is not None:
            bad.append(weights == 0)
        for pairs in bad:
            S -= self.xp.multiply(pairs, S.dtype.type(FAR), out=self.scratch("product", *pairs.shape))

    def weights(self, chunk, window):
        """What the paper's own equations multiply exp(S) with; None where they are not asked for.

        0 for a key of another round, or of another bucket (`same_bucket`: eq. 4), and 1/N for one that a query
        meets in N rounds (`count_once`: the -log N of eq. 16).
        """
        if not self.options.same_bucket and not self.options.count_once:
            return None
        seen = self.xp.equal(*self.pairs(self.round[None], self.round[None], chunk, window))
        if self.options.same_bucket:
            seen = seen & self._same_bucket((chunk.start - self.pad) // self.n_keys, chunk, window)
        if not self.options.count_once:
            return seen.astype(self.scratch.dtype)
        times = 0
        for r in range(self.n_rounds):
            query, key = self._pairs_of_tokens(self.chunk_of_token[:, r], chunk, window)
            met = (key >= query - self.options.n_before) & (key <= query + self.options.n_after)
            times = times + (met & self._same_bucket(r, chunk, window) if self.options.same_bucket else met)
        return seen / self.xp.maximum(times, 1).astype(self.scratch.dtype)

    def keep(self, chunk, window):
        """The dropout mask, divided by 1 - rate: a function of (seed, head, round, query, key) and nothing else."""
        query, key = self.pairs(self.query_word, self.key_word, chunk, window)
        keep = (rng.hash_uint32(query + key) >= rng.keep_threshold(self.plan.dropout)).astype(self.scratch.dtype)
        keep *= self.scratch.dtype.type(1 / (1 - self.plan.dropout))
        return keep

    def pairs(self, of_queries, of_keys, chunk, window):
        """Arrays (g, slots) of queries and of keys, cut to a tile and shaped so that together they fit its logits."""
        if self.by == "queries":
            return self._fitted(of_queries[:, chunk], of_keys[:, window])
        return self._fitted(of_keys[:, chunk], of_queries[:, window])[::-1]

    def _pairs_of_tokens(self, x, chunk, window):
        """`pairs` of an array (g, T) that has an entry for every token."""
        x = self._fitted(*(self.xp.take_along_axis(x, self.query[:, slots], axis=1) for slots in (chunk, window)))
        return x if self.by == "queries" else x[::-1]

    def _fitted(self, of_chunks, of_windows):
        return self.chunks(of_chunks)[..., None], self.windows(of_windows)[:, :, None]

    def _same_bucket(self, r, chunk, window):
        of_heads = self.plan.buckets[self.heads.start : self.heads.stop, r]
        return self.xp.equal(*self._pairs_of_tokens(of_heads, chunk, window))
