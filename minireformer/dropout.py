"""Dropout whose mask is a function of a seed, so that it can be replayed. Read next: `activations.py`."""

from typing import NamedTuple

import numpy as np

from minireformer import backend, rng, threads
from minireformer.checks import check_array, check_count, check_rate
from minireformer.layer import Layer


class DropoutCache(NamedTuple):
    """What `dropout_backward` needs: the mask is made again from these."""

    rate: float
    seed: int
    start: int


_DROPOUT_BLOCK = 1 << 16  # entries: the random words of one block stay in a CPU's cache


def dropout(x, rate, seed, start=0, out=None):
    """y = x * keep / (1 - rate), where each entry of `keep` is 0 with probability `rate`, else 1.

    The mask is a function of the seed and of an entry's place in memory order, counted from `start`: a
    part of an array, given the place of its first entry, is masked as it would be within the whole.
    `out`: a contiguous array to write y into (x itself will do).
    """
    check_array("x", x, ...)
    check_rate("rate", rate)
    check_count("start", start, at_least=0)
    xp, threshold = backend.get_xp(x), rng.keep_threshold(rate)
    if out is not None:
        check_array("out", out, *x.shape, like=x, whose="x")
        if not out.flags.c_contiguous:
            raise ValueError(f"out: expected a contiguous array; got strides {out.strides} for shape {out.shape}")
    y = xp.empty(x.shape, dtype=x.dtype) if out is None else out
    x_flat, y_flat = x.reshape(-1), y.reshape(-1)
    n = _DROPOUT_BLOCK if xp is np else max(_DROPOUT_BLOCK, x.size // 16)  # a GPU wants much at a time
    for block in threads.slices(x.size, n):
        keep = rng.counter_bits(seed, start + block.start, block.stop - block.start, xp) >= threshold
        xp.multiply(x_flat[block], keep, out=y_flat[block])
        y_flat[block] *= 1 / (1 - rate)
    return y, DropoutCache(rate, seed, start)


def dropout_backward(dy, cache, out=None):
    """-> dx: the mask is linear, so backward is dropout again, with the same mask."""
    return dropout(dy, *cache, out=out)[0]


class Dropout(Layer):
    """`dropout` while training, nothing otherwise."""

    def __init__(self, rate):
        super().__init__()
        check_rate("rate", rate)
        self.rate = rate

    def forward(self, x, seed=0, training=True):
        return dropout(x, self.rate, seed) if training and self.rate else (x, None)

    def backward(self, dy, cache):
        return dy if cache is None else dropout_backward(dy, cache), {}
