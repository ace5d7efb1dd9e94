"""What a model takes, and what it refuses: configurations, tokens, targets, masks and rotations."""

import pytest

import minireformer as mr
from arrays import xp
from minireformer import attention_layer
from minireformer.config import KINDS
from minireformer.model import make_attention


def tokens_and_targets(length=22, seed=0):
    return xp.random.default_rng(seed).integers(0, 11, (2, 2, length))


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
