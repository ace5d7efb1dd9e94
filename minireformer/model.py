"""The Reformer: embeddings and positions, reversible blocks, a head that predicts the next token.

    x = embedding[tokens] + positions          both streams start as x
    y = reversible blocks (x)                  see `reversible.py`
    logits = LayerNorm([y1, y2]) W' + b        over the two streams side by side

Pre-LayerNorm blocks and the shapes of all parameters follow the original code, so that its checkpoints fit.
Read next: `cross_attention.py`, or, without translation, `data.py`.
"""

from typing import Any, NamedTuple

from minireformer import backend, checkpoint, rng
from minireformer.attention import padded_length
from minireformer.checks import check_array, check_not_empty, float_dtype
from minireformer.config import ATTENTION, ReformerConfig
from minireformer.dropout import Dropout
from minireformer.embedding import Embedding
from minireformer.feed_forward import FeedForward
from minireformer.hashing import default_n_buckets, rotations_of_layers
from minireformer.heads import check_labels, labels_loss, logits_shape, make_head
from minireformer.layer import Layer, prefixed
from minireformer.layer_norm import LayerNorm
from minireformer.losses import check_targets, chunked_cross_entropy_backward, cross_entropy_at
from minireformer.positions import AxialPositions, LearnedPositions, SinusoidalPositions
from minireformer.reversible import PreNorm, ReversibleStack


class FeaturesCache(NamedTuple):
    """The caches of a model's, or a decoder's, parts, in the order of `features`."""

    embedding: Any
    positions: Any
    embedding_dropout: Any
    layers: Any
    layer_norm: Any
    output_dropout: Any


class ReformerCache(NamedTuple):
    """What `Reformer.backward` needs."""

    features: FeaturesCache
    head: Any


class Reformer(Layer):
    """A language model; with `causal=False`, an encoder; with another `head` than "tokens", what `heads.py` says.

    `seed` draws the parameters, `dtype` is "float32" or "float64". Parameters: `embedding.weight`,
    `positions.*`, `layers.{i}.attention.*`, `layers.{i}.feed_forward.*`, `layer_norm.*`, `head.*`.
    """

    def __init__(self, config, seed=0, dtype="float32"):
        super().__init__()
        if not isinstance(config, ReformerConfig):
            raise TypeError(f"config: expected a ReformerConfig; got {type(config).__name__}")
        self.config, self.dtype = config, float_dtype(dtype)
        d_model, eps = config.d_model, config.layer_norm_eps
        self.embedding = self.add(
            "embedding", Embedding(config.vocab_size, d_model, seed=rng.fold(seed, "embedding"), dtype=dtype)
        )
        self.positions = self.add("positions", make_positions(config, rng.fold(seed, "positions"), dtype))
        blocks = []
        for i, kind in enumerate(config.attn_layers):
            attention = make_attention(config, kind, rng.fold(seed, i, "attention"), dtype)
            feed_forward = make_feed_forward(config, rng.fold(seed, i, "feed_forward"), dtype)
            blocks.append((PreNorm(attention, d_model, eps, dtype), PreNorm(feed_forward, d_model, eps, dtype)))
        self.layers = self.add("layers", ReversibleStack(blocks, config.reversible))
        self.layer_norm = self.add("layer_norm", LayerNorm(2 * d_model, eps=eps, dtype=dtype))
        self.head = self.add("head", make_head(config, rng.fold(seed, "head"), dtype))
        self.dropout = Dropout(config.dropout)

    def forward(self, tokens, seed=0, training=True, key_mask=None, rotations=None):
        """tokens (B, T) ints -> logits (B, T, V), or those of another head; cache. Other arguments as `features`."""
        features, cache = self.features(tokens, seed, training, key_mask, rotations)
        logits, head = self.head.forward(features, rng.fold(seed, "head"), training)
        return logits, ReformerCache(cache, head)

    def backward(self, dlogits, cache):
        """dlogits, of the shape of the logits -> None (tokens have no gradient), grads."""
        of_features = cache.features.layer_norm.x
        check_array("dlogits", dlogits, *logits_shape(self.config, *of_features.shape[:2]), like=of_features)
        dfeatures, head_grads = self.head.backward(dlogits, cache.head)
        return None, self.features_backward(dfeatures, cache.features) | prefixed("head", head_grads)

    def features(self, tokens, seed=0, training=True, key_mask=None, rotations=None):
        """tokens (B, T) ints -> features (B, T, 2 d_model) floats, what the head reads; cache.

        `key_mask` (B, T) booleans: False hides a padding token. `rotations`: explicit hash rotations (H, D, R,
        columns), R being n_hashes, instead of ones drawn from `seed`: one array for every LSH layer, or a list with
        one for each. ValueError or TypeError names the argument that doesn't fit.
        """
        weight = self.embedding.params["weight"]
        check_array("tokens", tokens, None, None, kind="i", like=weight)
        if not 1 <= tokens.shape[1] <= self.config.max_len:
            raise ValueError(f"tokens: expected 1 to {self.config.max_len} a sequence (max_len); got {tokens.shape[1]}")
        check_not_empty("tokens", tokens)
        if key_mask is not None:
            check_array("key_mask", key_mask, *tokens.shape, kind="b", like=weight)
        given = {"key_mask": key_mask, "rotations": self._rotations(rotations, tokens.shape[1])}
        x, embedding = self.embedding.forward(tokens)
        x, positions = self.positions.forward(x)
        x, embedding_dropout = self.dropout.forward(x, rng.fold(seed, "embedding"), training)
        y, layers = self.layers.forward(x, rng.fold(seed, "layers"), training, **given)
        features, layer_norm = self.layer_norm.forward(y)
        features, output_dropout = self.dropout.forward(features, rng.fold(seed, "output"), training)
        return features, FeaturesCache(embedding, positions, embedding_dropout, layers, layer_norm, output_dropout)

    def features_backward(self, dfeatures, cache):
        """dfeatures (B, T, 2 d_model) -> grads of every parameter but the head's."""
        check_array("dfeatures", dfeatures, *cache.layer_norm.x.shape, like=cache.layer_norm.x)
        caches = list(cache)  # here and below, what has been used is let go: it would count in the peak
        dy, _ = self.dropout.backward(dfeatures, caches.pop())
        del dfeatures, cache
        dy, norm_grads = self.layer_norm.backward(dy, caches.pop())
        streams = [dy]
        del dy
        dx, layer_grads = self.layers.backward(streams.pop(), caches.pop())
        dx, _ = self.dropout.backward(dx, caches.pop())
        dx, position_grads = self.positions.backward(dx, caches.pop())
        _, embedding_grads = self.embedding.backward(dx, caches.pop())
        grads = prefixed("embedding", embedding_grads) | prefixed("positions", position_grads)
        return grads | prefixed("layers", layer_grads) | prefixed("layer_norm", norm_grads)

    def __call__(self, tokens, seed=0, key_mask=None, rotations=None):
        """Logits of tokens (B, T), without dropout. `seed` draws the hash rotations."""
        features = self.features(tokens, seed, training=False, key_mask=key_mask, rotations=rotations)[0]
        return self.head(features)

    def loss_and_grads(self, tokens, targets, seed=1, mask=None, key_mask=None, rotations=None):
        """Mean cross-entropy of `targets` (B, T) ints with the logits of `tokens` (B, T) ints, and its gradients.

        -> loss, a float in nats, and grads, a dict with the names and shapes of `params`. `mask` (B, T) booleans: the
        mean is over the positions where it is true (None: all). `key_mask` and `rotations` as in `features`. A GPU is
        waited for once, for the loss (and to know how many positions a mask leaves); see `backend.one_wait`.

        Training mode: `seed` draws dropout and hash rotations; another seed each step. The logits of all
        positions never exist together: head and loss go through `loss_chunk_len` positions at a time.
        ValueError (shapes, ids, a mask that is false everywhere) or TypeError (dtypes) names the argument.

        With another head, `targets` are as in `heads.labels_loss`, and there is no mask.
        """
        with backend.deferred_sync() as fetch:
            loss, grads = self._loss_and_grads(tokens, targets, seed, mask, key_mask, rotations)
            return fetch(loss)[0], {name: grads[name] for name in self.params}

    def _loss_and_grads(self, tokens, targets, seed, mask, key_mask, rotations):
        weight = self.embedding.params["weight"]
        check_array("tokens", tokens, None, None, kind="i", like=weight)
        check_not_empty("tokens", tokens)
        if self.config.head != "tokens":
            check_labels(self.config, targets, tokens)
            if mask is not None:
                raise ValueError(f"mask: expected None, as the head is {self.config.head!r}")
            logits, cache = self.forward(tokens, seed, key_mask=key_mask, rotations=rotations)
            loss, dlogits = labels_loss(logits, targets)
            return loss, self.backward(dlogits, cache)[1]
        counted = [check_targets(targets, mask, tokens.shape, self.config.vocab_size, like=weight)]
        features, *cache = self.features(tokens, seed, key_mask=key_mask, rotations=rotations)
        head = self.head.params
        loss, loss_cache = cross_entropy_at(
            *counted.pop(), features, head["weight"], head["bias"], self.config.loss_chunk_len
        )
        del features
        *dfeatures, dweight, dbias = chunked_cross_entropy_backward(1.0, loss_cache)
        del loss_cache
        grads = self.features_backward(dfeatures.pop(), cache.pop())
        return loss, grads | {"head.weight": dweight, "head.bias": dbias}

    def save(self, path):
        """Write configuration and parameters to one safetensors file, whole or not at all."""
        checkpoint.save_model(self, path)

    @classmethod
    def load(cls, path):
        """The model that `save` wrote. ValueError names the file and what is wrong with it."""
        return checkpoint.load_model(cls, ReformerConfig, path)

    def _rotations(self, rotations, length):
        """One entry a block: an array for LSH blocks, None for others. All are checked before any is used."""
        if rotations is None:
            return None
        config, chunk_len, n_buckets = self.config, self.config.lsh_chunk_len, None
        length = padded_length(length, config.chunk_lens or [chunk_len])
        if length > chunk_len:  # else nothing is hashed, and rotations for any number of buckets will do
            n_buckets = config.n_buckets or default_n_buckets(length, chunk_len, config.max_len)
        sizes = (config.n_heads, config.d_head, config.n_hashes, n_buckets)
        n_lsh, weight = config.attn_layers.count("lsh"), self.embedding.params["weight"]
        rest = iter(rotations_of_layers(rotations, n_lsh, *sizes, like=weight))
        return [next(rest) if kind == "lsh" else None for kind in config.attn_layers]


def make_positions(config, seed, dtype):
    """The positions that a `ReformerConfig` asks for."""
    if config.positions == "axial":
        return AxialPositions(config.axial_shape, config.axial_dims, seed=seed, dtype=dtype)
    if config.positions == "learned":
        return LearnedPositions(config.max_len, config.d_model, seed=seed, dtype=dtype)
    return SinusoidalPositions(config.max_len, config.d_model, dtype=dtype)


def make_attention(config, kind, seed, dtype):
    """An attention layer of a `kind` in `ATTENTION`, as a `ReformerConfig` has it."""
    given = {
        "causal": config.causal,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
    }
    if kind in ("lsh", "local"):
        given["chunk_lens"] = config.chunk_lens
        if (rate := getattr(config, f"{kind}_attention_dropout")) is not None:
            given["attention_dropout"] = rate
        given |= {name: getattr(config, f"{kind}_{name}") for name in ("chunk_len", "n_before", "n_after")}
    if kind == "lsh":
        names = ("n_hashes", "n_buckets", "max_len", "same_bucket", "count_once")
        given |= {name: getattr(config, name) for name in names}
    return ATTENTION[kind](config.d_model, config.n_heads, config.d_head, seed=seed, dtype=dtype, **given)


def make_feed_forward(config, seed, dtype):
    """The feed-forward layer of a block, as a `ReformerConfig` has it."""
    return FeedForward(
        config.d_model,
        config.d_ff,
        seed=seed,
        activation=config.activation,
        dropout=config.dropout,
        chunk_len=config.ff_chunk_len,
        dtype=dtype,
    )
