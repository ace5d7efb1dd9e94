"""A row of a table for every token, and the scatter that is its gradient. Read next: `dropout.py`."""

from typing import Any, NamedTuple

import numpy as np

from minireformer import backend, threads
from minireformer.checks import check_array, check_count
from minireformer.layer import Layer
from minireformer.linear import normal_param


class EmbeddingCache(NamedTuple):
    """What `embedding_backward` needs."""

    tokens: Any
    n: int


def embedding(tokens, weight):
    """Row `tokens[...]` of weight (n, d), for integer tokens of any shape -> (..., d)."""
    check_array("weight", weight, None, None)
    check_tokens("tokens", tokens, len(weight), like=weight)
    return weight[tokens], EmbeddingCache(tokens, len(weight))


def embedding_backward(dy, cache, chunk_len=1024):
    """-> dweight (n, d): row i is the sum of dy over all positions that hold token i.

    A scatter that adds is slow on a CPU and in no fixed order on a GPU. A matrix product is neither: in
    a chunk of positions with u distinct tokens, dweight[those] += one_hot (u, chunk) @ dy (chunk, d).
    """
    check_array("dy", dy, *cache.tokens.shape, None, like=cache.tokens, whose="the tokens")
    check_count("chunk_len", chunk_len)
    xp = backend.get_xp(dy)
    tokens, dy = cache.tokens.reshape(-1), dy.reshape(-1, dy.shape[-1])
    dweight = xp.zeros((cache.n, dy.shape[-1]), dtype=dy.dtype)
    for rows in threads.slices(len(tokens), chunk_len):
        # A GPU takes every id for one: it would have to be waited for, to know how many there are.
        distinct = xp.unique(tokens[rows]) if xp is np else xp.arange(cache.n)
        one_hot = (distinct[:, None] == tokens[rows]).astype(dy.dtype)  # u, chunk
        dweight[distinct] += threads.matmul(one_hot, dy[rows])
    return dweight


def check_tokens(name, tokens, n, like=None):
    """Raise unless `tokens` is an array of integers in 0..n-1, of the same module as the parameters `like`.

    A GPU is waited for, unless `backend.one_wait` puts this off: as an index, CuPy takes an id out of range modulo n.
    """
    check_array(name, tokens, ..., kind="i", like=like)

    def check(low, high):
        if low < 0 or high >= n:
            raise ValueError(f"{name}: expected ids from 0 to {n - 1}; got {int(low)}..{int(high)}")

    if tokens.size:
        backend.check_later(backend.get_xp(tokens).stack([tokens.min(), tokens.max()]), check)


class Embedding(Layer):
    """`embedding` with its parameter: weight (n, d), from a standard deviation of 0.02.

    So small a start is usual: what the layers add to it on the residual stream is heard from the first
    step on, and LayerNorm brings the input of every layer to size 1.
    """

    def __init__(self, n, d, seed, dtype="float32"):
        super().__init__()
        check_count("n", n)
        check_count("d", d)
        self.params["weight"] = normal_param(seed, (n, d), 0.02, dtype)

    def forward(self, x, seed=0, training=True):
        return embedding(x, self.params["weight"])

    def backward(self, dy, cache):
        return None, {"weight": embedding_backward(dy, cache)}  # integers have no gradient
