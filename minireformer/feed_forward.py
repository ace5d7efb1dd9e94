"""The feed-forward layer in chunks of positions, forward and backward (section 3, "Chunking").

    h = dropout(x W1^T + b1)        a = activation(h)        y = dropout(a W2^T + b2)

Every position is computed on its own. So the hidden layer, several times as wide as the model, never has to exist for
all of them at once: we reuse one buffer for `chunk_len` positions. Backward goes chunk by chunk too, and recomputes
each hidden chunk from x, which is all that forward keeps. (Automatic differentiation would keep every
hidden chunk until the end, and so save next to nothing in training.)

The maths is in `_forward_rows` and `_backward_rows`. The functions above them cut the positions into chunks, and
divide the rows of a chunk among threads.
Read next: `losses.py`, where the widest layer of all goes chunk by chunk.
"""

import math
from functools import partial
from typing import Any, NamedTuple

from minireformer import rng
from minireformer.activations import gelu, gelu_backward, gelu_tanh, gelu_tanh_backward, relu, relu_backward
from minireformer.backend import get_xp
from minireformer.checks import check_array, check_count, check_rate, expect
from minireformer.dropout import dropout
from minireformer.layer import Layer
from minireformer.linear import Linear
from minireformer.threads import matmul, parallel_rows, slices

ACTIVATIONS = {
    "relu": (relu, relu_backward),
    "gelu": (gelu, gelu_backward),
    "gelu_tanh": (gelu_tanh, gelu_tanh_backward),
}


class FeedForwardCache(NamedTuple):
    """What backward needs: the input, and what it takes to replay the dropout masks."""

    x: Any  # (..., d_model)
    seed: int
    rate: float


class FeedForward(Layer):
    """Linear to d_ff, dropout, activation, linear back to d_model, dropout, for x (..., d_model).

    chunk_len   how many positions of the flattened batch to compute at a time; 0: all at once. Results are the same
                up to rounding, and dropout masks bit for bit.
    activation  "relu", "gelu" or "gelu_tanh".
    """

    def __init__(self, d_model, d_ff, seed=0, activation="relu", dropout=0.0, chunk_len=0, dtype="float32"):
        super().__init__()
        known = isinstance(activation, str) and activation in ACTIVATIONS
        expect("activation", activation, known, f"one of {', '.join(ACTIVATIONS)}")
        self.d_model, self.d_ff = check_count("d_model", d_model), check_count("d_ff", d_ff)
        self.chunk_len, self.rate = check_count("chunk_len", chunk_len, at_least=0), check_rate("dropout", dropout)
        self.activation, self.activation_backward = ACTIVATIONS[activation]
        self.add("dense", Linear(self.d_model, self.d_ff, rng.fold(seed, "dense"), dtype=dtype))
        self.add("output", Linear(self.d_ff, self.d_model, rng.fold(seed, "output"), dtype=dtype))

    def forward(self, x, seed=0, training=True):
        cache, y = self._start(x, seed, training)
        x_rows, y_rows = (values.reshape(-1, self.d_model) for values in (x, y))
        for chunk, h in self._chunks(x_rows, 1):
            forward = partial(self._forward_rows, cache, chunk.start)
            parallel_rows(forward, x_rows[chunk], h, h, y_rows[chunk], products=True)
        return y, cache

    def backward(self, dy, cache, y=None):
        """-> dx, grads; also writes the output of `forward` into a contiguous y (..., d_model) if one is given."""
        check_array("dy", dy, *cache.x.shape, like=cache.x, whose="x")
        xp, dx = get_xp(dy), get_xp(dy).empty(dy.shape, cache.x.dtype)
        x_rows, dy_rows, dx_rows = (values.reshape(-1, self.d_model) for values in (cache.x, dy, dx))
        y_rows = None if y is None else y.reshape(-1, self.d_model)
        grads = {name: xp.zeros_like(param) for name, param in self.params.items()}
        product = xp.empty(self.d_ff * self.d_model, dx.dtype)  # what a chunk adds to the gradient of a weight
        for chunk, h, a in self._chunks(x_rows, 2):
            x, y_chunk = x_rows[chunk], None if y is None else y_rows[chunk]
            forward = partial(self._forward_rows, cache, chunk.start)
            caches = parallel_rows(forward, x, h, a, y_chunk, products=True)
            do = _drop(dy_rows[chunk], chunk.start, cache, "output")
            grads["output.weight"] += matmul(do.T, a, out=product.reshape(self.d_model, self.d_ff))
            grads["output.bias"] += do.sum(axis=0)
            dh = a  # reuse the buffer: a is no longer needed
            backward = partial(self._backward_rows, cache, chunk.start, caches)
            parallel_rows(backward, do, dh, dx_rows[chunk], products=True)
            grads["dense.weight"] += matmul(dh.T, x, out=product.reshape(self.d_ff, self.d_model))
            grads["dense.bias"] += dh.sum(axis=0)
        return dx, grads

    def forward_and_backward(self, x, dy, seed=0, training=True):
        """-> (y, dx, grads): each hidden chunk is computed once for both passes."""
        cache, y = self._start(x, seed, training)
        return y, *self.backward(dy, cache, y)

    def _forward_rows(self, cache, start, first, x, h, a, y):
        """The equations for rows x (T, d_model), which begin at row `first` of the chunk that begins at row `start`.

        Write h and a, both (T, d_ff), which may be the same array, and y (T, d_model) unless it is None; return the
        cache of the activation.
        """
        get_xp(x).matmul(x, self.params["dense.weight"].T, out=h)
        h += self.params["dense.bias"]
        _drop(h, start + first, cache, "dense", out=h)
        _, activation_cache = self.activation(h, out=a)
        if y is not None:
            get_xp(x).matmul(a, self.params["output.weight"].T, out=y)
            y += self.params["output.bias"]
            _drop(y, start + first, cache, "output", out=y)
        return activation_cache

    def _backward_rows(self, cache, start, activation_caches, first, do, dh, dx):
        """From do, the gradient of a W2^T + b2 (T, d_model), write dh, that of x W1^T + b1 (T, d_ff), and dx."""
        da = get_xp(do).matmul(do, self.params["output.weight"], out=dh)
        self.activation_backward(da, activation_caches.pop(first), out=dh)
        _drop(dh, start + first, cache, "dense", out=dh)
        get_xp(do).matmul(dh, self.params["dense.weight"], out=dx)

    def _start(self, x, seed, training):
        """The cache of a forward, and an array for y."""
        check_array("x", x, ..., self.d_model, like=self.params["dense.weight"])
        return FeedForwardCache(x, seed, self.rate if training else 0.0), get_xp(x).empty(x.shape, x.dtype)

    def _chunks(self, rows, n_buffers):
        """For each chunk, its slice of the rows and the buffers for its hidden layer, which all chunks share."""
        step = min(self.chunk_len or len(rows), len(rows))
        buffers = [get_xp(rows).empty((step, self.d_ff), rows.dtype) for _ in range(n_buffers)]
        for chunk in slices(len(rows), step):
            yield chunk, *(buffer[: chunk.stop - chunk.start] for buffer in buffers)


def _drop(values, start, cache, label, out=None):
    """Dropout of rows (T, d) that begin at row `start`, with their part of the mask for all rows."""
    if not cache.rate:
        return values
    start += rng.first_row(cache.seed) * math.prod(cache.x.shape[1:-1])  # counted from the first row of the batch
    return dropout(values, cache.rate, rng.fold(cache.seed, label), start * values.shape[-1], out)[0]
