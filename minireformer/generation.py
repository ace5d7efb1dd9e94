"""Text from a trained model: one token after another, each drawn from what the model finds likely.

Every token runs the model on everything before it: plain and slow, O(n) runs for n tokens. Hash buckets
couple all positions, so nothing that an LSH layer computed for a shorter text is sure to hold for a longer
one; the memory of a run is small instead.

Three dials turn the model's distribution p into the one that is drawn from: `temperature` τ makes it
p^(1/τ), `top_k` keeps the k likeliest tokens, `top_p` the likeliest tokens that together have mass p
("nucleus", Holtzman et al. 2020). Read next: `gradcheck.py`.
"""

import math

import numpy

from minireformer import backend, rng
from minireformer.layer import check_array, check_count, check_not_empty, is_number


def generate(model, prompt, n_tokens, temperature=1.0, top_k=None, top_p=None, seed=0):
    """`prompt`, continued by `n_tokens` tokens of `model`; -> the same kind of thing, prompt included.

    prompt        a str or bytes, if the model's tokens are bytes (a str may end amid a character: what is not
                  UTF-8 becomes U+FFFD), or tokens: a list or an integer array, (T,) or (B, T).
    temperature   0: always the likeliest token; 1: as the model says; more: wilder.
    top_k, top_p  None: all tokens may be drawn. With both, top_k comes first.
    seed          of the draws. The same seed, prompt and settings give the same text.

    Raises ValueError where prompt and new tokens exceed `model.config.max_len`, or a token the vocabulary.
    """
    check_count("n_tokens", n_tokens, at_least=0)
    _check_dials(temperature, top_k, top_p)
    if not hasattr(model, "features"):
        raise TypeError(f"model: expected a Reformer; got {type(model).__name__}")
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
    xp = backend.get_xp(next(iter(model.params.values())))
    random = rng.generator(seed, "generate")
    for _ in range(n_tokens):
        features = model.features(xp.asarray(tokens), training=False)[0]  # B, T, 2 d_model
        p = token_probabilities(model.head(features[:, -1]), temperature, top_k, top_p)  # B, V
        tokens = numpy.concatenate([tokens, _draw(p, random)], axis=1)
    return _decode(tokens, prompt)


def token_probabilities(logits, temperature=1.0, top_k=None, top_p=None):
    """The distributions to draw from, for `logits` (B, V); -> (B, V), float64, in host memory.

    p = softmax(logits / temperature), then the top k, then the smallest set of likeliest tokens whose mass
    is at least top_p. Of equally likely tokens at the border the one with the lower id stays.
    """
    _check_dials(temperature, top_k, top_p)
    check_array("logits", logits, None, None)
    check_not_empty("logits", logits)
    logits = backend.to_numpy(logits).astype("float64")
    if not numpy.isfinite(logits).all():
        raise ValueError("logits: expected finite numbers; the model gave NaN or infinity")
    logits -= logits.max(axis=1, keepdims=True)
    if temperature == 0:
        top_k, temperature = 1, 1.0
    p = numpy.exp(logits / temperature)
    order = numpy.argsort(-logits, axis=1, kind="stable")  # B, V: likeliest first
    p = numpy.take_along_axis(p, order, axis=1)
    if top_k is not None:
        p[:, top_k:] = 0
    p /= p.sum(axis=1, keepdims=True)
    if top_p is not None:
        likelier = numpy.pad(numpy.cumsum(p, axis=1)[:, :-1], ((0, 0), (1, 0)))  # the mass before each token
        p[likelier >= top_p] = 0  # was already enough
        p /= p.sum(axis=1, keepdims=True)
    probabilities = numpy.empty_like(p)
    numpy.put_along_axis(probabilities, order, p, axis=1)
    return probabilities


def _draw(p, random):
    """A token of each row's distribution `p` (B, V): where a uniform number falls among the running sums."""
    sums = numpy.cumsum(p, axis=1)
    u = random.random((len(p), 1)) * sums[:, -1:]  # sums may end at 1 - 1e-16
    return (sums > u).argmax(axis=1)[:, None]  # B, 1


def _encode(prompt, vocab_size):
    """`prompt` as tokens (B, T) in host memory."""
    if isinstance(prompt, (str, bytes)):
        if vocab_size != 256:
            raise ValueError(
                f"prompt: expected token ids, as text needs a model of bytes (vocab_size 256); "
                f"got a {type(prompt).__name__} for vocab_size {vocab_size}"
            )
        prompt = numpy.frombuffer(prompt.encode() if isinstance(prompt, str) else prompt, dtype="uint8")
    try:
        tokens = backend.to_numpy(prompt)
    except ValueError as error:  # lists of several lengths
        raise ValueError(f"prompt: expected tokens, (T,) or (B, T); {error}") from None
    if tokens.ndim not in (1, 2) or tokens.size == 0:
        raise ValueError(f"prompt: expected at least one token, (T,) or (B, T); got shape {tokens.shape}")
    if tokens.dtype.kind not in "iu":
        raise TypeError(f"prompt: expected text or integers; got dtype {tokens.dtype}")
    if tokens.min() < 0 or tokens.max() >= vocab_size:
        raise ValueError(f"prompt: expected tokens in 0..{vocab_size - 1}; got {tokens.min()}..{tokens.max()}")
    return numpy.atleast_2d(tokens).astype("int64")


def _decode(tokens, prompt):
    """`tokens` (B, T) as the kind of thing that `prompt` is."""
    if isinstance(prompt, (str, bytes)):
        data = tokens.astype("uint8").tobytes()
        return data.decode(errors="replace") if isinstance(prompt, str) else data
    tokens = tokens if backend.to_numpy(prompt).ndim == 2 else tokens[0]
    return tokens.tolist() if isinstance(prompt, (list, tuple)) else backend.get_xp(prompt).asarray(tokens)


def _check_dials(temperature, top_k, top_p):
    if not is_number(temperature) or not 0 <= temperature < math.inf:
        raise ValueError(f"temperature: expected a finite number >= 0; got {temperature!r}")
    if top_k is not None:
        check_count("top_k", top_k)
    if top_p is not None and not (is_number(top_p) and 0 < top_p <= 1):
        raise ValueError(f"top_p: expected a number in (0, 1]; got {top_p!r}")
