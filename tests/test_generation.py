from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bigrams import COUNT_UP, Bigrams
from minireformer import backend
from minireformer.generation.sampling import _draw, generate, token_probabilities
from minireformer.model import Reformer, ReformerConfig

HALVES = np.log2([0.125, 0.5, 0.125, 0.25]) * np.log(2)  # powers of two: their sums are exact


def probabilities(logits, **sampling):
    return token_probabilities(np.atleast_2d(logits), **sampling)


@pytest.mark.parametrize("prompt", ["abc", b"abc", [97, 98, 99], [[97, 98, 99], [1, 2, 3]]])
def test_the_result_is_of_the_prompts_kind_with_the_prompt_at_its_start(prompt):
    result = generate(COUNT_UP, prompt, 4, temperature=0)
    if isinstance(prompt, (str, bytes)):
        assert result == ("abcdefg" if isinstance(prompt, str) else b"abcdefg")
    else:
        assert result == ([[*range(97, 104)], [*range(1, 8)]] if len(prompt) == 2 else [*range(97, 104)])


@pytest.mark.parametrize("shape", [(3,), (1, 3), (4, 3)])
@pytest.mark.parametrize("dtype", ["int64", "uint8"])
def test_arrays_give_arrays_of_their_shape(shape, dtype):
    prompt = backend.asarray(np.arange(np.prod(shape)).reshape(shape), dtype)
    result = generate(COUNT_UP, prompt, 2, temperature=0)
    assert backend.get_xp(result) is backend.get_xp(prompt)
    np.testing.assert_array_equal(backend.to_numpy(result)[..., :3], backend.to_numpy(prompt))
    np.testing.assert_array_equal(
        backend.to_numpy(result)[..., 3:], backend.to_numpy(prompt)[..., -1:] + np.array([1, 2])
    )


def test_text_that_ends_amid_a_character_is_still_text():
    assert generate(COUNT_UP, "é", 1, temperature=0) == "é\N{REPLACEMENT CHARACTER}"  # C3 A9, then AA
    assert generate(COUNT_UP, "né", 0) == "né"


def test_every_token_is_drawn_after_all_tokens_before_it():
    model = Bigrams(np.zeros((5, 5)))
    generate(model, [0, 1], 4)
    assert model.lengths == [2, 3, 4, 5]


def test_greedy_text_of_a_reformer_is_its_likeliest_token_each_time():
    config = ReformerConfig(
        d_model=8,
        n_heads=1,
        d_head=8,
        d_ff=8,
        lsh_chunk_len=4,
        local_chunk_len=4,
        axial_shape=(4, 4),
        max_len=16,
    )
    model = Reformer(config, seed=0)
    text = generate(model, b"a b", 13, temperature=0)
    for length in range(3, 16):
        logits = model(backend.asarray([list(text[:length])]))
        assert int(logits[0, -1].argmax()) == text[length]
    assert generate(model, b"a b", 13, seed=1) == generate(model, b"a b", 13, seed=1) != text


def test_draws_have_the_models_distribution():
    random = np.random.default_rng(0)
    logits = 2 * random.standard_normal((6, 6))
    logits[:, 2] = -1e9  # a token that never comes
    n = 20_000
    result = np.array(generate(Bigrams(logits), np.repeat(np.arange(6), n // 6)[:, None], 1, seed=3))
    for last in range(6):
        counts = np.bincount(result[result[:, 0] == last, 1], minlength=6)
        p = np.exp(logits[last]) / np.exp(logits[last]).sum()
        spread = np.sqrt(counts.sum() * p * (1 - p))
        assert (abs(counts - counts.sum() * p) <= 5 * spread).all()
        assert counts[2] == 0


@pytest.mark.parametrize("u, token", [(0.0, 1), (0.49, 1), (0.51, 3), (1 - 2**-53, 3)])
def test_the_ends_of_the_unit_interval_draw_no_impossible_token(u, token):
    p = np.array([[0.0, 0.5, 0.0, 0.5 - 2**-50, 0.0]])  # sums to a little less than one
    assert _draw(p, SimpleNamespace(random=lambda shape: np.full(shape, u))) == [token]


def test_the_seed_decides_and_rows_differ():
    model = Bigrams(np.zeros((50, 50)))
    prompt = np.zeros((2, 1), dtype=int)
    first = generate(model, prompt, 20, seed=1)
    np.testing.assert_array_equal(first, generate(model, prompt, 20, seed=1))
    assert (first != generate(model, prompt, 20, seed=2)).any()
    assert (first[0] != first[1]).any()
    assert len(np.unique(first[0, 1:])) > 5  # each step draws anew


def test_top_p_keeps_the_smallest_set_with_enough_mass():
    kept = {
        0.4: [1],
        0.5: [1],
        0.51: [1, 3],
        0.75: [1, 3],
        0.76: [0, 1, 3],
        0.875: [0, 1, 3],
        0.9: [0, 1, 2, 3],
    }
    for top_p, tokens in kept.items():
        p = probabilities(HALVES, top_p=top_p)[0]
        assert np.flatnonzero(p).tolist() == tokens, top_p
        expected = np.exp(HALVES)[tokens] / np.exp(HALVES)[tokens].sum()
        np.testing.assert_allclose(p[tokens], expected, rtol=1e-12)


@given(
    logits=arrays("float64", st.tuples(st.integers(1, 3), st.integers(1, 12)), elements=st.floats(-9, 9)),
    top_p=st.floats(0.01, 1),
)
def test_no_smaller_set_than_top_ps_has_enough_mass(logits, top_p):
    full = probabilities(logits)
    kept = probabilities(logits, top_p=top_p) > 0
    for p, keep in zip(full, kept):
        mass, count = p[keep].sum(), keep.sum()
        assert mass >= top_p - 1e-12
        assert np.sort(p)[::-1][: count - 1].sum() < top_p + 1e-12  # the best set with one token fewer
        assert keep.all() or p[keep].min() >= p[~keep].max()


def test_top_k_keeps_k_and_breaks_ties_by_id():
    assert np.flatnonzero(probabilities(HALVES, top_k=2)).tolist() == [1, 3]
    assert np.flatnonzero(probabilities(HALVES, top_k=3)).tolist() == [0, 1, 3]  # 0 and 2 are equally likely
    np.testing.assert_array_equal(probabilities(HALVES, top_k=9), probabilities(HALVES))


def test_top_k_comes_before_top_p():
    # Of the top two the first has 2/3 of the mass, though only 1/2 of the whole.
    assert np.flatnonzero(probabilities(HALVES, top_k=2, top_p=0.6)).tolist() == [1]
    assert np.flatnonzero(probabilities(HALVES, top_p=0.6)).tolist() == [1, 3]


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_temperature_is_a_power_of_the_distribution(temperature):
    powers = np.exp(HALVES) ** (1 / temperature)
    np.testing.assert_allclose(probabilities(HALVES, temperature=temperature)[0], powers / powers.sum(), rtol=1e-12)


def test_temperature_zero_takes_the_likeliest_whatever_the_other_settings():
    for sampling in ({}, {"top_k": 3}, {"top_p": 1.0}):
        np.testing.assert_array_equal(probabilities(HALVES, temperature=0, **sampling), [[0, 1, 0, 0]])


def test_large_logits_do_not_overflow():
    p = probabilities(np.array([1e4, 0.0, 1e4], dtype="float32"), temperature=0.01)
    np.testing.assert_array_equal(p, [[0.5, 0, 0.5]])
    with np.errstate(over="raise"):
        np.testing.assert_array_equal(probabilities(HALVES, temperature=1e-309), [[0, 1, 0, 0]])


def test_a_number_of_tokens_is_any_integer():
    model = Bigrams(np.zeros((4, 4)), max_len=256)
    assert generate(model, [1] * 100, np.int8(100)) == generate(model, [1] * 100, 100)


def test_the_window_ends_at_max_len():
    model = Bigrams(np.zeros((4, 4)), max_len=8)
    assert len(generate(model, [1, 2, 3], 5)) == 8
    with pytest.raises(ValueError, match=r"n_tokens: prompt \(3\) and new tokens \(6\) are 9.*max_len, 8"):
        generate(model, [1, 2, 3], 6)


@pytest.mark.parametrize("prompt", ["", b"", [], np.zeros((2, 0), int), np.zeros((1, 1, 1), int), np.array(3)])
def test_prompts_that_are_not_sequences_of_tokens_are_refused(prompt):
    with pytest.raises(ValueError, match="prompt: expected at least one token"):
        generate(COUNT_UP, prompt, 1)


@pytest.mark.parametrize(
    "prompt, error, message",
    [
        ([4], ValueError, r"prompt: expected ids from 0 to 3; got 4\.\.4"),
        ([0, -1], ValueError, r"got -1\.\.0"),
        ([0.5], TypeError, "prompt: expected integers; got dtype float64"),
        ([True], TypeError, "bool"),
        ("a", ValueError, r"vocab_size 256\); got a str for vocab_size 4"),
        ([[1], [1, 2]], ValueError, "prompt: expected tokens"),
        (None, ValueError, "prompt: expected at least one token"),
        (bytearray(b"ab"), TypeError, "prompt: expected a str, bytes, or token ids; got bytearray"),
    ],
)
def test_bad_prompts_are_named(prompt, error, message):
    with pytest.raises(error, match=message):
        generate(Bigrams(np.zeros((4, 4))), prompt, 1)


@pytest.mark.parametrize(
    "sampling, message",
    [
        ({"temperature": -0.1}, "temperature: .* got -0.1"),
        ({"temperature": np.nan}, "temperature: .* got nan"),
        ({"temperature": "hot"}, "temperature: .* got 'hot'"),
        ({"top_k": 0}, "top_k: .* got 0"),
        ({"top_k": 1.5}, "top_k: .* got 1.5"),
        ({"top_p": 0}, r"top_p: expected a number in \(0, 1\]; got 0"),
        ({"top_p": 1.1}, "top_p: .* got 1.1"),
        ({"top_p": "most"}, "top_p: .* got 'most'"),
        ({"n_tokens": -1}, "n_tokens: .* got -1"),
    ],
)
def test_bad_settings_of_sampling_are_named_even_if_no_token_is_drawn(sampling, message):
    with pytest.raises(ValueError, match=message):
        generate(COUNT_UP, "a", **({"n_tokens": 0} | sampling))


@pytest.mark.parametrize("model", [None, "model", lambda tokens: tokens, Reformer])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(TypeError, match="model: expected a Reformer; got"):
        generate(model, [1], 1)


def test_models_that_cannot_write_are_refused():
    with pytest.raises(ValueError, match="model: expected a causal model"):
        generate(Bigrams(np.zeros((4, 4)), causal=False), [1], 1)
    with pytest.raises(ValueError, match="logits: .* NaN or infinity"):
        generate(Bigrams(np.full((4, 4), np.nan)), [1], 1)
