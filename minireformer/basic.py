"""The layers that every Transformer is made of: linear, LayerNorm, embedding, dropout.

Nothing here is special to the Reformer. Each part comes as a pair of functions, `f` and `f_backward`, that
hold the maths; the layers below them own the parameters. What goes into a cache is a choice: these keep
what they were given and recompute the rest, so that a cache holds hardly more than arrays that are alive
anyway. Read next: `activations.py`, then `feed_forward.py`, which takes the pieces chunk by chunk.
"""

import math
from typing import Any, NamedTuple

from minireformer import backend, gpu, rng
from minireformer.layer import Layer, check_array, check_count, check_rate, float_dtype, is_number


class LinearCache(NamedTuple):
    """What `linear_backward` needs."""

    x: Any
    weight: Any
    has_bias: bool


def linear(x, weight, bias=None):
    """y = x W^T + b, for x (..., d_in), weight (d_out, d_in), bias (d_out,) or None -> y (..., d_out)."""
    check_array("weight", weight, None, None)
    d_out, d_in = weight.shape
    check_array("x", x, ..., d_in, like=weight)
    if bias is not None:
        check_array("bias", bias, d_out, like=weight)
    y = backend.matmul(x.reshape(-1, d_in), weight.T)
    if bias is not None:
        y += bias
    return y.reshape(*x.shape[:-1], d_out), LinearCache(x, weight, bias is not None)


def linear_backward(dy, cache):
    """-> dx = dy W, dweight = dy^T x, dbias = the sum of dy over all positions (None without a bias)."""
    x, weight, has_bias = cache
    check_array("dy", dy, *x.shape[:-1], len(weight), like=weight)
    dy_rows, x_rows = dy.reshape(-1, dy.shape[-1]), x.reshape(-1, x.shape[-1])
    dx = backend.matmul(dy_rows, weight).reshape(x.shape)
    return dx, backend.matmul(dy_rows.T, x_rows), dy_rows.sum(axis=0) if has_bias else None


class LayerNormCache(NamedTuple):
    """What `layer_norm_backward` needs."""

    x: Any
    weight: Any
    mean: Any  # (..., 1)
    scale: Any  # (..., 1): 1 / standard deviation


def layer_norm(x, weight, bias, eps=1e-12):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias, over the last axis of x (..., d)."""
    check_array("weight", weight, None)
    check_array("x", x, ..., None, like=weight)
    check_array("weight", weight, x.shape[-1])
    check_array("bias", bias, x.shape[-1], like=weight)
    _check_eps(eps)
    xp, d = backend.get_xp(x), x.shape[-1]
    x_rows, y = x.reshape(-1, d), xp.empty(x.shape, x.dtype)
    y_rows = y.reshape(-1, d)
    mean, scale = (xp.empty((len(x_rows), 1), x.dtype) for _ in range(2))

    def work(rows):
        mean[rows] = x_rows[rows].mean(axis=-1, keepdims=True)
        y = xp.subtract(x_rows[rows], mean[rows], out=y_rows[rows])
        scale[rows] = 1 / xp.sqrt(row_dot(y, y)[:, None] / d + eps)
        y *= scale[rows]
        y *= weight
        y += bias

    backend.by_rows(work, len(x_rows), d, xp)
    return y, LayerNormCache(x, weight, *(a.reshape(*x.shape[:-1], 1) for a in (mean, scale)))


def layer_norm_backward(dy, cache):
    """-> dx, dweight, dbias.

    With n = (x - mean) * scale, the normalised x, and dn = dy * weight:
    dx = scale * (dn - the mean of dn - n * the mean of dn * n): LayerNorm cannot see a shift or a
    stretch of x, so dx has no part along either.
    """
    check_array("dy", dy, *cache.x.shape, like=cache.weight)
    xp, d, weight = backend.get_xp(dy), dy.shape[-1], cache.weight
    x, dy_rows, mean, scale = (a.reshape(-1, a.shape[-1]) for a in (cache.x, dy, cache.mean, cache.scale))
    dx_rows, sums = xp.empty(dy_rows.shape, dy.dtype), {}

    def work(rows):  # a few at a time, see `by_rows`
        normalised = x[rows] - mean[rows]
        normalised *= scale[rows]
        dweight, dbias = xp.einsum("ti,ti->i", dy_rows[rows], normalised), dy_rows[rows].sum(axis=0)
        dx = xp.multiply(dy_rows[rows], weight, out=dx_rows[rows])  # dn
        shift, stretch = dx.mean(axis=-1, keepdims=True), row_dot(dx, normalised)[:, None] / d
        normalised *= stretch
        dx -= normalised
        dx -= shift
        dx *= scale[rows]
        sums[rows.start] = dweight, dbias

    backend.by_rows(work, len(x), d, xp)
    dweight, dbias = (sum(part[i] for _, part in sorted(sums.items())) for i in range(2))
    return dx_rows.reshape(dy.shape), dweight, dbias


def row_dot(a, b):
    """The dot products of the rows of a and b (..., d) -> (...), without the temporary a * b."""
    xp = backend.get_xp(a)
    return gpu.row_dot(xp, a, b) if gpu.compiles(xp) else xp.einsum("...i,...i->...", a, b)


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
    for rows in backend.slices(len(tokens), chunk_len):
        # A GPU takes every id for one: it would have to be waited for, to know how many there are.
        distinct = xp.unique(tokens[rows]) if xp is backend.numpy else xp.arange(cache.n)
        one_hot = (distinct[:, None] == tokens[rows]).astype(dy.dtype)  # u, chunk
        dweight[distinct] += backend.matmul(one_hot, dy[rows])
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
        backend.when_known(backend.get_xp(tokens).stack([tokens.min(), tokens.max()]), check)


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
    n = _DROPOUT_BLOCK if xp is backend.numpy else max(_DROPOUT_BLOCK, x.size // 16)  # a GPU wants much at a time
    for block in backend.slices(x.size, n):
        keep = rng.counter_bits(seed, start + block.start, block.stop - block.start, xp) >= threshold
        xp.multiply(x_flat[block], keep, out=y_flat[block])
        y_flat[block] *= 1 / (1 - rate)
    return y, DropoutCache(rate, seed, start)


def dropout_backward(dy, cache, out=None):
    """-> dx: the mask is linear, so backward is dropout again, with the same mask."""
    return dropout(dy, *cache, out=out)[0]


def normal_param(seed, shape, std, dtype="float32"):
    """A new parameter, normally distributed; float32 values are the float64 ones rounded."""
    return backend.asarray(std * rng.generator(seed).standard_normal(shape), float_dtype(dtype))


class Linear(Layer):
    """`linear` with its parameters: weight (d_out, d_in), and bias (d_out,) unless `bias=False`.

    Weights start with a standard deviation of 1 / sqrt(d_in), which keeps the size of what passes
    through whatever the width, and biases at 0.
    """

    def __init__(self, d_in, d_out, seed, bias=True, dtype="float32"):
        super().__init__()
        check_count("d_in", d_in)
        check_count("d_out", d_out)
        self.params["weight"] = normal_param(seed, (d_out, d_in), 1 / math.sqrt(d_in), dtype)
        if bias:
            self.params["bias"] = backend.active().zeros(d_out, dtype=float_dtype(dtype))

    def forward(self, x, seed=0, training=True):
        y, cache = linear(x, self.params["weight"], self.params.get("bias"))
        return y, cache._replace(weight=None)  # the layer has it: a cache holds what would be lost

    def backward(self, dy, cache):
        dx, dweight, dbias = linear_backward(dy, cache._replace(weight=self.params["weight"]))
        return dx, {"weight": dweight} if dbias is None else {"weight": dweight, "bias": dbias}


class LayerNorm(Layer):
    """`layer_norm` with its parameters: weight (d,), from 1, and bias (d,), from 0."""

    def __init__(self, d, eps=1e-12, dtype="float32"):
        super().__init__()
        check_count("d", d)
        _check_eps(eps)
        self.eps = eps
        self.params["weight"] = backend.active().ones(d, dtype=float_dtype(dtype))
        self.params["bias"] = backend.active().zeros(d, dtype=float_dtype(dtype))

    def forward(self, x, seed=0, training=True):
        y, cache = layer_norm(x, self.params["weight"], self.params["bias"], self.eps)
        return y, cache._replace(weight=None)

    def backward(self, dy, cache):
        dx, dweight, dbias = layer_norm_backward(dy, cache._replace(weight=self.params["weight"]))
        return dx, {"weight": dweight, "bias": dbias}


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


def _check_eps(eps):
    if not is_number(eps) or not 0 <= eps < math.inf:
        raise ValueError(f"eps: expected a finite number >= 0; got {eps!r}")
