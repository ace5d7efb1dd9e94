"""Which token meets which: the rounds and tiles that `chunked.py` walks over, their windows and masks.

Tokens stand in *slots*, R rounds of T slots; C slots make a chunk, and the chunks of all rounds stand in one
circle. A query sees the keys of its own chunk and of a few neighbours (`Pattern`), minus those that a mask takes
away. A `Walk` yields rounds, and of each round tiles: a few chunks at a time, so that their logits stay
in the CPU's cache; on a GPU as many as memory allows. Nothing here multiplies a query, key or value; that
is `chunked.py`, after `fused.py`.
"""

import math
from typing import Any, NamedTuple

import numpy

from minireformer import backend, fused, rng

_TILE_LOGITS = 16 * 64 * 128  # on a CPU: half a megabyte in float32 stays in a core's own cache
_TIMES_QUERIES = 4  # on a GPU: a tile's buffers take at most so often what the queries take, so memory grows with T
_LEAST_BYTES = 1 << 20  # but this much anyway


class Pattern(NamedTuple):
    """Which keys a query may see. A query always stays within its chunk's window, circularly."""

    chunk_len: int
    n_before: int = 1
    n_after: int = 0
    causal: bool = True
    exclude_self: bool = False  # a token sees itself only when it sees nothing else
    same_bucket: bool = False  # only keys of the query's own bucket and round
    count_once: bool = False  # a key met in N rounds counts 1/N in each

    @property
    def width(self):
        """Chunks in a window."""
        return self.n_before + 1 + self.n_after


class Tokens(NamedTuple):
    """What the masks need to know about tokens; G is batch * heads."""

    order: Any  # (G, R, T) ints: the token in each slot of each round
    key_mask: Any = None  # (G, T) booleans: False for keys that nobody sees
    buckets: Any = None  # (G, R, T) ints, for `same_bucket`
    dropout: float = 0.0
    seed: int = 0
    in_order: bool = False  # R = 1, and every token stands in the slot of its own number


class Layout:
    """How heads lie in memory: as one table (B H T, ...) with a row for each token of each head.

    Projections leave heads as (B, T, H, D), functions are mostly given (B, H, T, D): either is a table without a copy.
    """

    def __init__(self, heads):
        self.shape, self.xp, self.d_head = heads.shape[:3], backend.get_xp(heads), heads.shape[3]
        self.by_token = heads.strides[1] < heads.strides[2]  # (B, T, H, D)

    def table(self, heads):
        """heads (B, H, T, ...) as a table; a copy only where they lie otherwise than those of `__init__`."""
        heads = heads.swapaxes(1, 2) if self.by_token else heads
        return self.xp.ascontiguousarray(heads).reshape(-1, *heads.shape[3:])

    def heads(self, table):
        """A table as heads (B, H, T, ...), a view."""
        n_batch, n_heads, length = self.shape
        if self.by_token:
            return table.reshape(n_batch, length, n_heads, *table.shape[1:]).swapaxes(1, 2)
        return table.reshape(*self.shape, *table.shape[1:])

    def rows_of(self, block):
        """The rows of all tokens of a block, as a slice."""
        if len(block) > 1:
            return slice(None)
        _, n_heads, length = self.shape
        batch, head = divmod(block[0], n_heads)
        if self.by_token:
            return slice(batch * length * n_heads + head, (batch + 1) * length * n_heads, n_heads)
        return slice(block[0] * length, (block[0] + 1) * length)

    def rows(self, block, tokens):
        """The rows of tokens (g, S), for every group of a block its own."""
        _, n_heads, length = self.shape
        groups = self.xp.arange(block[0], block[-1] + 1)[:, None]
        if self.by_token:
            return tokens * n_heads + (groups // n_heads * (length * n_heads) + groups % n_heads)
        return tokens + groups * length


class Round(NamedTuple):
    """One round's slots, with the chunks of its neighbours that its first and last chunks meet: S slots in all."""

    index: int
    position: Any  # (g, S) the token in each slot
    rows: Any  # (g, S) its row in a table


class Tile(NamedTuple):
    """A few chunks of a round and all chunks that they meet, as slices of its slots."""

    round: Round
    queries: slice
    keys: slice


class Walk:
    """The rounds and tiles of a block of g groups, with the masks of a tile and buffers that are allocated once.

    A group is a head of a sequence.

    The chunks of a tile are queries, in whose windows are the keys that they see; with `of_keys`, they are keys, in
    whose windows are the queries that see them. Either way every pair that meets is met once.
    """

    def __init__(self, layout, dtype, tokens, pattern, of_keys=False):
        self.layout, self.dtype, self.tokens, self.pattern, self.of_keys = layout, dtype, tokens, pattern, of_keys
        self.xp, self.buffers, self.shaped = layout.xp, {}, {}  # arrays by name; views of them by name and shape
        around = (pattern.n_before, pattern.n_after)
        self.before, self.after = (n * pattern.chunk_len for n in (around[::-1] if of_keys else around))  # in slots

    def blocks(self, groups):
        """Groups that are taken together: one by one on the CPU, all at once on a GPU that has room for them."""
        together = self.xp is not numpy and self._bytes_of_chunks(len(groups)) <= self._room()
        return [groups] if together else [range(g, g + 1) for g in groups]

    def _room(self):
        """Bytes that a tile may take on a GPU."""
        n_queries = math.prod(self.layout.shape) * self.layout.d_head
        wanted = max(_TIMES_QUERIES * n_queries * self.dtype.itemsize, _LEAST_BYTES)
        return min(wanted, backend.device_bytes() // 16)

    def _bytes_of_chunks(self, n):
        """About what `n` chunks take in a tile of the backward pass: p and ds, and vectors, slot by slot."""
        chunk_len, width = self.pattern.chunk_len, self.pattern.width
        return n * chunk_len * (2 * width * chunk_len + (8 + width) * self.layout.d_head) * self.dtype.itemsize

    def enter(self, block):
        """Go on to the groups `block` (a range)."""
        tokens, groups = self.tokens, slice(block[0], block[-1] + 1)
        self.block, self.order = block, tokens.order[groups]  # (g, R, T)
        _, self.n_rounds, self.length = self.order.shape
        self.key_mask = None if tokens.key_mask is None else tokens.key_mask[groups]
        self.buckets = None if tokens.buckets is None else tokens.buckets[groups]
        if self.pattern.count_once:
            self.home = self._places(self.order) // self.pattern.chunk_len  # (g, R, T): a token's chunk in each round

    def rounds(self):
        """Every `Round`. Its slots begin `before` its first and end `after` its last."""
        circle = self.order.reshape(len(self.block), -1)
        smallest = "uint16" if self.length <= 1 << 16 else "uint32"  # half the bytes compare twice as fast
        for r in range(self.n_rounds):
            tokens = circle[:, self._slots(r)]
            yield Round(r, tokens.astype(smallest), self.layout.rows(self.block, tokens))

    def tiles(self, of_round):
        """Every `Tile` of a round."""
        chunk_len, width = self.pattern.chunk_len, self.pattern.width
        n_chunks = self.length // chunk_len
        if self.xp is numpy:
            n = _TILE_LOGITS // (chunk_len * chunk_len * width)
        else:  # all tiles of about one size, and none larger than need be
            n_tiles = -(-n_chunks // max(1, self._room() // self._bytes_of_chunks(len(self.block))))
            n = -(-n_chunks // n_tiles)
        size = chunk_len * max(1, n)
        cut = self.pattern.causal and self.tokens.in_order and size == chunk_len  # nobody sees a later chunk
        starts = range(0, self.length, size)
        for start in reversed(starts) if cut and not self.of_keys else starts:  # the longest window, and buffers, first
            stop = min(start + size, self.length)
            first, last = start, stop + self.before + self.after
            if cut:
                first, last = max(first, self.before), min(last, self.before + self.length)
            chunks, windows = slice(self.before + start, self.before + stop), slice(first, last)
            yield Tile(of_round, windows, chunks) if self.of_keys else Tile(of_round, chunks, windows)

    def _slots(self, r):
        """Where the slots of round r, those before and those after it, stand in the circle of all rounds."""
        first = r * self.length
        return self.xp.arange(first - self.before, first + self.length + self.after) % (self.n_rounds * self.length)

    def _places(self, order):
        """The inverse of permutations (..., T) of T tokens: where each token stands."""
        xp, length = self.xp, self.length
        rows = order.reshape(-1, length)
        places = xp.empty(rows.shape, xp.int64)
        places.reshape(-1)[rows + xp.arange(len(rows))[:, None] * length] = xp.arange(length)
        return places.reshape(order.shape)

    def buffer(self, name, *shape):
        """A scratch array of this shape. Those of a name share memory, which is kept from tile to tile."""
        array = self.shaped.get((name, shape))
        if array is None:
            size, memory = math.prod(shape), self.buffers.get(name)
            if memory is None or memory.size < size:
                memory = self.buffers[name] = self.xp.empty(size, self.dtype)
            array = self.shaped[name, shape] = memory[:size].reshape(shape)
        return array

    def take(self, table, rows, name):
        """Rows (g, n) of a table (N, ...) as (g, n, ...), gathered into a buffer."""
        out = self.buffer(name, *rows.shape, *table.shape[1:])
        backend.take_rows(table, rows, out)
        return out

    def add(self, totals, of_round, slots, values, shrink=None):
        """totals[row] += values[slot] for a slice of a round's slots: values (g, n, C, ...), totals a table (N, ...).

        The gradient of a gather adds up what was gathered. No token stands twice in a round, but it may stand in
        the chunks of neighbouring rounds too: those come one by one. `shrink` (g, n C): what `totals` is multiplied
        with before, for the round's own slots.
        """
        values = values.reshape(len(values), -1, *totals.shape[1:])
        for start, stop in self._parts(slots.start, slots.stop):
            part = values[:, start - slots.start : stop - slots.start]
            fused.add(self, totals, of_round.rows[:, start:stop], part, shrink)

    def _parts(self, start, stop):
        """The slots start to stop in parts: the round's own, and each chunk of a neighbouring round."""
        chunk_len, end = self.pattern.chunk_len, self.before + self.length
        if self.before <= start and stop <= end:
            return [(start, stop)]
        cuts = [*range(0, self.before, chunk_len), self.before, *range(end, end + self.after + 1, chunk_len)]
        parts = ((max(start, first), min(stop, last)) for first, last in zip(cuts, cuts[1:]))
        return [(first, last) for first, last in parts if first < last]

    def chunks(self, of_slots):
        """(g, n C, ...) -> (g, n, C, ...), as a view."""
        return of_slots.reshape(len(of_slots), -1, self.pattern.chunk_len, *of_slots.shape[2:])

    def windows(self, of_slots):
        """(g, (n + W - 1) C, ...) -> (g, n, W C, ...): overlapping windows, as a view without a copy."""
        chunk_len, n_chunks = self.pattern.chunk_len, of_slots.shape[1] // self.pattern.chunk_len
        width = min(self.pattern.width, n_chunks)  # a window that `tiles` has cut is the only one of its tile
        n = n_chunks - width + 1
        group, row, *rest = of_slots.strides
        shape = (of_slots.shape[0], n, width * chunk_len, *of_slots.shape[2:])
        return backend.strided(of_slots, shape, (group, chunk_len * row, row, *rest))

    def weights(self, tile):
        """What the exponentials of a tile are multiplied with: masks, and 1/N where a key is met N times."""
        pattern, position = self.pattern, tile.round.position
        if pattern.causal or pattern.exclude_self:
            of_query, of_key = self._pairs(position[:, tile.queries], position[:, tile.keys])
            if pattern.causal:
                yield of_query > of_key if pattern.exclude_self else of_query >= of_key
            else:
                yield of_query != of_key
        if self.key_mask is not None:
            yield self._pairs_of_tokens(self.key_mask, tile)[1]
        yield from self.paper_weights(tile)

    def paper_weights(self, tile):
        """Those of the `weights` that only the paper's own equations ask for."""
        xp, pattern, position = self.xp, self.pattern, tile.round.position
        if pattern.same_bucket or pattern.count_once:  # only keys of the query's own round
            slot = xp.arange(position.shape[1])[None]
            inside = (slot >= self.before) & (slot < self.before + self.length)
            of_query, of_key = self._pairs(inside[:, tile.queries], inside[:, tile.keys])
            yield of_query & of_key
        if pattern.same_bucket:
            yield self._same_bucket(tile.round.index, tile)
        if pattern.count_once:
            met = 0
            for r in range(self.n_rounds):
                of_query, of_key = self._pairs_of_tokens(self.home[:, r], tile)
                near = (of_key >= of_query - pattern.n_before) & (of_key <= of_query + pattern.n_after)
                met = met + (near & self._same_bucket(r, tile) if pattern.same_bucket else near)
            yield 1 / xp.maximum(met, 1).astype(self.dtype)

    def _pairs(self, of_queries, of_keys):
        """Arrays (g, S') of a tile's queries and keys, shaped so that every pair meets: (g, n, C, W C) together."""
        chunks, windows = (of_keys, of_queries) if self.of_keys else (of_queries, of_keys)
        chunks, windows = self.chunks(chunks)[..., None], self.windows(windows.copy())[:, :, None, :]
        return (windows, chunks) if self.of_keys else (chunks, windows)

    def _pairs_of_tokens(self, of_tokens, tile):
        """`_pairs` of an array (g, T) that has an entry for each token."""
        group, position = self.xp.arange(len(self.block))[:, None], tile.round.position
        return self._pairs(of_tokens[group, position[:, tile.queries]], of_tokens[group, position[:, tile.keys]])

    def _same_bucket(self, r, tile):
        of_query, of_key = self._pairs_of_tokens(self.buckets[:, r], tile)
        return of_query == of_key

    def keep(self, tile):
        """The dropout mask of a tile, scaled by 1 / (1 - rate): a function of (seed, group, round, query, key)."""
        xp, position = self.xp, tile.round.position
        groups = xp.arange(self.block[0], self.block[-1] + 1, dtype=xp.uint32)[:, None]
        streams = numpy.array([rng.fold(self.tokens.seed, r) & 0xFFFFFFFF for r in range(self.n_rounds)], "uint32")
        round_of_query = self._slots(tile.round.index)[tile.queries] // self.length
        of_queries = rng.scramble(groups ^ xp.asarray(streams)[round_of_query])
        of_queries = rng.scramble(of_queries + position[:, tile.queries].astype("uint32"))
        of_query, of_key = self._pairs(of_queries, rng.scramble(position[:, tile.keys].astype("uint32")))
        keep = (rng.scramble(of_query + of_key) >= rng.keep_threshold(self.tokens.dropout)).astype(self.dtype)
        keep *= self.dtype.type(1 / (1 - self.tokens.dropout))
        return keep
