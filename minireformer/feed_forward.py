"""The feed-forward layer in chunks of positions, forward and backward (section 3, "Chunking").

    y = dropout(activation(dropout(x W1^T + b1)) W2^T + b2)

Every position is computed on its own, so the hidden layer, several times as wide as the model, never has
to exist for all of them: one buffer of `chunk_len` positions is used again and again. Backward goes
chunk by chunk too, and makes each hidden chunk anew from x, which is all that is kept. (Automatic
differentiation would keep every hidden chunk until the end, and so save next to nothing in training.)
Read next: `losses.py`, where the widest layer of all goes chunk by chunk.
"""

from typing import Any, NamedTuple

from minireformer import backend, rng, threads
from minireformer.activations import gelu, gelu_backward, gelu_tanh, gelu_tanh_backward, relu, relu_backward
from minireformer.checks import check_array, check_count, check_rate
from minireformer.dropout import dropout
from minireformer.layer import Layer
from minireformer.linear import Linear

ACTIVATIONS = {
    "relu": (relu, relu_backward),
    "gelu": (gelu, gelu_backward),
    "gelu_tanh": (gelu_tanh, gelu_tanh_backward),
}


class FeedForwardCache(NamedTuple):
    """What backward needs: the input, and what the dropout masks are made from."""

    x: Any  # (..., d_model)
    seed: int
    rate: float


class FeedForward(Layer):
    """Linear to d_ff, dropout, activation, linear back to d_model, dropout, for x (..., d_model).

    chunk_len   positions of the flattened batch that are computed at a time; 0: all at once. Results are
                the same up to rounding, and dropout masks to the bit.
    activation  "relu", "gelu" or "gelu_tanh".
    """

    def __init__(self, d_model, d_ff, seed, activation="relu", dropout=0.0, chunk_len=0, dtype="float32"):
        super().__init__()
        if not isinstance(activation, str) or activation not in ACTIVATIONS:
            raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}; got {activation!r}")
        check_count("d_model", d_model)
        check_count("d_ff", d_ff)
        check_count("chunk_len", chunk_len, at_least=0)
        check_rate("dropout", dropout)
        self.d_model, self.d_ff, self.rate, self.chunk_len = d_model, d_ff, dropout, chunk_len
        self.activation, self.activation_backward = ACTIVATIONS[activation]
        self.add("dense", Linear(d_model, d_ff, rng.fold(seed, "dense"), dtype=dtype))
        self.add("output", Linear(d_ff, d_model, rng.fold(seed, "output"), dtype=dtype))

    def forward(self, x, seed=0, training=True):
        check_array("x", x, ..., self.d_model, like=self.params["dense.weight"])
        cache = FeedForwardCache(x, seed, self.rate if training else 0.0)
        xp, rows = backend.get_xp(x), x.reshape(-1, self.d_model)
        y = xp.empty(rows.shape, dtype=rows.dtype)
        (hidden,) = self._hidden_buffers(1, rows)
        for chunk in self._chunks(rows):
            h = hidden[: chunk.stop - chunk.start]
            self._hidden(rows, chunk, cache, out=h, activated=h)
            self._output(h, chunk, cache, y)
        return y.reshape(x.shape), cache

    def backward(self, dy, cache):
        return self._backward(dy, cache)

    def forward_and_backward(self, x, dy, seed=0, training=True):
        """-> (y, dx, grads): each hidden chunk is made once for both passes."""
        check_array("x", x, ..., self.d_model, like=self.params["dense.weight"])
        y = backend.get_xp(x).empty(x.shape, x.dtype)
        return y, *self._backward(dy, FeedForwardCache(x, seed, self.rate if training else 0.0), y)

    def _backward(self, dy, cache, y=None):
        """dx, grads; writes the output of `forward` into y (..., d_model) where that is given."""
        check_array("dy", dy, *cache.x.shape, like=cache.x, whose="x")
        xp = backend.get_xp(dy)
        rows, dy_rows = cache.x.reshape(-1, self.d_model), dy.reshape(-1, self.d_model)
        dx = xp.empty(rows.shape, dtype=rows.dtype)
        grads = {name: xp.zeros_like(param) for name, param in self.params.items()}
        product = xp.empty(self.d_ff * self.d_model, dtype=rows.dtype)  # what a chunk adds to a gradient
        of_output = product.reshape(self.d_model, self.d_ff)
        of_dense = product.reshape(self.d_ff, self.d_model)
        hidden, activated = self._hidden_buffers(2, rows)
        for chunk in self._chunks(rows):
            n = chunk.stop - chunk.start
            a = dh = activated[:n]
            activation_caches = self._hidden(rows, chunk, cache, out=hidden[:n], activated=a)
            if y is not None:
                self._output(a, chunk, cache, y.reshape(-1, self.d_model))
            do = self._drop(dy_rows[chunk], chunk.start, cache, "output")
            grads["output.weight"] += threads.matmul(do.T, a, out=of_output)
            grads["output.bias"] += do.sum(axis=0)

            def then(part, dh=dh, start=chunk.start, caches=activation_caches):
                self.activation_backward(dh[part], caches[part.start], out=dh[part])
                self._drop(dh[part], start + part.start, cache, "dense", out=dh[part])

            threads.matmul(do, self.params["output.weight"], out=dh, epilogue=then)  # over a, which has been used
            grads["dense.weight"] += threads.matmul(dh.T, rows[chunk], out=of_dense)
            grads["dense.bias"] += dh.sum(axis=0)
            threads.matmul(dh, self.params["dense.weight"], out=dx[chunk])
        return dx.reshape(cache.x.shape), grads

    def _chunks(self, rows):
        """Slices of at most `chunk_len` rows."""
        return threads.slices(len(rows), self.chunk_len or len(rows))

    def _hidden_buffers(self, n, rows):
        """`n` arrays, each with room for the hidden layer of one chunk."""
        n_rows = min(self.chunk_len or len(rows), len(rows))
        return [backend.get_xp(rows).empty((n_rows, self.d_ff), dtype=rows.dtype) for _ in range(n)]

    def _hidden(self, rows, chunk, cache, out, activated):
        """Write the hidden layer of a chunk into `out`, and behind its activation into `activated`, both (n, d_ff).

        -> the caches of the activation, by the first row of each block that `matmul` makes: a block goes through all
        steps while it is in the cache. `activated` may be `out`. The same in forward and backward.
        """
        caches = {}

        def then(part):
            h = out[part]
            h += self.params["dense.bias"]
            self._drop(h, chunk.start + part.start, cache, "dense", out=h)
            caches[part.start] = self.activation(h, out=h if activated is out else activated[part])[1]

        threads.matmul(rows[chunk], self.params["dense.weight"].T, out=out, epilogue=then)
        return caches

    def _output(self, a, chunk, cache, y):
        """Write a chunk's output into y (T, d_model): the second half of the layer, from the activated hidden a."""
        y = y[chunk]

        def then(part):
            y[part] += self.params["output.bias"]
            self._drop(y[part], chunk.start + part.start, cache, "output", out=y[part])

        threads.matmul(a, self.params["output.weight"].T, out=y, epilogue=then)

    def _drop(self, values, start, cache, label, out=None):
        """`values` (n, d), the rows of all from `start` on, after dropout: their part of the mask of all rows."""
        if not cache.rate:
            return values
        return dropout(values, cache.rate, rng.fold(cache.seed, label), start * values.shape[-1], out)[0]
