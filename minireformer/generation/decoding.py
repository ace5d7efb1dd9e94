"""Logits, token by token: with a cache, at the cost of one token each, or by rerunning the model on the whole text.

    decoder = CachedDecoder(model, max_len=2048)
    logits = decoder.start(prompts, lengths)      # (B, T) tokens -> (B, V): what comes after each prompt
    logits = decoder.step(tokens)                 # (B,) tokens, one more of each -> (B, V)

A cached step costs O(R C) attention in an LSH layer and O(C) in a local one, however long the text. It gives the
logits that a run of the whole sequence has at its last token, *if the outputs of earlier tokens stay the same*. In full
attention they do, and in local attention that only looks back, never round the circle. In LSH attention they do not: a
new token moves chunk boundaries, and earlier tokens see a little more or less. So

- a model in which no attention layer follows an LSH layer is decoded exactly (`is_exact`);
- with more attention after an LSH layer, what a token saw depends on when you ask: cached logits differ from those of
  a new run. `benchmarks/speed/generation.py` measures by how much, over 128 tokens after a prompt of 512. In untrained
  models of 2 and of 6 LSH layers, logits (standard deviation 1) move by 0.014 and 0.019 in the median, by a third at
  most, and the likeliest token stays the same at 98 % and 93 % of the positions. After a short training, bits per byte
  agree to 0.0004.

The number of hash buckets is fixed: `config.n_buckets` or, if that is None, the number for `max_len` tokens.
Read next: `prompts.py`.
"""

from typing import Any

import numpy as np

from minireformer import backend, rng
from minireformer.attention_layer import LocalAttention, LSHAttention
from minireformer.backend import Array
from minireformer.checks import check_array, check_count, check_not_empty, check_tokens, expect_type
from minireformer.generation.caches import make_cache
from minireformer.model import Model, Reformer
from minireformer.translation.encoder_decoder import EncoderDecoder


def is_exact(model: Any) -> bool:
    """Whether cached decoding gives the logits of a new run at every length, up to rounding.

    True if no self-attention layer but the last lets later tokens change what earlier ones saw. The last may be an LSH
    layer (with `n_buckets` given: by default a longer text has more buckets), or a local one with any window.
    """
    if not isinstance(model, (Reformer, EncoderDecoder)):
        return False
    *before, last = [attention.part for attention, *_ in getattr(model, "decoder", model).layers.blocks]
    if isinstance(last, LSHAttention) and last.n_buckets is None:
        return False
    return all(_keeps_outputs(layer) for layer in before)


def _keeps_outputs(layer):
    """Whether an earlier token's output is the same, whatever comes after it."""
    if isinstance(layer, LocalAttention):  # chunks form a circle: a wider window reaches round it to later tokens
        return layer.options.n_before <= 1 and layer.options.n_after == 0
    return not isinstance(layer, LSHAttention)


class Decoding:
    """What both decoders share: checks, the lengths of the sequences, and prompts of different lengths.

    model    a causal `Reformer`, or an `EncoderDecoder`.
    max_len  the longest sequence, prompt included; None: the model's own max_len.
    seed     draws the hash rotations, as in `model(tokens, seed=seed)`.

    A subclass defines `_begin(tokens)`, which makes room for sequences; `_start(tokens, rows)`, logits (b, V) after
    prompts of one length; `_step(tokens)`; and `_select(rows)`.
    """

    def __init__(self, model: Model, max_len: int | None = None, seed: int = 0) -> None:
        self.model, self.config, self.seed = model, model.config, seed
        self.writer = getattr(model, "decoder", model)  # the part of the model that writes
        self.has_encoder = self.writer is not model
        self.writer_seed = rng.fold(seed, "decoder") if self.has_encoder else seed
        longest = self.config.max_len
        self.max_len = check_count("max_len", longest if max_len is None else max_len, at_most=longest)
        if not self.config.causal:
            raise ValueError("model: expected a causal model; one that sees later tokens cannot generate them")
        self.param = next(iter(model.params.values()))
        self.xp = backend.get_xp(self.param)
        self.lengths = None  # (B,) in host memory, once there are sequences

    def start(
        self, tokens: Array, lengths: Any = None, source: Array | None = None, source_mask: Array | None = None
    ) -> Array:
        """tokens (B, T) ints -> logits (B, V) after each of these prompts.

        `lengths` (B,) ints: how many tokens of each row are its prompt. The rest of the row is ignored, and each
        row gets the logits that it would get alone. None: all T. Anything decoded earlier is forgotten.
        `source` (B, S) ints and `source_mask` (B, S) booleans: what an `EncoderDecoder` translates; it is encoded here.
        """
        check_array("tokens", tokens, None, None, kind="i", like=self.param)
        check_not_empty("tokens", tokens)
        if tokens.shape[1] > self.max_len:
            raise ValueError(f"tokens: expected at most {self.max_len} a sequence (max_len); got {tokens.shape[1]}")
        check_tokens("tokens", tokens, self.config.vocab_size)
        lengths = check_lengths(lengths, *tokens.shape)
        self.check_source(source, len(tokens), source_mask)
        self.memory = {}  # of an encoder: "memory" (B, S, 2 d_model), and "memory_mask" (B, S) or None
        if self.has_encoder:
            memory, mask = self.model.encode(source, self.seed, source_mask)
            self.memory = {"memory": memory, "memory_mask": mask}
        self.lengths = lengths
        self._begin(tokens)
        return self._by_length(tokens, lengths)

    def check_source(self, source: Any, n_rows: int, source_mask: Array | None = None) -> None:
        """ValueError unless `source` has `n_rows` rows or, for a model without an encoder, is None."""
        if not self.has_encoder:
            for name, given in (("source", source), ("source_mask", source_mask)):
                if given is not None:
                    raise ValueError(f"{name}: expected None, as the model has no encoder")
        elif source is None or len(source) != n_rows:
            found = None if source is None else len(source)
            raise ValueError(f"source: expected {n_rows} rows, one for each of the tokens; got {found}")

    def step(self, tokens: Array) -> Array:
        """tokens (B,) ints, the next one of each sequence -> logits (B, V) after it."""
        if self.lengths is None:
            raise ValueError("tokens: expected a prompt, given to `start`, before the first step")
        check_array("tokens", tokens, len(self.lengths), kind="i", like=self.param)
        check_tokens("tokens", tokens, self.config.vocab_size)
        if self.lengths.max() >= self.max_len:
            raise ValueError(f"tokens: expected no more, as a sequence has max_len = {self.max_len} already")
        logits = self._step(tokens)
        self.lengths = self.lengths + 1
        return logits

    def select(self, rows: Any) -> None:
        """Continue with sequences `rows` (B',) ints in host memory: some of the current ones, repeated or reordered.

        This copies all that the decoder remembers of them: O(T).
        """
        if self.lengths is None:
            raise ValueError("rows: expected a prompt, given to `start`, before any choice of rows")
        rows = np.asarray(rows)
        check_tokens("rows", rows, len(self.lengths))
        if len(rows) != len(self.lengths) or (rows != np.arange(len(rows))).any():
            self._select(rows)
            self.lengths = self.lengths[rows]

    def _by_length(self, tokens, lengths):
        """Logits (B, V) after the first `lengths` (B,) tokens of each row: equal lengths run together, none padded."""
        logits = self.xp.empty((len(tokens), self.config.vocab_size), self.param.dtype)
        for length in np.unique(lengths).tolist():
            rows = np.flatnonzero(lengths == length)
            index = self.xp.asarray(rows)
            logits[index] = self._start(tokens[index, :length], rows)
        return logits


class CachedDecoder(Decoding):
    """Remembers every layer's keys, values and buckets: see above. Arguments as in `Decoding`."""

    def __init__(self, model: Model, max_len: int | None = None, seed: int = 0) -> None:
        expect_type("model", model, isinstance(model, (Reformer, EncoderDecoder)), "a Reformer, for cached decoding")
        super().__init__(model, max_len, seed)

    def _begin(self, tokens):
        seed, sizes = rng.fold(self.writer_seed, "layers"), (len(tokens), self.max_len)
        self.positions = self.writer.positions.table(self.max_len)  # T, d_model
        self.sublayers = [
            (sublayer.layer_norm, make_cache(sublayer.part, *sizes, rng.fold(seed, i, "attention"), **self.memory))
            for i, _, sublayer in self.writer.layers.sublayers()
        ]

    def _start(self, tokens, rows):
        x = [self.writer.positions(self.writer.embedding(tokens))]  # b, T, d_model; handed over: see `reversible.py`
        return self._run(x.pop(), lambda cache, x: cache.start(x, rows))

    def _step(self, tokens):
        positions = self.positions[self.xp.asarray(self.lengths)]
        x = self.writer.embedding.params["weight"][tokens] + positions  # B, d_model
        return self._run(x, lambda cache, x: cache.step(x, self.lengths))

    def _run(self, x, sublayer):
        """Run both streams through all sublayers: each reads one stream and adds to the other; -> logits (b, V)."""
        x1 = x2 = x
        del x
        for layer_norm, cache in self.sublayers:
            x1, x2 = x2, x1 + sublayer(cache, layer_norm(x2))
        if x1.ndim == 3:
            x1, x2 = x1[:, -1], x2[:, -1]
        return self.writer.head(self.writer.layer_norm(self.xp.concatenate([x1, x2], axis=-1)))

    def _select(self, rows):
        for _, cache in self.sublayers:
            cache.select(rows, int(self.lengths.max()))


class PlainDecoder(Decoding):
    """Remembers the tokens, and runs the model on all of them for every new one. Arguments as in `Decoding`."""

    def _begin(self, tokens):
        self.tokens = self.xp.zeros((len(tokens), self.max_len), tokens.dtype)
        self.tokens[:, : tokens.shape[1]] = tokens

    def _start(self, tokens, rows):
        features, _ = self.writer.features(tokens, seed=self.writer_seed, training=False, **self._memory_of(rows))
        return self.writer.head(features[:, -1])  # of b, T, 2 d_model

    def _step(self, tokens):
        self.tokens[self.xp.arange(len(tokens)), self.xp.asarray(self.lengths)] = tokens
        return self._by_length(self.tokens, self.lengths + 1)

    def _select(self, rows):
        self.tokens, self.memory = self.tokens[self.xp.asarray(rows)], self._memory_of(rows)

    def _memory_of(self, rows):
        return {name: None if a is None else a[self.xp.asarray(rows)] for name, a in self.memory.items()}


def to_host(name, values, expected):
    """`values`, an array or a list, as an array in host memory; ValueError for lists of unequal lengths."""
    try:
        return backend.to_numpy(values)
    except ValueError as error:
        raise ValueError(f"{name}: expected {expected}; {error}") from None


def check_lengths(lengths, n_rows, length):
    """`lengths` as (B,) int64 in host memory; an error unless None (all T) or B integers from 1 to T."""
    if lengths is None:
        return np.full(n_rows, length)
    lengths = to_host("lengths", lengths, f"({n_rows},) integers")
    check_array("lengths", lengths, n_rows, kind="i")
    if lengths.min() < 1 or lengths.max() > length:
        raise ValueError(f"lengths: expected 1 to {length}; got {lengths.min()}..{lengths.max()}")
    return lengths.astype("int64")
