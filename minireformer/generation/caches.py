"""What an attention layer remembers of the tokens so far, so that a new token costs one query, not a whole run.

A cache keeps the keys and values of all tokens in one table. The query of a new token attends only to those rows that
a run of the whole sequence lets the *last* token see: all of them (`FullCache`), the window of its chunk (`LocalCache`)
or its neighbours in the sorted order of every hash round (`LSHCache`, R (n_before + 1 + n_after) C keys). LSH keeps
that order as sorted lists: a new token is the last of its bucket, so we find its slot by bisection, and no other token
changes its place in the order. Chunk boundaries do move: what *earlier* tokens would see changes with every token, but
we do not recompute their outputs. Read next: `decoding.py`.
"""

import math
from array import array
from bisect import bisect_left

import numpy as np

from minireformer import backend, rng
from minireformer.attention import padded_length
from minireformer.attention_layer import LocalAttention, LSHAttention, SelfAttention
from minireformer.hashing import bucket_factors, default_n_buckets, hash_vectors, random_rotations
from minireformer.translation.cross_attention import CrossAttention
from minireformer.unit_length import unit_length


def make_cache(layer, n_rows, max_len, seed, memory=None, memory_mask=None):
    """An empty cache for a `layer` of any kind: it takes the layer's place while we decode.

    It has room for `n_rows` sequences of up to `max_len` tokens. Cross-attention attends to `memory`, which is
    (n_rows, S, d_memory), with its mask (n_rows, S) booleans.
    """
    if isinstance(layer, CrossAttention):
        return CrossCache(layer, memory, memory_mask)
    if not isinstance(layer, SelfAttention):
        return Cache(layer)
    kind = {LocalAttention: LocalCache, LSHAttention: LSHCache}.get(type(layer), FullCache)
    return kind(layer, n_rows, max_len, seed)


class Cache:
    """What every cache can do. This one is for a layer in which tokens do not interact: it has nothing to remember."""

    def __init__(self, layer):
        self.layer = layer

    def start(self, x, rows):
        """x (b, T, d_model), the first tokens of the sequences `rows` (b,) ints -> the layer's output for them."""
        return self.layer(x)

    def step(self, x, lengths):
        """x (B, d_model), one more token of each sequence -> the layer's output (B, d_model) for it.

        `lengths` (B,) ints in host memory: how many tokens came before.
        """
        return self.layer(x)

    def select(self, rows, length):
        """Continue with the sequences `rows` (B',) ints: any of the current ones, in any order, possibly repeated."""


class FullCache(Cache):
    """The cache of full attention: a token attends to all before it, O(T). The next two classes narrow this down.

    Memory: n_rows * H * max_len * 2 D numbers, allocated up front, so that no step has to grow or copy it.
    """

    def __init__(self, layer, n_rows, max_len, seed):
        super().__init__(layer)
        weight = layer.params["output.weight"]
        self.max_len, self.seed, self.xp = max_len, seed, backend.get_xp(weight)
        self.shared = "query_key" in layer.parts
        # Zeros, not uninitialized memory: a hidden row has weight 0, and 0 * NaN is NaN.
        self.table = self.xp.zeros((n_rows, layer.n_heads, max_len, 2 * layer.d_head), weight.dtype)

    def start(self, x, rows, **kwargs):
        y, cache = self.layer.forward(x, self.seed, training=False, **kwargs)
        seen, d_head, rows = cache.attention, self.layer.d_head, self.xp.asarray(rows)
        self.table[rows, :, : x.shape[1], :d_head] = unit_length(seen.q) if self.shared else seen.k  # b, H, T, D
        self.table[rows, :, : x.shape[1], d_head:] = seen.v
        return y

    def step(self, x, lengths):
        heads = [_project(self.layer, name, x) for name in self.layer.parts]  # B, H, D
        query, value = heads[0], heads[-1]
        key = unit_length(query) if self.shared else heads[1]
        new = self.xp.asarray(self._first_rows() + lengths[:, None])  # B, H
        self.table.reshape(-1, self.table.shape[-1])[new] = self.xp.concatenate([key, value], axis=-1)
        keys_and_values, hidden = self.visible_keys(query, lengths)
        return _attend_one(self.layer, query, keys_and_values, hidden, value if self.shared else None)

    def visible_keys(self, query, lengths):
        """-> the table's rows (B, H, K, 2 D) that the newest token may see; (B, 1 or H, K) booleans, true: hidden."""
        length = int(lengths.max()) + 1
        positions, own = np.arange(length), lengths[:, None, None]
        return self.table[:, :, :length], positions >= own if self.shared else positions > own

    def select(self, rows, length):
        table = self.xp.zeros((len(rows), *self.table.shape[1:]), self.table.dtype)
        table[:, :, :length] = self.table[self.xp.asarray(rows), :, :length]
        self.table = table

    def _first_rows(self):
        """The row of each sequence's and head's first token in the flattened table: (B, H)."""
        n_rows, n_heads = self.table.shape[:2]
        return np.arange(0, n_rows * n_heads * self.max_len, self.max_len).reshape(n_rows, n_heads)

    def _gather(self, positions):
        """Rows (B, H, K, 2 D) of the table, of the tokens at positions (B, 1 or H, K)."""
        rows = self.xp.asarray(self._first_rows()[..., None] + positions)
        out = self.xp.empty((*rows.shape, self.table.shape[-1]), self.table.dtype)
        backend.gather(self.table.reshape(-1, self.table.shape[-1]), rows, out)
        return out


class LocalCache(FullCache):
    """The cache of local attention: a token attends to its window's chunks, in a circle as in `local_attention`."""

    def visible_keys(self, query, lengths):
        options, chunk_len = self.layer.options, self.layer.options.chunk_len
        width = options.width * chunk_len
        padded = np.array([padded_length(n + 1, self.layer.chunk_lens) for n in lengths.tolist()])
        one_chunk = padded <= chunk_len  # nothing before it or after it
        first = np.where(one_chunk, 0, (lengths // chunk_len - options.n_before) * chunk_len)
        circle = np.where(one_chunk, width, padded)
        positions = (first[:, None] + np.arange(width)) % circle[:, None]  # B, K
        own = lengths[:, None]
        return self._gather(np.minimum(positions, own)[:, None]), (positions > own)[:, None]


class LSHCache(FullCache):
    """The cache of LSH attention: a token attends to the chunks around its slot in every round's sorted order.

    `orders[row][head][round]` is the sorted list of bucket * max_len + position, one number per token, in host memory.
    Inserting a number shifts those behind it: O(T), but only about 5 microseconds per list at 64K tokens, and 300 at a
    million. The number of buckets is fixed from the start: the layer's own or, if it has none, the one for `max_len`
    tokens. On a GPU, each layer waits once per token for the buckets to reach the host.
    """

    def __init__(self, layer, n_rows, max_len, seed):
        super().__init__(layer, n_rows, max_len, seed)
        self.n_buckets = layer.n_buckets or default_n_buckets(max_len, layer.options.chunk_len, layer.max_len)
        sizes = (layer.n_heads, layer.d_head, layer.n_hashes, self.n_buckets, self.table.dtype)
        self.rotations = random_rotations(rng.fold(seed, "hash"), *sizes)
        self.orders = [[] for _ in range(n_rows)]
        self.code = "i" if math.prod(bucket_factors(self.n_buckets)) * max_len < 2**31 else "q"  # 4 or 8 bytes a number

    def start(self, x, rows):
        query_key = self.layer.split(self.layer.parts["query_key"](x))  # b, H, T, D
        hashed = hash_vectors(query_key, self.rotations, self.n_buckets)  # b, H, R, T
        del query_key  # of a long prompt, it is large
        buckets = backend.to_numpy(hashed).astype("int64")
        entries = np.sort(buckets * self.max_len + np.arange(x.shape[1]), axis=-1).astype(self.code)
        for row, heads in zip(rows.tolist(), entries):
            self.orders[row] = [[array(self.code, order.tobytes()) for order in rounds] for rounds in heads]
        return super().start(x, rows, buckets=hashed)

    def visible_keys(self, query, lengths):
        n_rows, n_heads, _ = query.shape
        as_tokens = query.swapaxes(0, 1)[None]  # 1, H, B, D: the rotations of a head serve all sequences at once
        buckets = backend.to_numpy(hash_vectors(as_tokens, self.rotations, self.n_buckets))[0].transpose(2, 0, 1)
        found = [
            self._insert(orders, head_buckets, position)
            for position, row_buckets, row in zip(lengths.tolist(), buckets.tolist(), self.orders)
            for orders, head_buckets in zip(row, row_buckets)
        ]
        own = np.repeat(lengths, n_heads)[:, None]  # B H, 1
        positions = np.repeat(own, max(len(entries) for entries in found), axis=1)  # padded with the token itself
        for row, entries in zip(positions, found):
            row[: len(entries)] = entries
        positions %= self.max_len  # from bucket * max_len + position
        if self.layer.options.count_once:
            positions.sort(axis=1)
            positions[:, 1:] = np.where(positions[:, 1:] == positions[:, :-1], own, positions[:, 1:])
        positions = positions.reshape(n_rows, n_heads, -1)
        return self._gather(positions), positions == own.reshape(n_rows, n_heads, 1)

    def _insert(self, orders, buckets, position):
        """Put one head's token at `position` into the `orders` of its rounds; -> the list entries that it sees."""
        options, slots = self.layer.options, []
        chunk_len, n_before, n_after = options.chunk_len, options.n_before, options.n_after
        for order, bucket in zip(orders, buckets):
            entry = bucket * self.max_len + position
            slots.append(bisect_left(order, entry))
            order.insert(slots[-1], entry)
        padded_len = padded_length(position + 1, self.layer.chunk_lens)
        if padded_len <= chunk_len:
            return range(position)  # within a single chunk, every token sees every other
        n_chunks, met = padded_len // chunk_len, array(self.code)
        for r, (order, slot) in enumerate(zip(orders, slots)):
            first, last = slot // chunk_len - n_before, slot // chunk_len + n_after
            if options.same_bucket:  # the token is the last of its bucket
                start = bisect_left(order, buckets[r] * self.max_len)
                met += order[max(start, first * chunk_len) : slot]
            elif first >= 0 and last < n_chunks or options.count_once:
                met += order[max(0, first) * chunk_len : (last + 1) * chunk_len]
            else:  # reach into neighbouring rounds: the chunks of all rounds form one circle
                for chunk in range(first, last + 1):
                    round_, chunk = divmod((r * n_chunks + chunk) % (len(orders) * n_chunks), n_chunks)
                    met += orders[round_][chunk * chunk_len : (chunk + 1) * chunk_len]
        return met

    def select(self, rows, length):
        super().select(rows, length)
        self.orders = [[[order[:] for order in orders] for orders in self.orders[row]] for row in rows.tolist()]


class CrossCache(Cache):
    """The cache of cross-attention: keys and values of the source, made once. A token attends to all of them, O(S)."""

    def __init__(self, layer, memory, memory_mask):
        super().__init__(layer)
        self.memory, self.memory_mask, self.xp = memory, memory_mask, backend.get_xp(memory)
        keys, values = (layer.split(layer.parts[name](memory)) for name in ("key", "value"))  # B, H, S, D
        self.table = self.xp.concatenate([keys, values], axis=-1)

    def start(self, x, rows):
        rows = self.xp.asarray(rows)
        mask = None if self.memory_mask is None else self.memory_mask[rows]
        return self.layer.forward(x, training=False, memory=self.memory[rows], memory_mask=mask)[0]

    def step(self, x, lengths):
        hidden = self.xp.zeros((1, 1, 1), bool) if self.memory_mask is None else ~self.memory_mask[:, None]
        return _attend_one(self.layer, _project(self.layer, "query", x), self.table, hidden)

    def select(self, rows, length):
        rows = self.xp.asarray(rows)
        self.memory, self.table = self.memory[rows], self.table[rows]
        self.memory_mask = None if self.memory_mask is None else self.memory_mask[rows]


def _project(layer, name, x):
    """x (B, d_model) through a layer's projection `name` to its heads (B, H, D)."""
    return (x @ layer.params[f"{name}.weight"].T).reshape(len(x), layer.n_heads, layer.d_head)


def _attend_one(layer, query, keys_and_values, hidden, own_value=None):
    """One query per head: query (B, H, D) over (B, H, K, 2 D), keys beside values; -> the layer's output (B, d_model).

    `hidden` (B, 1 or H, K) booleans: what the query may not see. A head that sees nothing gives 0. With `own_value`
    (B, H, D), queries and keys are shared: keys have unit length, and a token that sees nothing else sees itself.
    """
    xp, d_head = backend.get_xp(query), layer.d_head
    hidden, scale = xp.asarray(hidden), 1 / math.sqrt(d_head) if own_value is None else 1.0
    s = xp.matmul(keys_and_values[..., :d_head], (query * scale)[..., None])[..., 0]  # B, H, K
    s = xp.where(hidden, -xp.inf, s)
    m = s.max(axis=-1, keepdims=True)
    p = xp.exp(s - xp.where(xp.isinf(m), 0, m))
    p /= xp.maximum(p.sum(axis=-1, keepdims=True), 1e-30)
    mixed = xp.matmul(p[..., None, :], keys_and_values[..., d_head:])[..., 0, :]
    if own_value is not None:
        mixed = xp.where(hidden.all(axis=-1)[..., None], own_value, mixed)
    return mixed.reshape(len(query), -1) @ layer.params["output.weight"].T
