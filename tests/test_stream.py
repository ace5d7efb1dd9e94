"""Text piece by piece, with stop tokens and prompts of several lengths, with and without a cache."""

import numpy as np
import pytest

from bigrams import COUNT_UP, Bigrams
from minireformer import backend
from minireformer.generation.sampling import generate, stream
from minireformer.model import Reformer, ReformerConfig


@pytest.mark.parametrize("prompt", ["abc é", b"abc", [97, 98], [[97, 98], [1, 2]]])
def test_a_stream_gives_piece_by_piece_what_generate_gives_at_once(prompt):
    sampling = {"temperature": 0.7, "seed": 5}
    model = Bigrams(np.random.default_rng(0).standard_normal((256, 256)))
    whole, pieces = generate(model, prompt, 40, **sampling), list(stream(model, prompt, 40, **sampling))
    if isinstance(prompt, (str, bytes)):
        assert prompt + type(prompt)().join(pieces) == whole
    elif isinstance(prompt[0], int):
        assert prompt + pieces == whole
    else:
        assert [row + list(new) for row, new in zip(prompt, zip(*pieces))] == whole


def test_a_stream_works_no_further_than_it_is_read_but_checks_at_once():
    model = Bigrams(np.zeros((5, 5)))
    pieces = stream(model, [0, 1], 4)
    assert model.lengths == []
    next(pieces)
    assert model.lengths == [2]
    with pytest.raises(ValueError, match="temperature"):
        stream(model, [0], 1, temperature=-1)


def test_a_stream_of_arrays_is_of_the_prompts_backend():
    prompt = backend.asarray([[0, 1], [2, 3]])
    for new in stream(COUNT_UP, prompt, 3, temperature=0):
        assert backend.get_xp(new) is backend.get_xp(prompt) and new.shape == (2,)
    assert backend.to_numpy(new).tolist() == [4, 6]


def test_a_character_of_several_bytes_comes_whole():
    logits = np.zeros((256, 256))
    for before, after in zip(b"a\xc3\xa9", b"\xc3\xa9!"):
        logits[before, after] = 99
    assert list(stream(Bigrams(logits), "a", 3, temperature=0)) == ["é", "!"]
    assert list(stream(Bigrams(logits), "a", 1, temperature=0)) == ["\N{REPLACEMENT CHARACTER}"]


def test_rows_end_with_a_stop_token_and_repeat_it():
    assert generate(COUNT_UP, "abc", 20, temperature=0, stop=ord("f")) == "abcdef"
    assert generate(COUNT_UP, [[1, 2], [4, 5]], 9, temperature=0, stop=[7, 200]) == [
        [*range(1, 8)],
        [4, 5, 6, 7, 7, 7, 7],
    ]
    assert generate(COUNT_UP, [1], 3, temperature=0, stop=[]) == [1, 2, 3, 4]
    assert generate(COUNT_UP, [7], 2, temperature=0, stop=7) == [7, 8, 9]  # a prompt may hold it


def test_rows_with_prompts_of_several_lengths_go_on_from_their_ends():
    result = generate(COUNT_UP, [[1, 2, 3], [9, 0, 0]], 2, temperature=0, lengths=[3, 1])
    assert result == [[1, 2, 3, 4, 5], [9, 10, 11, 11, 11]]


SIZES = {"d_model": 8, "n_heads": 1, "d_head": 8, "d_ff": 8, "axial_shape": (4, 16), "max_len": 64}


@pytest.mark.parametrize("n_buckets", [4, None])
@pytest.mark.parametrize("layers", [("local", "lsh"), ("lsh", "lsh")])
def test_unless_told_the_cache_is_used_where_it_changes_nothing(layers, n_buckets, monkeypatch):
    used = []
    monkeypatch.setattr(
        "minireformer.generation.decoding.CachedDecoder._begin", lambda *given: used.append(True) or 1 / 0
    )
    chunks = {"lsh_chunk_len": 4, "local_chunk_len": 4}
    model = Reformer(ReformerConfig(attn_layers=layers, n_buckets=n_buckets, **chunks, **SIZES))
    if layers == ("local", "lsh") and n_buckets:
        with pytest.raises(ZeroDivisionError):
            generate(model, b"abc", 2)
    else:
        generate(model, b"abc", 2)
        assert not used
    with pytest.raises(ZeroDivisionError):
        generate(model, b"abc", 2, cached=True)


def test_cached_text_is_the_text_without_a_cache():
    config = ReformerConfig(lsh_chunk_len=4, local_chunk_len=4, n_buckets=4, **SIZES)
    model = Reformer(config, dtype="float64")
    for param in model.params.values():
        param += backend.asarray(0.3 * np.random.default_rng(param.size).standard_normal(param.shape))
    prompt = np.random.default_rng(1).integers(0, 256, (3, 20))
    for sampling in ({"temperature": 0}, {"top_p": 0.9, "seed": 2}):
        given = {"lengths": [20, 3, 9], **sampling}
        with_cache, without = (generate(model, prompt, 40, cached=cached, **given) for cached in (True, False))
        np.testing.assert_array_equal(with_cache, without)


@pytest.mark.parametrize(
    "given, error, message",
    [
        ({"stop": "z"}, TypeError, "stop: expected a token, or a list of them"),
        ({"stop": [[1]]}, TypeError, "stop: expected a token, or a list"),
        ({"stop": [[1], [1, 2]]}, TypeError, "stop: expected a token, or a list"),
        ({"stop": [0, 256]}, ValueError, r"stop: expected ids from 0 to 255; got 0\.\.256"),
        ({"stop": -1}, ValueError, r"stop: expected ids from 0 to 255; got -1\.\.-1"),
        ({"cached": "yes"}, ValueError, "cached: expected True, False or None; got 'yes'"),
        ({"cached": 1}, ValueError, "cached: expected True, False or None; got 1"),
        ({"cached": np.ones(2)}, ValueError, "cached: expected True, False or None"),
        ({"source_mask": np.ones((1, 1), bool)}, ValueError, "source_mask: expected None, as the model has no encoder"),
        ({"lengths": [[1], [1, 2]]}, ValueError, r"lengths: expected \(1,\) integers"),
        ({"cached": True}, TypeError, "model: expected a Reformer, for cached decoding; got Bigrams"),
        ({"lengths": [2]}, ValueError, "lengths: expected 1 to 1; got 2..2"),
    ],
)
@pytest.mark.parametrize("function", [generate, stream])
def test_bad_settings_of_decoding_are_named(function, given, error, message):
    with pytest.raises(error, match=message):
        function(COUNT_UP, "a", 1, **given)
