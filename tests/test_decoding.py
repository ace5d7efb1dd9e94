"""Cached decoding: the logits of a new run of the whole sequence, for the price of one token."""

from dataclasses import replace

import numpy as np
import pytest

import minireformer as mr
from arrays import xp
from minireformer import backend
from minireformer.attention_layer import LSHAttention
from minireformer.generation.decoding import CachedDecoder, PlainDecoder, is_exact

LENGTH = 40
SMALL = mr.ReformerConfig(
    vocab_size=11,
    d_model=12,
    n_heads=2,
    d_head=5,
    d_ff=16,
    attn_layers=("lsh",),
    lsh_chunk_len=4,
    local_chunk_len=6,
    n_hashes=3,
    n_buckets=6,
    axial_shape=(8, 8),
    axial_dims=(4, 8),
    max_len=64,
    ff_chunk_len=7,
)
EXACT = {
    "lsh": {},
    "lsh, one round": {"n_hashes": 1},
    "lsh, wide window": {"lsh_n_before": 2, "lsh_n_after": 1},
    "lsh, own chunk": {"lsh_n_before": 0},
    "lsh, factors": {"n_buckets": (2, 4)},
    "lsh, same bucket": {"same_bucket": True},
    "lsh, counted once": {"count_once": True, "lsh_n_after": 1},
    "lsh, the paper's equations": {"same_bucket": True, "count_once": True},
    "local": {"attn_layers": ("local",)},
    "local, round the circle": {"attn_layers": ("local",), "local_n_before": 3, "local_n_after": 1},
    "local layers": {"attn_layers": ("local", "local"), "positions": "learned"},
    "full layers": {"attn_layers": ("full", "shared_full", "full"), "positions": "sinusoidal"},
    "lsh after all others": {"attn_layers": ("local", "full", "shared_full", "lsh"), "reversible": False},
}


def model_of(seed=0, dtype="float64", **changes):
    model = mr.Reformer(replace(SMALL, **changes), seed=seed, dtype=dtype)
    random = xp.random.default_rng(seed)
    for param in model.params.values():
        param += 0.3 * random.standard_normal(param.shape)
    return model


def tokens_of(n_rows=3, length=LENGTH, seed=0):
    return xp.random.default_rng(seed).integers(0, 11, (n_rows, length))


def alone(model, tokens, row, length, seed=0):
    """The logits (V,) that a run of one row's first `length` tokens gives for the last of them."""
    return model(tokens[row : row + 1, :length], seed=seed)[0, -1]


@pytest.mark.parametrize("changes", EXACT.values(), ids=EXACT)
def test_cached_logits_are_those_of_a_new_run_for_every_row_and_length(changes):
    """Rows begin with prompts of 1, 5 and 17 tokens: within a chunk, just over one, and over many."""
    model, tokens, seed = model_of(**changes), tokens_of(), 4
    assert is_exact(model)
    lengths = np.array([1, 5, 17])
    decoder = CachedDecoder(model, max_len=LENGTH, seed=seed)
    logits = decoder.start(tokens, lengths)
    while True:
        for row, length in enumerate(lengths):
            expected = alone(model, tokens, row, int(length), seed)
            xp.testing.assert_allclose(logits[row], expected, rtol=0, atol=1e-10, err_msg=f"{row}, {length}")
        if lengths.max() == LENGTH:
            break
        logits = decoder.step(tokens[xp.arange(3), backend.asarray(lengths)])
        lengths = lengths + 1


@pytest.mark.parametrize("layers", [("lsh", "lsh"), ("lsh", "local"), ("lsh", "full")])
def test_behind_an_lsh_layer_cached_logits_are_near_those_of_a_new_run_but_not_equal(layers):
    model, tokens = model_of(attn_layers=layers), tokens_of(1)
    assert not is_exact(model)
    decoder = CachedDecoder(model, LENGTH)
    xp.testing.assert_allclose(decoder.start(tokens[:, :20])[0], alone(model, tokens, 0, 20), rtol=0, atol=1e-10)
    worst, spread = 0.0, 0.0
    for length in range(21, LENGTH + 1):
        expected = alone(model, tokens, 0, length)
        worst = max(worst, float(abs(decoder.step(tokens[:, length - 1])[0] - expected).max()))
        spread = max(spread, float(expected.std()))
    assert 1e-6 < worst < spread


def test_wide_local_windows_are_exact_only_in_the_last_layer():
    assert is_exact(model_of(attn_layers=("full", "local"), local_n_after=1))
    assert not is_exact(model_of(attn_layers=("local", "full"), local_n_after=1))
    assert not is_exact(model_of(attn_layers=("local", "full"), local_n_before=2))


def test_without_a_number_of_buckets_it_is_that_of_the_longest_sequence():
    model, tokens = model_of(n_buckets=None), tokens_of(1)
    assert not is_exact(model)
    decoder = CachedDecoder(model, max_len=32)
    decoder.start(tokens[:, :20])
    logits = decoder.step(tokens[:, 20])
    layer = model.layers.blocks[0][0].part
    assert isinstance(layer, LSHAttention)
    layer.n_buckets = mr.hashing.default_n_buckets(32, 4, 64)
    xp.testing.assert_allclose(logits[0], alone(model, tokens, 0, 21), rtol=0, atol=1e-10)


def test_a_prompt_of_many_tokens_is_the_same_as_one_token_and_many_steps():
    model, tokens = model_of(attn_layers=("local", "lsh")), tokens_of()
    at_once, one_by_one = CachedDecoder(model, LENGTH), CachedDecoder(model, LENGTH)
    logits = one_by_one.start(tokens[:, :1])
    for t in range(1, 30):
        logits = one_by_one.step(tokens[:, t])
    xp.testing.assert_allclose(at_once.start(tokens[:, :30]), logits, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", [CachedDecoder, PlainDecoder])
def test_selected_rows_go_on_as_if_they_had_always_stood_there(kind):
    model, tokens = model_of(attn_layers=("local", "full", "lsh")), tokens_of()
    decoder = kind(model, LENGTH)
    decoder.start(tokens, [9, 12, 20])
    decoder.select([2, 0, 0, 2])
    logits = decoder.step(backend.asarray([1, 2, 3, 1]))
    xp.testing.assert_array_equal(logits[0], logits[3])
    for row, (was, length, token) in enumerate([(2, 20, 1), (0, 9, 2), (0, 9, 3)]):
        sequence = xp.concatenate([tokens[was : was + 1, :length], backend.asarray([[token]])], axis=1)
        xp.testing.assert_allclose(logits[row], model(sequence)[0, -1], rtol=0, atol=1e-10)


def test_the_plain_decoder_runs_the_model_on_every_row_alone():
    model, tokens = model_of(n_buckets=None, attn_layers=("lsh", "lsh")), tokens_of()
    decoder = PlainDecoder(model, LENGTH)
    logits = decoder.start(tokens, [3, 3, 11])
    for t in range(5):
        for row, length in enumerate((3, 3, 11)):
            expected = alone(model, tokens, row, length + t)
            xp.testing.assert_allclose(logits[row], expected, rtol=0, atol=1e-12)
        logits = decoder.step(tokens[xp.arange(3), backend.asarray([3 + t, 3 + t, 11 + t])])


def test_float32_is_decoded_in_float32():
    model, tokens = model_of(dtype="float32", attn_layers=("local", "lsh")), tokens_of()
    decoder = CachedDecoder(model, LENGTH)
    assert decoder.start(tokens[:, :9]).dtype == xp.float32
    logits = decoder.step(tokens[:, 9])
    assert logits.dtype == xp.float32
    xp.testing.assert_allclose(logits[1], alone(model, tokens, 1, 10), atol=1e-4)  # single precision, logits near 1


def test_a_step_allocates_nothing_that_grows_with_the_text(monkeypatch):
    """The tables are there from the start; one token's keys and logits are all that a step makes."""
    monkeypatch.setattr(mr.backend, "_n_threads", 1)
    config = replace(SMALL, attn_layers=("local", "lsh"), axial_shape=(64, 64), max_len=4096)
    model, peaks = mr.Reformer(config), []
    for length in (500, 4000):
        decoder = CachedDecoder(model)
        decoder.start(tokens_of(1, length))
        decoder.step(backend.asarray([1]))
        with mr.memory.peak() as m:
            decoder.step(backend.asarray([1]))
        peaks.append(m.bytes)
    assert peaks[1] < 1.2 * peaks[0] < 100_000


@pytest.mark.parametrize("kind", [CachedDecoder, PlainDecoder])
def test_bad_input_is_named(kind):
    model, tokens = model_of(), tokens_of()
    with pytest.raises(ValueError, match="max_len: expected an integer from 1 to 64; got 65"):
        kind(model, 65)
    with pytest.raises(ValueError, match="model: expected a causal model"):
        kind(model_of(causal=False))
    decoder = kind(model, 10)
    with pytest.raises(ValueError, match="tokens: expected a prompt, given to `start`"):
        decoder.step(tokens[:, 0])
    with pytest.raises(ValueError, match="rows: expected a prompt, given to `start`"):
        decoder.select([0])
    with pytest.raises(ValueError, match="tokens: expected at most 10 a sequence"):
        decoder.start(tokens)
    with pytest.raises(ValueError, match="tokens: expected ids from 0 to 10"):
        decoder.start(tokens[:, :4] + 11)
    with pytest.raises(ValueError, match="tokens: expected at least one token"):
        decoder.start(tokens[:, :0])
    for lengths in ([0, 1, 1], [1, 1, 5]):
        with pytest.raises(ValueError, match="lengths: expected 1 to 4; got"):
            decoder.start(tokens[:, :4], lengths)
    with pytest.raises(ValueError, match=r"lengths: expected shape \(3,\)"):
        decoder.start(tokens[:, :4], [1, 2])
    with pytest.raises(TypeError, match="lengths: expected integers"):
        decoder.start(tokens[:, :4], [1.0, 2.0, 3.0])
    decoder.start(tokens[:, :9])
    with pytest.raises(ValueError, match=r"tokens: expected shape \(3,\)"):
        decoder.step(tokens[:2, 0])
    with pytest.raises(ValueError, match="rows: expected ids from 0 to 2"):
        decoder.select([3])
    decoder.step(tokens[:, 0])
    with pytest.raises(ValueError, match="tokens: expected no more, as a sequence has max_len = 10"):
        decoder.step(tokens[:, 0])


def test_what_is_no_reformer_has_no_cache():
    with pytest.raises(TypeError, match="model: expected a Reformer, for cached decoding; got NoneType"):
        CachedDecoder(None)
    assert not is_exact(None)
