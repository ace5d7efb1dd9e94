"""Token embeddings: each token picks its row of a table, and backward adds its gradient to that row.

Read next: `dropout.py`.
"""

from typing import Any, NamedTuple

import numpy as np

from minireformer import threads
from minireformer.backend import get_xp
from minireformer.checks import check_array, check_count, check_tokens
from minireformer.layer import Layer
from minireformer.linear import normal_param


class EmbeddingCache(NamedTuple):
    """What `embedding_backward` needs."""

    tokens: Any
    n: int


def embedding(tokens, weight):
    """Row `tokens[...]` of weight (n, d), for integer tokens of any shape -> (..., d), cache."""
    check_array("weight", weight, None, None)
    check_tokens("tokens", tokens, len(weight), like=weight)
    return weight[tokens], EmbeddingCache(tokens, len(weight))


def embedding_backward(dy, cache, chunk_len=1024):
    """-> dweight (n, d): row i is the sum of dy over all positions that hold token i.

    An indexed sum (`np.add.at`) is slow on a CPU, and on a GPU its order is undefined. A matrix product has neither
    problem: for a chunk of positions with u distinct tokens, dweight[distinct] += one_hot (u, chunk) @ dy (chunk, d).
    """
    check_array("dy", dy, *cache.tokens.shape, None, like=cache.tokens, whose="the tokens")
    chunk_len, xp = check_count("chunk_len", chunk_len), get_xp(dy)
    tokens, dy = cache.tokens.reshape(-1), dy.reshape(-1, dy.shape[-1])
    dweight = xp.zeros((cache.n, dy.shape[-1]), dtype=dy.dtype)
    for rows in threads.slices(len(tokens), chunk_len):
        # On a GPU we take all n ids: the host would have to wait to learn how many are distinct.
        distinct = xp.unique(tokens[rows]) if xp is np else xp.arange(cache.n)
        one_hot = (distinct[:, None] == tokens[rows]).astype(dy.dtype)  # u, chunk
        dweight[distinct] += threads.matmul(one_hot, dy[rows])
    return dweight


class Embedding(Layer):
    """`embedding` with its parameter: weight (n, d), which starts with a standard deviation of 0.02.

    A start this small is usual: it lets what the layers add to the residual stream matter from the first step, and
    LayerNorm scales the input of every layer to size 1 anyway.
    """

    def __init__(self, n, d, seed=0, dtype="float32"):
        super().__init__()
        self.params["weight"] = normal_param(seed, (check_count("n", n), check_count("d", d)), 0.02, dtype)

    def forward(self, x, seed=0, training=True):
        return embedding(x, self.params["weight"])

    def backward(self, dy, cache):
        return None, {"weight": embedding_backward(dy, cache)}  # integers have no gradient
