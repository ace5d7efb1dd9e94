"""What an attention layer must remember of the tokens it has seen, to attend from one token more.

Keys and values of all tokens stand in one table, and a new token's query meets only those rows of it that a run of the
whole sequence would let the *last* token see: all of them (`SeenTokens`), the window of its chunk (`SeenWindow`), or
what lies near it in the sorted order of every hash round (`SeenBuckets`, R (n_before + 1 + n_after) C keys). That order
is kept as sorted lists: a new token is the last of its bucket, so its slot is found by bisection and no other token
changes its place in the order. Chunk boundaries do move: what *earlier* tokens would see changes with every token, and
their outputs are not computed again. Read next: `decoding.py`.
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


def seen_by(layer, n_rows, max_len, seed, memory=None, memory_mask=None):
    """What stands for a `layer` in decoding: its cache, empty, for `n_rows` sequences of up to `max_len` tokens.

    `memory` (n_rows, S, d_memory) and its mask are what cross-attention looks at.
    """
    if isinstance(layer, CrossAttention):
        return SeenSource(layer, memory, memory_mask)
    if not isinstance(layer, SelfAttention):
        return Positionwise(layer)
    kind = {LocalAttention: SeenWindow, LSHAttention: SeenBuckets}.get(type(layer), SeenTokens)
    return kind(layer, n_rows, max_len, seed)


class SeenTokens:
    """Of full attention: a token meets all before it, O(T). The two other kinds narrow this down.

    Memory: n_rows * H * max_len * 2 D numbers, taken at once, so that nothing grows, and is copied, on the way.
    """

    def __init__(self, layer, n_rows, max_len, seed):
        weight = layer.params["output.weight"]
        self.layer, self.max_len, self.seed, self.xp = layer, max_len, seed, backend.get_xp(weight)
        self.shared = "query_key" in layer.parts
        # Zeros, not what happens to be there: a hidden row has weight 0, and 0 * NaN is NaN.
        self.table = self.xp.zeros((n_rows, layer.n_heads, max_len, 2 * layer.d_head), weight.dtype)

    def start(self, x, rows):
        """The layer's output for x (b, T, d_model), the first tokens of sequences `rows` (b,) ints; all remembered."""
        y, cache = self.layer.forward(x, self.seed, training=False, **self.given(x))
        seen, d_head = cache.attention, self.layer.d_head
        keys = unit_length(seen.q) if self.shared else seen.k  # b, H, T, D
        places = self.xp.asarray(rows)
        self.table[places, :, : x.shape[1], :d_head] = keys
        self.table[places, :, : x.shape[1], d_head:] = seen.v
        self.sort(rows, cache.buckets)
        return y

    def given(self, x):
        """What the layer's `forward` is to be given with x, beside its seed."""
        return {}

    def sort(self, rows, buckets):
        """Take note of the first tokens' buckets (b, H, R, T)."""

    def step(self, x, lengths):
        """The layer's output (B, d_model) for x (B, d_model), one token more of each sequence; it is remembered.

        `lengths` (B,) ints in host memory: how many tokens came before.
        """
        params, n_heads, d_head = self.layer.params, self.layer.n_heads, self.layer.d_head
        heads = [(x @ params[f"{name}.weight"].T).reshape(len(x), n_heads, d_head) for name in self.layer.parts]
        query, value = heads[0], heads[-1]
        key = unit_length(query) if self.shared else heads[1]
        places = self._first_rows() + lengths[:, None]  # B, H
        self.table.reshape(-1, 2 * d_head)[self.xp.asarray(places)] = self.xp.concatenate([key, value], axis=-1)
        rows, hidden = self.meet(query, lengths)
        mixed = attend(query if self.shared else query * (1 / math.sqrt(d_head)), rows, hidden)
        if self.shared:  # a token that sees nothing else sees itself
            alone = self.xp.asarray(hidden.all(axis=-1))[..., None]
            mixed = self.xp.where(alone, value, mixed)
        return mixed.reshape(len(x), -1) @ params["output.weight"].T

    def meet(self, query, lengths):
        """-> the table's rows (B, H, K, 2 D) that the newest token may see; booleans (B, 1 or H, K): not after all."""
        length = int(lengths.max()) + 1
        positions = np.arange(length)
        own = lengths[:, None, None]
        return self.table[:, :, :length], positions >= own if self.shared else positions > own

    def select(self, rows, length):
        """Go on with the sequences `rows` (B',) ints: any of the present ones, in any order, or several times."""
        table = self.xp.zeros((len(rows), *self.table.shape[1:]), self.table.dtype)
        table[:, :, :length] = self.table[self.xp.asarray(rows), :, :length]
        self.table = table

    def _first_rows(self):
        """Where the first token of each sequence and head lies in the flattened table: (B, H)."""
        n_rows, n_heads = self.table.shape[:2]
        return (np.arange(n_rows * n_heads) * self.max_len).reshape(n_rows, n_heads)

    def _take(self, positions):
        """Rows (B, H, K, 2 D) of the tokens at positions (B, 1 or H, K)."""
        places = self.xp.asarray(self._first_rows()[..., None] + positions)
        out = self.xp.empty((*places.shape, self.table.shape[-1]), self.table.dtype)
        backend.gather(self.table.reshape(-1, self.table.shape[-1]), places, out)
        return out


class SeenWindow(SeenTokens):
    """Of local attention: a token meets the chunks of its window, which stand in a circle as in `local_attention`."""

    def meet(self, query, lengths):
        options = self.layer.options
        chunk_len, n_before, n_after = options.chunk_len, options.n_before, options.n_after
        width = (n_before + 1 + n_after) * chunk_len
        padded = np.array([padded_length(n + 1, self.layer.chunk_lens) for n in lengths.tolist()])
        one_chunk = padded <= chunk_len  # nothing before it or after it
        first = np.where(one_chunk, 0, (lengths // chunk_len - n_before) * chunk_len)
        circle = np.where(one_chunk, width, padded)
        positions = (first[:, None] + np.arange(width)) % circle[:, None]  # B, K
        hidden = positions > lengths[:, None]
        return self._take(np.minimum(positions, lengths[:, None])[:, None]), hidden[:, None]


class SeenBuckets(SeenTokens):
    """Of LSH attention: a token meets the chunks around its slot in the sorted order of every round.

    `orders[row][head][round]` is the sorted list of bucket * max_len + position, one number a token, in host memory. To
    insert a number moves those behind it: O(T), but at 64K tokens some 5 microseconds a list. The number of buckets is
    fixed from the start: the layer's own, or, where it has none, the one that `max_len` tokens would get. A GPU is
    waited for once a layer and token: its buckets go to the host.
    """

    def __init__(self, layer, n_rows, max_len, seed):
        super().__init__(layer, n_rows, max_len, seed)
        self.n_buckets = layer.n_buckets or default_n_buckets(max_len, layer.options.chunk_len, layer.max_len)
        sizes = (layer.n_heads, layer.d_head, layer.n_hashes, self.n_buckets, self.table.dtype)
        self.rotations = random_rotations(rng.fold(seed, "hash"), *sizes)
        self.orders = [[] for _ in range(n_rows)]
        self.code = "i" if math.prod(bucket_factors(self.n_buckets)) * max_len < 2**31 else "q"  # 4 or 8 bytes a number

    def given(self, x):
        query_key = self.layer.parts["query_key"](x).reshape(*x.shape[:2], self.layer.n_heads, self.layer.d_head)
        return {"buckets": hash_vectors(query_key.swapaxes(1, 2), self.rotations, self.n_buckets)}

    def sort(self, rows, buckets):
        buckets = backend.to_numpy(buckets).astype("int64")
        entries = np.sort(buckets * self.max_len + np.arange(buckets.shape[-1]), axis=-1)  # b, H, R, T
        for row, of_heads in zip(rows.tolist(), entries.astype(self.code)):
            self.orders[row] = [[array(self.code, order.tobytes()) for order in of_rounds] for of_rounds in of_heads]

    def meet(self, query, lengths):
        n_rows, n_heads, _ = query.shape
        as_tokens = query.swapaxes(0, 1)[None]  # 1, H, B, D: the rotations of a head serve all sequences at once
        buckets = backend.to_numpy(hash_vectors(as_tokens, self.rotations, self.n_buckets))[0].transpose(2, 0, 1)
        found = [
            self._insert(orders, of_rounds, position)
            for position, of_heads, row in zip(lengths.tolist(), buckets.tolist(), self.orders)
            for orders, of_rounds in zip(row, of_heads)
        ]
        own = np.repeat(lengths, n_heads)[:, None]  # B H, 1
        positions = np.repeat(own, max(len(entries) for entries in found), axis=1)  # the token itself fills up
        for row, entries in zip(positions, found):
            row[: len(entries)] = entries
        positions %= self.max_len  # from bucket * max_len + position
        if self.layer.options.count_once:
            positions.sort(axis=1)
            positions[:, 1:][positions[:, 1:] == positions[:, :-1]] = -1
            positions = np.where(positions < 0, own, positions)
        positions = positions.reshape(n_rows, n_heads, -1)
        return self._take(positions), positions == own.reshape(n_rows, n_heads, 1)

    def _insert(self, orders, buckets, position):
        """Put one head's token at `position` into the `orders` of its rounds; -> the list entries that it meets."""
        options = self.layer.options
        chunk_len, n_before, n_after = options.chunk_len, options.n_before, options.n_after
        slots = []
        for order, bucket in zip(orders, buckets):
            entry = bucket * self.max_len + position
            slots.append(bisect_left(order, entry))
            order.insert(slots[-1], entry)
        padded_len = padded_length(position + 1, self.layer.chunk_lens)
        if padded_len <= chunk_len:
            return range(position)  # up to one chunk of tokens, every token meets every other
        n_chunks, met = padded_len // chunk_len, array(self.code)
        for r, (order, slot) in enumerate(zip(orders, slots)):
            first, last = slot // chunk_len - n_before, slot // chunk_len + n_after
            if self.layer.options.same_bucket:  # the token is the last of its bucket
                start = bisect_left(order, buckets[r] * self.max_len)
                met += order[max(start, first * chunk_len) : slot]
            elif first >= 0 and last < n_chunks or self.layer.options.count_once:
                met += order[max(0, first) * chunk_len : (last + 1) * chunk_len]
            else:  # into the neighbouring rounds: the chunks of all rounds stand in one circle
                for chunk in range(first, last + 1):
                    other, chunk = divmod((r * n_chunks + chunk) % (len(orders) * n_chunks), n_chunks)
                    met += orders[other][chunk * chunk_len : (chunk + 1) * chunk_len]
        return met

    def select(self, rows, length):
        super().select(rows, length)
        self.orders = [[[order[:] for order in orders] for orders in self.orders[row]] for row in rows.tolist()]


class SeenSource:
    """Of cross-attention: keys and values of the source, made once. Every token meets all of it, O(S)."""

    def __init__(self, layer, memory, memory_mask):
        self.layer, self.memory, self.memory_mask = layer, memory, memory_mask
        keys, values = (layer.split(layer.parts[name](memory)) for name in ("key", "value"))  # B, H, S, D
        self.table = backend.get_xp(memory).concatenate([keys, values], axis=-1)

    def start(self, x, rows):
        """The layer's output for x (b, T, d_model), tokens of the sequences `rows` (b,)."""
        rows = backend.get_xp(x).asarray(rows)
        mask = None if self.memory_mask is None else self.memory_mask[rows]
        return self.layer.forward(x, training=False, memory=self.memory[rows], memory_mask=mask)[0]

    def step(self, x, lengths):
        """The layer's output (B, d_model) for x (B, d_model), one token of each sequence."""
        xp, params, d_head = backend.get_xp(x), self.layer.params, self.layer.d_head
        query = (x @ params["query.weight"].T).reshape(len(x), self.layer.n_heads, d_head)
        hidden = xp.zeros((1, 1, 1), bool) if self.memory_mask is None else ~self.memory_mask[:, None]
        mixed = attend(query * (1 / math.sqrt(d_head)), self.table, hidden)
        return mixed.reshape(len(x), -1) @ params["output.weight"].T

    def select(self, rows, length):
        """Go on with the sequences `rows` (B',)."""
        rows = backend.get_xp(self.memory).asarray(rows)
        self.memory, self.table = self.memory[rows], self.table[rows]
        self.memory_mask = None if self.memory_mask is None else self.memory_mask[rows]


class Positionwise:
    """Of a layer in which tokens do not meet: nothing to remember."""

    def __init__(self, layer):
        self.layer = layer

    def start(self, x, rows):
        """x (b, T, d_model) -> the same."""
        return self.layer(x)

    def step(self, x, lengths):
        """x (B, d_model) -> the same."""
        return self.layer(x)

    def select(self, rows, length):
        """Nothing to do."""


def attend(query, rows, hidden):
    """One query a head: query (B, H, D), scaled; rows (B, H, K, 2 D), keys beside values; -> (B, H, D).

    `hidden` (B, 1 or H, K) booleans: what the query may not see. 0 where that is everything.
    """
    xp, d_head = backend.get_xp(query), query.shape[-1]
    scores = xp.matmul(rows[..., :d_head], query[..., None])[..., 0]  # B, H, K
    scores = xp.where(xp.asarray(hidden), -xp.inf, scores)
    top = scores.max(axis=-1, keepdims=True)
    weights = xp.exp(scores - xp.where(xp.isinf(top), 0, top))
    weights /= xp.maximum(weights.sum(axis=-1, keepdims=True), 1e-30)
    return xp.matmul(weights[..., None, :], rows[..., d_head:])[..., 0, :]
