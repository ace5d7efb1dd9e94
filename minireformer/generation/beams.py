"""Beam search: find a likely continuation as a whole, not one likely token at a time.

The likeliest sequence need not begin with the likeliest token. Beam search keeps the `n_beams` beginnings that are
likeliest so far, tries every next token on each, and keeps the best of what comes out. With one beam it is greedy; with
more beams than there are beginnings, it finds the likeliest continuation of all.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minireformer.backend import Array
from minireformer.checks import check_count, expect, is_number
from minireformer.generation.prompts import Continuation
from minireformer.generation.sampling import less_the_largest
from minireformer.model import Model


def beam_search(
    model: Model,
    prompt: Any,
    n_tokens: int,
    n_beams: int = 4,
    length_penalty: float = 0.0,
    *,
    stop: int | Sequence[int] | None = None,
    cached: bool | None = None,
    lengths: Any = None,
    source: Any = None,
    source_mask: Array | None = None,
) -> Any:
    """`prompt`, continued by the likeliest tokens that `n_beams` beams find; -> the same kind of thing.

    A continuation of n tokens, which ends with a `stop` token or has n_tokens of them, scores
    log p(continuation) / n^length_penalty: at 0 short ones have an advantage, as every token makes a text less likely.
    Other arguments, the form of the result and errors are as in `generate`. Each step copies what the decoder
    remembers of the beams that survive: O(T).
    """
    check_count("n_beams", n_beams)
    fits = is_number(length_penalty) and 0 <= length_penalty <= 10  # n^10 is a float for any n
    expect("length_penalty", length_penalty, fits, "a number from 0 to 10")
    text = Continuation(model, prompt, n_tokens, stop, cached, lengths, source, source_mask)
    best = _search(text, n_beams, float(length_penalty))
    n = max(len(found) for found in best)
    return text.result(np.stack([found[np.minimum(np.arange(n), len(found) - 1)] for found in best]))  # from (B, n)


def _search(text, n_beams, length_penalty):
    """The best continuation of every row, as a list of arrays (n,)."""
    n_rows, n_tokens, dtype = len(text.tokens), text.n_tokens, text.tokens.dtype
    best = [(-math.inf, np.empty(0, dtype)) for _ in range(n_rows)]
    beams = np.empty((n_rows, 1, 0), dtype)  # B, K, n: what was added to the prompt; at first one empty beam
    score = np.zeros((n_rows, 1))  # B, K: its log-probability
    for n in range(1, n_tokens + 1):
        logits = less_the_largest(text.logits(None if n == 1 else beams[..., -1].reshape(-1)))
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        total = score[..., None] + log_p.reshape(*score.shape, -1)  # B, K, V
        vocab_size = total.shape[-1]
        ends = np.flatnonzero(np.isin(np.arange(vocab_size), text.stop) | (n == n_tokens))
        for row in range(n_rows):
            ended = total[row][:, ends]
            if ended.size and (value := ended.max() / n**length_penalty) > best[row][0]:
                beam, token = np.unravel_index(ended.argmax(), ended.shape)
                best[row] = value, np.append(beams[row, beam], ends[token])
        if n == n_tokens:
            break
        total[..., ends] = -math.inf
        flat = total.reshape(n_rows, -1)
        chosen = np.argsort(-flat, axis=1, kind="stable")[:, :n_beams]  # B, K'
        score = np.take_along_axis(flat, chosen, axis=1)
        # Log-probabilities only fall, so no beam can end above this.
        if all(value >= bound for (value, _), bound in zip(best, score.max(axis=1) / n_tokens**length_penalty)):
            break
        parents = chosen // vocab_size
        beams = np.take_along_axis(beams, parents[..., None], axis=1)
        beams = np.concatenate([beams, (chosen % vocab_size)[..., None]], axis=-1)
        text.decoder.select((parents + np.arange(n_rows)[:, None] * (len(logits) // n_rows)).reshape(-1))
    return [found for _, found in best]
