"""Beam search: greedy with one beam, exhaustive with enough of them, and never below greedy on the way."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

import minireformer as mr
from minireformer import backend
from minireformer.generation.beams import beam_search
from minireformer.generation.sampling import generate


class Bigrams:
    """A model whose next token depends on the last one alone, with `logits` (V, V) that a test knows."""

    def __init__(self, logits, max_len=64):
        self.params = {"logits": backend.asarray(logits)}
        self.config = SimpleNamespace(vocab_size=len(logits), max_len=max_len, causal=True, head="tokens")

    def features(self, tokens, seed, training):
        return tokens, None

    def head(self, features):
        return self.params["logits"][features]


def random_bigrams(n=4, seed=0):
    return np.random.default_rng(seed).standard_normal((n, n)) * 1.5


def log_probability(logits, sequence):
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return sum(log_p[a, b] for a, b in zip(sequence, sequence[1:]))


def likeliest(logits, first, n, stop=(), penalty=0.0):
    """By trying them all: continuations of `first` that end with a stop token, or have n tokens."""
    found = []
    for length in range(1, n + 1):
        for new in itertools.product(range(len(logits)), repeat=length):
            ends = new[-1] in stop or length == n
            if ends and not set(new[:-1]) & set(stop):
                found.append((log_probability(logits, (first, *new)) / length**penalty, [first, *new]))
    return max(found)[1]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("stop, penalty", [((), 0.0), ((2,), 0.0), ((0, 3), 1.0)])
def test_with_enough_beams_it_finds_the_likeliest_continuation_of_all(seed, stop, penalty):
    logits = random_bigrams(seed=seed)
    result = beam_search(Bigrams(logits), [1], 4, n_beams=4**3, length_penalty=penalty, stop=list(stop))
    assert result == likeliest(logits, 1, 4, stop, penalty)


@pytest.mark.parametrize("seed", range(3))
def test_one_beam_is_greedy(seed):
    model = Bigrams(random_bigrams(7, seed))
    assert beam_search(model, [[1], [3]], 9, n_beams=1) == generate(model, [[1], [3]], 9, temperature=0)


def test_a_likely_sequence_may_begin_with_an_unlikely_token():
    p = np.array([[0.1, 0.5, 0.4], [0.34, 0.33, 0.33], [0.98, 0.01, 0.01]])
    model = Bigrams(np.log(p))
    assert generate(model, [0], 2, temperature=0) == [0, 1, 0]  # 0.5 * 0.34
    assert beam_search(model, [0], 2, n_beams=2) == [0, 2, 0]  # 0.4 * 0.98


def test_a_length_penalty_of_one_compares_means():
    p = np.array([[0.3, 0.7], [0.1, 0.9]])  # 0 ends; from 1, 1 is likely
    model = Bigrams(np.log(p))
    assert beam_search(model, [0], 3, stop=0, length_penalty=1.0) == [0, 1, 1, 1]
    p = np.array([[0.6, 0.4], [0.4, 0.6]])
    assert beam_search(Bigrams(np.log(p)), [0], 3, stop=0) == [0, 0]


def test_small_numpy_integers_do_not_overflow():
    logits = random_bigrams()
    small = beam_search(Bigrams(logits), [1], np.int8(30), n_beams=np.int8(2), length_penalty=np.int8(5))
    assert small == beam_search(Bigrams(logits), [1], 30, n_beams=2, length_penalty=5)


def test_rows_are_searched_each_on_its_own_and_end_with_their_last_token_repeated():
    logits = random_bigrams(5, 3)
    together = beam_search(Bigrams(logits), [[1], [3], [4]], 5, stop=2)
    for row in together:
        alone = beam_search(Bigrams(logits), row[:1], 5, stop=2)
        assert row == alone + [alone[-1]] * (len(row) - len(alone))


@pytest.mark.parametrize("cached", [True, False])
def test_a_reformers_beams_are_the_same_with_and_without_a_cache(cached):
    sizes = {"d_model": 16, "n_heads": 2, "d_head": 8, "d_ff": 16, "axial_shape": (4, 8), "max_len": 32}
    config = mr.ReformerConfig(vocab_size=9, lsh_chunk_len=4, local_chunk_len=4, n_buckets=4, **sizes)
    model = mr.Reformer(config, dtype="float64")
    for param in model.params.values():
        param += backend.asarray(0.3 * np.random.default_rng(param.size).standard_normal(param.shape))
    prompt, lengths = np.arange(12).reshape(2, 6) % 9, [3, 6]
    result = beam_search(model, prompt, 8, n_beams=3, cached=cached, lengths=lengths)
    for row, length in enumerate(lengths):
        alone = beam_search(model, prompt[row, :length], 8, n_beams=3, cached=False)
        np.testing.assert_array_equal(result[row, : length + 8], alone)


def test_text_gives_text_and_no_tokens_give_the_prompt():
    count_up = Bigrams(20.0 * np.roll(np.eye(256), 1, axis=1), max_len=512)
    assert beam_search(count_up, "abc", 3) == "abcdef"
    assert beam_search(count_up, b"abc", 3, stop=ord("e")) == b"abcde"
    assert beam_search(count_up, "abc", 0) == "abc"


@pytest.mark.parametrize(
    "given, message",
    [
        ({"n_beams": 0}, "n_beams: expected an integer >= 1; got 0"),
        ({"length_penalty": -1}, "length_penalty: expected a number from 0 to 10; got -1"),
        ({"length_penalty": 1e6}, "length_penalty: expected a number from 0 to 10; got 1000000.0"),
        ({"length_penalty": "long"}, "length_penalty: .* got 'long'"),
        ({"n_tokens": 64}, "n_tokens: prompt .* max_len, 64"),
    ],
)
def test_bad_settings_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        beam_search(Bigrams(random_bigrams()), [1], **({"n_tokens": 2} | given))
