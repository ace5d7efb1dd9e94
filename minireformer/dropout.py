"""Dropout, with a mask that is a function of a seed: backward and recomputations can replay it.

Read next: `activations.py`.
"""

import math
from typing import NamedTuple

import numpy as np

from minireformer import rng
from minireformer.backend import get_xp
from minireformer.checks import check_array, check_count, check_rate
from minireformer.layer import Layer
from minireformer.threads import slices

_BLOCK = 1 << 16  # entries: the random words of one block stay in a CPU's cache


class DropoutCache(NamedTuple):
    """What `dropout_backward` needs to replay the mask."""

    rate: float
    seed: int
    start: int


def dropout(x, rate, seed=0, start=0, out=None):
    """y = x * keep / (1 - rate), where each entry of `keep` is 0 with probability `rate`, else 1 -> y, cache.

    The mask is a function of the seed and of an entry's index in memory order, counted from `start`. So you can mask a
    part of an array as it would be masked within the whole: give the index of its first entry.
    `out`: a contiguous array for y, which may be x itself.
    """
    check_array("x", x, ...)
    rate, start = check_rate("rate", rate), check_count("start", start, at_least=0)
    check_array("out", out, *x.shape, like=x, whose="x", optional=True)
    if out is not None and not out.flags.c_contiguous:
        raise ValueError(f"out: expected a contiguous array; got strides {out.strides} for shape {out.shape}")
    xp, threshold = get_xp(x), rng.keep_threshold(rate)
    y = xp.empty(x.shape, dtype=x.dtype) if out is None else out
    x_flat, y_flat = x.reshape(-1), y.reshape(-1)
    for block in slices(x.size, _BLOCK if xp is np else max(_BLOCK, x.size // 16)):  # a GPU wants large launches
        keep = rng.counter_bits(seed, start + block.start, block.stop - block.start, xp) >= threshold
        xp.multiply(x_flat[block], keep, out=y_flat[block])
        y_flat[block] *= 1 / (1 - rate)
    return y, DropoutCache(rate, seed, start)


def dropout_backward(dy, cache, out=None):
    """-> dx: dropout is linear in x, so backward is dropout again, with the same mask."""
    return dropout(dy, *cache, out=out)[0]


class Dropout(Layer):
    """`dropout` in training; in inference, x itself."""

    def __init__(self, rate):
        super().__init__()
        self.rate = check_rate("rate", rate)

    def forward(self, x, seed=0, training=True):
        if not training or not self.rate:
            return x, None
        return dropout(x, self.rate, seed, start=rng.first_row(seed) * math.prod(x.shape[1:]))

    def backward(self, dy, cache):
        return dy if cache is None else dropout_backward(dy, cache), {}
