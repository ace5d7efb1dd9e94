"""How good is a model? The share of tokens that it gets right, and the bits that it needs for each."""

import math

from minireformer.checks import check_array
from minireformer.losses import softmax_cross_entropy


def accuracy(model, tokens, targets, mask=None, seed=0):
    """The fraction of `targets` (B, T), where `mask` is true, that `model` finds likeliest; a float."""
    _check_scored(model, tokens, targets, mask)
    hits = model(tokens, seed=seed).argmax(axis=-1) == targets  # B, T
    return float((hits if mask is None else hits[mask]).mean())


def bits_per_token(model, tokens, targets, mask=None, seed=0):
    """Mean -log2 p(target) over `targets` (B, T) where `mask` is true: for bytes, the bits per byte."""
    _check_scored(model, tokens, targets, mask)
    logits = model(tokens, seed=seed)  # B, T, V
    if mask is None:
        logits, targets = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
    else:
        logits, targets = logits[mask], targets[mask]  # n, V and n
    loss, _ = softmax_cross_entropy(logits, targets, scale=1 / len(targets), out=logits)
    return float(loss) / math.log(2)


def _check_scored(model, tokens, targets, mask):
    if not callable(model):
        raise TypeError(f"model: expected a Reformer; got {type(model).__name__}")
    check_array("tokens", tokens, None, None, kind="i")
    check_array("targets", targets, *tokens.shape, kind="i", like=tokens, whose="the tokens")
    if mask is not None:
        check_array("mask", mask, *tokens.shape, kind="b", like=tokens, whose="the tokens")
    if not targets.size or mask is not None and not mask.any():
        raise ValueError("mask: no position is true, so there is nothing to take the mean of")
