"""Text from a trained model: one token after another, each drawn from what the model finds likely.

Three dials turn the model's distribution p into the one that is drawn from: `temperature` τ makes it
p^(1/τ), `top_k` keeps the k likeliest tokens, `top_p` the likeliest tokens that together have mass p
("nucleus", Holtzman et al. 2020). `decoding.py` has the two ways to p: with a cache, whose time per token does not
grow with the text, or by a run of the model on everything before each token.

`generate` gives all of it at once, `stream` piece by piece. Read next: `beam_search.py`, which draws nothing.
"""

import codecs
import math

import numpy as np

from minireformer import backend, rng
from minireformer.checks import check_array, check_count, check_not_empty, is_number
from minireformer.generation.decoding import CachedDecoder, PlainDecoder, check_lengths, is_exact


def generate(
    model,
    prompt,
    n_tokens,
    temperature=1.0,
    top_k=None,
    top_p=None,
    seed=0,
    *,
    stop=None,
    cached=None,
    lengths=None,
    source=None,
    source_mask=None,
):
    """`prompt`, continued by `n_tokens` tokens of `model`; -> the same kind of thing, prompt included.

    prompt        a str or bytes, if the model's tokens are bytes (a str may end amid a character: what is not
                  UTF-8 becomes U+FFFD), or tokens: a list or an integer array, (T,) or (B, T).
    temperature   0: always the likeliest token; 1: as the model says; more: wilder.
    top_k, top_p  None: all tokens may be drawn. With both, top_k comes first.
    seed          of the draws. The same seed, prompt and settings give the same text.
    stop          a token, or a list of them, after which a row ends; the result is as long as its longest row.
    cached        True: with a cache (`CachedDecoder`); False: a run of the model for every token; None: with a cache
                  where the logits are the same but for rounding (`is_exact`).
    lengths       (B,) ints, for tokens (B, T): how many of each row are its prompt. The row's new tokens follow
                  directly; what comes after its end repeats its last token. None: all T.
    source        for an `EncoderDecoder`, what to translate: of the same kinds as prompt, which is what the translation
                  begins with, if only a start token. One row for each of the prompt's.
    source_mask   (B, S) booleans: False hides padding. None: the config's pad_token does.

    Raises ValueError where prompt and new tokens exceed `model.config.max_len`, or a token the vocabulary.
    """
    _check_dials(temperature, top_k, top_p)
    decoder, tokens, given, stop = prepare(model, prompt, n_tokens, stop, cached, lengths, source, source_mask)
    new = list(_draws(decoder, tokens, given, n_tokens, (temperature, top_k, top_p), seed, stop))
    new = np.stack(new, axis=1) if new else np.empty((len(tokens), 0), tokens.dtype)  # B, n
    return decode(joined(tokens, given["lengths"], new), prompt)


def stream(
    model,
    prompt,
    n_tokens,
    temperature=1.0,
    top_k=None,
    top_p=None,
    seed=0,
    *,
    stop=None,
    cached=None,
    lengths=None,
    source=None,
    source_mask=None,
):
    """An iterator over what `generate` adds to `prompt`, as soon as it is there. Arguments and errors as `generate`.

    For a str, pieces of text (a character may take several tokens); for bytes, single bytes; for tokens (T,), ints;
    for (B, T), lists or arrays (B,), in which a row that has ended repeats its last token.

        for piece in mr.stream(model, "def forward(self", 100):
            print(piece, end="")
    """
    _check_dials(temperature, top_k, top_p)
    decoder, tokens, given, stop = prepare(model, prompt, n_tokens, stop, cached, lengths, source, source_mask)
    draws = _draws(decoder, tokens, given, n_tokens, (temperature, top_k, top_p), seed, stop)
    if isinstance(prompt, str):
        return _characters(draws)
    if isinstance(prompt, bytes):
        return (new.astype("uint8").tobytes() for new in draws)
    if backend.to_numpy(prompt).ndim == 1:
        return (int(new[0]) for new in draws)
    return (new.tolist() if isinstance(prompt, (list, tuple)) else backend.get_xp(prompt).asarray(new) for new in draws)


def prepare(model, prompt, n_tokens, stop, cached, lengths, source, source_mask):
    """Check what all kinds of generation are given.

    -> decoder, tokens (B, T) in host memory, what `decoder.start` is given beside them (a dict), stop (n,) ints.
    """
    check_count("n_tokens", n_tokens, at_least=0)
    if not hasattr(model, "features") or isinstance(model, type):
        raise TypeError(f"model: expected a Reformer; got {type(model).__name__}")
    if cached is not None and not isinstance(cached, bool):
        raise ValueError(f"cached: expected True, False or None; got {cached!r}")
    config = model.config
    if config.head != "tokens":
        raise ValueError(f"model: expected one that predicts tokens; the head of this one is {config.head!r}")
    if not config.causal:
        raise ValueError("model: expected a causal model; one that sees what follows cannot write it")
    tokens = _encode(prompt, config.vocab_size)  # B, T
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
        source = _encode(source, getattr(config, "source_vocab_size", None) or config.vocab_size, "source")
        source = decoder.xp.asarray(source)
    decoder.check_source(source, len(tokens), source_mask)
    return decoder, tokens, {"lengths": lengths, "source": source, "source_mask": source_mask}, stop


def _draws(decoder, tokens, given, n_tokens, dials, seed, stop):
    """Yield up to `n_tokens` arrays (B,): the next token of every row."""
    random, logits = rng.generator(seed, "generate"), None
    ended, new = np.zeros(len(tokens), bool), None
    for _ in range(n_tokens):
        if ended.all():
            return
        if new is None:
            logits = decoder.start(decoder.xp.asarray(tokens), **given)
        else:
            logits = decoder.step(decoder.xp.asarray(new))
        drawn = _draw(token_probabilities(logits, *dials), random)[:, 0]
        new = drawn if new is None else np.where(ended, new, drawn)
        ended |= np.isin(new, stop)
        yield new


def _characters(draws):
    """Bytes one by one, as text: a piece for every byte that completes a character."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for new in draws:
        if piece := decoder.decode(new.astype("uint8").tobytes()):
            yield piece
    if piece := decoder.decode(b"", final=True):
        yield piece


def joined(tokens, lengths, new):
    """Prompts tokens (B, T), of which the first `lengths` (B,) count, and their continuations new (B, n) -> (B, T + n).

    The rest of a row repeats its last token.
    """
    out = np.pad(tokens, ((0, 0), (0, new.shape[1])))
    for row, length, of_row in zip(out, lengths, new):
        row[length : length + len(of_row)] = of_row
        row[length + len(of_row) :] = row[length + len(of_row) - 1]
    return out


def token_probabilities(logits, temperature=1.0, top_k=None, top_p=None):
    """The distributions to draw from, for `logits` (B, V); -> (B, V), float64, in host memory.

    p = softmax(logits / temperature), then the top k, then the smallest set of likeliest tokens whose mass
    is at least top_p. Of equally likely tokens at the border the one with the lower id stays.
    """
    _check_dials(temperature, top_k, top_p)
    logits = shifted(logits)
    if temperature == 0:
        top_k, temperature = 1, 1.0
    with np.errstate(over="ignore"):  # -inf, at temperatures next to 0: p is 0
        p = np.exp(logits / temperature)
    order = np.argsort(-logits, axis=1, kind="stable")  # B, V: likeliest first
    p = np.take_along_axis(p, order, axis=1)
    if top_k is not None:
        p[:, top_k:] = 0
    p /= p.sum(axis=1, keepdims=True)
    if top_p is not None:
        likelier = np.pad(np.cumsum(p, axis=1)[:, :-1], ((0, 0), (1, 0)))  # the mass before each token
        p[likelier >= top_p] = 0  # was already enough
        p /= p.sum(axis=1, keepdims=True)
    probabilities = np.empty_like(p)
    np.put_along_axis(probabilities, order, p, axis=1)
    return probabilities


def shifted(logits):
    """`logits` (B, V) less the largest of each row: float64, in host memory. ValueError for NaN and infinity."""
    check_array("logits", logits, None, None)
    check_not_empty("logits", logits)
    logits = backend.to_numpy(logits).astype("float64")
    if not np.isfinite(logits).all():
        raise ValueError("logits: expected finite numbers; the model gave NaN or infinity")
    return logits - logits.max(axis=1, keepdims=True)


def _draw(p, random):
    """A token of each row's distribution `p` (B, V): where a uniform number falls among the running sums."""
    sums = np.cumsum(p, axis=1)
    u = random.random((len(p), 1)) * sums[:, -1:]  # sums may end at 1 - 1e-16
    return (sums > u).argmax(axis=1)[:, None]  # B, 1


def _encode(prompt, vocab_size, name="prompt"):
    """`prompt`, or whatever argument has the `name`, as tokens (B, T) in host memory."""
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
    if tokens.min() < 0 or tokens.max() >= vocab_size:
        raise ValueError(f"{name}: expected tokens in 0..{vocab_size - 1}; got {tokens.min()}..{tokens.max()}")
    return np.atleast_2d(tokens).astype("int64")


def decode(tokens, prompt):
    """`tokens` (B, T) in host memory as the kind of thing that `prompt` is."""
    if isinstance(prompt, (str, bytes)):
        data = tokens.astype("uint8").tobytes()
        return data.decode(errors="replace") if isinstance(prompt, str) else data
    tokens = tokens if backend.to_numpy(prompt).ndim == 2 else tokens[0]
    return tokens.tolist() if isinstance(prompt, (list, tuple)) else backend.get_xp(prompt).asarray(tokens)


def _check_stop(stop, vocab_size):
    """`stop` as (n,) ints in host memory; an error unless None, a token, or a list of tokens."""
    given = [] if stop is None else stop
    try:
        stop = np.atleast_1d(backend.to_numpy(given))
    except (TypeError, ValueError):  # lists of several lengths, or what is no array
        stop = np.empty((0, 0))
    if stop.shape == (0,):
        return stop.astype("int64")
    if stop.dtype.kind not in "iu" or stop.ndim != 1:
        raise TypeError(f"stop: expected a token, or a list of them; got {given!r}")
    if stop.min() < 0 or stop.max() >= vocab_size:
        raise ValueError(f"stop: expected tokens in 0..{vocab_size - 1}; got {stop.min()}..{stop.max()}")
    return stop


def _check_dials(temperature, top_k, top_p):
    if not is_number(temperature) or not 0 <= temperature < math.inf:
        raise ValueError(f"temperature: expected a finite number >= 0; got {temperature!r}")
    if top_k is not None:
        check_count("top_k", top_k)
    if top_p is not None and not (is_number(top_p) and 0 < top_p <= 1):
        raise ValueError(f"top_p: expected a number in (0, 1]; got {top_p!r}")
