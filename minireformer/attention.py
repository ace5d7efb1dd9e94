"""Full, local and LSH attention: functions that share one kernel, each with its backward.

They take heads (B, H, T, D) of any length T: a last chunk that is not full is padded with hidden keys. A logit is

    separate q and k:  q . k / sqrt(D)          shared q and k (LSH):  q . k / |k| = |q| cos(angle)

`attention_layer.py` comes next and adds the projections. Shapes that don't match and numbers out of range raise
ValueError; wrong dtypes, and NumPy arrays mixed with CuPy arrays, raise TypeError. Either error names the argument.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from minireformer import backend, rng, threads
from minireformer.backend import Array, row_dot
from minireformer.checks import check_array, check_count, check_flags, check_not_empty, check_rate
from minireformer.hashing import sort_by_bucket
from minireformer.kernel import LOWEST, attend, attend_backward
from minireformer.schedule import Plan, Schedule
from minireformer.tables import HeadTable, Scratch
from minireformer.unit_length import inverse_length


@dataclass(frozen=True)
class AttentionOptions:
    """Which keys a query may see. Functions, layers and models all use this one record.

    chunk_len    tokens in a chunk; None: no chunks, every query may see every key.
    n_before     how many chunks a query sees before its own.
    n_after      how many it sees after its own. Chunks form a circle, as in the original code: without `causal`, the
                 first looks back at the last. If the circle has fewer chunks than a window (`n_before + 1 + n_after`),
                 a query meets some chunks more than once, and their keys count each time.
    causal       a query sees only its own position and those before.
    same_bucket  LSH: a query sees only keys in its own bucket, as in the paper's eq. 4 but not in its code.
    count_once   LSH: a key met in N rounds counts once, not N times (the `-log N` of eq. 16). With `same_bucket` or
                 `count_once`, a round's first chunk doesn't look back into the previous round.

    A ValueError or TypeError names any option that is out of range.
    """

    chunk_len: int | None = None
    n_before: int = 1
    n_after: int = 0
    causal: bool = True
    same_bucket: bool = False
    count_once: bool = False

    def __post_init__(self):
        for name, least in (("chunk_len", 1), ("n_before", 0), ("n_after", 0)):
            if name != "chunk_len" or self.chunk_len is not None:  # as Python's own ints: np.int8 would overflow
                object.__setattr__(self, name, check_count(name, getattr(self, name), at_least=least))
        check_flags(causal=self.causal, same_bucket=self.same_bucket, count_once=self.count_once)

    @property
    def width(self) -> int:
        """Chunks in a window."""
        return self.n_before + 1 + self.n_after


class AttentionCache(NamedTuple):
    """What backward needs: the inputs, the output and two numbers for each query; no logits, no weights."""

    q: Any  # (B, H, T, D)
    k: Any  # (B, H, S, D); None if the keys are the queries, scaled to unit length
    v: Any  # (B, H, S, D)
    out: Any  # (B, H, T, D)
    m: Any  # (B, H, T'): the largest logit of a query; T' is T padded to whole chunks
    l: Any  # (B, H, T'): the sum of exp(logit - m); 0 for a query that sees nothing
    plan: Plan

    @property
    def lse(self):
        """The log-sum-exp of a query's logits, m + log(l): (B, H, T'); 1e9, above every logit, if it saw no key."""
        xp = backend.get_xp(self.l)
        return xp.where(self.l == 0, 1e9, self.m + xp.log(self.l + (self.l == 0))).astype(self.l.dtype)


def full_attention(
    q: Array,
    k: Array | None,
    v: Array,
    *,
    causal: bool = True,
    key_mask: Array | None = None,
    dropout: float = 0.0,
    seed: int = 0,
) -> tuple[Array, AttentionCache]:
    """Every query sees every key: softmax(q k' / sqrt(D)) v. q, k, v (B, H, T, D) floats -> out (B, H, T, D), cache.

    `causal`: a query sees only its own position and those before. `key_mask` (B, T) booleans: False hides a key.
    `dropout`: the rate at which attention weights are set to zero; `seed` replays the mask. A query that sees nothing
    gets 0. With `k=None`, the keys are the queries scaled to unit length, and a token sees itself only when it sees
    nothing else. This is the shared-QK attention of the paper's section 2, which LSH attention approximates.
    """
    options = AttentionOptions(causal=causal)
    _check(q, k, v, key_mask, dropout)
    return attention(q, k, v, Plan(options, k is None, None, key_mask, None, dropout, (rng.fold(seed, 0),)))


def local_attention(
    q: Array,
    k: Array | None,
    v: Array,
    *,
    key_mask: Array | None = None,
    dropout: float = 0.0,
    seed: int = 0,
    padded_len: int | None = None,
    **options: Any,
) -> tuple[Array, AttentionCache]:
    """A query sees the keys in its own chunk and nearby chunks: q, k, v (B, H, T, D) -> out (B, H, T, D), cache.

    `options` are those of `AttentionOptions`; `chunk_len` is required. Logits, masks and dropout are as in
    `full_attention`, and up to `chunk_len` tokens the two functions are the same.

    A last chunk that is not full is padded with hidden keys. `padded_len`, a multiple of `chunk_len`, adds whole chunks
    of them, so that the circle has `padded_len` tokens. See `padded_length`.
    """
    options = _with_chunks(options)
    for name in ("same_bucket", "count_once"):
        if getattr(options, name):
            raise ValueError(f"{name}: expected False, as local attention has no buckets; got True")
    _check(q, k, v, key_mask, dropout)
    return _chunked(q, k, v, None, options, key_mask, dropout, seed, padded_len)


def lsh_attention(
    qk: Array,
    v: Array,
    buckets: Array,
    *,
    key_mask: Array | None = None,
    dropout: float = 0.0,
    seed: int = 0,
    padded_len: int | None = None,
    **options: Any,
) -> tuple[Array, AttentionCache]:
    """LSH attention with shared queries and keys: qk, v (B, H, T, D), buckets (B, H, R, T) ints -> out, cache.

    In each of R rounds, tokens are sorted by bucket and cut into chunks; a query sees its own chunk and its neighbours
    (section 2, figure 2). `options` are those of `AttentionOptions`; `chunk_len` is required. All rounds together are
    one softmax. A token sees itself only when it sees nothing else. Masks and dropout are as in `full_attention`.
    Hidden keys sort last: their bucket is the largest number that the dtype of `buckets` (int16, uint16, int32, int64)
    holds, so real buckets must be below it. Up to `chunk_len` tokens there is nothing to hash, and this is full
    attention with shared queries and keys. `padded_len` is as in `local_attention`.
    """
    options = _with_chunks(options)
    _check(qk, None, v, key_mask, dropout)
    check_array("buckets", buckets, *qk.shape[:2], None, qk.shape[2], kind="i", like=qk, whose="the queries")
    check_not_empty("buckets", buckets)
    if buckets.dtype.name not in ("int16", "uint16", "int32", "int64"):
        raise TypeError(f"buckets: expected int16, uint16, int32 or int64, as hash_vectors gives; got {buckets.dtype}")
    return _chunked(qk, None, v, buckets, options, key_mask, dropout, seed, padded_len)


def full_attention_backward(dout: Array, cache: AttentionCache) -> tuple[Array, ...]:
    """Gradients of `full_attention` from dout (B, H, T, D) and its cache: (dq, dk, dv), shaped like q, k and v.

    With shared queries and keys (`k=None`), they are (dqk, dv).
    """
    check_array("dout", dout, *cache.out.shape, like=cache.out, whose="the queries")
    if dout.dtype != cache.out.dtype:
        raise TypeError(f"dout: expected {cache.out.dtype}, like the queries; got {dout.dtype}")
    return attention_backward(dout, cache)


def local_attention_backward(dout: Array, cache: AttentionCache) -> tuple[Array, ...]:
    """Gradients of `local_attention` from dout (B, H, T, D) and its cache: (dq, dk, dv), shaped like q, k and v."""
    return full_attention_backward(dout, cache)


def lsh_attention_backward(dout: Array, cache: AttentionCache) -> tuple[Array, ...]:
    """Gradients of `lsh_attention` from dout (B, H, T, D) and its cache: (dqk, dv), each (B, H, T, D).

    The buckets of the forward pass are held fixed: they are whole numbers, which have no gradient.
    """
    return full_attention_backward(dout, cache)


def padded_length(length, chunk_lens):
    """The length to which we pad `length` tokens in a model whose layers have chunks of `chunk_lens` tokens.

    It is the next common multiple of these chunk lengths, so that every layer sees the same tokens, as in the original
    code. A sequence no longer than the shortest chunk gets no padding: there, no layer needs chunks at all.
    """
    multiple = math.lcm(*chunk_lens)
    return length if length <= min(chunk_lens) else -(-length // multiple) * multiple


def attention(q, k, v, plan):
    """Run the kernel on all heads, split among threads: q (B, H, T, D), k, v (B, H, S, D) -> out, `AttentionCache`.

    With `k=None`, the keys are the queries at unit length. If the plan has more tokens, the arrays are padded with 0.
    """
    xp, length = backend.get_xp(q), q.shape[2]
    padded_q, padded_k, padded_v = (_padded(x, plan) for x in (q, k, v))
    queries, keys = HeadTable(padded_q), HeadTable(padded_v)
    q_rows, k_rows, v_rows, scale = _tables(queries, keys, padded_q, padded_k, padded_v)
    out = xp.zeros((len(q_rows), v.shape[3]), q.dtype)
    m, l = xp.full(len(q_rows), LOWEST, q.dtype), xp.zeros(len(q_rows), q.dtype)

    def work(heads):
        scratch = Scratch(xp, q.dtype)
        for group in plan.groups(heads, queries, keys.shape[2]):
            attend(Schedule(plan, group, "queries", queries, keys, scratch), q_rows, k_rows, v_rows, scale, out, m, l)

    threads.parallel_for(work, math.prod(q.shape[:2]), xp)
    out = queries.heads(out)[:, :, :length]
    return out, AttentionCache(q, k, v, out, queries.heads(m), queries.heads(l), plan)


def attention_backward(dout, cache):
    """Gradients of `attention`: (dq, dk, dv), or (dq, dv) if the keys were the queries."""
    xp, plan, lengths = backend.get_xp(dout), cache.plan, (cache.q.shape[2], cache.v.shape[2])
    dout, q, k, v, out = (_padded(x, plan) for x in (dout, *cache[:4]))
    queries, keys = HeadTable(q), HeadTable(v)
    q_rows, k_rows, v_rows, scale = _tables(queries, keys, q, k, v)
    dout, out, m, l = (queries.table(x) for x in (dout, out, cache.m, cache.l))
    delta = row_dot(dout, out)
    del out, cache  # frees the output, if the caller has handed its cache over (see `reversible.py`)
    dq, dv, dk = xp.zeros_like(q_rows), xp.zeros_like(v_rows), None if k is None else xp.zeros_like(k_rows)

    def work(heads):
        scratch = Scratch(xp, q.dtype)
        for group in plan.groups(heads, queries, keys.shape[2]):
            s = Schedule(plan, group, "keys", queries, keys, scratch)
            attend_backward(s, dout, q_rows, k_rows, v_rows, scale, m, l, delta, dq, dk, dv)
            del s  # free the memory of its slots before the next one is made

    threads.parallel_for(work, math.prod(q.shape[:2]), xp)
    gradients = queries.heads(dq)[:, :, : lengths[0]], keys.heads(dv)[:, :, : lengths[1]]
    return gradients if k is None else (gradients[0], keys.heads(dk)[:, :, : lengths[1]], gradients[1])


def _tables(queries, keys, q, k, v):
    """Rows of q, k and v, and the factor that scales each row of k before the product: 1 / |k| or 1 / sqrt(D)."""
    q_rows, v_rows = queries.table(q), keys.table(v)
    if k is None:
        k_rows = q_rows if queries.by_token == keys.by_token else keys.table(q)
        return q_rows, k_rows, v_rows, inverse_length(k_rows)
    return q_rows, keys.table(k), v_rows, backend.get_xp(q).full(len(v_rows), 1 / math.sqrt(q.shape[3]), q.dtype)


def _padded(x, plan):
    """x (B, H, T, D), padded with zeros after its last token if the plan has more tokens."""
    if x is None or plan.order is None or x.shape[2] == plan.order.shape[2]:
        return x
    n_batch, n_heads, length, d_head = x.shape
    out = backend.get_xp(x).zeros((n_batch, plan.order.shape[2], n_heads, d_head), x.dtype).swapaxes(1, 2)
    out[:, :, :length] = x
    return out


def _with_chunks(options):
    options = AttentionOptions(**options)
    if options.chunk_len is None:
        raise ValueError("chunk_len: expected an integer >= 1; got None")
    return options


def _check(q, k, v, key_mask, dropout):
    name = "qk" if k is None else "q"
    check_array(name, q, None, None, None, None)
    check_not_empty(name, q)
    for name, x in (("v", v),) if k is None else (("k", k), ("v", v)):
        check_array(name, x, *q.shape, like=q, whose="the queries")
        if x.dtype != q.dtype:
            raise TypeError(f"{name}: expected {q.dtype}, like the queries; got {x.dtype}")
    if key_mask is not None:
        check_array("key_mask", key_mask, q.shape[0], q.shape[2], kind="b", like=q, whose="the queries")
    check_rate("dropout", dropout)


def _chunked(q, k, v, buckets, options, key_mask, dropout, seed, padded_len):
    """Local attention, or LSH attention if there are `buckets`: put the tokens in order, and attend."""
    xp, (n_batch, n_heads, length, _), chunk_len = backend.get_xp(q), q.shape, options.chunk_len
    if padded_len is None:
        padded_len = padded_length(length, [chunk_len])
    elif (padded_len := check_count("padded_len", padded_len, at_least=length)) > chunk_len and padded_len % chunk_len:
        raise ValueError(f"padded_len: expected a multiple of chunk_len {chunk_len}; got {padded_len}")
    if padded_len <= chunk_len:  # one chunk: nothing before it or after it
        options = replace(options, chunk_len=None, same_bucket=False, count_once=False)
        return attention(q, k, v, Plan(options, k is None, None, key_mask, None, dropout, (rng.fold(seed, 0),)))
    if padded_len > length:
        given, key_mask = key_mask, xp.zeros((n_batch, padded_len), bool)
        key_mask[:, :length] = True if given is None else given
    if buckets is None:
        order = xp.broadcast_to(xp.arange(padded_len), (n_batch * n_heads, 1, padded_len))
    else:
        last = xp.iinfo(buckets.dtype).max  # padding and hidden keys sort after every bucket
        given, buckets = buckets, xp.full((*buckets.shape[:3], padded_len), last, buckets.dtype)
        buckets[..., :length] = given
        if key_mask is not None:
            buckets = xp.where(key_mask[:, None, None], buckets, last)
        buckets = buckets.reshape(-1, *buckets.shape[2:])
        order = sort_by_bucket(buckets).astype("int32")
    seeds = tuple(rng.fold(seed, r) for r in range(order.shape[1]))
    buckets = buckets if options.same_bucket else None
    return attention(q, k, v, Plan(options, k is None, order, key_mask, buckets, dropout, seeds))
