"""What goes into generation and what comes out: prompts of any kind, as tokens, and tokens as that kind again.

`generate`, `stream` and `beam_search` take the same arguments beside their own settings. `prepare` checks them and
makes a `Continuation` of them: all that a loop over new tokens needs. Read next: `sampling.py`.
"""

from typing import Any, NamedTuple

import numpy as np

from minireformer import backend
from minireformer.checks import check_count
from minireformer.generation.decoding import CachedDecoder, Decoding, PlainDecoder, check_lengths, is_exact


class Continuation(NamedTuple):
    """What to continue, how far, and with which decoder."""

    prompt: Any  # as it was given: the result is to be of the same kind
    tokens: Any  # (B, T) int64 in host memory
    lengths: Any  # (B,) ints in host memory: how many of each row are its prompt
    n_tokens: int  # how many to add
    stop: Any  # (n,) ints: the tokens after which a row ends
    decoder: Decoding
    source: Any  # (B, S) ints, on the decoder's device, and (B, S) booleans; or None
    source_mask: Any

    def start(self):
        """Logits (B, V) of the first new tokens."""
        tokens = self.decoder.xp.asarray(self.tokens)
        return self.decoder.start(tokens, self.lengths, self.source, self.source_mask)

    def step(self, tokens):
        """Logits (B, V) after tokens (B,), in host memory."""
        return self.decoder.step(self.decoder.xp.asarray(tokens))

    def result(self, new):
        """The prompts and their continuations new (B, n), as the kind of thing that the prompt is.

        Each row's continuation follows its prompt directly; its last token fills up the rest of the row.
        """
        out = np.pad(self.tokens, ((0, 0), (0, new.shape[1])))  # B, T + n
        for row, length, added in zip(out, self.lengths, new):
            row[length : length + len(added)] = added
            row[length + len(added) :] = row[length + len(added) - 1]
        if isinstance(self.prompt, (str, bytes)):
            data = out.astype("uint8").tobytes()
            return data.decode(errors="replace") if isinstance(self.prompt, str) else data
        return as_given(out if backend.to_numpy(self.prompt).ndim == 2 else out[0], self.prompt)


def prepare(model, prompt, n_tokens, stop, cached, lengths, source, source_mask):
    """Check these arguments of `generate`; -> a `Continuation`."""
    n_tokens = check_count("n_tokens", n_tokens, at_least=0)
    if not hasattr(model, "features") or isinstance(model, type):
        raise TypeError(f"model: expected a Reformer; got {type(model).__name__}")
    if cached is not None and not isinstance(cached, bool):
        raise ValueError(f"cached: expected True, False or None; got {cached!r}")
    config = model.config
    if config.head != "tokens":
        raise ValueError(f"model: expected one that predicts tokens; the head of this one is {config.head!r}")
    tokens = _encode("prompt", prompt, config.vocab_size)  # B, T
    length = tokens.shape[1] + n_tokens
    if length > config.max_len:
        raise ValueError(
            f"n_tokens: prompt ({tokens.shape[1]}) and new tokens ({n_tokens}) are {length} together; "
            f"expected at most the model's max_len, {config.max_len}"
        )
    stop = _check_stop(stop, config.vocab_size)
    lengths = check_lengths(lengths, *tokens.shape)
    cached = is_exact(model) if cached is None else cached
    decoder = (CachedDecoder if cached else PlainDecoder)(model, length)
    if source is not None:
        source = _encode("source", source, getattr(config, "source_vocab_size", None) or config.vocab_size)
        source = decoder.xp.asarray(source)
    decoder.check_source(source, len(tokens), source_mask)
    return Continuation(prompt, tokens, lengths, n_tokens, stop, decoder, source, source_mask)


def as_given(tokens, prompt):
    """An array of tokens in host memory as a list, if the prompt was one, or as an array of the prompt's backend."""
    return tokens.tolist() if isinstance(prompt, (list, tuple)) else backend.get_xp(prompt).asarray(tokens)


def _encode(name, prompt, vocab_size):
    """`prompt`, the argument called `name`, as tokens (B, T) int64 in host memory."""
    if isinstance(prompt, (bytearray, memoryview)):
        raise TypeError(f"{name}: expected a str, bytes, or token ids; got a {type(prompt).__name__}")
    if isinstance(prompt, (str, bytes)):
        if vocab_size != 256:
            raise ValueError(
                f"{name}: expected token ids, as text needs a model of bytes (vocab_size 256); "
                f"got a {type(prompt).__name__} for vocab_size {vocab_size}"
            )
        try:
            prompt = prompt.encode() if isinstance(prompt, str) else prompt
        except UnicodeEncodeError as error:
            raise ValueError(f"{name}: expected text that UTF-8 can write; {error}") from None
        prompt = np.frombuffer(prompt, dtype="uint8")
    try:
        tokens = backend.to_numpy(prompt)
    except ValueError as error:  # lists of several lengths
        raise ValueError(f"{name}: expected tokens, (T,) or (B, T); {error}") from None
    if tokens.ndim not in (1, 2) or tokens.size == 0:
        raise ValueError(f"{name}: expected at least one token, (T,) or (B, T); got shape {tokens.shape}")
    if tokens.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected text or integers; got dtype {tokens.dtype}")
    _check_range(name, tokens, vocab_size)
    return np.atleast_2d(tokens).astype("int64")


def _check_stop(stop, vocab_size):
    """`stop` as (n,) ints in host memory; an error unless None, a token, or a list of tokens."""
    try:
        tokens = np.atleast_1d(backend.to_numpy([] if stop is None else stop))
    except (TypeError, ValueError):  # lists of several lengths, or what is no array
        tokens = np.empty((0, 0))
    if tokens.shape == (0,):
        return tokens.astype("int64")
    if tokens.dtype.kind not in "iu" or tokens.ndim != 1:
        raise TypeError(f"stop: expected a token, or a list of them; got {stop!r}")
    _check_range("stop", tokens, vocab_size)
    return tokens


def _check_range(name, tokens, vocab_size):
    if tokens.min() < 0 or tokens.max() >= vocab_size:
        raise ValueError(f"{name}: expected tokens in 0..{vocab_size - 1}; got {tokens.min()}..{tokens.max()}")
