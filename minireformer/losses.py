"""Softmax cross-entropy in chunks of positions: the logits of a whole sequence never exist.

The output layer is the widest of all: 64K tokens times a vocabulary of 32K are 8 GB of logits, and as
much again for their gradient. But the loss is a sum over positions, and the gradient of a softmax
cross-entropy is known as soon as the softmax is,

    loss = mean_i (logsumexp_v z_iv - z_i,target)        dz_iv = (softmax(z_i)_v - [v = target]) / n,

so output layer, loss and gradient are computed for a chunk of positions and its logits forgotten. It is
the chunking of the paper's section 3, with the gradient formed in the same pass.
Read next: `positions.py`.
"""

from typing import Any, NamedTuple

from minireformer import backend, threads
from minireformer.checks import check_array, check_count, is_number
from minireformer.embedding import check_tokens


def softmax_cross_entropy(logits, targets, scale=1.0, out=None):
    """loss = scale * sum_i (logsumexp_v z_iv - z_i,target), for logits z (n, V) and integer targets (n,).

    Returns the loss, a 0-d float64, and as cache its gradient with respect to the logits.
    `out`: where to write that gradient (the logits themselves will do).
    """
    check_array("logits", logits, None, None)
    check_array("targets", targets, len(logits), kind="i", like=logits, whose="the logits")
    check_tokens("targets", targets, logits.shape[1])
    if not is_number(scale):
        raise TypeError(f"scale: expected a number; got {type(scale).__name__}")
    if out is not None:
        check_array("out", out, *logits.shape, like=logits, whose="the logits")
    return _softmax_cross_entropy(logits, targets, scale, out)


def softmax_cross_entropy_backward(dloss, dlogits):
    """-> dlogits, times dloss."""
    return _scaled(dlogits, dloss)


def _softmax_cross_entropy(logits, targets, scale, out):
    """The same for one chunk of many: all targets have been checked together."""
    xp = backend.get_xp(logits)
    here = xp.arange(len(logits)), targets  # of each row, the entry of its target
    softmax = xp.subtract(logits, logits.max(axis=1, keepdims=True), out=out)  # now no exp overflows
    of_target = softmax[here]
    xp.exp(softmax, out=softmax)
    total = softmax.sum(axis=1, keepdims=True)  # n, 1
    loss = scale * (xp.log(total[:, 0]) - of_target).sum(dtype=xp.float64)
    softmax *= scale / total
    softmax[here] -= scale
    return loss, softmax


class CrossEntropyCache(NamedTuple):
    """The gradients themselves: no logits have to be remembered."""

    dfeatures: Any
    dweight: Any
    dbias: Any


def chunked_cross_entropy(features, weight, bias, targets, mask=None, chunk_len=512):
    """Mean cross-entropy of the logits `features @ weight.T + bias` with `targets`.

    features (B, T, d) floats, weight (V, d), bias (V,) or None, targets (B, T) ints; mask (B, T) booleans:
    the mean is over the positions where it is true, and targets elsewhere may be anything.
    Returns the loss in nats, a 0-d float64 on the device of its input, and the cache. At most `chunk_len`
    rows of logits exist at a time. Raises ValueError where the mask is false everywhere.
    """
    check_array("weight", weight, None, None)
    vocab_size, d = weight.shape
    check_array("features", features, None, None, d, like=weight)
    if bias is not None:
        check_array("bias", bias, vocab_size, like=weight)
    check_count("chunk_len", chunk_len)
    places, targets = check_targets(targets, mask, features.shape[:2], vocab_size, like=weight)
    return cross_entropy_at(places, targets, features, weight, bias, chunk_len)


def check_targets(targets, mask, shape, vocab_size, like):
    """Raise unless `targets` and `mask` (or None) have `shape` (B, T), and the targets that count are ids.

    -> places (n,), those that count of the B * T positions, and their targets (n,). A model asks before it begins. A
    GPU is waited for to know the ids (see `check_tokens`), and how many positions a mask leaves.
    """
    check_array("targets", targets, *shape, kind="i", like=like)
    if mask is None:
        places = backend.get_xp(targets).arange(targets.size)
    else:
        check_array("mask", mask, *shape, kind="b", like=like)
        places = backend.get_xp(mask).flatnonzero(mask)
    if not len(places):
        raise ValueError("mask: no position is true, so there is nothing to take the mean of")
    targets = targets.reshape(-1)[places]
    check_tokens("targets", targets, vocab_size)
    return places, targets


def cross_entropy_at(places, targets, features, weight, bias, chunk_len):
    """`chunked_cross_entropy` at the `places` and for the `targets` that `check_targets` returned."""
    xp = backend.get_xp(features)
    vocab_size, d = weight.shape
    rows = features.reshape(-1, d)
    loss = xp.zeros((), dtype=xp.float64)
    dfeatures, dweight, product = xp.zeros_like(rows), xp.zeros_like(weight), xp.empty_like(weight)
    dbias = None if bias is None else xp.zeros_like(bias)
    buffer = xp.empty((min(chunk_len, len(places)), vocab_size), dtype=rows.dtype)
    for chunk in threads.slices(len(places), chunk_len):
        x = rows[places[chunk]]  # n, d
        logits = threads.matmul(x, weight.T, out=buffer[: len(x)])  # n, V
        if bias is not None:
            logits += bias
        chunk_loss, dlogits = _softmax_cross_entropy(logits, targets[chunk], 1 / len(places), out=logits)
        loss = loss + chunk_loss
        dfeatures[places[chunk]] = threads.matmul(dlogits, weight)
        dweight += threads.matmul(dlogits.T, x, out=product)
        if bias is not None:
            dbias += dlogits.sum(axis=0)
    return loss, CrossEntropyCache(dfeatures.reshape(features.shape), dweight, dbias)


def chunked_cross_entropy_backward(dloss, cache):
    """-> dfeatures, dweight, dbias (None without a bias), times dloss (in training, 1: nothing to do)."""
    return tuple(None if gradient is None else _scaled(gradient, dloss) for gradient in cache)


def _scaled(gradient, dloss):
    """`dloss * gradient` in the dtype of the gradient; the gradient itself where dloss is the number 1."""
    if isinstance(dloss, (int, float)) and dloss == 1:
        return gradient
    return gradient * backend.get_xp(gradient).asarray(dloss, dtype=gradient.dtype)
