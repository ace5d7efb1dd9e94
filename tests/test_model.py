"""The whole model: gradients of every parameter, any length, nothing stored per layer, saved and loaded."""

from dataclasses import replace

import numpy as np
import pytest

import minireformer as mr
from arrays import xp
from minireformer import attention_layer
from minireformer.config import KINDS
from minireformer.model import make_attention


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


@pytest.mark.parametrize("heads_at_once, most", [(0, 9.6), (2, 7.3), (1, 7.3)])
def test_few_arrays_of_activations_are_alive_at_the_peak_of_a_training_step(heads_at_once, most, monkeypatch):
    """In attention: two streams and their gradients, and of the heads at once Q, V, dO, dQ and dV: 4 + 5 arrays.

    In a feed-forward layer: the four streams, its input, its output and a gradient.
    """
    monkeypatch.setattr(mr.backend, "_n_threads", 1)
    config = mr.ReformerConfig(
        vocab_size=16, d_model=128, n_heads=4, d_head=32, d_ff=128, attn_layers=("lsh",), n_hashes=1, max_len=8192
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


@pytest.mark.parametrize(
    "change, message",
    [
        ({"n_buckets": 3}, "n_buckets: expected an even number"),
        ({"axial_dims": (4, 4)}, "axial_dims: expected sizes that add up to d_model 12"),
        ({"axial_dims": (12,)}, "axial_dims: expected 2 sizes"),
        ({"axial_shape": (4, 4)}, "axial_shape: expected a product of at least max_len 32"),
        ({"attn_layers": ("lsh", "sparse")}, "attn_layers: expected one or more of lsh"),
        ({"attn_layers": ()}, "attn_layers"),
        ({"attn_layers": None}, r"attn_layers: expected a tuple such as \(\"lsh\",\); got None"),
        ({"attn_layers": "lsh"}, r"attn_layers: expected a tuple such as \(\"lsh\",\); got 'lsh'"),
        ({"attn_layers": (["lsh"],)}, "attn_layers: expected one or more of lsh"),
        ({"axial_shape": 16384}, r"axial_shape: expected a tuple of sizes, such as \(128, 128\); got 16384"),
        ({"axial_shape": (4, 8.0)}, r"axial_shape\[1\]: expected an integer >= 1; got 8.0"),
        ({"axial_dims": (-4, 16)}, r"axial_dims\[0\]: expected an integer >= 1; got -4"),
        ({"axial_dims": 12}, "axial_dims: expected a tuple of sizes"),
        ({"positions": "sinusoidal", "d_model": 11}, "d_model: expected an even number"),
        ({"layer_norm_eps": -1}, "layer_norm_eps: expected a finite number >= 0; got -1"),
        ({"layer_norm_eps": "1e-12"}, "layer_norm_eps: expected a finite number >= 0; got '1e-12'"),
        ({"layer_norm_eps": None}, "layer_norm_eps"),
        ({"causal": "yes"}, "causal: expected True or False; got 'yes'"),
        ({"reversible": 1}, "reversible: expected True or False"),
        ({"d_model": 0}, "d_model: expected an integer >= 1"),
        ({"d_model": None}, "d_model: expected an integer >= 1; got None"),
        ({"dropout": "0.1"}, r"dropout: expected a rate in \[0, 1\); got '0.1'"),
        ({"attention_dropout": None}, "attention_dropout: expected a rate"),
        ({"n_hashes": 1.5}, "n_hashes: expected an integer"),
        ({"lsh_n_before": -1}, "lsh_n_before: expected an integer >= 0"),
        ({"dropout": 1.0}, "dropout: expected a rate"),
        ({"positions": "rotary"}, "positions: expected one of axial"),
        ({"activation": "tanh"}, "activation: expected one of relu, gelu, gelu_tanh; got"),
    ],
)
def test_bad_configurations_are_named(change, message, tiny_config):
    with pytest.raises(ValueError, match=message):
        tiny_config(**change)


def test_numbers_of_numpy_are_saved_as_numbers(tmp_path, tiny_model):
    numbers = {"d_ff": xp.int64(16), "n_buckets": xp.int32(4), "dropout": xp.float32(0.5)}
    numbers["axial_shape"] = list(xp.int64([4, 8]))
    model = tiny_model("float32", **numbers)
    model.save(tmp_path / "model.safetensors")
    assert mr.Reformer.load(tmp_path / "model.safetensors").config == model.config


def test_bad_inputs_are_named(tiny_config, tiny_model):
    model = tiny_model()
    tokens, targets = tokens_and_targets()
    with pytest.raises(ValueError, match="tokens: expected 1 to 32 a sequence"):
        model(tokens[:, :0])
    with pytest.raises(ValueError, match="tokens: expected at least one token"):
        model(tokens[:0])
    with pytest.raises(TypeError, match="tokens: expected a NumPy or CuPy array; got NoneType"):
        model(None)
    with pytest.raises(TypeError, match="targets: expected integers"):
        model.loss_and_grads(tokens, targets * 1.0)
    with pytest.raises(TypeError, match="mask: expected booleans"):
        model.loss_and_grads(tokens, targets, mask=targets)
    with pytest.raises(ValueError, match="key_mask: expected shape"):
        model(tokens, key_mask=xp.ones((2, 5), bool))
    with pytest.raises(ValueError, match=r"rotations: expected 2 rounds \(n_hashes\); got 3"):
        model(tokens, rotations=mr.random_rotations(0, 2, 5, n_hashes=3, n_buckets=4, dtype="float64"))
    with pytest.raises(TypeError, match="seed: expected an integer"):
        model(tokens, seed=None)
    logits, cache = model.forward(tokens)
    with pytest.raises(ValueError, match="dlogits: expected shape"):
        model.backward(logits[..., 1:], cache)
    with pytest.raises(ValueError, match="dfeatures: expected shape"):
        model.features_backward(logits, cache.features)
    with pytest.raises(ValueError, match="tokens: expected ids from 0 to 10"):
        model(tokens + 1)
    with pytest.raises(ValueError, match="tokens: expected 1 to 32 a sequence"):
        model(xp.zeros((1, 33), int))
    with pytest.raises(TypeError, match="tokens: expected integers"):
        model(tokens.astype(float))
    with pytest.raises(ValueError, match="tokens: expected shape"):
        model(tokens[0])
    with pytest.raises(ValueError, match="targets: expected shape"):
        model.loss_and_grads(tokens, targets[:, 1:])
    with pytest.raises(ValueError, match="targets: expected ids"):
        model.loss_and_grads(tokens, targets - 1)
    with pytest.raises(ValueError, match="mask"):
        model.loss_and_grads(tokens, targets, mask=xp.zeros(tokens.shape, bool))
    with pytest.raises(TypeError, match="config"):
        mr.Reformer({"d_model": 12})
    with pytest.raises(ValueError, match="dtype"):
        mr.Reformer(tiny_config(), dtype="float16")


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"targets": lambda targets, rotations: targets + 11}, ValueError, "targets: expected ids from 0 to 10"),
        ({"targets": lambda targets, rotations: targets[:1]}, ValueError, r"targets: expected shape \(2, 22\)"),
        ({"mask": lambda targets, rotations: targets < 0}, ValueError, "mask: no position is true"),
        ({"mask": lambda targets, rotations: targets[:, 1:] > 0}, ValueError, r"mask: expected shape \(2, 22\)"),
        (
            {"rotations": lambda targets, rotations: [rotations, rotations[1:]]},
            ValueError,
            r"rotations\[1\]: expected shape \(2, 5, any, any\)",
        ),
        (
            {"rotations": lambda targets, rotations: [rotations, rotations[:, :, 1:]]},
            ValueError,
            r"rotations\[1\]: expected 2 rounds \(n_hashes\); got 1",
        ),
        (
            {"rotations": lambda targets, rotations: [rotations, rotations[..., 1:]]},
            ValueError,
            r"rotations\[1\]: expected 2 columns for n_buckets 4; got 1",
        ),
        ({"rotations": lambda targets, rotations: [rotations, None]}, TypeError, r"rotations\[1\]: expected a NumPy"),
        ({"rotations": lambda targets, rotations: rotations[..., :0]}, ValueError, "rotations: expected at least one"),
    ],
)
def test_targets_mask_and_rotations_are_checked_before_any_layer_runs(monkeypatch, change, error, message, tiny_model):
    model, (tokens, targets) = tiny_model(), tokens_and_targets()
    rotations = mr.random_rotations(0, n_heads=2, d_head=5, n_hashes=2, n_buckets=4, dtype="float64")
    kwargs = {"targets": targets, "rotations": [rotations, rotations]}
    model.loss_and_grads(tokens, **kwargs)
    if "ids" in message and xp.__name__ == "cupy":
        pytest.skip("on a GPU, ids are looked at when the loss is there: see test_on_double.py")
    monkeypatch.setattr(mr.layer.Layer, "forward", None)
    monkeypatch.setattr(type(model.embedding), "forward", None)
    with pytest.raises(error, match=message):
        model.loss_and_grads(tokens, **(kwargs | {name: make(targets, rotations) for name, make in change.items()}))


def test_seed_is_0_by_default_everywhere(tiny_model):
    model, (tokens, targets) = tiny_model(), tokens_and_targets()
    assert model.loss_and_grads(tokens, targets)[0] == model.loss_and_grads(tokens, targets, seed=0)[0]
    xp.testing.assert_array_equal(model.forward(tokens)[0], model.forward(tokens, seed=0)[0])
    xp.testing.assert_array_equal(model(tokens), model(tokens, seed=0))


def test_options_of_attention_are_made_from_a_config(tiny_config):
    config = tiny_config(lsh_n_after=1, local_n_before=2, same_bucket=True, causal=False)
    assert KINDS == tuple(attention_layer.ATTENTION)
    options = {kind: make_attention(config, kind, 0, "float32").options for kind in KINDS}
    assert options["lsh"] == mr.AttentionOptions(chunk_len=4, n_after=1, same_bucket=True, causal=False)
    assert options["local"] == mr.AttentionOptions(chunk_len=6, n_before=2, causal=False)
    assert options["full"] == options["shared_full"] == mr.AttentionOptions(causal=False)


@pytest.mark.parametrize("positions", ["axial", "learned", "sinusoidal"])
def test_a_model_made_before_a_switch_keeps_its_backend(cupy, positions, tiny_config):
    mr.backend.use("numpy")
    model = mr.Reformer(tiny_config(positions=positions, attn_layers=("local", "lsh", "shared_full")))
    tokens, targets = np.random.default_rng(0).integers(0, 11, (2, 2, 22))
    loss, grads = model.loss_and_grads(tokens, targets)
    mr.backend.use("cupy")
    assert model.loss_and_grads(tokens, targets)[0] == loss
    assert {type(grad) for grad in grads.values()} == {type(model(tokens))} == {np.ndarray}


def test_where_nothing_is_hashed_rotations_for_a_longer_text_will_do(tiny_model):
    model, (tokens, _) = tiny_model(n_buckets=None), tokens_and_targets()
    rotations = mr.random_rotations(0, n_heads=2, d_head=5, n_hashes=2, n_buckets=8, dtype="float64")
    model(tokens, rotations=rotations)
    model(tokens[:, :3], rotations=rotations)
    with pytest.raises(ValueError, match="rotations: expected 2 columns for n_buckets 4; got 4"):
        model(tokens[:, :9], rotations=rotations)


def test_targets_that_do_not_count_may_be_anything(tiny_model):
    model, (tokens, targets) = tiny_model(), tokens_and_targets()
    mask = xp.arange(22)[None] % 2 == xp.array([[0], [1]])
    loss, _ = model.loss_and_grads(tokens, targets, mask=mask)
    assert model.loss_and_grads(tokens, xp.where(mask, targets, -100), mask=mask)[0] == loss


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
