"""The whole model: gradients of every parameter, any length, nothing stored per layer, saved and loaded."""

from dataclasses import replace

import numpy as np
import pytest

import minireformer as mr
from arrays import xp
from minireformer import attention_layer


def tokens_and_targets(length=22, seed=0):
    return xp.random.default_rng(seed).integers(0, 11, (2, 2, length))


def slopes(model, names, directions, tokens, targets, mask, seed, step=1e-6):
    """(exact, by finite differences): the slope of the loss along `directions` of the parameters `names`."""
    _, grads = model.loss_and_grads(tokens, targets, seed=seed, mask=mask)
    before = {name: model.params[name].copy() for name in names}
    losses = []
    for sign in (1, -1):
        for name in names:
            model.params[name][...] = before[name] + sign * step * directions[name]
        logits = model.forward(tokens, seed=seed)[0][mask]
        log_p = logits - xp.log(xp.exp(logits).sum(-1, keepdims=True))
        losses.append(-xp.take_along_axis(log_p, targets[mask][:, None], -1).mean())
    for name in names:
        model.params[name][...] = before[name]
    exact = sum((grads[name] * directions[name]).sum() for name in names)
    return exact, (losses[0] - losses[1]) / (2 * step)


@pytest.mark.parametrize("positions", ["axial", "learned", "sinusoidal"])
@pytest.mark.parametrize("seed, length", [(0, 22), (1, 32), (2, 3)])
def test_gradient_is_that_of_finite_differences(positions, seed, length, tiny_model):
    """Of all parameters together and, once, of each alone. The steps are too small to change a bucket."""
    model = tiny_model(seed=seed, positions=positions, activation="gelu")  # relu would put kinks in the way
    tokens, targets = tokens_and_targets(length, seed)
    rng = xp.random.default_rng(seed)
    mask = rng.random(tokens.shape) > 0.3
    mask[:, 0] = True
    assert list(model.loss_and_grads(tokens, targets, mask=mask)[1]) == list(model.params)
    directions = {name: rng.standard_normal(param.shape) for name, param in model.params.items()}
    alone = [[name] for name in model.params] if (positions, seed) == ("axial", 0) else []
    for names in [list(model.params), *alone]:
        exact, slope = slopes(model, names, directions, tokens, targets, mask, seed)
        assert abs(exact - slope) < 1e-6 * max(abs(exact), abs(slope), 1e-3), names


@pytest.mark.parametrize("length, reversible, masked", [(6, True, True), (3, False, False)])
def test_gradients_of_the_whole_model(assert_gradients, monkeypatch, length, reversible, masked, tiny_model):
    """Buckets are not held fixed here, but steps are so small that none changes: that is asserted as well."""
    hashed = []

    def noted(*args):
        hashed.append(mr.hash_vectors(*args))
        return hashed[-1]

    monkeypatch.setattr(attention_layer, "hash_vectors", noted)
    model = tiny_model(activation="gelu", reversible=reversible)  # relu would put kinks in the way
    key_mask = xp.arange(length)[None] != 1 if masked else None
    assert_gradients(model, tokens_and_targets(length)[0, :1], key_mask=key_mask)
    n_lsh_layers = model.config.attn_layers.count("lsh") if length > model.config.lsh_chunk_len else 0
    assert len({buckets.tobytes() for buckets in hashed}) == n_lsh_layers


def test_reversible_equals_stored(tiny_model):
    tokens, targets = tokens_and_targets()
    one, two = tiny_model(), tiny_model(reversible=False)
    (loss, grads), (stored_loss, stored_grads) = (m.loss_and_grads(tokens, targets, seed=3) for m in (one, two))
    assert loss == stored_loss
    for name in grads:
        xp.testing.assert_allclose(grads[name], stored_grads[name], atol=1e-10, err_msg=name)


def test_loss_is_the_cross_entropy_of_the_logits(tiny_model):
    model = tiny_model(dropout=0.0, attention_dropout=0.0)
    tokens, targets = tokens_and_targets()
    mask = xp.arange(22)[None] % 3 != xp.array([[0], [1]])
    logits = model(tokens, seed=1)
    log_p = logits - xp.log(xp.exp(logits).sum(-1, keepdims=True))
    expected = -xp.take_along_axis(log_p, targets[..., None], -1)[..., 0][mask].mean()
    assert abs(model.loss_and_grads(tokens, targets, seed=1, mask=mask)[0] - expected) < 1e-12


@pytest.mark.parametrize("length", range(1, 33))
def test_any_length_up_to_max_len(length, tiny_model):
    model = tiny_model("float32")
    tokens, targets = tokens_and_targets(length)
    logits = model(tokens)
    assert logits.shape == (2, length, 11) and logits.dtype == xp.float32
    loss, grads = model.loss_and_grads(tokens, targets)
    assert xp.isfinite(loss) and all(xp.isfinite(g).all() and g.dtype == xp.float32 for g in grads.values())


def test_causal_model_without_hashing_does_not_see_the_future(tiny_model):
    model = tiny_model(attn_layers=("local", "full", "shared_full"))
    tokens, other = tokens_and_targets()
    logits = model(tokens)
    xp.testing.assert_allclose(model(xp.where(xp.arange(22) < 15, tokens, other))[:, :15], logits[:, :15], atol=1e-12)


def test_hidden_tokens_change_nothing(tiny_model):
    model = tiny_model(causal=False, lsh_n_after=1, local_n_after=1, dropout=0.0)
    tokens, other = tokens_and_targets()
    key_mask = xp.arange(22)[None] < xp.array([[22], [13]])
    logits = model(tokens, key_mask=key_mask)
    changed = model(xp.where(key_mask, tokens, other), key_mask=key_mask)
    xp.testing.assert_allclose(changed[key_mask], logits[key_mask], atol=1e-12)


def test_explicit_rotations_replace_the_seeded_ones(tiny_model):
    model = tiny_model(dropout=0.0, attention_dropout=0.0)
    tokens, targets = tokens_and_targets()
    rotations = mr.random_rotations(5, n_heads=2, d_head=5, n_hashes=2, n_buckets=4, dtype="float64")
    one = model(tokens, rotations=rotations, seed=1)
    xp.testing.assert_array_equal(one, model(tokens, rotations=[rotations, rotations], seed=2))
    assert (one != model(tokens, seed=1)).any()
    losses = [model.loss_and_grads(tokens, targets, rotations=rotations, seed=s)[0] for s in (1, 2)]
    assert losses[0] == losses[1]
    with pytest.raises(ValueError, match="rotations: expected one array, or 2"):
        model(tokens, rotations=[rotations])


@pytest.mark.slow
def test_model_keeps_nothing_per_layer_but_buckets_and_gradients(monkeypatch, tiny_config):
    monkeypatch.setattr(mr.backend, "_n_threads", 1)
    peaks = {}
    for depth in (2, 8):
        config = tiny_config(attn_layers=("local", "lsh") * (depth // 2), axial_shape=(32, 32), max_len=1024)
        config = replace(config, d_model=64, axial_dims=(32, 32), dropout=0.0, attention_dropout=0.0)
        model = mr.Reformer(config)
        tokens = xp.zeros((2, 1024), int)
        with mr.memory.peak() as m:
            _, grads = model.loss_and_grads(tokens, tokens)
        bucket_bytes = depth // 2 * 2 * 2 * 2 * 1024 * 2
        peaks[depth] = m.bytes - mr.memory.nbytes(grads) - bucket_bytes
    activation = 2 * 1024 * 64 * 4
    assert peaks[8] - peaks[2] < 0.1 * activation


@pytest.mark.skipif(
    mr.backend.active() is not np, reason="a GPU takes many chunks at once, with buffers that grow with the text"
)
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("heads_at_once, most", [(0, 9.6), (2, 7.3), (1, 7.3)])
def test_few_arrays_of_activations_are_alive_at_the_peak_of_a_training_step(heads_at_once, most, depth, monkeypatch):
    """In attention: two streams and their gradients, and of the heads at once Q, V, dO, dQ and dV: 4 + 5 arrays.

    In a feed-forward layer: the four streams, its input, its output and a gradient. On the way forward: two streams,
    an attention layer's input and output, Q, V and O. From the second block on, the two streams differ.
    """
    monkeypatch.setattr(mr.backend, "_n_threads", 1)
    config = mr.ReformerConfig(
        vocab_size=16,
        d_model=128,
        n_heads=4,
        d_head=32,
        d_ff=128,
        attn_layers=("lsh",) * depth,
        n_hashes=1,
        max_len=8192,
    )
    model = mr.Reformer(replace(config, heads_at_once=heads_at_once))
    peaks = {}
    for length in (4096, 8192):  # the difference is what grows with the length
        tokens = xp.random.default_rng(0).integers(0, 16, (1, length))
        with mr.memory.peak() as m:
            model.loss_and_grads(tokens, tokens)
        peaks[length] = m.bytes
    assert peaks[8192] - peaks[4096] < most * 4096 * config.d_model * 4


def test_save_and_load(tmp_path, tiny_model):
    model = tiny_model("float32")
    model.save(tmp_path / "model.safetensors")
    loaded = mr.Reformer.load(tmp_path / "model.safetensors")
    assert loaded.config == model.config and loaded.dtype == model.dtype
    tokens, _ = tokens_and_targets()
    xp.testing.assert_array_equal(loaded(tokens), model(tokens))


@pytest.mark.parametrize("positions", ["axial", "learned", "sinusoidal"])
def test_a_model_made_before_a_switch_keeps_its_backend(cupy, positions, tiny_config):
    mr.backend.use("numpy")
    model = mr.Reformer(tiny_config(positions=positions, attn_layers=("local", "lsh", "shared_full")))
    tokens, targets = np.random.default_rng(0).integers(0, 11, (2, 2, 22))
    loss, grads = model.loss_and_grads(tokens, targets)
    mr.backend.use("cupy")
    assert model.loss_and_grads(tokens, targets)[0] == loss
    assert {type(grad) for grad in grads.values()} == {type(model(tokens))} == {np.ndarray}


def test_threads_change_no_bit_of_loss_or_gradients(monkeypatch, tiny_config):
    model = mr.Reformer(tiny_config(attn_layers=("lsh", "local"), max_len=1024, axial_shape=(32, 32)))
    tokens, targets = xp.random.default_rng(0).integers(0, 11, (2, 1, 1000))
    results = []
    for n_threads in (1, 2, 3):
        monkeypatch.setattr(mr.backend, "_n_threads", n_threads)
        results.append(model.loss_and_grads(tokens, targets))
    (loss, grads), *others = results
    for other_loss, other_grads in others:
        assert other_loss == loss
        for name in grads:
            xp.testing.assert_array_equal(other_grads[name], grads[name], err_msg=name)


def test_layers_of_different_chunks_are_padded_alike(tiny_model):
    """As if the tokens had been padded, and the padding hidden, before the model saw them."""
    model = tiny_model(dropout=0.0, attention_dropout=0.0, causal=False)  # chunks of 4 and 6: padded to 24
    tokens, _ = tokens_and_targets(17)
    padded, hidden = xp.pad(tokens, ((0, 0), (0, 7))), xp.broadcast_to(xp.arange(24)[None] < 17, (2, 24)).copy()
    xp.testing.assert_allclose(model(tokens), model(padded, key_mask=hidden)[:, :17], atol=1e-13)


def test_attention_of_one_kind_may_have_a_dropout_of_its_own(tiny_config, tiny_model):
    model = tiny_model(lsh_attention_dropout=0.0, local_attention_dropout=0.3)
    rates = [attention.part.attention_dropout for attention, _ in model.layers.blocks]
    assert rates == [0.0, 0.3, 0.1, 0.1, 0.0]
    with pytest.raises(ValueError, match=r"lsh_attention_dropout: expected a rate in \[0, 1\); got 2"):
        tiny_config(lsh_attention_dropout=2)
