"""Three heads that read a model's features (B, T, 2 d_model), each with the loss that trains it.

    "tokens"     logits (B, T, V): the next token, or a masked one; a linear layer
    "sequence"   logits (B, n_labels): a label for the whole sequence, from its first token
    "span"       logits (B, T, 2): how well an answer would start here, and end here; a linear layer

`ReformerConfig.head` names the one that a model has. Besides the contract of a layer, every head has

    targets = head.check(tokens, targets, mask)                            raises an error before any work is done
    loss, dfeatures, grads = head.loss_and_grads(features, targets, seed)  loss: the mean cross-entropy, a 0-d float64

Read next: `model.py`.
"""

from typing import Any, NamedTuple

from minireformer import backend, rng
from minireformer.checks import check_array
from minireformer.dropout import Dropout
from minireformer.embedding import check_tokens
from minireformer.layer import Layer, prefixed
from minireformer.linear import Linear
from minireformer.losses import check_targets, cross_entropy_at, softmax_cross_entropy


class TokenHead(Linear):
    """Logits (B, T, V). The loss takes `chunk_len` positions at a time, so the logits never all exist at once."""

    def __init__(self, d_in, vocab_size, seed=0, chunk_len=1024, dtype="float32"):
        super().__init__(d_in, vocab_size, seed, dtype=dtype)
        self.chunk_len = chunk_len

    def check(self, tokens, targets, mask):
        """`targets` (B, T) ints; the loss is a mean over the positions where `mask` (B, T) is true, or all if None."""
        weight = self.params["weight"]
        return check_targets(targets, mask, tokens.shape, len(weight), like=weight)

    def loss_and_grads(self, features, targets, seed=0):
        weight, bias = self.params["weight"], self.params["bias"]
        loss, gradients = cross_entropy_at(*targets, features, weight, bias, self.chunk_len)
        return loss, gradients.dfeatures, {"weight": gradients.dweight, "bias": gradients.dbias}


class LabelHead(Layer):
    """What the heads with few logits share.

    A subclass defines `loss` and `labels_shape`: the shape of its labels, and how many values a label can take.
    """

    def check(self, tokens, labels, mask):
        """`labels`, ints as in `loss`; no mask."""
        shape, n = self.labels_shape(tokens)
        check_array("targets", labels, *shape, kind="i", like=tokens, whose="the tokens")
        check_tokens("targets", labels, n)
        if mask is not None:
            raise ValueError(f"mask: expected None, as the head is {self.name!r}")
        return labels

    def loss_and_grads(self, features, labels, seed=0):
        logits, cache = self.forward(features, seed)
        loss, dlogits = self.loss(logits, labels)
        return loss, *self.backward(dlogits, cache)


class SpanHead(LabelHead, Linear):
    """Logits (B, T, 2): how well an answer would start at each position, and end there."""

    name = "span"

    def labels_shape(self, tokens):
        return (len(tokens), 2), tokens.shape[1]

    def loss(self, logits, labels):
        """labels (B, 2): where the answer starts and ends, with a softmax over positions for each. -> loss, dlogits."""
        n_batch, length, _ = logits.shape
        rows = logits.swapaxes(1, 2).reshape(2 * n_batch, length)
        loss, drows = softmax_cross_entropy(rows, labels.reshape(-1), 1 / len(rows))
        return loss, drows.reshape(n_batch, 2, length).swapaxes(1, 2)


class SequenceHeadCache(NamedTuple):
    """The caches of the parts, in the order of `forward`."""

    length: int
    first_dropout: Any
    dense: Any
    hidden: Any  # (B, d_model): after tanh
    second_dropout: Any
    output: Any


class SequenceHead(LabelHead):
    """logits = output(dropout(tanh(dense(dropout(f))))) for the features f (B, 2 d_model) of the first token.

    Parameters: `dense.*` (d_model, 2 d_model), `output.*` (n_labels, d_model).
    """

    name = "sequence"

    def __init__(self, d_model, n_labels, seed=0, dropout=0.0, dtype="float32"):
        super().__init__()
        self.dense = self.add("dense", Linear(2 * d_model, d_model, rng.fold(seed, "dense"), dtype=dtype))
        self.output = self.add("output", Linear(d_model, n_labels, rng.fold(seed, "output"), dtype=dtype))
        self.dropout = Dropout(dropout)

    def labels_shape(self, tokens):
        return (len(tokens),), len(self.params["output.weight"])

    def loss(self, logits, labels):
        """labels (B,), 0 to n_labels - 1. -> loss, dlogits."""
        return softmax_cross_entropy(logits, labels, 1 / len(logits))

    def forward(self, features, seed=0, training=True):
        """features (B, T, 2 d_model) -> logits (B, n_labels), cache."""
        weight = self.params["dense.weight"]
        check_array("features", features, None, None, weight.shape[1], like=weight)
        x, first_dropout = self.dropout.forward(features[:, 0], rng.fold(seed, "first"), training)
        hidden, dense = self.dense.forward(x)
        hidden = backend.get_xp(hidden).tanh(hidden, out=hidden)
        x, second_dropout = self.dropout.forward(hidden, rng.fold(seed, "second"), training)
        logits, output = self.output.forward(x)
        return logits, SequenceHeadCache(features.shape[1], first_dropout, dense, hidden, second_dropout, output)

    def backward(self, dlogits, cache):
        """dlogits (B, n_labels) -> dfeatures (B, T, 2 d_model), 0 except for the first token; grads."""
        dhidden, output_grads = self.output.backward(dlogits, cache.output)
        dhidden, _ = self.dropout.backward(dhidden, cache.second_dropout)
        dfirst, dense_grads = self.dense.backward(dhidden * (1 - cache.hidden**2), cache.dense)
        dfirst, _ = self.dropout.backward(dfirst, cache.first_dropout)
        dfeatures = backend.get_xp(dfirst).zeros((len(dfirst), cache.length, dfirst.shape[1]), dfirst.dtype)
        dfeatures[:, 0] = dfirst
        return dfeatures, prefixed("dense", dense_grads) | prefixed("output", output_grads)


def make_head(config, seed, dtype):
    """The head that a `ReformerConfig` asks for."""
    width = 2 * config.d_model
    if config.head == "sequence":
        return SequenceHead(config.d_model, config.n_labels, seed, config.setting("head", "dropout"), dtype)
    if config.head == "span":
        return SpanHead(width, 2, seed, dtype=dtype)
    return TokenHead(width, config.vocab_size, seed, config.loss_chunk_len, dtype)
