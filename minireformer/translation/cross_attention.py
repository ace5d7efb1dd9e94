"""Cross-attention: the decoder's tokens attend to the encoder's output for the source.

    O = softmax(Q K' / sqrt(D)) V          Q from T target positions, K and V from S source positions

Every query sees every key that is not padding, as in the Transformer: the Reformer's translation model keeps this one
attention full (section 5, "WMT14"), because a target token may need any source token. So time is T * S, but memory
is not: this is the kernel of self-attention, which takes queries a tile at a time and recomputes a tile's weights in
backward. Read next: `encoder_decoder.py`.
"""

import math

from minireformer import backend, rng
from minireformer.attention import AttentionOptions, attention, full_attention_backward
from minireformer.attention_layer import AttentionLayer
from minireformer.checks import check_array, check_count, check_not_empty, check_rate
from minireformer.schedule import Plan


def cross_attention(q, k, v, *, key_mask=None, dropout=0.0, seed=0):
    """Queries q (B, H, T, D) over keys and values k, v (B, H, S, D) -> out (B, H, T, D), cache.

    `key_mask` (B, S) booleans: False hides a key. `dropout`: fraction of attention weights set to zero, replayed
    from `seed`. A query that sees nothing returns 0. ValueError or TypeError names an argument that doesn't fit.
    """
    check_array("q", q, None, None, None, None)
    check_array("k", k, *q.shape[:2], None, q.shape[3], like=q, whose="the queries")
    check_array("v", v, *k.shape, like=q, whose="the queries")
    for name, x in (("q", q), ("k", k), ("v", v)):
        check_not_empty(name, x)
        if x.dtype != q.dtype:
            raise TypeError(f"{name}: expected {q.dtype}, like the queries; got {x.dtype}")
    check_array("key_mask", key_mask, len(q), k.shape[2], kind="b", like=q, whose="the queries", optional=True)
    check_rate("dropout", dropout)
    plan = Plan(AttentionOptions(causal=False), key_mask=key_mask, dropout=dropout, seeds=(rng.fold(seed, "cross"),))
    return attention(q, k, v, plan)


def cross_attention_backward(dout, cache):
    """Gradients of `cross_attention` from dout (B, H, T, D): dq (B, H, T, D), dk and dv (B, H, S, D)."""
    return full_attention_backward(dout, cache)


def attention_weights(cache):
    """All weights of a `cross_attention`, (B, H, T, S), without dropout: for inspection, as they take T * S numbers."""
    xp, key_mask = backend.get_xp(cache.q), cache.plan.key_mask
    logits = xp.matmul(cache.q / math.sqrt(cache.q.shape[-1]), cache.k.swapaxes(-1, -2))
    if key_mask is not None:
        logits = xp.where(key_mask[:, None, None], logits, -xp.inf)
    return xp.exp(logits - cache.m[..., None]) / xp.maximum(cache.l, xp.finfo(cache.l.dtype).tiny)[..., None]


class CrossAttention(AttentionLayer):
    """x (B, T, d_model) attends to a memory (B, S, d_memory) -> y (B, T, d_model), with n_heads heads of d_head each.

    Parameters: `query.weight` (H * D, d_model), `key.weight` and `value.weight` (H * D, d_memory), `output.weight`
    (d_model, H * D). Settings as in `SelfAttention`. `backward` returns dx, dmemory, grads.
    """

    projections = {"query": 0, "key": 1, "value": 1}

    def __init__(
        self, d_model, d_memory, n_heads, d_head, *, dropout=0.0, attention_dropout=0.0, seed=0, dtype="float32"
    ):
        self.d_memory = check_count("d_memory", d_memory)
        super().__init__((d_model, self.d_memory), n_heads, d_head, dropout, attention_dropout, seed, dtype)

    def forward(self, x, memory, seed=0, training=True, memory_mask=None):
        """x (B, T, d_model), memory (B, S, d_memory), memory_mask (B, S) booleans -> y (B, T, d_model), cache."""
        return self._forward((x, memory), seed, training, memory_mask)

    def attend(self, heads, seed, settings):
        return cross_attention(*heads, **settings)
