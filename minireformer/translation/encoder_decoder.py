"""The encoder-decoder Reformer, for translation (section 5 of the paper, "WMT14").

    memory = encoder(source)                      tokens see both sides; LayerNorm of both streams, (B, S, 2 d_model)
    logits = decoder(target, memory)              tokens see those before them, and all of the memory

Both halves are reversible. Backward goes through the decoder, which gives the gradient of the memory as the sum over
its cross-attention layers, and on through the encoder. Read next: `data.py`.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from minireformer import backend, checkpoint, rng
from minireformer.checks import check_array, check_count, check_not_empty
from minireformer.config import ReformerConfig
from minireformer.dropout import Dropout
from minireformer.embedding import Embedding, check_tokens
from minireformer.layer import Layer, prefixed
from minireformer.layer_norm import LayerNorm
from minireformer.linear import Linear
from minireformer.losses import chunked_cross_entropy, chunked_cross_entropy_backward
from minireformer.model import FeaturesCache, Reformer, make_attention, make_feed_forward, make_positions
from minireformer.reversible import PreNorm
from minireformer.translation.cross_attention import CrossAttention, PreNormCross, attention_weights
from minireformer.translation.reversible_chain import ReversibleChain


@dataclass(frozen=True)
class EncoderDecoderConfig(ReformerConfig):
    """The shape of an encoder-decoder: that of its decoder, as `ReformerConfig`, and what the encoder has of its own.

    Sizes, hashing, positions and `max_len` are the same on both sides.
    """

    encoder_layers: tuple = ("local", "lsh")  # as attn_layers, which are the decoder's
    source_vocab_size: int | None = None  # None: vocab_size
    encoder_n_after: int = 1  # chunks that a chunk of the encoder sees after itself
    pad_token: int | None = None  # hidden wherever it stands, on both sides; None: nothing is

    def __post_init__(self):
        super().__post_init__()
        self._check("causal", self.causal, "True, for the decoder writes one token after another")
        self._check("head", self.head == "tokens", "tokens, which the decoder writes")
        if self.source_vocab_size is not None:
            object.__setattr__(self, "source_vocab_size", check_count("source_vocab_size", self.source_vocab_size))
        if self.pad_token is not None:
            object.__setattr__(self, "pad_token", check_count("pad_token", self.pad_token, at_least=0))
            largest = max(self.vocab_size, self.source_vocab_size or 0) - 1
            self._check("pad_token", self.pad_token <= largest, f"a token of either side, at most {largest}")
        object.__setattr__(self, "encoder_n_after", check_count("encoder_n_after", self.encoder_n_after, at_least=0))
        if isinstance(self.encoder_layers, list):
            object.__setattr__(self, "encoder_layers", tuple(self.encoder_layers))
        try:
            self.encoder()
        except ValueError as error:
            raise ValueError(f"encoder_layers: as those of an encoder, they don't fit: {error}") from None

    def encoder(self):
        """The encoder alone, as a `ReformerConfig`."""
        shared = {name: getattr(self, name) for name in ReformerConfig.__dataclass_fields__}
        own = {"vocab_size": self.source_vocab_size or self.vocab_size, "attn_layers": self.encoder_layers}
        own |= {"causal": False, "lsh_n_after": self.encoder_n_after, "local_n_after": self.encoder_n_after}
        return ReformerConfig(**(shared | own))


class Encoder(Reformer):
    """A Reformer without a head: tokens (B, S) ints -> memory (B, S, 2 d_model), with or without a cache."""

    def __init__(self, config, seed=0, dtype="float32"):
        super().__init__(config, seed, dtype)
        self.head = None
        self.params = {name: param for name, param in self.params.items() if not name.startswith("head.")}

    forward, __call__ = Reformer.features, Layer.__call__

    def backward(self, dy, cache):
        return None, self.features_backward(dy, cache)


class Decoder(Layer):
    """Target tokens and a memory to features: as `Reformer`, with a cross-attention layer in every block."""

    def __init__(self, config, seed=0, dtype="float32"):
        super().__init__()
        self.config, d_model, eps = config, config.d_model, config.layer_norm_eps
        self.embedding = self.add(
            "embedding", Embedding(config.vocab_size, d_model, rng.fold(seed, "embedding"), dtype=dtype)
        )
        self.positions = self.add("positions", make_positions(config, rng.fold(seed, "positions"), dtype))
        blocks = []
        for i, kind in enumerate(config.attn_layers):
            attention = make_attention(config, kind, rng.fold(seed, i, "attention"), dtype)
            cross_attention = CrossAttention(
                d_model,
                2 * d_model,
                config.n_heads,
                config.d_head,
                dropout=config.dropout,
                attention_dropout=config.attention_dropout,
                seed=rng.fold(seed, i, "cross_attention"),
                dtype=dtype,
            )
            feed_forward = make_feed_forward(config, rng.fold(seed, i, "feed_forward"), dtype)
            kinds = zip((PreNorm, PreNormCross, PreNorm), (attention, cross_attention, feed_forward))
            blocks.append(tuple(pre_norm(part, d_model, eps, dtype) for pre_norm, part in kinds))
        self.layers = self.add("layers", ReversibleChain(blocks, config.reversible))
        self.layer_norm = self.add("layer_norm", LayerNorm(2 * d_model, eps=eps, dtype=dtype))
        self.head = self.add("head", Linear(2 * d_model, config.vocab_size, rng.fold(seed, "head"), dtype=dtype))
        self.dropout = Dropout(config.dropout)

    def features(self, tokens, memory, seed=0, training=True, key_mask=None, memory_mask=None):
        """tokens (B, T) ints, memory (B, S, 2 d_model) -> features (B, T, 2 d_model), cache."""
        x, embedding = self.embedding.forward(tokens)
        x, positions = self.positions.forward(x)
        x, embedding_dropout = self.dropout.forward(x, rng.fold(seed, "embedding"), training)
        given = {"memory": memory, "memory_mask": memory_mask, "key_mask": key_mask}
        y, layers = self.layers.forward(x, rng.fold(seed, "layers"), training, **given)
        features, layer_norm = self.layer_norm.forward(y)
        features, output_dropout = self.dropout.forward(features, rng.fold(seed, "output"), training)
        return features, FeaturesCache(embedding, positions, embedding_dropout, layers, layer_norm, output_dropout)

    def features_backward(self, dfeatures, cache):
        """dfeatures (B, T, 2 d_model) -> dmemory (B, S, 2 d_model), grads of every parameter but the head's."""
        caches = list(cache)  # here and below, what has been used is let go: it would count in the peak
        dy, _ = self.dropout.backward(dfeatures, caches.pop())
        del dfeatures, cache
        dy, norm_grads = self.layer_norm.backward(dy, caches.pop())
        streams = [dy]
        del dy
        (dx, dmemory), layer_grads = self.layers.backward(streams.pop(), caches.pop())
        dx, _ = self.dropout.backward(dx, caches.pop())
        dx, position_grads = self.positions.backward(dx, caches.pop())
        _, embedding_grads = self.embedding.backward(dx, caches.pop())
        grads = prefixed("embedding", embedding_grads) | prefixed("positions", position_grads)
        return dmemory, grads | prefixed("layers", layer_grads) | prefixed("layer_norm", norm_grads)


class EncoderDecoderCache(NamedTuple):
    """What `EncoderDecoder.backward` needs."""

    encoder: Any
    decoder: Any
    head: Any = None


class EncoderDecoder(Layer):
    """A sequence-to-sequence model. Its input is a pair: source (B, S) and target (B, T) ints.

    `seed` draws the parameters, `dtype` is "float32" or "float64". Parameters: `encoder.*`, as a `Reformer` without
    its head, and `decoder.*`, as one with `layers.{i}.cross_attention.*`.

    `source_mask` (B, S) and `target_mask` (B, T) booleans, everywhere: False hides a padding token from all others;
    None: hidden is the config's `pad_token`, if it has one. ValueError or TypeError names what doesn't fit.
    """

    def __init__(self, config, seed=0, dtype="float32"):
        super().__init__()
        if not isinstance(config, EncoderDecoderConfig):
            raise TypeError(f"config: expected an EncoderDecoderConfig; got {type(config).__name__}")
        self.config = config
        self.encoder = self.add("encoder", Encoder(config.encoder(), rng.fold(seed, "encoder"), dtype))
        self.decoder = self.add("decoder", Decoder(config, rng.fold(seed, "decoder"), dtype))
        self.dtype = self.encoder.dtype

    def forward(self, pair, seed=0, training=True, source_mask=None, target_mask=None):
        """(source (B, S), target (B, T)) ints -> logits (B, T, V), cache: what comes after each target token."""
        features, cache = self.features(pair, seed, training, source_mask, target_mask)
        logits, head = self.decoder.head.forward(features)
        return logits, cache._replace(head=head)

    def backward(self, dlogits, cache):
        """dlogits (B, T, V) -> None (tokens have no gradient), grads."""
        dfeatures, head_grads = self.decoder.head.backward(dlogits, cache.head)
        return None, self.features_backward(dfeatures, cache) | prefixed("decoder.head", head_grads)

    def __call__(self, pair, seed=0, source_mask=None, target_mask=None):
        """Logits (B, T, V), without dropout. `seed` draws the hash rotations."""
        return self.forward(pair, seed, False, source_mask, target_mask)[0]

    def features(self, pair, seed=0, training=True, source_mask=None, target_mask=None):
        """(source (B, S), target (B, T)) ints -> features (B, T, 2 d_model), which the head reads; cache."""
        source, target = check_pair(pair, self.config, like=self.params["decoder.embedding.weight"])
        memory, source_mask, encoder = self._encode(source, seed, training, source_mask)
        target_mask = self._mask("target_mask", target_mask, target)
        seed = rng.fold(seed, "decoder")
        features, decoder = self.decoder.features(target, memory, seed, training, target_mask, source_mask)
        return features, EncoderDecoderCache(encoder, decoder)

    def features_backward(self, dfeatures, cache):
        """dfeatures (B, T, 2 d_model) -> grads of every parameter but the head's."""
        caches = [cache.encoder, cache.decoder]
        del cache
        dmemory, decoder_grads = self.decoder.features_backward(dfeatures, caches.pop())
        encoder_grads = self.encoder.features_backward(dmemory, caches.pop())
        return prefixed("encoder", encoder_grads) | prefixed("decoder", decoder_grads)

    def loss_and_grads(self, pair, targets, seed=1, mask=None, source_mask=None, target_mask=None):
        """Mean cross-entropy of `targets` (B, T) ints, what comes after each token of the pair's target, and gradients.

        -> loss, a float in nats, and grads, a dict with the names and shapes of `params`. `mask` (B, T) booleans: the
        mean is over the positions where it is true (None: all). Training mode: another seed each step. `mr.train`
        takes such models too, with batches (pair, targets) or (pair, targets, mask).
        """
        with backend.deferred_sync() as fetch:
            loss, grads = self._loss_and_grads(pair, targets, seed, mask, source_mask, target_mask)
            return fetch(loss)[0], {name: grads[name] for name in self.params}

    def _loss_and_grads(self, pair, targets, seed, mask, source_mask, target_mask):
        _, target = check_pair(pair, self.config, like=self.params["decoder.embedding.weight"])
        check_array("targets", targets, *target.shape, kind="i", like=target, whose="the pair")
        if mask is not None:
            check_array("mask", mask, *target.shape, kind="b", like=target, whose="the pair")
        features, *cache = self.features(pair, seed, True, source_mask, target_mask)
        head = self.decoder.head.params
        loss, loss_cache = chunked_cross_entropy(
            features, head["weight"], head["bias"], targets, mask, chunk_len=self.config.loss_chunk_len
        )
        del features
        *dfeatures, dweight, dbias = chunked_cross_entropy_backward(1.0, loss_cache)
        del loss_cache
        grads = self.features_backward(dfeatures.pop(), cache.pop())
        return loss, grads | {"decoder.head.weight": dweight, "decoder.head.bias": dbias}

    def encode(self, source, seed=0, source_mask=None):
        """source (B, S) ints -> memory (B, S, 2 d_model), and the mask that hides its padding, (B, S) or None."""
        vocab_size = self.config.source_vocab_size or self.config.vocab_size
        like = self.params["decoder.embedding.weight"]
        check_tokens_of("source", source, None, vocab_size, self.config.max_len, like)
        return self._encode(source, seed, False, source_mask)[:2]

    def cross_attention_maps(self, pair, seed=0, source_mask=None, target_mask=None):
        """What each target token looks at: for every decoder block, weights (B, H, T, S), each row summing to 1."""
        source, target = check_pair(pair, self.config, like=self.params["decoder.embedding.weight"])
        memory, source_mask = self.encode(source, seed, source_mask)
        decoder, seed, maps = self.decoder, rng.fold(rng.fold(seed, "decoder"), "layers"), []
        given = decoder.layers.given(memory, source_mask, self._mask("target_mask", target_mask, target))
        one = other = decoder.positions(decoder.embedding(target))
        for i, name, sublayer in decoder.layers.sublayers():
            f, cache = sublayer.forward(other, rng.fold(seed, i, name), training=False, **given[name])
            one, other = other, one + f
            if name == "cross_attention":
                maps.append(attention_weights(cache.part.attention))
        return maps

    def save(self, path):
        """Write configuration and parameters to one safetensors file, whole or not at all."""
        checkpoint.save_model(self, path)

    @classmethod
    def load(cls, path):
        """The model that `save` wrote. ValueError names the file and what is wrong with it."""
        return checkpoint.load_model(cls, EncoderDecoderConfig, path)

    def _encode(self, source, seed, training, source_mask):
        """source (B, S) -> memory (B, S, 2 d_model), the mask of the source, cache."""
        source_mask = self._mask("source_mask", source_mask, source)
        memory, cache = self.encoder.features(source, rng.fold(seed, "encoder"), training, key_mask=source_mask)
        return memory, source_mask, cache

    def _mask(self, name, mask, tokens):
        """Which of tokens (B, T) are no padding: `mask`, if there is one, else by the config's `pad_token`, or None."""
        if mask is not None:
            check_array(name, mask, *tokens.shape, kind="b", like=tokens, whose="the tokens")
        elif self.config.pad_token is not None:
            mask = tokens != self.config.pad_token
        return mask


def check_tokens_of(name, tokens, n_rows, vocab_size, max_len, like):
    """Raise unless `tokens` are ids (n_rows, T) below `vocab_size`, T from 1 to `max_len`; n_rows None: any number."""
    check_array(name, tokens, n_rows, None, kind="i", like=like)
    if not 1 <= tokens.shape[1] <= max_len:
        raise ValueError(f"{name}: expected 1 to {max_len} a sequence (max_len); got {tokens.shape[1]}")
    check_not_empty(name, tokens)
    check_tokens(name, tokens, vocab_size)


def check_pair(pair, config, like):
    """Raise unless `pair` is (source (B, S), target (B, T)), token ids that fit the config; -> the two arrays."""
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError(f"pair: expected (source, target), two arrays of tokens; got {type(pair).__name__}")
    source, target = pair
    check_tokens_of("source", source, None, config.source_vocab_size or config.vocab_size, config.max_len, like)
    check_tokens_of("target", target, len(source), config.vocab_size, config.max_len, like)
    return source, target
