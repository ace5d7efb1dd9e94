"""The encoder-decoder: gradients of both halves, masks, memory, cached decoding, and that it learns."""

from dataclasses import replace

import numpy as np
import pytest

import minireformer as mr
from arrays import xp
from minireformer import backend
from minireformer.generation.decoding import CachedDecoder, PlainDecoder, is_exact
from minireformer.generation.sampling import generate

DROPOUT = {"dropout": 0.1, "attention_dropout": 0.1}


def pair_of(seed=0, n_source=19, n_target=13):
    random = xp.random.default_rng(seed)
    return (random.integers(0, 9, (2, n_source)), random.integers(0, 11, (2, n_target)))


def masks_of(pair):
    """The first row is whole, the second ends early, on both sides."""
    lengths = [xp.array([[tokens.shape[1]], [2 * tokens.shape[1] // 3]]) for tokens in pair]
    return tuple(xp.arange(tokens.shape[1])[None] < length for tokens, length in zip(pair, lengths))


def slopes(model, names, directions, pair, targets, kwargs, step=1e-6):
    """(exact, by finite differences): the slope of the loss along `directions` of the parameters `names`."""
    _, grads = model.loss_and_grads(pair, targets, **kwargs)
    mask = kwargs["target_mask"]
    before = {name: model.params[name].copy() for name in names}
    losses = []
    for sign in (1, -1):
        for name in names:
            model.params[name][...] = before[name] + sign * step * directions[name]
        masks = {"source_mask": kwargs["source_mask"], "target_mask": kwargs["target_mask"]}
        logits = model.forward(pair, seed=kwargs["seed"], **masks)[0][mask]
        log_p = logits - xp.log(xp.exp(logits).sum(-1, keepdims=True))
        losses.append(-xp.take_along_axis(log_p, targets[mask][:, None], -1).mean())
    for name in names:
        model.params[name][...] = before[name]
    exact = sum((grads[name] * directions[name]).sum() for name in names)
    return exact, (losses[0] - losses[1]) / (2 * step)


@pytest.mark.parametrize("seed, reversible", [pytest.param(0, True, marks=pytest.mark.slow), (1, True), (2, False)])
def test_gradient_is_that_of_finite_differences(seed, reversible, tiny_model):
    """Of all parameters together and, once, of each alone. The steps are too small to change a bucket."""
    model = tiny_model(pairs=True, seed=seed, reversible=reversible, **DROPOUT)
    pair = pair_of(seed)
    masks = masks_of(pair)
    targets = xp.random.default_rng(seed + 9).integers(0, 11, pair[1].shape)
    kwargs = {"seed": 3, "source_mask": masks[0], "target_mask": masks[1], "mask": masks[1]}
    assert list(model.loss_and_grads(pair, targets)[1]) == list(model.params)
    random = xp.random.default_rng(seed)
    directions = {name: random.standard_normal(param.shape) for name, param in model.params.items()}
    alone = [[name] for name in model.params] if seed == 0 else []
    for names in [list(model.params), *alone]:
        exact, slope = slopes(model, names, directions, pair, targets, kwargs)
        assert abs(exact - slope) < 1e-6 * max(abs(exact), abs(slope), 1e-3), names


def test_gradients_of_the_decoders_layers_and_of_the_memory(assert_gradients, tiny_model):
    layers = tiny_model(pairs=True, attn_layers=("local", "full"), **DROPOUT).decoder.layers
    random = xp.random.default_rng(0)
    x, memory = random.standard_normal((2, 9, 12)), random.standard_normal((2, 7, 24))
    _, memory_mask = masks_of((x, memory))

    def forward(x, memory):
        return layers.forward(x, seed=5, cross_attention={"memory": memory, "memory_mask": memory_mask})

    assert_gradients(
        (forward, lambda dy, cache: layers.backward(dy, cache)[:2]), x, memory, name="ReversibleStack of a decoder"
    )


def test_reversible_equals_stored(tiny_model):
    pair, targets = pair_of(), xp.random.default_rng(5).integers(0, 11, (2, 13))
    results = [
        tiny_model(pairs=True, reversible=r, **DROPOUT).loss_and_grads(pair, targets, seed=3) for r in (True, False)
    ]
    (loss, grads), (stored_loss, stored_grads) = results
    assert loss == stored_loss
    for name in grads:
        xp.testing.assert_allclose(grads[name], stored_grads[name], rtol=0, atol=1e-10, err_msg=name)


def test_backward_of_the_logits_is_the_gradient_of_the_loss(tiny_model):
    model, pair = tiny_model(pairs=True), pair_of()
    targets = xp.random.default_rng(5).integers(0, 11, (2, 13))
    logits, cache = model.forward(pair, seed=2)
    p = xp.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    dlogits = (p - (xp.arange(11) == targets[..., None])) / targets.size
    _, grads = model.backward(dlogits, cache)
    expected = model.loss_and_grads(pair, targets, seed=2)[1]
    assert grads.keys() == expected.keys()
    for name in grads:
        xp.testing.assert_allclose(grads[name], expected[name], rtol=0, atol=1e-12, err_msg=name)


def test_target_tokens_see_the_whole_source_and_no_later_target(tiny_model):
    model, (source, target) = tiny_model(pairs=True, attn_layers=("local", "full")), pair_of()
    logits = model((source, target))
    later = xp.where(xp.arange(13) < 6, target, (target + 1) % 11)
    xp.testing.assert_allclose(model((source, later))[:, :6], logits[:, :6], rtol=0, atol=1e-12)
    for position in (0, 18):
        changed = xp.where(xp.arange(19) == position, (source + 1) % 9, source)
        assert (abs(model((changed, target)) - logits).max(axis=-1) > 1e-8).all()


def test_hidden_tokens_change_nothing_on_either_side(tiny_model):
    model, pair, other = tiny_model(pairs=True), pair_of(), pair_of(1)
    source_mask, target_mask = masks_of(pair)
    masks = {"source_mask": source_mask, "target_mask": target_mask}
    changed = tuple(xp.where(mask, a, b) for mask, a, b in zip((source_mask, target_mask), pair, other))
    logits = model(pair, **masks)
    xp.testing.assert_allclose(model(changed, **masks)[target_mask], logits[target_mask], rtol=0, atol=1e-12)


def test_a_pad_token_is_hidden_wherever_it_stands(tiny_model):
    pair = tuple(xp.where(mask, xp.maximum(tokens, 1), 0) for tokens, mask in zip(pair_of(), masks_of(pair_of())))
    masks = dict(zip(("source_mask", "target_mask"), masks_of(pair)))
    xp.testing.assert_array_equal(tiny_model(pairs=True, pad_token=0)(pair), tiny_model(pairs=True)(pair, **masks))
    losses = [
        tiny_model(pairs=True, **c).loss_and_grads(pair, pair[1], **g)[0]
        for c, g in (({"pad_token": 0}, {}), ({}, masks))
    ]
    assert losses[0] == losses[1]


def test_the_maps_of_cross_attention_are_weights_over_the_visible_source(tiny_model):
    model, pair = tiny_model(pairs=True), pair_of()
    source_mask, target_mask = masks_of(pair)
    maps = model.cross_attention_maps(pair, source_mask=source_mask, target_mask=target_mask)
    assert [weights.shape for weights in maps] == [(2, 2, 13, 19)] * 3
    for weights in maps:
        xp.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-12)
        assert (weights[1][:, :, 12:] == 0).all()


@pytest.mark.slow
def test_both_halves_keep_nothing_per_layer_but_buckets_and_gradients(monkeypatch, tiny_pair_config):
    monkeypatch.setattr(mr.backend, "_n_threads", 1)
    peaks = {}
    for encoder_depth, decoder_depth in ((2, 2), (8, 2), (2, 8)):
        config = tiny_pair_config(
            d_model=64, axial_dims=(32, 32), axial_shape=(32, 32), max_len=1024, loss_chunk_len=64
        )
        encoder_layers, decoder_layers = (("local", "lsh") * (d // 2) for d in (encoder_depth, decoder_depth))
        config = replace(config, encoder_layers=encoder_layers, attn_layers=decoder_layers, ff_chunk_len=64)
        model = mr.EncoderDecoder(config)
        tokens = xp.zeros((2, 1024), int)
        with mr.memory.peak() as m:
            _, grads = model.loss_and_grads((tokens, tokens), tokens)
        bucket_bytes = (encoder_depth + decoder_depth) // 2 * 2 * 2 * 2 * 1024 * 2
        peaks[encoder_depth, decoder_depth] = m.bytes - mr.memory.nbytes(grads) - bucket_bytes
    activation = 2 * 1024 * 64 * 4
    assert peaks[8, 2] - peaks[2, 2] < 0.1 * activation
    assert peaks[2, 8] - peaks[2, 2] < 0.1 * activation


@pytest.mark.parametrize("layers", [("local", "lsh"), ("lsh",), ("full", "local")])
def test_cached_decoding_gives_the_logits_of_a_new_run(layers, tiny_model):
    model, (source, target) = tiny_model(pairs=True, attn_layers=layers), pair_of(n_target=24)
    assert is_exact(model)
    source_mask = masks_of((source, target))[0]
    kwargs = {"source": source, "source_mask": source_mask}
    decoders, lengths = [CachedDecoder(model, 24), PlainDecoder(model, 24)], np.array([1, 7])
    logits = [decoder.start(target, lengths, **kwargs) for decoder in decoders]
    while True:
        for row, length in enumerate(lengths.tolist()):
            one = slice(row, row + 1)
            expected = model((source[one], target[one, :length]), source_mask=source_mask[one])[0, -1]
            for found in logits:
                xp.testing.assert_allclose(found[row], expected, rtol=0, atol=1e-10)
        if lengths.max() == 24:
            break
        logits = [decoder.step(target[xp.arange(2), backend.asarray(lengths)]) for decoder in decoders]
        lengths = lengths + 1
    for decoder in decoders:
        decoder.start(target[:, :5], **kwargs)
        decoder.select([1, 1, 0])
    cached, plain = (decoder.step(backend.asarray([1, 2, 3])) for decoder in decoders)
    xp.testing.assert_allclose(cached, plain, rtol=0, atol=1e-10)


def test_text_goes_in_and_comes_out(tiny_pair_config):
    config = tiny_pair_config(vocab_size=256, source_vocab_size=None)
    model = mr.EncoderDecoder(config)
    with_cache, without = (
        generate(model, "<", 9, source="guten Tag", temperature=0, cached=cached) for cached in (True, False)
    )
    assert with_cache == without and with_cache[0] == "<"
    assert "".join(mr.stream(model, "<", 9, source="guten Tag", temperature=0)) == with_cache[1:]
    assert len(mr.beam_search(model, b"<", 4, source=b"guten Tag")) == 5


def test_the_encoder_alone_keeps_the_contract_of_a_layer(assert_gradients, tiny_model):
    encoder, source = tiny_model(pairs=True, encoder_layers=("local", "full")).encoder, pair_of()[0]
    assert encoder(source).shape == (2, 19, 24)
    assert_gradients(encoder, source, key_mask=masks_of(pair_of())[0])


def test_save_and_load(tmp_path, tiny_model):
    model = tiny_model("float32", pairs=True)
    model.save(tmp_path / "model.safetensors")
    loaded = mr.EncoderDecoder.load(tmp_path / "model.safetensors")
    assert loaded.config == model.config and loaded.dtype == model.dtype
    xp.testing.assert_array_equal(loaded(pair_of()), model(pair_of()))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"causal": False}, "causal: expected True, because the decoder"),
        ({"encoder_layers": ()}, "encoder_layers: they don't fit an encoder: attn_layers"),
        ({"encoder_layers": ("sparse",)}, "encoder_layers: .* expected one or more of lsh"),
        ({"source_vocab_size": 0}, "source_vocab_size: expected an integer >= 1; got 0"),
        ({"encoder_n_after": -1}, "encoder_n_after: expected an integer >= 0; got -1"),
        ({"pad_token": 0.5}, "pad_token: expected an integer >= 0; got 0.5"),
        ({"pad_token": 11}, "pad_token: expected a token of either side, at most 10; got 11"),
        ({"head": "span"}, "head: expected tokens, which the decoder writes; got 'span'"),
        ({"d_ff": 0}, "d_ff: expected an integer >= 1; got 0"),
    ],
)
def test_bad_configurations_are_named(change, message, tiny_pair_config):
    with pytest.raises(ValueError, match=message):
        tiny_pair_config(**change)


def test_bad_inputs_are_named(tiny_model):
    model, (source, target) = tiny_model(pairs=True), pair_of()
    with pytest.raises(TypeError, match=r"pair: expected \(source, target\), two arrays of tokens; got ndarray"):
        model(source)
    with pytest.raises(ValueError, match="source: expected ids from 0 to 8"):
        model((source + 9, target))
    with pytest.raises(ValueError, match="target: expected ids from 0 to 10"):
        model((source, target + 11))
    with pytest.raises(ValueError, match="target: expected shape"):
        model((source, target[:1]))
    with pytest.raises(ValueError, match="source: expected 1 to 32 a sequence"):
        model((source[:, :0], target))
    with pytest.raises(ValueError, match="source_mask: expected shape"):
        model((source, target), source_mask=target > 3)
    with pytest.raises(TypeError, match="target_mask: expected booleans"):
        model((source, target), target_mask=target)
    with pytest.raises(ValueError, match="targets: expected shape"):
        model.loss_and_grads((source, target), source)
    with pytest.raises(TypeError, match="mask: expected booleans"):
        model.loss_and_grads((source, target), target, mask=target)
    with pytest.raises(TypeError, match="config: expected an EncoderDecoderConfig"):
        mr.EncoderDecoder(mr.ReformerConfig())
    for function in (generate, mr.stream, mr.beam_search):
        with pytest.raises(ValueError, match="source: expected 1 rows, one for each of the tokens; got None"):
            function(model, [1], 2)
        with pytest.raises(ValueError, match="source: expected 1 rows, one for each of the tokens; got 2"):
            function(model, [1], 2, source=source)
        with pytest.raises(ValueError, match="source: expected None, as the model has no encoder"):
            function(mr.Reformer(mr.ReformerConfig()), [1], 2, source=[1])
        with pytest.raises(ValueError, match="source: expected ids from 0 to 8"):
            function(model, [1], 2, source=[9])


def reversing(seed, n_rows=32, longest=8):
    """4 to 8 digits (2..11) and padding (0), to be written in reverse after a 1: (source, target), targets, mask."""
    random = mr.rng.generator(seed, "digits")
    lengths, place = random.integers(4, longest + 1, (n_rows, 1)), np.arange(longest)
    mask = place < lengths
    source = np.where(mask, random.integers(2, 12, (n_rows, longest)), 0)
    targets = np.where(mask, np.take_along_axis(source, np.maximum(lengths - 1 - place, 0), axis=1), 0)
    target = np.concatenate([np.ones((n_rows, 1), int), targets[:, :-1]], axis=1)
    source, target, targets, mask = (backend.asarray(a) for a in (source, target, targets, mask))
    return (source, target), targets, mask


@pytest.mark.slow
@pytest.mark.once  # a minute and a half on the double, for the same numbers
def test_it_learns_to_write_digits_in_reverse(record_property):
    sizes = {"d_model": 64, "n_heads": 1, "d_head": 64, "d_ff": 128, "local_chunk_len": 4, "max_len": 16}
    layers = {"encoder_layers": ("local",), "attn_layers": ("local",), "positions": "sinusoidal"}
    model = mr.EncoderDecoder(mr.EncoderDecoderConfig(vocab_size=12, pad_token=0, **sizes, **layers))
    steps = 400
    rate = lambda step: 4e-3 * min(1, (step + 1) / 50) * (1 - step / steps)  # noqa: E731
    mr.train(model, reversing, mr.Adam(model.params), steps, schedule=rate, clip=1.0, progress=False)
    (source, _), targets, mask = reversing(-1, 500)  # not among the seeds of training
    written = generate(model, xp.ones((500, 1), int), 8, temperature=0, source=source)[:, 1:]
    accuracy = float((written == targets)[mask].mean())
    record_property("accuracy of reversed digits", accuracy)
    print(f"accuracy of reversed digits: {accuracy:.2%}")
    assert accuracy >= 0.99
