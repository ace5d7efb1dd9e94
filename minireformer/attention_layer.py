"""Attention layers: project to heads, attend, put the heads together, project back. No biases.

    heads = x Wq', x Wk', x Wv'     mixed = attend(heads)     y = dropout(mixed Wo')

`LSHAttention` projects queries and keys with one matrix (section 2, "shared-QK"), draws its hash rotations
from the seed, and keeps the buckets in its cache: a recompute gets them back through `replay`, because
inputs that differ in the last bit may hash differently, and the gradient would silently be of another function.
Read next: `reversible.py`.
"""

from typing import Any, NamedTuple

from minireformer import backend, rng
from minireformer.attention import (
    AttentionOptions,
    full_attention,
    full_attention_backward,
    local_attention,
    local_attention_backward,
    lsh_attention,
    lsh_attention_backward,
    padded_length,
)
from minireformer.checks import check_array, check_count, check_flags, check_rate
from minireformer.dropout import Dropout
from minireformer.hashing import bucket_factors, default_n_buckets, hash_vectors, random_rotations
from minireformer.layer import Layer, prefixed
from minireformer.linear import Linear
from minireformer.positions import check_sizes


class SelfAttentionCache(NamedTuple):
    """The caches of a layer's parts, in the order of `forward`."""

    projections: list  # of the linear layers, in order
    attention: Any  # of the attention function
    output: Any
    dropout: Any
    buckets: Any = None  # (B, H, R, T), LSH only


class SelfAttention(Layer):
    """What the four kinds share: x (B, T, d_model) -> y (B, T, d_model), by H = n_heads heads of D = d_head each.

    d_model, n_heads, d_head  sizes, whole numbers >= 1.
    causal             whether a token sees only those before it, and itself.
    dropout            rate of entries of y set to zero in training, in [0, 1).
    attention_dropout  rate of attention weights, likewise.
    seed, dtype        of the parameters: an integer, and "float32" or "float64".

    Parameters: `<name>.weight` (H * D, d_model) for every name in `projections`, and `output.weight`
    (d_model, H * D). A setting out of range is refused when the layer is made: ValueError names it.
    """

    projections = ("query", "key", "value")

    def __init__(
        self,
        d_model,
        n_heads,
        d_head,
        *,
        causal=True,
        dropout=0.0,
        attention_dropout=0.0,
        seed=0,
        dtype="float32",
    ):
        super().__init__()
        for name, value in (("d_model", d_model), ("n_heads", n_heads), ("d_head", d_head)):
            check_count(name, value)
        for name, value in (("dropout", dropout), ("attention_dropout", attention_dropout)):
            check_rate(name, value)
        check_flags(causal=causal)
        self.d_model, self.n_heads, self.d_head, self.causal = d_model, n_heads, d_head, causal
        self.attention_dropout = attention_dropout
        width = n_heads * d_head
        self.parts = {
            name: self.add(name, Linear(d_model, width, rng.fold(seed, name), bias=False, dtype=dtype))
            for name in self.projections
        }
        self.output = self.add("output", Linear(width, d_model, rng.fold(seed, "output"), bias=False, dtype=dtype))
        self.dropout = Dropout(dropout)

    def forward(self, x, seed=0, training=True, key_mask=None, **given):
        """x (B, T, d_model) -> y (B, T, d_model), cache. `key_mask` (B, T) booleans hides keys from everybody.

        LSH layers also take `buckets` (B, H, R, T), or `rotations` to hash with instead of ones drawn from `seed`.
        """
        check_array("x", x, None, None, self.d_model, like=self.params["output.weight"])
        heads, projections = [], []
        for part in self.parts.values():
            y, cache = part.forward(x)
            heads.append(self._split(y))
            projections.append(cache)
        options = {
            "causal": self.causal,
            "key_mask": key_mask,
            "dropout": self.attention_dropout if training else 0.0,
            "seed": rng.fold(seed, "attention"),
        }
        mixed, attention, buckets = self.attend(heads, seed, options, **given)
        y, output = self.output.forward(self._join(mixed))
        y, dropout = self.dropout.forward(y, seed=rng.fold(seed, "output"), training=training)
        return y, SelfAttentionCache(projections, attention, output, dropout, buckets)

    def backward(self, dy, cache):
        """dy (B, T, d_model) -> dx (B, T, d_model), grads."""
        check_array("dy", dy, *cache.attention.out.shape[::2], self.d_model, like=self.params["output.weight"])
        xp = backend.get_xp(dy)
        projections, *attention, output, dropout, _ = cache
        del cache  # here and below, what has been used is let go: at the peak of a step it would count
        dy, _ = self.dropout.backward(dy, dropout)
        dmixed, grads = self.output.backward(dy, output)
        grads = prefixed("output", grads)
        dmixed = [self._split(dmixed)]
        del dy, output
        dheads, dx = list(self.attend_backward(dmixed.pop(), attention.pop())), None
        for (name, part), part_cache in zip(self.parts.items(), projections):
            dpart, part_grads = part.backward(self._join(dheads.pop(0)), part_cache)
            dx = dpart if dx is None else xp.add(dx, dpart, out=dx)
            grads.update(prefixed(name, part_grads))
        return dx, grads

    def replay(self, cache):
        """What `forward` must be given, beside the seed, to do the same again."""
        return {} if cache.buckets is None else {"buckets": cache.buckets}

    def _split(self, x):
        """(B, T, H D) -> (B, H, T, D)"""
        return x.reshape(*x.shape[:2], self.n_heads, self.d_head).swapaxes(1, 2)

    def _join(self, x):
        """(B, H, T, D) -> (B, T, H D)"""
        return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)


class FullAttention(SelfAttention):
    """Every token sees every token (causal: those before it). The Transformer's attention, for comparison.

    Arguments as `SelfAttention`. Parameters: `query.weight`, `key.weight`, `value.weight`, `output.weight`.
    """

    def attend(self, heads, seed, options):
        return *full_attention(*heads, **options), None

    def attend_backward(self, dmixed, cache):
        return full_attention_backward(dmixed, cache)


class SharedFullAttention(SelfAttention):
    """Full attention with shared queries and keys: what LSH attention approaches (section 5, figure 3).

    Arguments as `SelfAttention`. Parameters: `query_key.weight`, `value.weight`, `output.weight`.
    """

    projections = ("query_key", "value")

    def attend(self, heads, seed, options):
        return *full_attention(heads[0], None, heads[1], **options), None

    def attend_backward(self, dmixed, cache):
        return full_attention_backward(dmixed, cache)


class LocalAttention(SelfAttention):
    """Tokens see their own chunk of `chunk_len`, `n_before` chunks back and `n_after` ahead.

    `chunk_lens`: the chunk lengths of all layers of a model, which fills up the last chunks of each as far as its
    layers agree (`attention.padded_length`); None for a layer on its own. Other arguments as `SelfAttention`,
    parameters as `FullAttention`.
    """

    def __init__(self, *args, chunk_len, n_before=1, n_after=0, chunk_lens=None, **kwargs):
        self.chunk_lens = _check_chunks(chunk_len, n_before, n_after, chunk_lens)
        super().__init__(*args, **kwargs)
        self.window = {"chunk_len": chunk_len, "n_before": n_before, "n_after": n_after}

    def attend(self, heads, seed, options):
        padded_len = padded_length(heads[0].shape[2], self.chunk_lens)
        return *local_attention(*heads, padded_len=padded_len, **self.window, **options), None

    def attend_backward(self, dmixed, cache):
        return local_attention_backward(dmixed, cache)


class LSHAttention(SelfAttention):
    """Tokens see those that hash alike, in `n_hashes` rounds (section 2). Parameters as `SharedFullAttention`.

    `chunk_len`, `n_before`, `n_after` and `chunk_lens` as `LocalAttention`, the order being that of the buckets.
    `n_buckets`: an even int, a list of factors, or None for about two buckets a chunk (`default_n_buckets` of the
    length with its last chunk filled up, which `max_len` is for).
    `same_bucket` and `count_once` choose the paper's own equations: see `attention.lsh_attention`.
    """

    projections = ("query_key", "value")

    def __init__(
        self,
        *args,
        chunk_len,
        n_before=1,
        n_after=0,
        chunk_lens=None,
        n_hashes=1,
        n_buckets=None,
        max_len=None,
        same_bucket=False,
        count_once=False,
        **kwargs,
    ):
        self.chunk_lens = _check_chunks(chunk_len, n_before, n_after, chunk_lens)
        check_count("n_hashes", n_hashes)
        if n_buckets is not None:
            bucket_factors(n_buckets)
        if max_len is not None:
            check_count("max_len", max_len)
        check_flags(same_bucket=same_bucket, count_once=count_once)
        super().__init__(*args, **kwargs)
        self.window = {"chunk_len": chunk_len, "n_before": n_before, "n_after": n_after}
        self.paper = {"same_bucket": same_bucket, "count_once": count_once}
        self.n_hashes, self.n_buckets, self.max_len = n_hashes, n_buckets, max_len

    def attend(self, heads, seed, options, buckets=None, rotations=None):
        query_key, value = heads
        if buckets is None:
            buckets = self.hash(query_key, seed, rotations)
        options = {"padded_len": padded_length(query_key.shape[2], self.chunk_lens), **options}
        mixed, cache = lsh_attention(query_key, value, buckets, **self.window, **self.paper, **options)
        return mixed, cache, buckets

    def attend_backward(self, dmixed, cache):
        return lsh_attention_backward(dmixed, cache)

    def hash(self, query_key, seed, rotations=None):
        """Buckets of query_key (B, H, T, D): (B, H, R, T). One bucket where a chunk holds all tokens.

        `rotations` (H, D, R, columns): those to hash with, instead of ones drawn from `seed`; R is `n_hashes`.
        """
        check_array("query_key", query_key, None, self.n_heads, None, self.d_head)
        if rotations is not None:
            check_array("rotations", rotations, self.n_heads, self.d_head, None, None, like=query_key, whose="x")
            if rotations.shape[2] != self.n_hashes:
                raise ValueError(f"rotations: expected {self.n_hashes} rounds (n_hashes); got {rotations.shape[2]}")
        length, chunk_len = query_key.shape[2], self.window["chunk_len"]
        padded_len = padded_length(length, self.chunk_lens)
        if padded_len <= chunk_len:
            return backend.get_xp(query_key).zeros((*query_key.shape[:2], 1, length), "int16")
        n_buckets = self.n_buckets or default_n_buckets(padded_len, chunk_len, self.max_len)
        if rotations is None:
            sizes = (self.n_heads, self.d_head, self.n_hashes, n_buckets, query_key.dtype)
            rotations = random_rotations(rng.fold(seed, "hash"), *sizes, like=query_key)
        return hash_vectors(query_key, rotations, n_buckets)


def _check_chunks(chunk_len, n_before, n_after, chunk_lens):
    """`chunk_lens`, or (chunk_len,); ValueError unless all of it are sizes and `chunk_len` is among `chunk_lens`."""
    AttentionOptions(chunk_len=chunk_len, n_before=n_before, n_after=n_after)
    if chunk_lens is None:
        return (chunk_len,)
    chunk_lens = check_sizes("chunk_lens", chunk_lens)
    if chunk_len not in chunk_lens:
        raise ValueError(f"chunk_lens: expected chunk_len {chunk_len} among them; got {chunk_lens}")
    return chunk_lens
