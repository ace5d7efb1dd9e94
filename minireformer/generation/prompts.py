"""What goes into generation and what comes out: any kind of prompt becomes tokens, and tokens become that kind again.

`generate`, `stream` and `beam_search` take the same arguments besides their own settings. A `Continuation` checks them
and holds everything that a loop over new tokens needs. Read next: `sampling.py`.
"""

import numpy as np

from minireformer import backend
from minireformer.checks import check_count, check_tokens, expect, expect_type
from minireformer.generation.decoding import CachedDecoder, PlainDecoder, check_lengths, is_exact, to_host


class Continuation:
    """What to continue, how far, and with which decoder: arguments as in `generate`."""

    def __init__(self, model, prompt, n_tokens, stop, cached, lengths, source, source_mask):
        self.n_tokens = check_count("n_tokens", n_tokens, at_least=0)
        expect_type("model", model, hasattr(model, "features") and not isinstance(model, type), "a Reformer")
        expect("cached", cached, cached is None or isinstance(cached, bool), "True, False or None")
        config = model.config
        if config.head != "tokens":
            raise ValueError(f"model: expected one that predicts tokens; the head of this one is {config.head!r}")
        self.prompt, self.tokens = prompt, _encode("prompt", prompt, config.vocab_size)  # (B, T) int64 in host memory
        n_rows, length = self.tokens.shape
        max_len = length + self.n_tokens
        if max_len > config.max_len:
            added = f"prompt ({length}) and new tokens ({n_tokens}) are {max_len} together"
            raise ValueError(f"n_tokens: {added}; expected at most the model's max_len, {config.max_len}")
        self.stop = _check_stop(stop, config.vocab_size)
        self.lengths = check_lengths(lengths, n_rows, length)
        cached = is_exact(model) if cached is None else cached
        self.decoder = (CachedDecoder if cached else PlainDecoder)(model, max_len)
        if source is not None:
            source = _encode("source", source, getattr(config, "source_vocab_size", None) or config.vocab_size)
            source = self.decoder.xp.asarray(source)
        self.decoder.check_source(source, n_rows, source_mask)
        self.source, self.source_mask = source, source_mask

    def logits(self, new=None):
        """Logits (B, V) after the prompts or, from the second call on, after one more token of each: new (B,) ints."""
        if new is not None:
            return self.decoder.step(self.decoder.xp.asarray(new))
        tokens = self.decoder.xp.asarray(self.tokens)
        return self.decoder.start(tokens, self.lengths, self.source, self.source_mask)

    def result(self, new):
        """The prompts and their continuations new (B, n), in the same form as the prompt.

        Each row's continuation follows its prompt directly; its last token fills the rest of the row.
        """
        out = np.pad(self.tokens, ((0, 0), (0, new.shape[1])))  # B, T + n
        for row, length, added in zip(out, self.lengths, new):
            row[length : length + len(added)] = added
            row[length + len(added) :] = row[length + len(added) - 1]
        if isinstance(self.prompt, (str, bytes)):
            data = out.astype("uint8").tobytes()
            return data.decode(errors="replace") if isinstance(self.prompt, str) else data
        return as_given(out if backend.to_numpy(self.prompt).ndim == 2 else out[0], self.prompt)


def as_given(tokens, prompt):
    """An array of tokens in host memory as a list, if the prompt was one, or as an array of the prompt's backend."""
    return tokens.tolist() if isinstance(prompt, (list, tuple)) else backend.get_xp(prompt).asarray(tokens)


def _encode(name, prompt, vocab_size):
    """`prompt`, the argument called `name`, as tokens (B, T) int64 in host memory."""
    expect_type(name, prompt, not isinstance(prompt, (bytearray, memoryview)), "a str, bytes, or token ids")
    if isinstance(prompt, (str, bytes)):
        if vocab_size != 256:
            raise ValueError(
                f"{name}: expected token ids, as text needs a model of bytes (vocab_size 256); "
                f"got a {type(prompt).__name__} for vocab_size {vocab_size}"
            )
        try:
            prompt = prompt.encode() if isinstance(prompt, str) else prompt
        except UnicodeEncodeError as error:
            raise ValueError(f"{name}: expected text that UTF-8 can encode; {error}") from None
        prompt = np.frombuffer(prompt, dtype="uint8")
    tokens = to_host(name, prompt, "tokens, (T,) or (B, T)")
    if tokens.ndim not in (1, 2) or tokens.size == 0:
        raise ValueError(f"{name}: expected at least one token, (T,) or (B, T); got shape {tokens.shape}")
    check_tokens(name, tokens, vocab_size)
    return np.atleast_2d(tokens).astype("int64")


def _check_stop(stop, vocab_size):
    """`stop` as (n,) ints in host memory; an error unless None, a token, or a list of tokens."""
    try:
        tokens = np.atleast_1d(backend.to_numpy([] if stop is None else stop))
    except (TypeError, ValueError):  # lists of unequal lengths, or not an array at all
        tokens = np.empty((0, 0))
    if tokens.shape == (0,):
        return tokens.astype("int64")
    if tokens.dtype.kind not in "iu" or tokens.ndim != 1:
        raise TypeError(f"stop: expected a token, or a list of them; got {stop!r}")
    check_tokens("stop", tokens, vocab_size)
    return tokens
