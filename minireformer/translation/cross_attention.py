"""Cross-attention: the decoder's tokens look at what the encoder made of the source.

    out_i = sum_j exp(q_i . k_j / sqrt(D) - L_i) v_j          i a target position, j a source position

Every query sees every key that is not padding, as in the Transformer: the Reformer's translation model keeps this one
attention full (section 5, "WMT14"), because a target token may need any source token. So time is T * S, but memory
is not: queries are taken a tile at a time, and backward makes a tile's weights again from the log-sum-exps L.
Read next: `reversible_chain.py`.
"""

import math
from typing import Any, NamedTuple

from minireformer import backend, rng
from minireformer.attention import AttentionOptions, attention, full_attention_backward
from minireformer.checks import check_array, check_count, check_not_empty, check_rate
from minireformer.dropout import Dropout
from minireformer.layer import Layer, prefixed
from minireformer.linear import Linear
from minireformer.reversible import PreNorm
from minireformer.schedule import Plan


def cross_attention(q, k, v, *, key_mask=None, dropout=0.0, seed=0):
    """Queries q (B, H, T, D) over keys and values k, v (B, H, S, D) -> out (B, H, T, D), cache.

    `key_mask` (B, S) booleans: False hides a key. `dropout`: rate of attention weights set to zero, replayed from
    `seed`. A query that sees nothing returns 0. ValueError or TypeError names an argument that doesn't fit.
    """
    check_array("q", q, None, None, None, None)
    check_not_empty("q", q)
    check_array("k", k, *q.shape[:2], None, q.shape[3], like=q, whose="the queries")
    check_not_empty("k", k)
    check_array("v", v, *k.shape, like=q, whose="the queries")
    for name, x in (("k", k), ("v", v)):
        if x.dtype != q.dtype:
            raise TypeError(f"{name}: expected {q.dtype}, as the queries; got {x.dtype}")
    if key_mask is not None:
        check_array("key_mask", key_mask, q.shape[0], k.shape[2], kind="b", like=q, whose="the queries")
    check_rate("dropout", dropout)
    plan = Plan(AttentionOptions(causal=False), key_mask=key_mask, dropout=dropout, seeds=(rng.fold(seed, "cross"),))
    return attention(q, k, v, plan)


def cross_attention_backward(dout, cache):
    """Gradients of `cross_attention` from dout (B, H, T, D): dq (B, H, T, D), dk and dv (B, H, S, D)."""
    return full_attention_backward(dout, cache)


def attention_weights(cache):
    """All weights of a `cross_attention`, (B, H, T, S), without dropout: to look at, for they take T * S numbers."""
    xp, key_mask = backend.get_xp(cache.q), cache.plan.key_mask
    logits = xp.matmul(cache.q / math.sqrt(cache.q.shape[-1]), cache.k.swapaxes(-1, -2))
    if key_mask is not None:
        logits = xp.where(key_mask[:, None, None], logits, -xp.inf)
    return xp.exp(logits - cache.m[..., None]) / xp.maximum(cache.l, xp.finfo(cache.l.dtype).tiny)[..., None]


class CrossAttentionLayerCache(NamedTuple):
    """The caches of a layer's parts, in the order of `forward`."""

    projections: list  # of query, key and value
    attention: Any
    output: Any
    dropout: Any


class CrossAttention(Layer):
    """x (B, T, d_model) looks at a memory (B, S, d_memory) -> y (B, T, d_model), by n_heads heads of d_head each.

    Parameters: `query.weight` (H * D, d_model), `key.weight` and `value.weight` (H * D, d_memory), `output.weight`
    (d_model, H * D). Settings as `SelfAttention`. `backward` gives a pair, (dx, dmemory), in place of dx.
    """

    def __init__(
        self,
        d_model,
        d_memory,
        n_heads,
        d_head,
        *,
        dropout=0.0,
        attention_dropout=0.0,
        seed=0,
        dtype="float32",
    ):
        super().__init__()
        for name, value in (("d_model", d_model), ("n_heads", n_heads), ("d_head", d_head), ("d_memory", d_memory)):
            check_count(name, value)
        check_rate("attention_dropout", attention_dropout)
        self.d_model, self.d_memory, self.n_heads, self.d_head = d_model, d_memory, n_heads, d_head
        self.attention_dropout, self.dropout = attention_dropout, Dropout(dropout)
        sizes = {"query": d_model, "key": d_memory, "value": d_memory}
        self.parts = {
            name: self.add(name, Linear(d, n_heads * d_head, rng.fold(seed, name), bias=False, dtype=dtype))
            for name, d in sizes.items()
        }
        self.output = self.add(
            "output", Linear(n_heads * d_head, d_model, rng.fold(seed, "output"), bias=False, dtype=dtype)
        )

    def forward(self, x, seed=0, training=True, *, memory, memory_mask=None):
        """x (B, T, d_model), memory (B, S, d_memory), memory_mask (B, S) booleans -> y (B, T, d_model), cache."""
        check_array("x", x, None, None, self.d_model, like=self.params["output.weight"])
        check_array("memory", memory, len(x), None, self.d_memory, like=self.params["output.weight"])
        pairs = [part.forward(memory if name != "query" else x) for name, part in self.parts.items()]
        heads, projections = [self.split(y) for y, _ in pairs], [cache for _, cache in pairs]
        rate = self.attention_dropout if training else 0.0
        mixed, attention = cross_attention(*heads, key_mask=memory_mask, dropout=rate, seed=rng.fold(seed, "attention"))
        y, output = self.output.forward(self._join(mixed))
        y, dropout = self.dropout.forward(y, rng.fold(seed, "output"), training)
        return y, CrossAttentionLayerCache(projections, attention, output, dropout)

    def backward(self, dy, cache):
        """dy (B, T, d_model) -> (dx (B, T, d_model), dmemory (B, S, d_memory)), grads."""
        check_array("dy", dy, *cache.projections[0].x.shape, like=self.params["output.weight"])
        dy, _ = self.dropout.backward(dy, cache.dropout)
        dmixed, grads = self.output.backward(dy, cache.output)
        grads = prefixed("output", grads)
        dinputs = []
        for (name, part), dhead, projection in zip(
            self.parts.items(), cross_attention_backward(self.split(dmixed), cache.attention), cache.projections
        ):
            dinput, part_grads = part.backward(self._join(dhead), projection)
            dinputs.append(dinput)
            grads.update(prefixed(name, part_grads))
        dx, dmemory, of_values = dinputs
        dmemory += of_values
        return (dx, dmemory), grads

    def replay(self, cache):
        """What `forward` must be given beside its inputs and the seed, to do the same again: nothing."""
        return {}

    def split(self, x):
        """(B, T, H D) -> (B, H, T, D)."""
        return x.reshape(*x.shape[:2], self.n_heads, self.d_head).swapaxes(1, 2)

    def _join(self, x):
        """(B, H, T, D) -> (B, T, H D)"""
        return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)


class PreNormCross(PreNorm):
    """y = cross-attention(LayerNorm(x), memory): only x is normalised here. Backward gives (dx, dmemory) for dx."""

    def backward(self, dy, cache):
        (dnormed, dmemory), grads = self.part.backward(dy, cache.part)
        dx, norm_grads = self.layer_norm.backward(dnormed, cache.layer_norm)
        return (dx, dmemory), grads | prefixed("layer_norm", norm_grads)

    def forward_and_backward(self, x, dy, seed=0, training=True, **given):
        y, cache = self.forward(x, seed, training, **given)
        return y, *self.backward(dy, cache)
