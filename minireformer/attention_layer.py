"""Attention layers: project to heads, attend, put the heads back together, project back. No biases.

    Q, K, V = x Wq', x Wk', x Wv', each cut into heads        O = attention(Q, K, V)        y = dropout(O Wo')

Heads do not meet before the last product, so y is a sum over groups g of heads, each with its own rows of Wq, Wk and Wv
and columns of Wo. A reversible layer may undo one group at a time: `terms`.

    y = sum_g dropout(O_g Wo_g')        O_g = attention(x Wq_g', x Wk_g', x Wv_g')

`LSHAttention` projects queries and keys with one matrix (section 2, "shared-QK") and draws its hash rotations from the
seed. Its cache keeps the buckets, and `replay` passes them to a recompute: inputs that differ in the last bit may hash
differently, and we would silently get the gradient of another function. Read next: `reversible.py`.
"""

from typing import Any, NamedTuple

from minireformer import backend, rng
from minireformer.attention import (
    AttentionOptions,
    attention_backward,
    full_attention,
    local_attention,
    lsh_attention,
    padded_length,
)
from minireformer.checks import check_array, check_count, check_rate, check_sizes, expect
from minireformer.dropout import Dropout
from minireformer.hashing import bucket_factors, check_rotations, default_n_buckets, hash_vectors, random_rotations
from minireformer.layer import Layer, add_to
from minireformer.linear import Linear, LinearCache, input_gradient, linear, linear_backward, weight_gradient


class AttentionLayerCache(NamedTuple):
    """What backward needs, in the order of `forward`."""

    inputs: tuple  # as `forward` got them: x and, for cross-attention, the memory; arrays, or functions
    attention: Any  # of the attention function
    joined: Any  # (B, T, H * D): its output, heads side by side
    dropout: Any
    group: tuple  # the first head, and the one after the last
    buckets: Any = None  # (B, H, R, T), LSH only


class AttentionLayer(Layer):
    """What self-attention and cross-attention share: H = n_heads heads of D = d_head each, between projections.

    A subclass defines `attend`, and `projections`: for each name, the input that it reads, 0 for x or 1 for a memory.
    Parameters: `<name>.weight` (H * D, widths[i]) for a projection of input i, and `output.weight` (d_model, H * D).
    """

    projections = {"query": 0, "key": 0, "value": 0}
    heads_at_once = 0  # how many heads `terms` takes together; 0: all

    def __init__(self, widths, n_heads, d_head, dropout, attention_dropout, seed, dtype):
        super().__init__()
        self.widths = widths
        self.d_model, self.n_heads = check_count("d_model", widths[0]), check_count("n_heads", n_heads)
        self.d_head = check_count("d_head", d_head)
        self.attention_dropout = check_rate("attention_dropout", attention_dropout)
        self.dropout = Dropout(check_rate("dropout", dropout))
        width, shared = self.n_heads * self.d_head, {"bias": False, "dtype": dtype}
        self.parts = {
            name: self.add(name, Linear(widths[i], width, rng.fold(seed, name), **shared))
            for name, i in self.projections.items()
        }
        self.output = self.add("output", Linear(width, self.d_model, rng.fold(seed, "output"), **shared))

    def _forward(self, inputs, seed, training, key_mask, group=None, **kwargs):
        """-> y (B, T, d_model), cache. `inputs`: x (B, T, d_model) and, for cross-attention, the memory.

        An input may be a function that returns the array. The array is then freed as soon as it has been projected, and
        backward calls the function again. `group`, the first head and the one after the last: what these heads
        contribute to y (None: all heads).
        """
        arrays = [x() if callable(x) else x for x in inputs]
        for i, (name, width) in enumerate(zip(("x", "memory"), self.widths)):
            n_rows = len(arrays[0]) if i else None
            check_array(name, arrays[i], n_rows, None, width, like=self.params["output.weight"])
        group, own_seed = group or (0, self.n_heads), rng.fold(seed, "attention")
        heads = [self.split(linear(arrays[i], self._part(name, group))[0]) for name, i in self.projections.items()]
        del arrays
        settings = {"key_mask": key_mask, "dropout": self.attention_dropout if training else 0.0}
        settings["seed"] = rng.RowSeed(own_seed, rng.first_row(seed), (group[0], self.n_heads))
        mixed, attention, *buckets = self.attend(heads, seed, settings, **kwargs)
        joined = self.join(mixed)
        y, _ = linear(joined, self._part("output", group))
        y, dropout = self.dropout.forward(y, rng.fold(seed, "output"), training)
        return y, AttentionLayerCache(inputs, attention, joined, dropout, group, *buckets)

    def backward(self, dy, cache):
        """dy (B, T, d_model) -> dx (B, T, d_model), dmemory if there is a memory, grads."""
        check_array("dy", dy, *cache.joined.shape[:2], self.d_model, like=self.params["output.weight"])
        inputs, *attention, joined, dropout, group, _ = cache
        del cache  # its parts are handed over, or freed as soon as they have been used: see `reversible.py`
        dy, _ = self.dropout.backward(dy, dropout)
        dmixed, dweight, _ = linear_backward(dy, LinearCache(joined, self._part("output", group), False))
        del dy, joined
        dheads = list(self.attend_backward(self.split(dmixed), attention.pop()))
        del dmixed
        dheads = {name: self.join(dheads.pop(0)) for name in self.projections}
        arrays = [x() if callable(x) else x for x in inputs]
        grads = {"output.weight": self._whole("output", group, dweight)}
        for name, i in self.projections.items():
            grads[f"{name}.weight"] = self._whole(name, group, weight_gradient(dheads[name], arrays[i]))
        del arrays, inputs
        dinputs = {}
        for name, i in self.projections.items():
            add_to(dinputs, {i: input_gradient(dheads.pop(name), self._part(name, group))})
        return *dinputs.values(), grads

    def _part(self, name, group, weight=None):
        """What belongs to a group of heads, a view: rows of a projection's weight, columns of the output's."""
        weight = self.params[f"{name}.weight"] if weight is None else weight
        part = slice(group[0] * self.d_head, group[1] * self.d_head)
        return weight[:, part] if name == "output" else weight[part]

    def _whole(self, name, group, dpart):
        """The gradient of a whole weight from that of `_part`: 0 for the other heads."""
        if group == (0, self.n_heads):
            return dpart
        dweight = backend.get_xp(dpart).zeros_like(self.params[f"{name}.weight"])
        self._part(name, group, dweight)[...] = dpart
        return dweight

    def attend(self, heads, seed, settings):
        """heads, an array (B, H, T, D) for each projection -> (B, H, T, D), the function's cache, buckets if any."""
        raise NotImplementedError

    def attend_backward(self, dmixed, cache):
        """dmixed (B, H, T, D) -> the gradients of the heads, in order."""
        caches = [cache]
        del cache
        return attention_backward(dmixed, caches.pop())

    def replay(self, cache):
        """The arguments that `forward` needs, besides its inputs and seed, to repeat its computation."""
        return {} if cache.buckets is None else {"buckets": cache.buckets}

    def terms(self, replay):
        """A list of arguments like `replay`, one for each group of heads, with which the outputs of `forward` sum to y.

        Only one group's heads, and their gradients, then exist at a time.
        """
        n_heads, step = self.n_heads, self.heads_at_once or self.n_heads
        if step >= n_heads:
            return [replay]
        groups = [(first, min(first + step, n_heads)) for first in range(0, n_heads, step)]
        return [{name: x[:, slice(*group)] for name, x in replay.items()} | {"group": group} for group in groups]

    def split(self, x):
        """(B, T, H D) -> (B, H, T, D), for any number of heads H."""
        return x.reshape(*x.shape[:2], x.shape[2] // self.d_head, self.d_head).swapaxes(1, 2)

    def join(self, x):
        """(B, H, T, D) -> (B, T, H D)"""
        return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)


class SelfAttention(AttentionLayer):
    """What the four kinds of self-attention share: x (B, T, d_model) -> y (B, T, d_model).

    d_model, n_heads, d_head  sizes, whole numbers >= 1.
    dropout            the rate at which entries of y are set to zero in training, in [0, 1).
    attention_dropout  the same for attention weights.
    heads_at_once      how many heads a reversible layer undoes at a time, to save memory; 0: all. See `terms`.
    seed, dtype        of the parameters: an integer, and "float32" or "float64".
    options            the fields of `AttentionOptions` named in `takes`, kept as `self.options`.

    A bad setting raises a ValueError or TypeError that names it, as soon as the layer is made.
    """

    takes = {"dropout", "attention_dropout", "heads_at_once", "causal"}  # settings, besides the sizes, seed and dtype

    def __init__(
        self,
        d_model,
        n_heads,
        d_head,
        *,
        dropout=0.0,
        attention_dropout=0.0,
        heads_at_once=0,
        seed=0,
        dtype="float32",
        **options,
    ):
        super().__init__((d_model,), n_heads, d_head, dropout, attention_dropout, seed, dtype)
        self.heads_at_once = check_count("heads_at_once", heads_at_once, at_least=0)
        self.options = AttentionOptions(**options)
        for name in options.keys() - self.takes:
            if options[name] != getattr(AttentionOptions, name):  # anything but the default
                raise TypeError(f"{name}: {type(self).__name__} has no such option; got {options[name]!r}")

    def forward(self, x, seed=0, training=True, key_mask=None, **kwargs):
        """x (B, T, d_model) -> y (B, T, d_model), cache. `key_mask` (B, T) booleans: False hides a key.

        x may be a function that returns the array: each pass calls it and then frees the array, so the cache lacks it.
        LSH layers also take `buckets` (B, H, R, T), or `rotations` to hash with instead of ones drawn from `seed`.
        """
        return self._forward((x,), seed, training, key_mask, **kwargs)


class FullAttention(SelfAttention):
    """Every token sees every token (causal: itself and those before it). The Transformer's attention, for comparison.

    Arguments as for `SelfAttention`. Parameters: `query.weight`, `key.weight`, `value.weight`, `output.weight`.
    """

    def attend(self, heads, seed, settings):
        return full_attention(*heads, causal=self.options.causal, **settings)


class SharedFullAttention(SelfAttention):
    """Full attention with shared queries and keys: what LSH attention approximates (section 5, figure 3).

    Arguments as for `SelfAttention`. Parameters: `query_key.weight`, `value.weight`, `output.weight`.
    """

    projections = {"query_key": 0, "value": 0}

    def attend(self, heads, seed, settings):
        return full_attention(heads[0], None, heads[1], causal=self.options.causal, **settings)


class ChunkedAttention(SelfAttention):
    """What local and LSH layers share: tokens see their own chunk of `chunk_len` and its neighbours, as `options` say.

    `chunk_lens`: the chunk lengths of all layers of a model, which all pad their tokens to the same length
    (`attention.padded_length`); None for a layer on its own. Other arguments as for `SelfAttention`.
    """

    takes = SelfAttention.takes | {"chunk_len", "chunk_lens", "n_before", "n_after"}

    def __init__(self, *sizes, chunk_len, chunk_lens=None, **settings):
        super().__init__(*sizes, chunk_len=check_count("chunk_len", chunk_len), **settings)
        self.chunk_lens = check_sizes("chunk_lens", (chunk_len,) if chunk_lens is None else chunk_lens)
        expect("chunk_lens", self.chunk_lens, chunk_len in self.chunk_lens, f"chunk_len {chunk_len} among them")

    def padded_len(self, x):
        """How many tokens x (B, H, T, D) has with its padding."""
        return padded_length(x.shape[2], self.chunk_lens)


class LocalAttention(ChunkedAttention):
    """Tokens see their own chunk, `n_before` chunks back and `n_after` ahead. Parameters as `FullAttention`."""

    def attend(self, heads, seed, settings):
        return local_attention(*heads, padded_len=self.padded_len(heads[0]), **vars(self.options), **settings)


class LSHAttention(ChunkedAttention):
    """Tokens see those that hash alike, in `n_hashes` rounds (section 2). Parameters as `SharedFullAttention`.

    Tokens are sorted by bucket and then cut into chunks. `n_buckets`: an even int, a list of factors, or None for about
    two buckets per chunk (`default_n_buckets`, from the padded length and `max_len`). `same_bucket` and `count_once`
    choose the paper's own equations.
    """

    projections = {"query_key": 0, "value": 0}
    takes = ChunkedAttention.takes | {"same_bucket", "count_once", "n_hashes", "n_buckets", "max_len"}

    def __init__(self, *sizes, n_hashes=1, n_buckets=None, max_len=None, **settings):
        super().__init__(*sizes, **settings)
        self.n_hashes, self.n_buckets, self.max_len = check_count("n_hashes", n_hashes), n_buckets, max_len
        if n_buckets is not None:
            bucket_factors(n_buckets)
        if max_len is not None:
            check_count("max_len", max_len)

    def attend(self, heads, seed, settings, buckets=None, rotations=None):
        query_key, value = heads
        if buckets is None:
            buckets = self.hash(query_key, seed, rotations)
        options = {"padded_len": self.padded_len(query_key), **vars(self.options), **settings}
        return *lsh_attention(query_key, value, buckets, **options), buckets

    def hash(self, query_key, seed, rotations=None):
        """Buckets of query_key (B, H, T, D): (B, H, R, T). If one chunk holds all tokens, so does one bucket.

        `rotations` (H, D, R, columns), with R = `n_hashes`: hash with these instead of drawing them from `seed`.
        """
        sizes = (self.n_heads, self.d_head, self.n_hashes)
        if rotations is not None:
            check_rotations("rotations", rotations, *sizes, None, like=query_key, whose="x")
        chunk_len, padded_len = self.options.chunk_len, self.padded_len(query_key)
        if padded_len <= chunk_len:
            n_batch, n_heads, length, _ = query_key.shape
            return backend.get_xp(query_key).zeros((n_batch, n_heads, 1, length), "int16")
        n_buckets = self.n_buckets or default_n_buckets(padded_len, chunk_len, self.max_len)
        if rotations is None:
            rotations = random_rotations(rng.fold(seed, "hash"), *sizes, n_buckets, query_key.dtype, like=query_key)
        return hash_vectors(query_key, rotations, n_buckets)


ATTENTION = {"lsh": LSHAttention, "local": LocalAttention, "full": FullAttention, "shared_full": SharedFullAttention}
