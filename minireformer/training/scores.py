"""How good is a model? The share of tokens that it gets right, and the bits that it needs for each."""

import math

from minireformer.checks import check_array, expect_type
from minireformer.losses import softmax_cross_entropy


def accuracy(model, tokens, targets, mask=None, seed=0):
    """The fraction of `targets` (B, T), where `mask` is true, that `model` finds likeliest; a float."""
    logits, targets = _logits_and_targets(model, tokens, targets, mask, seed)
    return float((logits.argmax(axis=1) == targets).mean())


def bits_per_token(model, tokens, targets, mask=None, seed=0):
    """Mean -log2 p(target) over `targets` (B, T) where `mask` is true: for bytes, the bits per byte."""
    logits, targets = _logits_and_targets(model, tokens, targets, mask, seed)
    loss, _ = softmax_cross_entropy(logits, targets, scale=1 / len(targets), out=logits)
    return float(loss) / math.log(2)


def _logits_and_targets(model, tokens, targets, mask, seed):
    """-> logits (n, V) and targets (n,) of the positions where `mask` is true, all by default."""
    expect_type("model", model, callable(model), "a Reformer")
    check_array("tokens", tokens, None, None, kind="i")
    check_array("targets", targets, *tokens.shape, kind="i", like=tokens, whose="the tokens")
    if mask is not None:
        check_array("mask", mask, *tokens.shape, kind="b", like=tokens, whose="the tokens")
    if not targets.size or mask is not None and not mask.any():
        raise ValueError("mask: no position is true, so there is nothing to take the mean of")
    logits = model(tokens, seed=seed)  # B, T, V
    if mask is None:
        return logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
    return logits[mask], targets[mask]
