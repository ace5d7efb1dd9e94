"""The oracle: attention written straight from the paper's equations, every logit in memory at once.

    o_i = sum_{j in P_i} exp(q_i . k_j - z(i, P_i)) v_j                                         (paper, eq. 2)

Time and memory grow with the square of the length, which is why the rest of the package exists. It is here
because it is short and obviously right: tests compare the fast kernel with it, and notebooks begin with it.
Read next: `tables.py`.
"""

from minireformer import backend
from minireformer.checks import check_array, check_count
from minireformer.unit_length import unit_length

FORBIDDEN = -1e9  # the logit of a key that a query may not see
SELF = -1e5  # the logit of a token's own key: chosen only when everything else is forbidden


def dense_attention(q, k, v, allowed=None, exclude_self=False):
    """Softmax attention. q, k, v (..., T, D); `allowed` booleans (..., T, T): which query (row) sees which key.

    The keys are used as they are: scale or normalise them first. Returns (out (..., T, D), lse (..., T)).
    """
    check_array("q", q, ..., None, None)
    check_array("k", k, ..., *q.shape[-2:], like=q, whose="the queries")
    check_array("v", v, ..., q.shape[-2], None, like=q, whose="the queries")
    if allowed is not None:
        check_array("allowed", allowed, ..., q.shape[-2], q.shape[-2], kind="b", like=q, whose="the queries")
    logits = q @ k.swapaxes(-1, -2)
    return _softmax_over(logits, v, allowed, exclude_self)


def dense_lsh_attention(
    qk,
    v,
    buckets,
    chunk_len,
    n_before=1,
    n_after=0,
    causal=True,
    key_mask=None,
    same_bucket=False,
    count_once=False,
):
    """LSH attention of all rounds as **one** softmax over (round, key) pairs: qk, v (B, H, T, D), buckets (B, H, R, T).

    T must be a multiple of `chunk_len`. `same_bucket` and `count_once` are the paper's own equations: see
    `attention.lsh_attention`. Returns (out (B, H, T, D), lse (B, H, T)).
    """
    check_array("qk", qk, None, None, None, None)
    check_array("v", v, *qk.shape[:3], None, like=qk, whose="the queries")
    check_array("buckets", buckets, *qk.shape[:2], None, qk.shape[2], kind="i", like=qk, whose="the queries")
    if key_mask is not None:
        check_array("key_mask", key_mask, qk.shape[0], qk.shape[2], kind="b", like=qk, whose="the queries")
    xp = backend.get_xp(qk)
    n_rounds, length = buckets.shape[2:]
    meetings = lsh_meetings(buckets, chunk_len, n_before, n_after, same_bucket, own_round=same_bucket or count_once)
    logits = (qk @ unit_length(qk).swapaxes(-1, -2))[:, :, None]  # (B, H, 1, T, T), the same in every round
    logits = logits + xp.log(xp.maximum(meetings, 1))  # met twice in one round: counts twice
    if count_once:  # met N times over all rounds: minus log N                                     (paper, eq. 16)
        logits = logits - xp.log(xp.maximum(meetings.sum(axis=2, keepdims=True), 1))
    allowed = meetings > 0
    if causal:
        allowed = allowed & causal_mask(length, xp)
    if key_mask is not None:
        allowed = allowed & key_mask[:, None, None, None, :]
    own = xp.eye(length, dtype=bool)
    logits = xp.where(own, SELF, xp.where(allowed, logits, FORBIDDEN))
    one_row = xp.moveaxis(logits, 2, 3).reshape(*qk.shape[:3], n_rounds * length)  # all rounds side by side
    return _softmax_over(one_row, xp.concatenate([v] * n_rounds, axis=2))


def lsh_meetings(buckets, chunk_len, n_before=1, n_after=0, same_bucket=False, own_round=False):
    """How often a query (row) meets a key (column) in a round: buckets (B, H, R, T) -> ints (B, H, R, T, T).

    Tokens are sorted by (round, bucket, position) and cut into chunks; a chunk sees itself, `n_before` chunks
    back and `n_after` ahead, circularly over the chunks of all rounds. So the first chunk of a round also sees
    the last of the round before, unless `own_round`; such a meeting belongs to the round of its query.
    """
    check_array("buckets", buckets, None, None, None, None, kind="i")
    check_count("chunk_len", chunk_len)
    if buckets.shape[3] % chunk_len:
        raise ValueError(f"chunk_len: expected a divisor of the length, {buckets.shape[3]}; got {chunk_len}")
    xp = backend.get_xp(buckets)
    n_rounds, length = buckets.shape[2:]
    order = xp.argsort(buckets, axis=-1, kind="stable")
    slot = xp.argsort(order, axis=-1, kind="stable") + xp.arange(n_rounds)[:, None] * length  # where a token went
    chunk = slot // chunk_len  # (B, H, R, T)
    n_chunks = n_rounds * length // chunk_len
    meetings = xp.zeros((*buckets.shape, length), xp.int64)
    for query_round in range(n_rounds):
        for key_round in range(n_rounds):
            if own_round and query_round != key_round:
                continue
            ahead = chunk[:, :, key_round, None, :] - chunk[:, :, query_round, :, None]
            for step in range(-n_before, n_after + 1):
                met = (ahead - step) % n_chunks == 0
                if same_bucket:
                    met = met & (buckets[:, :, query_round, :, None] == buckets[:, :, query_round, None, :])
                meetings[:, :, query_round] += met
    return meetings


def causal_mask(length, xp):
    """Booleans (T, T): a query sees its own position and those before it."""
    return xp.arange(length)[None, :] <= xp.arange(length)[:, None]


def _softmax_over(logits, v, allowed=None, exclude_self=False):
    xp = backend.get_xp(logits)
    if allowed is not None:
        logits = xp.where(allowed, logits, FORBIDDEN)
    if exclude_self:
        logits = xp.where(xp.eye(logits.shape[-1], dtype=bool), SELF, logits)
    top = logits.max(axis=-1, keepdims=True)
    weights = xp.exp(logits - top)
    total = weights.sum(axis=-1, keepdims=True)
    return (weights / total) @ v, (top + xp.log(total))[..., 0]
