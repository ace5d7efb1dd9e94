"""Text from a trained model: one token after another, each drawn from what the model finds likely.

Three settings turn the model's distribution p into the one that we draw from: `temperature` τ makes it p^(1/τ), `top_k`
keeps the k likeliest tokens, `top_p` the likeliest tokens that together have mass p ("nucleus", Holtzman et al. 2020).
`decoding.py` computes p in two ways: with a cache, where the time per token does not grow with the text, or by running
the model on the whole text for each new token.

`generate` gives you the whole text at once, `stream` piece by piece. Read next: `beams.py`, which draws nothing.
"""

import codecs
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from minireformer import backend, rng
from minireformer.backend import Array
from minireformer.checks import check_array, check_count, check_not_empty, expect, is_number
from minireformer.generation.prompts import Continuation, as_given
from minireformer.model import Model


def check_sampling(temperature, top_k, top_p):
    """The three settings, unchanged; ValueError names one that is out of range."""
    fits = is_number(temperature) and 0 <= temperature < math.inf
    expect("temperature", temperature, fits, "a finite number >= 0")
    if top_k is not None:
        check_count("top_k", top_k)
    expect("top_p", top_p, top_p is None or is_number(top_p) and 0 < top_p <= 1, "a number in (0, 1]")
    return temperature, top_k, top_p


def generate(
    model: Model,
    prompt: Any,
    n_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    *,
    stop: int | Sequence[int] | None = None,
    cached: bool | None = None,
    lengths: Any = None,
    source: Any = None,
    source_mask: Array | None = None,
) -> Any:
    """`prompt`, continued by `n_tokens` tokens of `model`; -> the same kind of thing, prompt included.

    prompt        a str or bytes, if the model's tokens are bytes (a str may end in mid-character: what is not
                  UTF-8 becomes U+FFFD), or tokens: a list or an integer array, (T,) or (B, T).
    temperature   0: always the likeliest token; 1: as the model says; more: wilder.
    top_k, top_p  None: all tokens may be drawn. With both, top_k comes first.
    seed          for the draws. The same seed, prompt and settings give the same text.
    stop          a token, or a list of them, after which a row ends; the result is as long as its longest row.
    cached        True: with a cache (`CachedDecoder`); False: a run of the model for every token; None: with a cache
                  if the logits are the same up to rounding (`is_exact`).
    lengths       (B,) ints, for tokens (B, T): how many of each row are its prompt. The row's new tokens follow
                  directly, and its last token fills the rest. None: all T.
    source        for an `EncoderDecoder`, what to translate, in any form that a prompt may have. The prompt is then
                  how the translation begins; a start token will do. One row for each row of the prompt.
    source_mask   (B, S) booleans: False hides padding. None: the config's pad_token does.

    Raises ValueError if prompt and new tokens exceed `model.config.max_len`, or if a token is not in the vocabulary.
    """
    sampling = check_sampling(temperature, top_k, top_p)
    text = Continuation(model, prompt, n_tokens, stop, cached, lengths, source, source_mask)
    new = np.array(list(_draws(text, sampling, seed)), dtype="int64").reshape(-1, len(text.tokens))  # n, B
    return text.result(new.T)


def stream(
    model: Model,
    prompt: Any,
    n_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    *,
    stop: int | Sequence[int] | None = None,
    cached: bool | None = None,
    lengths: Any = None,
    source: Any = None,
    source_mask: Array | None = None,
) -> Iterator[Any]:
    """An iterator over what `generate` adds to `prompt`, each piece as soon as it is drawn. Same arguments and errors.

    For a str, pieces of text (a character may take several tokens); for bytes, single bytes; for tokens (T,), ints;
    for (B, T), lists or arrays (B,), in which a row that has ended repeats its last token.

        for piece in mr.stream(model, "def forward(self", 100):
            print(piece, end="")
    """
    sampling = check_sampling(temperature, top_k, top_p)
    text = Continuation(model, prompt, n_tokens, stop, cached, lengths, source, source_mask)
    draws = _draws(text, sampling, seed)
    if isinstance(prompt, (str, bytes)):
        pieces = (new.astype("uint8").tobytes() for new in draws)
        return pieces if isinstance(prompt, bytes) else codecs.iterdecode(pieces, "utf-8", "replace")
    if backend.to_numpy(prompt).ndim == 1:
        return (int(new[0]) for new in draws)
    return (as_given(new, prompt) for new in draws)


def _draws(text, sampling, seed):
    """Yield up to `text.n_tokens` arrays (B,): the next token of every row."""
    random, new = rng.generator(seed, "generate"), None
    ended = np.zeros(len(text.tokens), bool)
    for _ in range(text.n_tokens):
        if ended.all():
            return
        drawn = _draw(token_probabilities(text.logits(new), *sampling), random)
        new = drawn if new is None else np.where(ended, new, drawn)
        ended |= np.isin(new, text.stop)
        yield new


def token_probabilities(logits, temperature=1.0, top_k=None, top_p=None):
    """The distributions to draw from, for `logits` (B, V); -> (B, V), float64, in host memory.

    p = softmax(logits / temperature), then the top k, then the smallest set of likeliest tokens whose mass
    is at least top_p. Among equally likely tokens at the cutoff, those with lower ids stay.
    """
    check_sampling(temperature, top_k, top_p)
    logits = less_the_largest(logits)
    if temperature == 0:
        top_k, temperature = 1, 1.0
    with np.errstate(over="ignore"):  # -inf, at temperatures next to 0: p is 0
        p = np.exp(logits / float(temperature))
    order = np.argsort(-logits, axis=1, kind="stable")  # B, V: likeliest first
    p = np.take_along_axis(p, order, axis=1)
    if top_k is not None:
        p[:, top_k:] = 0
    p /= p.sum(axis=1, keepdims=True)
    if top_p is not None:
        likelier = np.pad(np.cumsum(p, axis=1)[:, :-1], ((0, 0), (1, 0)))  # the mass before each token
        p[likelier >= top_p] = 0  # that mass was already enough
        p /= p.sum(axis=1, keepdims=True)
    probabilities = np.empty_like(p)
    np.put_along_axis(probabilities, order, p, axis=1)
    return probabilities


def less_the_largest(logits):
    """`logits` (B, V) less the largest of each row: float64, in host memory. ValueError for NaN and infinity."""
    check_array("logits", logits, None, None)
    check_not_empty("logits", logits)
    logits = backend.to_numpy(logits).astype("float64")
    if not np.isfinite(logits).all():
        raise ValueError("logits: expected finite numbers; the model gave NaN or infinity")
    return logits - logits.max(axis=1, keepdims=True)


def _draw(p, random):
    """Tokens (B,), one from each row's distribution `p` (B, V): where a uniform number falls in the cumulative sums."""
    sums = np.cumsum(p, axis=1)
    u = random.random((len(p), 1)) * sums[:, -1:]  # sums may end at 1 - 1e-16
    return (sums > u).argmax(axis=1)
