"""Which token meets which: the tiles of `chunked.py`, their tokens, windows and masks.

Tokens stand in *slots*, R rounds of T slots; C slots make a chunk, and the chunks of all rounds stand in one
circle. A query sees the keys of its own chunk and of a few neighbours (`Pattern`), minus those that a mask takes
away. A `Walk` yields tiles: a few chunks of queries at a time, small enough that their logits stay in the
CPU's cache. Nothing here multiplies or adds a query, key or value; that is `chunked.py`, next.
"""

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
    buckets: Any = None  # (G, R, T) ints: for `same_bucket` and `count_once`
    dropout: float = 0.0
    seed: int = 0


class Tile(NamedTuple):
    """A few chunks of queries and the chunks of keys in their windows."""

    queries: Any  # (g, n C) rows of the block's (g T, d) tables
    keys: Any  # (g, (n + W - 1) C) rows: the window of the first chunk to the window of the last
    slots: Any  # the same two as slots, (n C) and ((n + W - 1) C)
    key_slots: Any
    runs: list  # slices of `keys` in which no row comes twice


class Walk:
    """The tiles of a block of g groups, with buffers that are allocated once and the masks of a tile."""

    def __init__(self, dtype, tokens, pattern, block, length, d_head, xp):
        self.xp, self.pattern, self.length, self.dtype = xp, pattern, length, dtype
        self.order = tokens.order[block]  # (g, R, T)
        self.n_groups, self.n_rounds, _ = self.order.shape
        self.order = self.order.reshape(self.n_groups, -1)
        self.offset = xp.arange(self.n_groups)[:, None] * length  # of a group's first row
        self.position = self.order.astype(smallest_int(length))
        self.key_mask = None if tokens.key_mask is None else tokens.key_mask[block].reshape(-1)
        self.buckets = None if tokens.buckets is None else tokens.buckets[block]
        self.dropout, self.seed, self.block = tokens.dropout, tokens.seed, block
        self.buffers = {}
        if pattern.count_once:
            places = xp.argsort(self.order.reshape(self.n_groups, self.n_rounds, length), axis=-1, kind="stable")
            self.home = places // pattern.chunk_len  # (g, R, T): the chunk of each token, within its round

    def __iter__(self):
        chunk_len, n_before, n_after = self.pattern.chunk_len, self.pattern.n_before, self.pattern.n_after
        width, xp = self.pattern.width, self.xp
        per_round = self.length // chunk_len
        n_chunks = per_round * self.n_rounds
        size = max(1, _TILE_LOGITS // (chunk_len * chunk_len * width))
        for round_start in range(0, n_chunks, per_round):  # a tile stays in one round: its tokens are distinct
            for start in range(round_start, round_start + per_round, size):
                stop = min(start + size, round_start + per_round)
                chunks = [c % n_chunks for c in range(start - n_before, stop + n_after)]
                slots = xp.arange(start * chunk_len, stop * chunk_len)
                key_slots = xp.arange((start - n_before) * chunk_len, (stop + n_after) * chunk_len)
                key_slots %= n_chunks * chunk_len
                bounds = [0, len(chunks)]
                if len(set(chunks)) < len(chunks) or len({c // per_round for c in chunks}) > 1:
                    bounds = [*range(n_before + 1), *range(n_before + stop - start, len(chunks) + 1)]
                runs = [slice(a * chunk_len, b * chunk_len) for a, b in zip(bounds, bounds[1:])]
                rows, key_rows = self.order[:, slots] + self.offset, self.order[:, key_slots] + self.offset
                yield Tile(rows, key_rows, slots, key_slots, runs)

    def buffer(self, name, shape):
        """A scratch array that keeps its memory from tile to tile."""
        size = int(numpy.prod(shape))
        if name not in self.buffers or self.buffers[name].size < size:
            self.buffers[name] = self.xp.empty(size, self.dtype)
        return self.buffers[name][:size].reshape(shape)

    def take(self, rows, table, name):
        """Rows of `table` (g T, d) as (g, rows, d), gathered into a buffer."""
        out = self.buffer(name, (*rows.shape, table.shape[-1]))
        backend.take_rows(table, rows, out)
        return out

    def windows(self, gathered):
        """(g, (n + W - 1) C, ...) -> (g, n, W C, ...): overlapping windows, as a view without a copy."""
        chunk_len, width = self.pattern.chunk_len, self.pattern.width
        n = gathered.shape[1] // chunk_len - width + 1
        group, row, *rest = gathered.strides
        shape = (gathered.shape[0], n, width * chunk_len, *gathered.shape[2:])
        strides = (group, chunk_len * row, row, *rest)
        return self.xp.lib.stride_tricks.as_strided(gathered, shape=shape, strides=strides)

    def pairs(self, of_token, tile):
        """A per-slot array (g, R T) as a query's (g, n, C, 1) and a key's (g, n, 1, W C) entries in a tile."""
        chunk_len = self.pattern.chunk_len
        of_query = of_token[:, tile.slots].reshape(self.n_groups, -1, chunk_len, 1)
        of_key = self.windows(self.xp.ascontiguousarray(of_token[:, tile.key_slots]))
        return of_query, of_key[:, :, None, :]

    def weights(self, tile):
        """What the exponentials of a tile are multiplied with: masks, and 1/N where a key is met N times."""
        xp, pattern = self.xp, self.pattern
        of_query, of_key = self.pairs(self.position, tile)
        if pattern.causal:
            yield of_query > of_key if pattern.exclude_self else of_query >= of_key
        elif pattern.exclude_self:
            yield of_query != of_key
        if self.key_mask is not None:
            yield self.windows(self.key_mask[tile.keys])[:, :, None, :]
        if pattern.same_bucket or pattern.count_once:
            this_round = int(tile.slots[0]) // self.length
            own_round = self.windows((tile.key_slots // self.length == this_round)[None])
            yield own_round[:, :, None, :]
        if pattern.same_bucket:
            of_query, of_key = self.pairs_of_round(self.buckets, this_round, tile)
            yield of_query == of_key
        if pattern.count_once:
            met = 0
            for r in range(self.n_rounds):
                of_query, of_key = self.pairs_of_round(self.home, r, tile)
                ahead = of_key - of_query
                near = (ahead >= -pattern.n_before) & (ahead <= pattern.n_after)
                if pattern.same_bucket:
                    of_query, of_key = self.pairs_of_round(self.buckets, r, tile)
                    near &= of_query == of_key
                met = met + near
            yield 1 / xp.maximum(met, 1).astype(self.dtype)

    def pairs_of_round(self, of_token, r, tile):
        """A per-token array (g, R, T) in round `r`, as `pairs`."""
        of_token = of_token[:, r].reshape(-1)
        of_query = of_token[tile.queries].reshape(self.n_groups, -1, self.pattern.chunk_len, 1)
        return of_query, self.windows(of_token[tile.keys])[:, :, None, :]

    def keep(self, tile):
        """The dropout mask of a tile, scaled by 1 / (1 - rate): a function of (seed, group, round, query, key)."""
        xp = self.xp
        groups = xp.arange(self.block.start, self.block.stop, dtype=xp.uint32)[:, None]
        stream = xp.asarray(numpy.uint32(rng.fold(self.seed, int(tile.slots[0]) // self.length) & 0xFFFFFFFF))
        of_query = rng.scramble(rng.scramble(groups ^ stream) + (tile.queries - self.offset).astype(xp.uint32))
        of_key = rng.scramble((tile.keys - self.offset).astype(xp.uint32))
        shape = (self.n_groups, -1, self.pattern.chunk_len, 1)
        words = rng.scramble(of_query.reshape(shape) + self.windows(of_key)[:, :, None, :])
        keep = (words >= rng.keep_threshold(self.dropout)).astype(self.dtype)
        keep *= self.dtype.type(1 / (1 - self.dropout))
        return keep


def blocks(groups, xp):
    """Groups taken together: one by one on the CPU, all at once on a GPU."""
    step = 1 if xp is numpy else len(groups)
    return [slice(g, g + step) for g in groups[::step]]
