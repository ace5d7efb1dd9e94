"""Which token meets which: the rounds and tiles that `chunked.py` walks over, their windows and masks.

Tokens stand in *slots*, R rounds of T slots; C slots make a chunk, and the chunks of all rounds stand in one
circle. A query sees the keys of its own chunk and of a few neighbours (`Pattern`), minus those that a mask takes
away. A `Walk` yields rounds, and of each round tiles: a few chunks of queries at a time, so that their logits stay
in the CPU's cache. Nothing here multiplies or adds a query, key or value; that is `chunked.py`, next.
"""

import math
from typing import Any, NamedTuple

import numpy

from minireformer import backend, rng
from minireformer.hashing import smallest_int

_TILE_LOGITS = 16 * 64 * 128  # half a megabyte in float32: stays in a core's own cache


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


class Round(NamedTuple):
    """One round's slots, with the chunks of its neighbours that its first and last chunks see: S slots in all."""

    index: int
    position: Any  # (g, S) the token in each slot, in the smallest type: half the bytes compare twice as fast
    rows: Any  # (g, S) its row in a table (g T, d) of all tokens of the block
    inverse: Any  # (g, T) the slot of each token, as a row of a table (g S, d) of all slots
    neighbours: list  # slices of the slots that belong to neighbouring rounds, chunk by chunk


class Tile(NamedTuple):
    """The chunks `start` to `stop` of a round, as slices of its slots."""

    round: Round
    queries: slice
    keys: slice  # all slots that these queries see


class Walk:
    """The rounds and tiles of a block of g groups, with the masks of a tile and buffers that are allocated once."""

    def __init__(self, dtype, tokens, pattern, xp):
        self.dtype, self.tokens, self.pattern, self.xp = dtype, tokens, pattern, xp
        self.buffers = {}

    def enter(self, block):
        """Go on to the groups of the slice `block`."""
        tokens, self.block = self.tokens, block
        self.order = tokens.order[block]  # (g, R, T)
        self.n_groups, self.n_rounds, self.length = self.order.shape
        self.key_mask = None if tokens.key_mask is None else tokens.key_mask[block].reshape(-1)
        self.buckets = None if tokens.buckets is None else tokens.buckets[block]
        if self.pattern.count_once:
            self.home = self._places(self.order) // self.pattern.chunk_len  # (g, R, T): a token's chunk in each round

    def rounds(self):
        """Every `Round`. Its slots begin `n_before` chunks before its first and end `n_after` after its last."""
        xp, chunk_len, length = self.xp, self.pattern.chunk_len, self.length
        before, after = self.pattern.n_before * chunk_len, self.pattern.n_after * chunk_len
        n_slots = before + length + after
        neighbours = [*range(0, before, chunk_len), *range(before + length, n_slots, chunk_len)]
        group = xp.arange(self.n_groups)[:, None]
        circle = self.order.reshape(self.n_groups, -1)
        for r in range(self.n_rounds):
            slots = xp.arange(r * length - before, (r + 1) * length + after) % circle.shape[1]
            tokens = circle[:, slots]
            inverse = self._places(self.order[:, r]) + before + group * n_slots
            position = tokens.astype(smallest_int(length))
            yield Round(r, position, tokens + group * length, inverse, [slice(s, s + chunk_len) for s in neighbours])

    def tiles(self, of_round):
        """Every `Tile` of a round."""
        chunk_len, width = self.pattern.chunk_len, self.pattern.width
        size = chunk_len * max(1, _TILE_LOGITS // (chunk_len * chunk_len * width))
        before = self.pattern.n_before * chunk_len
        for start in range(0, self.length, size):
            stop = min(start + size, self.length)
            yield Tile(of_round, slice(before + start, before + stop), slice(start, stop + (width - 1) * chunk_len))

    def _places(self, order):
        """The inverse of permutations (..., T) of T tokens: where each token stands."""
        xp, length = self.xp, self.length
        rows = order.reshape(-1, length)
        places = xp.empty(rows.shape, xp.int64)
        places.reshape(-1)[rows + xp.arange(len(rows))[:, None] * length] = xp.arange(length)
        return places.reshape(order.shape)

    def buffer(self, name, *shape):
        """A scratch array of this shape that keeps its memory from tile to tile."""
        size = math.prod(shape)
        if name not in self.buffers or self.buffers[name].size < size:
            self.buffers[name] = self.xp.empty(size, self.dtype)
        return self.buffers[name][:size].reshape(shape)

    def take(self, table, rows, name):
        """Rows (g, n) of `table` (g T, d) as (g, n, d), gathered into a buffer."""
        out = self.buffer(name, *rows.shape, table.shape[-1])
        backend.take_rows(table, rows, out)
        return out

    def chunks(self, of_slots):
        """(g, n C, ...) -> (g, n, C, ...), as a view."""
        return of_slots.reshape(len(of_slots), -1, self.pattern.chunk_len, *of_slots.shape[2:])

    def windows(self, of_keys):
        """(g, (n + W - 1) C, ...) -> (g, n, W C, ...): overlapping windows, as a view without a copy."""
        chunk_len, width = self.pattern.chunk_len, self.pattern.width
        n = of_keys.shape[1] // chunk_len - width + 1
        group, row, *rest = of_keys.strides
        shape = (of_keys.shape[0], n, width * chunk_len, *of_keys.shape[2:])
        return backend.strided(of_keys, shape, (group, chunk_len * row, row, *rest))

    def weights(self, tile):
        """What the exponentials of a tile are multiplied with: masks, and 1/N where a key is met N times."""
        xp, pattern, rows = self.xp, self.pattern, tile.round.rows
        if pattern.causal or pattern.exclude_self:
            position = tile.round.position
            of_query, of_key = self._pairs(position[:, tile.queries], position[:, tile.keys].copy())
            if pattern.causal:
                yield of_query > of_key if pattern.exclude_self else of_query >= of_key
            else:
                yield of_query != of_key
        if self.key_mask is not None:
            yield self.windows(self.key_mask[rows[:, tile.keys]])[:, :, None, :]
        if pattern.same_bucket or pattern.count_once:
            slot = xp.arange(tile.keys.start, tile.keys.stop) - pattern.n_before * pattern.chunk_len
            yield self.windows(((slot >= 0) & (slot < self.length))[None])[:, :, None, :]
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
        """Arrays (g, n C) and (g, (n + W - 1) C) as (g, n, C, 1) and (g, n, 1, W C): every pair of a tile."""
        return self.chunks(of_queries)[..., None], self.windows(of_keys)[:, :, None, :]

    def _pairs_of_tokens(self, of_tokens, tile):
        """`_pairs` of an array (g, T) that has an entry for each token."""
        of_tokens, rows = of_tokens.reshape(-1), tile.round.rows
        return self._pairs(of_tokens[rows[:, tile.queries]], of_tokens[rows[:, tile.keys]])

    def _same_bucket(self, r, tile):
        of_query, of_key = self._pairs_of_tokens(self.buckets[:, r], tile)
        return of_query == of_key

    def keep(self, tile):
        """The dropout mask of a tile, scaled by 1 / (1 - rate): a function of (seed, group, round, query, key)."""
        xp, tokens = self.xp, tile.round.position.astype("uint32")
        groups = xp.arange(self.block.start, self.block.stop, dtype=xp.uint32)[:, None]
        stream = xp.asarray(numpy.uint32(rng.fold(self.tokens.seed, tile.round.index) & 0xFFFFFFFF))
        of_queries = rng.scramble(rng.scramble(groups ^ stream) + tokens[:, tile.queries])
        of_query, of_key = self._pairs(of_queries, rng.scramble(tokens[:, tile.keys].copy()))
        keep = (rng.scramble(of_query + of_key) >= rng.keep_threshold(self.tokens.dropout)).astype(self.dtype)
        keep *= self.dtype.type(1 / (1 - self.tokens.dropout))
        return keep


def blocks(groups, xp):
    """Groups taken together: one by one on the CPU, all at once on a GPU."""
    step = 1 if xp is numpy else len(groups)
    return [slice(g, g + step) for g in groups[::step]]


def get_groups(x, block):
    """The groups `block` of heads x (B, H, T, D) as (g, T, D): for one group a view, whatever x's strides."""
    if block.stop - block.start == 1:
        return x[divmod(block.start, x.shape[1])][None]
    return x.reshape(-1, *x.shape[2:])[block]


def put_groups(x, block, values):
    """Write values (g, T, D) into the groups `block` of heads x (B, H, T, D)."""
    if block.stop - block.start == 1:
        x[divmod(block.start, x.shape[1])] = values[0]
    else:  # all of them
        x[...] = values.reshape(x.shape)
