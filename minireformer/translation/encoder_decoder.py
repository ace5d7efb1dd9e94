"""The encoder-decoder Reformer, for translation (section 5 of the paper, "WMT14").

    memory = encoder(source)                      tokens see both sides; LayerNorm of both streams, (B, S, 2 d_model)
    logits = decoder(target, memory)              tokens see those before them, and all of the memory

Both halves are reversible. Backward goes through the decoder, which gives the gradient of the memory as the sum over
its cross-attention layers, and on through the encoder. Read next: `data.py`.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from minireformer import rng
from minireformer.backend import Array
from minireformer.checks import check_array, check_tokens, expect, expect_type
from minireformer.config import ReformerConfig
from minireformer.heads import make_head
from minireformer.layer import prefixed
from minireformer.model import Body, Model
from minireformer.translation.cross_attention import CrossAttention, attention_weights


@dataclass(frozen=True)
class EncoderDecoderConfig(ReformerConfig):
    """The shape of an encoder-decoder: the decoder's, as in `ReformerConfig`, and what differs in the encoder.

    Sizes, hashing, positions and `max_len` are the same on both sides.
    """

    encoder_layers: tuple = ("local", "lsh")  # like attn_layers, which are the decoder's
    source_vocab_size: int | None = None  # None: vocab_size
    encoder_n_after: int = 1  # how many chunks ahead a chunk of the encoder sees
    pad_token: int | None = None  # hidden wherever it occurs, on both sides; None: nothing is hidden

    def __post_init__(self):
        super().__post_init__()
        expect("causal", self.causal, self.causal, "True, because the decoder writes one token after another")
        expect("head", self.head, self.head == "tokens", "tokens, which the decoder writes")
        if self.pad_token is not None:
            largest = max(self.vocab_size, self.source_vocab_size or 0) - 1
            expected = f"a token of either side, at most {largest}"
            expect("pad_token", self.pad_token, self.pad_token <= largest, expected)
        try:
            self.encoder()
        except ValueError as error:
            raise ValueError(f"encoder_layers: they don't fit an encoder: {error}") from None

    def encoder(self) -> ReformerConfig:
        """The encoder alone, as a `ReformerConfig`."""
        shared = {name: getattr(self, name) for name in ReformerConfig.__dataclass_fields__}
        own = {"vocab_size": self.source_vocab_size or self.vocab_size, "attn_layers": self.encoder_layers}
        own |= {"causal": False, "lsh_n_after": self.encoder_n_after, "local_n_after": self.encoder_n_after}
        return ReformerConfig(**(shared | own))


class Decoder(Body):
    """From target tokens and a memory to features: a `Body` with cross-attention in every block. It also owns the head.

    Parameters: those of a `Body`, `layers.{i}.cross_attention.*` and `head.*`.
    """

    def __init__(self, config, seed=0, dtype="float32"):
        super().__init__(config, seed, dtype)
        self.head = self.add("head", make_head(config, rng.fold(seed, "head"), dtype))

    def make_block(self, i, kind, seed):
        attention, feed_forward = super().make_block(i, kind, seed)
        config, seed = self.config, rng.fold(seed, i, "cross_attention")
        sizes = (config.d_model, 2 * config.d_model, config.n_heads, config.d_head)
        rates = {"dropout": config.dropout, "attention_dropout": config.attention_dropout}
        return attention, CrossAttention(*sizes, **rates, seed=seed, dtype=self.dtype), feed_forward

    def features(self, tokens, memory, seed=0, training=True, key_mask=None, memory_mask=None):
        """tokens (B, T) ints, memory (B, S, 2 d_model) -> features (B, T, 2 d_model), cache.

        `key_mask` (B, T) and `memory_mask` (B, S) booleans: False hides a padding token. `backward` returns None,
        dmemory, and the gradients of all parameters but the head's.
        """
        cross_attention = {"memory": memory, "memory_mask": memory_mask}
        return super().features(tokens, seed, training, key_mask, cross_attention=cross_attention)


class EncoderDecoderCache(NamedTuple):
    """The caches of the two halves."""

    encoder: Any
    decoder: Any


class EncoderDecoder(Model):
    """A sequence-to-sequence model. Its input is a pair: source (B, S) and target (B, T) ints.

    `seed` draws the parameters, `dtype` is "float32" or "float64". Parameters: `encoder.*`, those of a `Reformer`
    without its head, and `decoder.*`, those of a `Reformer` with `layers.{i}.cross_attention.*`.

    The model predicts what follows each target token: logits and targets are (B, T, V) and (B, T). In all methods,
    `source_mask` (B, S) and `target_mask` (B, T) are booleans: False hides a padding token from all others; None hides
    the config's `pad_token`, if it has one. ValueError or TypeError names what doesn't fit. `mr.train` takes such
    models too, with batches (pair, targets) or (pair, targets, mask).
    """

    head_name, config_class = "decoder.head", EncoderDecoderConfig

    def __init__(self, config: EncoderDecoderConfig, seed: int = 0, dtype: Any = "float32") -> None:
        super().__init__()
        expect_type("config", config, isinstance(config, EncoderDecoderConfig), "an EncoderDecoderConfig")
        self.config = config
        self.encoder = self.add("encoder", Body(config.encoder(), rng.fold(seed, "encoder"), dtype))
        self.decoder = self.add("decoder", Decoder(config, rng.fold(seed, "decoder"), dtype))
        self.head, self.dtype = self.decoder.head, self.encoder.dtype

    def features(
        self,
        pair: Any,
        seed: int = 0,
        training: bool = True,
        source_mask: Array | None = None,
        target_mask: Array | None = None,
    ) -> tuple[Array, Any]:
        """(source (B, S), target (B, T)) ints -> features (B, T, 2 d_model), which the head reads; cache."""
        target = self.check(pair)
        memory, source_mask, encoder = self._encode(pair[0], seed, training, source_mask)
        target_mask = self._mask("target_mask", target_mask, target)
        seed = rng.fold(seed, "decoder")
        features, decoder = self.decoder.features(target, memory, seed, training, target_mask, source_mask)
        return features, EncoderDecoderCache(encoder, decoder)

    def features_backward(self, dfeatures: Array, cache: Any) -> dict[str, Array]:
        """dfeatures (B, T, 2 d_model) -> grads of every parameter but the head's."""
        caches, gradients = list(cache), [dfeatures]  # handed over: see `reversible.py`
        del dfeatures, cache
        _, *gradients, decoder_grads = self.decoder.backward(gradients.pop(), caches.pop())
        _, encoder_grads = self.encoder.backward(gradients.pop(), caches.pop())
        return prefixed("encoder", encoder_grads) | prefixed("decoder", decoder_grads)

    def check(self, pair: Any) -> Array:
        """The target of a `pair`; an error unless it is (source (B, S), target (B, T)), tokens that fit the config."""
        fits = isinstance(pair, (tuple, list)) and len(pair) == 2
        expect_type("pair", pair, fits, "(source, target), two arrays of tokens")
        source, target = pair
        self._check_tokens(self.encoder, "source", source)
        self._check_tokens(self.decoder, "target", target, len(source))
        return target

    def encode(self, source: Array, seed: int = 0, source_mask: Array | None = None) -> tuple[Array, Array | None]:
        """source (B, S) ints -> memory (B, S, 2 d_model), and the mask that hides its padding, (B, S) or None."""
        self._check_tokens(self.encoder, "source", source)
        return self._encode(source, seed, False, source_mask)[:2]

    def cross_attention_maps(
        self, pair: Any, seed: int = 0, source_mask: Array | None = None, target_mask: Array | None = None
    ) -> list[Array]:
        """What each target token attends to: for every decoder block, weights (B, H, T, S), each row summing to 1."""
        target, decoder = self.check(pair), self.decoder
        memory, source_mask = self.encode(pair[0], seed, source_mask)
        inputs = {"attention": {"key_mask": self._mask("target_mask", target_mask, target)}, "feed_forward": {}}
        inputs["cross_attention"] = {"memory": memory, "memory_mask": source_mask}
        x1 = x2 = decoder.positions(decoder.embedding(target))
        seed, maps = rng.fold(rng.fold(seed, "decoder"), "layers"), []
        for i, name, sublayer in decoder.layers.sublayers():
            f, cache = sublayer.forward(x2, rng.fold(seed, i, name), training=False, **inputs[name])
            x1, x2 = x2, x1 + f
            if name == "cross_attention":
                maps.append(attention_weights(cache.part.attention))
        return maps

    def _encode(self, source, seed, training, source_mask):
        """source (B, S) -> memory (B, S, 2 d_model), the mask of the source, cache."""
        source_mask = self._mask("source_mask", source_mask, source)
        memory, cache = self.encoder.features(source, rng.fold(seed, "encoder"), training, key_mask=source_mask)
        return memory, source_mask, cache

    def _mask(self, name, mask, tokens):
        """Which of tokens (B, T) are not padding: `mask` if given, else all but the config's `pad_token`, or None."""
        check_array(name, mask, *tokens.shape, kind="b", like=tokens, whose="the tokens", optional=True)
        if mask is None and self.config.pad_token is not None:
            return tokens != self.config.pad_token
        return mask

    def _check_tokens(self, half, name, tokens, n_rows=None):
        """Like `Body.check` of this `half`, but checks the ids, too."""
        half.check(tokens, name, n_rows)
        check_tokens(name, tokens, half.config.vocab_size)
