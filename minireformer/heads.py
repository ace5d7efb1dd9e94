"""What reads a model's features (B, T, 2 d_model): three heads, and the loss of two of them.

    "tokens"     logits (B, T, V): the next token, or a hidden one; a linear layer. Its loss is in `losses.py`.
    "sequence"   logits (B, n_labels): a label for the whole sequence, from its first token
    "span"       logits (B, T, 2): how well an answer would start here, and end here; a linear layer

`ReformerConfig.head` names the one that a model has. Read next: `model.py`.
"""

from typing import Any, NamedTuple

from minireformer import backend, rng
from minireformer.checks import check_array
from minireformer.dropout import Dropout
from minireformer.embedding import check_tokens
from minireformer.layer import Layer, prefixed
from minireformer.linear import Linear
from minireformer.losses import softmax_cross_entropy

HEADS = ("tokens", "sequence", "span")


class SequenceHeadCache(NamedTuple):
    """The caches of the parts, in the order of `forward`."""

    length: int
    first_dropout: Any
    dense: Any
    hidden: Any  # (B, d_model): after tanh
    second_dropout: Any
    output: Any


class SequenceHead(Layer):
    """logits = output(dropout(tanh(dense(dropout(f))))) for the features f (B, 2 d_model) of the first token.

    Parameters: `dense.*` (d_model, 2 d_model), `output.*` (n_labels, d_model).
    """

    def __init__(self, d_model, n_labels, seed, dropout=0.0, dtype="float32"):
        super().__init__()
        self.dense = self.add("dense", Linear(2 * d_model, d_model, rng.fold(seed, "dense"), dtype=dtype))
        self.output = self.add("output", Linear(d_model, n_labels, rng.fold(seed, "output"), dtype=dtype))
        self.dropout = Dropout(dropout)

    def forward(self, features, seed=0, training=True):
        """features (B, T, 2 d_model) -> logits (B, n_labels), cache."""
        check_array(
            "features", features, None, None, self.params["dense.weight"].shape[1], like=self.params["dense.weight"]
        )
        x, first_dropout = self.dropout.forward(features[:, 0], rng.fold(seed, "first"), training)
        hidden, dense = self.dense.forward(x)
        hidden = backend.get_xp(hidden).tanh(hidden, out=hidden)
        x, second_dropout = self.dropout.forward(hidden, rng.fold(seed, "second"), training)
        logits, output = self.output.forward(x)
        return logits, SequenceHeadCache(features.shape[1], first_dropout, dense, hidden, second_dropout, output)

    def backward(self, dlogits, cache):
        """dlogits (B, n_labels) -> dfeatures (B, T, 2 d_model), 0 but for the first token; grads."""
        dhidden, output_grads = self.output.backward(dlogits, cache.output)
        dhidden, _ = self.dropout.backward(dhidden, cache.second_dropout)
        dfirst, dense_grads = self.dense.backward(dhidden * (1 - cache.hidden**2), cache.dense)
        dfirst, _ = self.dropout.backward(dfirst, cache.first_dropout)
        dfeatures = backend.get_xp(dfirst).zeros((len(dfirst), cache.length, dfirst.shape[1]), dfirst.dtype)
        dfeatures[:, 0] = dfirst
        return dfeatures, prefixed("dense", dense_grads) | prefixed("output", output_grads)


def make_head(config, seed, dtype):
    """The head that a `ReformerConfig` asks for: a layer from features to logits."""
    if config.head == "sequence":
        rate = config.dropout if config.head_dropout is None else config.head_dropout
        return SequenceHead(config.d_model, config.n_labels, seed, rate, dtype)
    return Linear(2 * config.d_model, config.vocab_size if config.head == "tokens" else 2, seed, dtype=dtype)


def logits_shape(config, n_batch, length):
    """The shape of a model's logits for tokens (B, T)."""
    if config.head == "sequence":
        return (n_batch, config.n_labels)
    return (n_batch, length, config.vocab_size if config.head == "tokens" else 2)


def check_labels(config, labels, tokens):
    """Raise unless `labels` fit `tokens` (B, T) and a head "sequence" or "span": see `labels_loss`."""
    n_batch, length = tokens.shape
    shape, n = ((n_batch,), config.n_labels) if config.head == "sequence" else ((n_batch, 2), length)
    check_array("targets", labels, *shape, kind="i", like=tokens, whose="the tokens")
    check_tokens("targets", labels, n)


def labels_loss(logits, labels):
    """The mean cross-entropy, a 0-d float64, and its gradient with respect to the logits.

    Logits (B, n_labels) of a sequence head with labels (B,) ints, 0 to n_labels - 1; or logits (B, T, 2) of a span
    head with labels (B, 2) ints, the positions at which the answer starts and ends: a softmax over all positions each.
    """
    if logits.ndim == 2:
        return softmax_cross_entropy(logits, labels, 1 / len(logits))
    n_batch, length, _ = logits.shape
    rows = logits.swapaxes(1, 2).reshape(2 * n_batch, length)
    loss, drows = softmax_cross_entropy(rows, labels.reshape(-1), 1 / len(rows))
    return loss, drows.reshape(n_batch, 2, length).swapaxes(1, 2)
