"""The Reformer: embeddings and positions, reversible blocks, a head that predicts the next token.

    x = embedding[tokens] + positions          both streams start as x
    y = reversible blocks (x)                  see `reversible.py`
    features = LayerNorm([y1, y2])             of the two streams side by side
    logits = features W' + b                   see `heads.py`

Pre-LayerNorm blocks and the shapes of all parameters follow the original code, so that its checkpoints fit.
Read next: `checkpoint.py`.
"""

import os
from typing import Any, NamedTuple, Self

from minireformer import backend, checkpoint, rng
from minireformer.attention import padded_length
from minireformer.attention_layer import ATTENTION
from minireformer.backend import Array
from minireformer.checks import check_array, check_not_empty, expect, expect_type, float_dtype
from minireformer.config import ReformerConfig
from minireformer.dropout import Dropout
from minireformer.embedding import Embedding
from minireformer.feed_forward import FeedForward
from minireformer.hashing import check_rotations, default_n_buckets
from minireformer.heads import make_head
from minireformer.layer import Layer, prefixed
from minireformer.layer_norm import LayerNorm
from minireformer.positions import AxialPositions, LearnedPositions, SinusoidalPositions
from minireformer.reversible import PreNorm, ReversibleStack


class FeaturesCache(NamedTuple):
    """The caches of a body's parts, in the order of `features`."""

    embedding: Any
    positions: Any
    embedding_dropout: Any
    layers: Any
    layer_norm: Any
    output_dropout: Any


class ModelCache(NamedTuple):
    """What `Model.backward` needs."""

    features: Any
    head: Any
    logits_shape: tuple


class Body(Layer):
    """From tokens to features: a Reformer without its head. On its own, it is the encoder of an `EncoderDecoder`.

    Parameters: `embedding.weight`, `positions.*`, `layers.{i}.attention.*`, `layers.{i}.feed_forward.*`,
    `layer_norm.*`. A subclass may give its blocks more sub-layers: see `make_block`.
    """

    def __init__(self, config: ReformerConfig, seed: int = 0, dtype: Any = "float32") -> None:
        super().__init__()
        self.config, self.dtype = config, float_dtype(dtype)
        d_model, eps = config.d_model, config.layer_norm_eps
        embedding = Embedding(config.vocab_size, d_model, rng.fold(seed, "embedding"), dtype=dtype)
        self.embedding = self.add("embedding", embedding)
        self.positions = self.add("positions", make_positions(config, rng.fold(seed, "positions"), dtype))
        blocks = [
            tuple(PreNorm(part, d_model, eps, dtype) for part in self.make_block(i, kind, seed))
            for i, kind in enumerate(config.attn_layers)
        ]
        self.layers = self.add("layers", ReversibleStack(blocks, config.reversible))
        self.layer_norm = self.add("layer_norm", LayerNorm(2 * d_model, eps=eps, dtype=dtype))
        self.dropout = Dropout(config.dropout)

    def make_block(self, i: int, kind: str, seed: int) -> tuple[Layer, ...]:
        """The sub-layers of block i, with attention of the given `kind`, before each is wrapped in a `PreNorm`."""
        attention = make_attention(self.config, kind, rng.fold(seed, i, "attention"), self.dtype)
        return attention, make_feed_forward(self.config, rng.fold(seed, i, "feed_forward"), self.dtype)

    def features(
        self,
        tokens: Array,
        seed: int = 0,
        training: bool = True,
        key_mask: Array | None = None,
        rotations: Any = None,
        cross_attention: Any = None,
    ) -> tuple[Array, Any]:
        """tokens (B, T) ints -> features (B, T, 2 d_model) floats, which the head reads; cache.

        `key_mask` (B, T) booleans: False hides a padding token. `rotations` (H, D, R, columns), with R = n_hashes:
        hash with these instead of drawing them from `seed`; one array for all LSH layers, or a list with one for each.
        `cross_attention`: see `ReversibleStack.forward`. A ValueError or TypeError names the argument that doesn't fit.
        """
        self.check(tokens)
        weight = self.params["embedding.weight"]
        check_array("key_mask", key_mask, *tokens.shape, kind="b", like=weight, optional=True)
        if rotations is not None:
            rotations = self._rotations(rotations, tokens.shape[1])
        x, embedding = self.embedding.forward(tokens)
        x, positions = self.positions.forward(x)
        *x, embedding_dropout = self.dropout.forward(x, rng.fold(seed, "embedding"), training)  # x is handed over
        layers_seed = rng.fold(seed, "layers")  # below, a call with * or ** would hold x
        y, layers = self.layers.forward(x.pop(), layers_seed, training, key_mask, rotations, cross_attention)
        features, layer_norm = self.layer_norm.forward(y)
        features, output_dropout = self.dropout.forward(features, rng.fold(seed, "output"), training)
        return features, FeaturesCache(embedding, positions, embedding_dropout, layers, layer_norm, output_dropout)

    def forward(self, tokens: Array, seed: int = 0, training: bool = True, **inputs: Any) -> tuple[Array, Any]:
        """What a body returns as a layer: see `features`."""
        return self.features(tokens, seed=seed, training=training, **inputs)

    def backward(self, dfeatures: Array, cache: Any) -> tuple[Any, ...]:
        """dfeatures (B, T, 2 d_model) -> None (tokens have no gradient), dmemory if there is a memory, grads."""
        check_array("dfeatures", dfeatures, *cache.layer_norm.x.shape, like=cache.layer_norm.x)
        caches = list(cache)  # handed over, as gradients are: see `reversible.py`
        *gradient, _ = self.dropout.backward(dfeatures, caches.pop())
        del dfeatures, cache
        *gradient, norm_grads = self.layer_norm.backward(gradient.pop(), caches.pop())
        dx, *dmemory, layer_grads = self.layers.backward(gradient.pop(), caches.pop())
        dx, _ = self.dropout.backward(dx, caches.pop())
        dx, position_grads = self.positions.backward(dx, caches.pop())
        _, embedding_grads = self.embedding.backward(dx, caches.pop())
        grads = prefixed("embedding", embedding_grads) | prefixed("positions", position_grads)
        return None, *dmemory, grads | prefixed("layers", layer_grads) | prefixed("layer_norm", norm_grads)

    def check(self, tokens: Array, name: str = "tokens", n_rows: int | None = None) -> Array:
        """Return `tokens` if they are integers (n_rows or B, T), 1 <= T <= max_len; else raise, calling them `name`."""
        check_array(name, tokens, n_rows, None, kind="i", like=self.params["embedding.weight"])
        length, max_len = tokens.shape[1], self.config.max_len
        expect(name, length, 1 <= length <= max_len, f"1 to {max_len} a sequence (max_len)")
        check_not_empty(name, tokens)
        return tokens

    def _rotations(self, rotations, length):
        """A dict from each LSH block's number to its rotations. All are checked before any is used."""
        config, chunk_len, n_buckets = self.config, self.config.lsh_chunk_len, None
        length = padded_length(length, config.chunk_lens or [chunk_len])
        if length > chunk_len:  # else nothing is hashed, and rotations for any number of buckets will do
            n_buckets = config.n_buckets or default_n_buckets(length, chunk_len, config.max_len)
        sizes = (config.n_heads, config.d_head, config.n_hashes, n_buckets)
        blocks = [i for i, kind in enumerate(config.attn_layers) if kind == "lsh"]
        several = isinstance(rotations, (list, tuple))
        if several and len(rotations) != len(blocks):
            raise ValueError(f"rotations: expected one array, or {len(blocks)} (LSH layers); got {len(rotations)}")
        for i, array in enumerate(rotations if several else [rotations]):
            name = f"rotations[{i}]" if several else "rotations"
            check_rotations(name, array, *sizes, like=self.params["embedding.weight"])
        return dict(zip(blocks, rotations if several else [rotations] * len(blocks)))


class Model(Layer):
    """From features to logits and the loss. A subclass has a `head`, and `features`, `features_backward` and `check`.

    `inputs` are passed to `features`: `key_mask` and `rotations`, or, in translation, `source_mask` and `target_mask`.
    """

    head_name, config_class = "head", ReformerConfig  # `head_name.` is the prefix of the head's parameters

    def forward(self, tokens: Any, seed: int = 0, training: bool = True, **inputs: Any) -> tuple[Array, Any]:
        """tokens (B, T) ints -> logits (B, T, V), or those of another head; cache."""
        features, cache = self.features(tokens, seed, training, **inputs)
        logits, head = self.head.forward(features, rng.fold(seed, "head"), training)
        return logits, ModelCache(cache, head, logits.shape)

    def backward(self, dlogits: Array, cache: Any) -> tuple[Any, ...]:
        """dlogits, of the shape of the logits -> None (tokens have no gradient), grads."""
        check_array("dlogits", dlogits, *cache.logits_shape, like=next(iter(self.params.values())))
        dfeatures, head_grads = self.head.backward(dlogits, cache.head)
        return None, self.features_backward(dfeatures, cache.features) | prefixed(self.head_name, head_grads)

    def __call__(self, tokens: Any, seed: int = 0, **inputs: Any) -> Array:
        """Logits of tokens (B, T), without dropout. `seed` draws the hash rotations."""
        return self.head(self.features(tokens, seed, training=False, **inputs)[0])

    def loss_and_grads(
        self, tokens: Any, targets: Array, seed: int = 0, mask: Array | None = None, **inputs: Any
    ) -> tuple[float, dict[str, Array]]:
        """Mean cross-entropy of `targets` (B, T) ints with the logits of `tokens` (B, T) ints, and its gradients.

        -> loss, a float in nats, and grads, a dict with the names and shapes of `params`. `mask` (B, T) booleans: the
        mean is over the positions where it is true (None: all). If the head predicts labels, `targets` are the
        labels that its `loss` takes (see `heads.py`), and there is no mask.

        This is training mode: `seed` draws dropout and hash rotations, so use a new one each step. The head and the
        loss take `loss_chunk_len` positions at a time. The host waits for a GPU once, for the loss (and to learn how
        many positions a mask leaves); see `backend.deferred_sync`.
        A ValueError (shapes, ids, a mask that is false everywhere) or TypeError (dtypes) names the argument.
        """
        with backend.deferred_sync() as fetch:
            targets = self.head.check(self.check(tokens), targets, mask)
            features, *cache = self.features(tokens, seed, **inputs)
            loss, *dfeatures, head_grads = self.head.loss_and_grads(features, targets, rng.fold(seed, "head"))
            del features, targets
            grads = self.features_backward(dfeatures.pop(), cache.pop()) | prefixed(self.head_name, head_grads)
            return fetch(loss)[0], {name: grads[name] for name in self.params}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write configuration and parameters to one safetensors file, whole or not at all."""
        checkpoint.save_model(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """The model that `save` wrote. ValueError names the file and what is wrong with it."""
        return checkpoint.load_model(cls, cls.config_class, path)


class Reformer(Model, Body):
    """A language model; with `causal=False`, an encoder. For a `head` other than "tokens", see `heads.py`.

    `seed` draws the parameters, `dtype` is "float32" or "float64". Parameters: those of a `Body`, and `head.*`.
    `Model` is the first base class, so `forward` is the one that returns logits.
    """

    def __init__(self, config: ReformerConfig, seed: int = 0, dtype: Any = "float32") -> None:
        expect_type("config", config, isinstance(config, ReformerConfig), "a ReformerConfig")
        super().__init__(config, seed, dtype)
        self.head = self.add("head", make_head(config, rng.fold(seed, "head"), dtype))

    def features_backward(self, dfeatures: Array, cache: Any) -> dict[str, Array]:
        """dfeatures (B, T, 2 d_model) -> gradients of all parameters but the head's."""
        handed = [dfeatures, cache]
        del dfeatures, cache
        return Body.backward(self, handed.pop(0), handed.pop())[-1]


def make_positions(config, seed, dtype):
    """The positions that a `ReformerConfig` asks for."""
    if config.positions == "axial":
        return AxialPositions(config.axial_shape, config.axial_dims, seed=seed, dtype=dtype)
    if config.positions == "learned":
        return LearnedPositions(config.max_len, config.d_model, seed=seed, dtype=dtype)
    return SinusoidalPositions(config.max_len, config.d_model, dtype=dtype)


def make_attention(config, kind, seed, dtype):
    """An attention layer of a `kind` in `ATTENTION`, with the settings of a `ReformerConfig`."""
    settings = {name: config.setting(kind, name) for name in ATTENTION[kind].takes}
    return ATTENTION[kind](config.d_model, config.n_heads, config.d_head, seed=seed, dtype=dtype, **settings)


def make_feed_forward(config, seed, dtype):
    """The feed-forward layer of a block, with the settings of a `ReformerConfig`."""
    settings = {"activation": config.activation, "dropout": config.dropout, "chunk_len": config.ff_chunk_len}
    return FeedForward(config.d_model, config.d_ff, seed=seed, dtype=dtype, **settings)
