"""Softmax cross-entropy in chunks of positions: the logits of a whole sequence never exist.

The output layer is the widest of all: for 64K tokens and a vocabulary of 32K, the logits take 8 GB, and their gradient
as much again. But the loss is a sum over positions, and we know its gradient as soon as we know the softmax,

    loss = mean_i (logsumexp_v z_iv - z_i,target)        dz_iv = (softmax(z_i)_v - [v = target]) / n.

So we compute the output layer, loss and gradient for one chunk of positions, then forget its logits. This is the
chunking of the paper's section 3, with the gradient formed in the same pass. Read next: `positions.py`.
"""

from typing import Any, NamedTuple

from minireformer.backend import get_xp
from minireformer.checks import check_array, check_count, check_tokens, is_number
from minireformer.threads import matmul, slices


def softmax_cross_entropy(logits, targets, scale=1.0, out=None):
    """loss = scale * sum_i (logsumexp_v z_iv - z_i,target), for logits z (n, V) and integer targets (n,).

    Returns the loss, a 0-d float64, and as cache its gradient with respect to the logits. `out` says where to write
    that gradient; it may be the logits themselves.
    """
    check_array("logits", logits, None, None)
    check_array("targets", targets, len(logits), kind="i", like=logits, whose="the logits")
    check_tokens("targets", targets, logits.shape[1])
    if not is_number(scale):
        raise TypeError(f"scale: expected a number; got {type(scale).__name__}")
    check_array("out", out, *logits.shape, like=logits, whose="the logits", optional=True)
    return _softmax_cross_entropy(logits, targets, scale, out)


def softmax_cross_entropy_backward(dloss, dlogits):
    """-> dlogits, times dloss (which is 1 in training, so there is nothing to do)."""
    if isinstance(dloss, (int, float)) and dloss == 1:
        return dlogits
    return dlogits * get_xp(dlogits).asarray(dloss, dtype=dlogits.dtype)


def _softmax_cross_entropy(logits, targets, scale, out):
    """The same, for targets that have been checked."""
    xp = get_xp(logits)
    at_target = xp.arange(len(logits)), targets
    z = xp.subtract(logits, logits.max(axis=1, keepdims=True), out=out)  # now no exp overflows
    z_target = z[at_target]
    softmax = xp.exp(z, out=z)
    row_sum = softmax.sum(axis=1, keepdims=True)  # n, 1
    loss = scale * (xp.log(row_sum[:, 0]) - z_target).sum(dtype=xp.float64)
    softmax *= scale / row_sum
    softmax[at_target] -= scale
    return loss, softmax


class CrossEntropyCache(NamedTuple):
    """The gradients themselves: backward needs no logits."""

    dfeatures: Any
    dweight: Any
    dbias: Any


def chunked_cross_entropy(features, weight, bias, targets, mask=None, chunk_len=512):
    """Mean cross-entropy of the logits `features @ weight.T + bias` with `targets`.

    features (B, T, d) floats, weight (V, d), bias (V,) or None, targets (B, T) ints; mask (B, T) booleans: the mean is
    over the positions where it is true, and targets elsewhere may be anything. Returns the loss in nats, a 0-d float64
    on the device of the inputs, and the cache. At most `chunk_len` rows of logits exist at a time. Raises ValueError if
    the mask is false everywhere.
    """
    check_array("weight", weight, None, None)
    vocab_size, d = weight.shape
    check_array("features", features, None, None, d, like=weight)
    check_array("bias", bias, vocab_size, like=weight, optional=True)
    chunk_len = check_count("chunk_len", chunk_len)
    positions, targets = check_targets(targets, mask, features.shape[:2], vocab_size, like=weight)
    return cross_entropy_at(positions, targets, features, weight, bias, chunk_len)


def check_targets(targets, mask, shape, vocab_size, like):
    """The positions (n,) that count, among B * T, and their targets (n,).

    Raises an error unless `targets` and `mask` (or None) have `shape` (B, T), and the targets that count are valid
    ids. A model calls this before it does any work. On a GPU, the host waits for the check of the ids (see
    `check_tokens`), and for the number of positions that a mask leaves.
    """
    check_array("targets", targets, *shape, kind="i", like=like)
    if mask is None:
        positions = get_xp(targets).arange(targets.size)
    else:
        check_array("mask", mask, *shape, kind="b", like=like)
        positions = get_xp(mask).flatnonzero(mask)
    if not len(positions):
        raise ValueError("mask: no position is true, so there is nothing to take the mean of")
    targets = targets.reshape(-1)[positions]
    check_tokens("targets", targets, vocab_size)
    return positions, targets


def cross_entropy_at(positions, targets, features, weight, bias, chunk_len):
    """`chunked_cross_entropy` for the `positions` and `targets` that `check_targets` returned."""
    xp, rows, n = get_xp(features), features.reshape(-1, features.shape[-1]), len(positions)
    loss = xp.zeros((), dtype=xp.float64)
    dfeatures, dweight, product = xp.zeros_like(rows), xp.zeros_like(weight), xp.empty_like(weight)
    dbias = None if bias is None else xp.zeros_like(bias)
    buffer = xp.empty((min(chunk_len, n), len(weight)), dtype=rows.dtype)
    for chunk in slices(n, chunk_len):
        x = rows[positions[chunk]]  # chunk, d
        logits = matmul(x, weight.T, out=buffer[: len(x)])  # chunk, V
        if bias is not None:
            logits += bias
        chunk_loss, dlogits = _softmax_cross_entropy(logits, targets[chunk], 1 / n, out=logits)
        loss = loss + chunk_loss
        dfeatures[positions[chunk]] = matmul(dlogits, weight)
        dweight += matmul(dlogits.T, x, out=product)
        if bias is not None:
            dbias += dlogits.sum(axis=0)
    return loss, CrossEntropyCache(dfeatures.reshape(features.shape), dweight, dbias)


def chunked_cross_entropy_backward(dloss, cache):
    """-> dfeatures, dweight, dbias (None without a bias), times dloss."""
    return tuple(None if gradient is None else softmax_cross_entropy_backward(dloss, gradient) for gradient in cache)
