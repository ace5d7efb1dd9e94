"""Full, local and LSH attention as functions over the chunked kernel, each with its backward.

They take heads, (B, H, T, D), and any T: they pad to whole chunks and mask the padding. `attention_layer.py`, next,
puts projections around them. A logit is

    separate q and k:  q . k / sqrt(D)          shared q and k (LSH):  q . k / |k| = |q| cos(angle)

Arrays that don't fit each other, and numbers out of range, raise ValueError; wrong dtypes, or arrays of NumPy among
arrays of CuPy, TypeError. Either names the argument.
"""

import math
from typing import Any, NamedTuple

from minireformer import backend
from minireformer.chunked import chunked_attention, chunked_attention_backward
from minireformer.hashing import sort_by_bucket
from minireformer.layer import check_array, check_count, check_flags, check_not_empty, check_rate
from minireformer.tiles import Pattern, Tokens

FULL_CHUNK = 128  # full attention is walked over in chunks of queries that see all chunks of keys, or all before


class AttentionCache(NamedTuple):
    """What backward needs: the inputs, the output and its log-sum-exp; no logits, no probabilities."""

    q: Any  # (B, H, T, D)
    k: Any  # the same; None where keys are the queries at unit length
    v: Any
    out: Any
    lse: Any  # (B, H, T'): T' = T rounded up to whole chunks
    tokens: Tokens
    pattern: Pattern


def full_attention(q, k, v, *, causal=True, key_mask=None, dropout=0.0, seed=0):
    """Every query sees every key: softmax(q k' / sqrt(D)) v. q, k, v (B, H, T, D) floats -> out (B, H, T, D), cache.

    `causal`: a query sees only its own position and those before. `key_mask` (B, T) booleans: False hides a key.
    `dropout`: rate of attention weights set to zero, replayed from `seed`. A query that sees nothing returns 0.
    With `k=None` keys are the queries at unit length and a token sees itself only when it sees nothing else:
    the shared-QK attention of the paper's section 2, which LSH attention approaches.
    """
    _check(q, k, v, key_mask, dropout, causal=causal)
    chunk_len = min(FULL_CHUNK, q.shape[2])
    n_chunks = -(-q.shape[2] // chunk_len)
    pattern = Pattern(chunk_len, n_chunks - 1, 0, causal, exclude_self=k is None)
    return _attention(q, k, v, None, pattern, n_chunks * chunk_len, key_mask, dropout, seed)


def local_attention(
    q,
    k,
    v,
    *,
    chunk_len,
    n_before=1,
    n_after=0,
    causal=True,
    key_mask=None,
    dropout=0.0,
    seed=0,
    padded_len=None,
):
    """A query sees the keys of its own chunk, `n_before` chunks back and `n_after` ahead: (B, H, T, D) -> the same.

    Chunks are of `chunk_len` tokens and stand in a circle, as in the original code: without `causal`, the first
    looks back at the last, and where the circle has fewer chunks than a window (`n_before + 1 + n_after`), a
    query meets some chunks more than once and their keys weigh as often. Logits, masks and dropout as in
    `full_attention`.

    A last chunk that is not full is filled up with hidden keys. `padded_len`, a multiple of `chunk_len`, adds whole
    chunks of them: the circle is then that of `padded_len` tokens. See `padded_length`.
    """
    _check(q, k, v, key_mask, dropout, causal=causal)
    pattern, padded_len = _pattern(q, chunk_len, n_before, n_after, causal, padded_len)
    return _attention(q, k, v, None, pattern, padded_len, key_mask, dropout, seed)


def lsh_attention(
    qk,
    v,
    buckets,
    *,
    chunk_len,
    n_before=1,
    n_after=0,
    causal=True,
    key_mask=None,
    dropout=0.0,
    seed=0,
    same_bucket=False,
    count_once=False,
    padded_len=None,
):
    """LSH attention with shared queries and keys: qk, v (B, H, T, D), buckets (B, H, R, T) ints -> out, cache.

    In each of R rounds, tokens are sorted by bucket and cut into chunks; a query sees its own chunk, `n_before`
    chunks back and `n_after` ahead (section 2, figure 2). Rounds are merged into one softmax. A token sees
    itself only when it sees nothing else. Masks and dropout as in `full_attention`; hidden keys sort last, under
    the largest number that the dtype of `buckets` (int16, int32 or int64) holds: a bucket must be below it.
    Up to `chunk_len` tokens, nothing needs hashing: full attention with shared queries and keys. `padded_len` as in
    `local_attention`.

    The paper's equations differ from its code in two ways, both available: `same_bucket` lets a query see only
    keys of its own bucket (eq. 4); `count_once` counts a key that is met in N rounds once and not N times
    (the `-log N` of eq. 16). With either, a round's first chunk doesn't look back into the round before.
    """
    _check(qk, None, v, key_mask, dropout, causal=causal, same_bucket=same_bucket, count_once=count_once)
    check_array("buckets", buckets, *qk.shape[:2], None, qk.shape[2], kind="i", like=qk, whose="the queries")
    check_not_empty("buckets", buckets)
    if buckets.dtype.name not in ("int16", "int32", "int64"):
        raise TypeError(f"buckets: expected int16, int32 or int64, as hash_vectors gives; got {buckets.dtype}")
    pattern, padded_len = _pattern(qk, chunk_len, n_before, n_after, causal, padded_len)
    pattern = pattern._replace(exclude_self=True, same_bucket=same_bucket, count_once=count_once)
    return _attention(qk, None, v, buckets, pattern, padded_len, key_mask, dropout, seed)


def full_attention_backward(dout, cache):
    """Gradients of `full_attention` from dout (B, H, T, D) and its cache: (dq, dk, dv), each like q, k and v.

    (dqk, dv) where queries and keys are shared (`k=None`).
    """
    check_array("dout", dout, *cache.out.shape, like=cache.out, whose="the queries")
    if dout.dtype != cache.out.dtype:
        raise TypeError(f"dout: expected {cache.out.dtype}, as the queries; got {dout.dtype}")
    length = cache.lse.shape[2]
    padded = [_padded(x, length) for x in (dout, cache.q, cache.k, cache.v, cache.out)]
    gradients = chunked_attention_backward(*padded, cache.lse, cache.tokens, cache.pattern)
    return tuple(d[:, :, : dout.shape[2]] for d in gradients if d is not None)


def local_attention_backward(dout, cache):
    """Gradients of `local_attention` from dout (B, H, T, D) and its cache: (dq, dk, dv), each like q, k and v."""
    return full_attention_backward(dout, cache)


def lsh_attention_backward(dout, cache):
    """Gradients of `lsh_attention` from dout (B, H, T, D) and its cache: (dqk, dv), each (B, H, T, D).

    The buckets of the forward pass are held fixed: they are whole numbers, which have no gradient.
    """
    return full_attention_backward(dout, cache)


def padded_length(length, chunk_lens):
    """How many tokens `length` tokens are padded to in a model whose layers have chunks of `chunk_lens` tokens.

    The next common multiple of all of them, so that every layer sees the same tokens, as in the original code; none
    are added up to the shortest chunk, where no layer needs chunks at all.
    """
    multiple = math.lcm(*chunk_lens)
    return length if length <= min(chunk_lens) else -(-length // multiple) * multiple


def check_window(chunk_len, n_before, n_after):
    """Raise ValueError unless these make a window of chunks: see `local_attention`."""
    check_count("chunk_len", chunk_len)
    check_count("n_before", n_before, at_least=0)
    check_count("n_after", n_after, at_least=0)


def _check(q, k, v, key_mask, dropout, **flags):
    name = "qk" if k is None else "q"
    check_array(name, q, None, None, None, None)
    check_not_empty(name, q)
    for name, x in (("v", v),) if k is None else (("k", k), ("v", v)):
        check_array(name, x, *q.shape, like=q, whose="the queries")
        if x.dtype != q.dtype:
            raise TypeError(f"{name}: expected {q.dtype}, as the queries; got {x.dtype}")
    if key_mask is not None:
        check_array("key_mask", key_mask, q.shape[0], q.shape[2], kind="b", like=q, whose="the queries")
    check_rate("dropout", dropout)
    check_flags(**flags)


def _pattern(q, chunk_len, n_before, n_after, causal, padded_len):
    """-> (the pattern, the length to pad to)."""
    check_window(chunk_len, n_before, n_after)
    length = q.shape[2]
    if padded_len is None:
        padded_len = padded_length(length, [chunk_len])
    elif check_count("padded_len", padded_len, at_least=length) > chunk_len and padded_len % chunk_len:
        raise ValueError(f"padded_len: expected a multiple of chunk_len {chunk_len}; got {padded_len}")
    if padded_len <= chunk_len:  # one chunk: nothing before it or after it
        return Pattern(length, 0, 0, causal), length
    return Pattern(chunk_len, n_before, n_after, causal), padded_len


def _attention(q, k, v, buckets, pattern, padded_len, key_mask, dropout, seed):
    """Pad, order the tokens, run the kernel."""
    xp = backend.get_xp(q)
    n_batch, n_heads, length, _ = q.shape
    n_groups = n_batch * n_heads
    if key_mask is not None or padded_len > length:
        full_mask = xp.zeros((n_batch, n_heads, padded_len), bool)
        full_mask[..., :length] = True if key_mask is None else key_mask[:, None]
        key_mask = full_mask.reshape(n_groups, padded_len)
    in_order = buckets is None or padded_len == pattern.chunk_len
    if in_order:
        order = xp.broadcast_to(xp.arange(padded_len), (n_groups, 1, padded_len))
        padded_buckets, pattern = None, pattern._replace(same_bucket=False, count_once=False)
    else:
        n_hashes = buckets.shape[2]
        last = xp.iinfo(buckets.dtype).max  # padding and hidden keys sort behind every bucket
        padded_buckets = xp.full((n_groups, n_hashes, padded_len), last, buckets.dtype)
        padded_buckets[..., :length] = buckets.reshape(n_groups, n_hashes, length)
        if key_mask is not None:
            padded_buckets = xp.where(key_mask[:, None], padded_buckets, last)
        order = sort_by_bucket(padded_buckets).astype("int32")
        if not pattern.same_bucket:
            padded_buckets = None
    tokens = Tokens(order, key_mask, padded_buckets, dropout, seed, in_order)
    out, lse = chunked_attention(*(_padded(x, padded_len) for x in (q, k, v)), tokens, pattern)
    out = out[:, :, :length]
    return out, AttentionCache(q, k, v, out, lse, tokens, pattern)


def _padded(x, length):
    """x (B, H, T, D) with zeros behind the last token: (B, H, length, D). Itself where nothing is missing."""
    if x is None or x.shape[2] == length:
        return x
    n_batch, n_heads, _, d_head = x.shape
    out = backend.get_xp(x).zeros((n_batch, length, n_heads, d_head), x.dtype).swapaxes(1, 2)  # as projections lie
    out[:, :, : x.shape[2]] = x
    return out
