"""The same numbers as Hugging Face's and lucidrains' Reformers, from files made with them; and where they are wrong.

`fixtures/make_huggingface.py` and `fixtures/make_lucidrains.py` made the files; neither library is needed here.
"""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
import safetensors.numpy

import minireformer as mr
from arrays import xp
from cases import FIXTURES, FORWARD, PUBLIC_CONFIGS, differences, load_cases, paper_differences
from huggingface_cases import CASES, folder_of, model_of, weights_of
from minireformer import backend
from minireformer.interop.huggingface import _our_config, state_dict
from minireformer.reference import dense_lsh_attention

PAPER = load_cases(FIXTURES / "lucidrains.safetensors")
PUBLIC = ["enwik8, scaled down", "crime and punishment, scaled down"]


def tokens_of(model, length, n_batch=2):
    return xp.random.default_rng(0).integers(0, model.config.vocab_size, (n_batch, length))


# The same numbers


@pytest.mark.parametrize("name", CASES)
def test_logits_and_gradients_are_those_of_hugging_face(name, record_property):
    found = differences(CASES[name])
    numbers = [found.float32, found.float64, found.loss, found.gradient]
    record_property("parity", ("Hugging Face", *numbers))
    assert found.fit, f"{found}"


def test_there_are_cases_of_every_kind():
    configs = [case["config"] for case in CASES.values()]
    assert len(CASES) >= 24
    assert {case["head"] for case in CASES.values()} == {"tokens", "sequence", "span"}
    assert {config.get("is_decoder", False) for config in configs} == {True, False}
    assert {config["axial_pos_embds"] for config in configs} == {True, False}
    assert {tuple(config["attn_layers"])[:2] for config in configs} >= {("lsh", "local"), ("local", "lsh")}
    assert {type(config["num_buckets"]) for config in configs} == {int, list, type(None)}
    assert sum("mask" in case for case in CASES.values()) >= 6
    assert sum(case["num_hashes"] is not None for case in CASES.values()) == 2


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_own_options_are_those_of_lucidrains(name, record_property):
    found = paper_differences(PAPER[name])
    record_property("parity", ("lucidrains", None, found.forward, None, found.gradient))
    assert found.fit, f"{found}"


@pytest.mark.parametrize("name", PUBLIC)
def test_public_architectures_load_by_folder(tmp_path, name):
    case = CASES[name]
    model = mr.from_huggingface(folder_of(case, tmp_path))
    assert model.dtype == "float32"
    logits = model(backend.asarray(case["tokens"]), rotations=backend.asarray(case["rotations"]))
    np.testing.assert_allclose(backend.to_numpy(logits), case["logits/float64"], rtol=0, atol=FORWARD["float32"])


@pytest.mark.slow
@pytest.mark.parametrize("name, n_params, length", [("crime and punishment", 2748224, 200), ("enwik8", 149182722, 300)])
def test_public_architectures_are_built_and_run_at_full_size(name, n_params, length):
    if backend.active() is not np:
        pytest.skip("seconds of drawing numbers, which are drawn by NumPy anyway")
    config = _our_config(PUBLIC_CONFIGS[name], weights={"lm_head.bias": None})
    model = mr.Reformer(config)
    assert sum(param.size for param in model.params.values()) == n_params
    logits = model(tokens_of(model, length, n_batch=1))
    assert logits.shape == (1, length, config.vocab_size) and xp.isfinite(logits).all()


# There and back


@pytest.mark.parametrize("name", CASES)
def test_it_is_written_back_as_it_was(tmp_path, name):
    model = model_of(name)
    mr.to_huggingface(model, tmp_path / "new" / "folder")
    again = mr.from_huggingface(tmp_path / "new" / "folder", dtype="float64")
    written_as_0 = {"ff_chunk_len": model.config.ff_chunk_len, "loss_chunk_len": model.config.loss_chunk_len}
    assert replace(again.config, **written_as_0) == model.config
    assert all((again.params[name] == param).all() for name, param in model.params.items())
    theirs, ours = CASES[name]["config"], json.loads((tmp_path / "new" / "folder" / "config.json").read_bytes())
    chunks = {"chunk_size_feed_forward", "chunk_size_lm_head"}
    kinds = {kind for kind in ("lsh", "local") if kind not in model.config.attn_layers}
    for key in ours.keys() & theirs.keys() - chunks:
        if key not in ("dtype", "hidden_act") and key.partition("_")[0] not in kinds:
            assert ours[key] == theirs[key], key
    file = safetensors.safe_open(tmp_path / "new" / "folder" / "model.safetensors", framework="numpy")
    assert file.metadata() == {"format": "pt"}  # transformers asks for it
    newest = {"lm_head.decoder.bias"} if model.config.head == "tokens" else set()
    assert set(file.keys()) == set(weights_of(CASES[name])) | newest


def test_a_model_made_here_is_written_for_them(tmp_path):
    config = mr.ReformerConfig(
        vocab_size=9, d_model=8, n_heads=1, d_head=4, d_ff=8, attention_dropout=0.25, activation="gelu_tanh"
    )
    config = replace(config, local_attention_dropout=0.5, n_buckets=(4, 2), axial_shape=(8, 8), max_len=64)
    model = mr.Reformer(config)
    mr.to_huggingface(model, tmp_path)
    written = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert written["architectures"] == ["ReformerModelWithLMHead"] and written["dtype"] == "float32"
    assert written["lsh_attention_probs_dropout_prob"] == 0.25
    assert written["local_attention_probs_dropout_prob"] == 0.5
    assert written["num_buckets"] == [4, 2] and written["hidden_act"] == "gelu_pytorch_tanh"
    assert written["chunk_size_feed_forward"] == written["chunk_size_lm_head"] == 0
    again = mr.from_huggingface(tmp_path)
    xp.testing.assert_array_equal(again(tokens_of(model, 40)), model(tokens_of(model, 40)))
    expected = replace(config, lsh_attention_dropout=0.25, attention_dropout=0.0)
    assert again.config == expected


@pytest.mark.parametrize(
    "change, message",
    [
        ({"attn_layers": ("lsh", "full")}, "does not support attn_layers="),
        ({"positions": "sinusoidal"}, "does not support positions='sinusoidal'"),
        ({"axial_shape": (4, 4, 4), "axial_dims": (2, 2, 4)}, "does not support axial_shape="),
        ({"same_bucket": True}, "does not support same_bucket=True"),
        ({"count_once": True}, "does not support count_once=True"),
        ({"lsh_n_after": 1}, "does not support lsh_n_after=1"),
        ({"local_n_after": 2}, "does not support local_n_after=2"),
    ],
)
def test_what_they_cannot_load_is_not_written(tmp_path, change, message):
    config = mr.ReformerConfig(vocab_size=9, d_model=8, n_heads=1, d_head=4, d_ff=8, axial_shape=(8, 8), max_len=64)
    with pytest.raises(ValueError, match=message):
        mr.to_huggingface(mr.Reformer(replace(config, **change)), tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_gradients_come_under_their_names():
    model = model_of("odd length")
    _, grads = model.loss_and_grads(tokens_of(model, 9), tokens_of(model, 9))
    theirs = state_dict(model, grads)
    assert theirs.keys() == state_dict(model).keys() == weights_of(CASES["odd length"]).keys()
    assert theirs["lm_head.bias"] is grads["head.bias"]
    with pytest.raises(ValueError, match=r"values: expected names of parameters; got \['head.slope'\]"):
        state_dict(model, {"head.slope": grads["head.bias"]})
    with pytest.raises(TypeError, match="values: expected a dict such as params; got list"):
        state_dict(model, [1])
    with pytest.raises(TypeError, match="model: expected a Reformer; got dict"):
        state_dict({})


# Where they are wrong


def test_the_bias_of_the_head_is_applied():
    model = model_of("lsh")
    tokens = tokens_of(model, 20)
    logits = model(tokens)
    model.params["head.bias"] += 1.0
    xp.testing.assert_allclose(model(tokens), logits + 1, atol=1e-12)


def test_in_float32_a_token_that_sees_only_itself_gets_just_its_own_value():
    """Theirs adds up exp(-1e5 - L) over the rounds, of which float32 knows too little: it is off by up to 0.4 %."""
    heads = xp.random.default_rng(0).standard_normal((2, 1, 1, 24, 4)).astype("float32")
    buckets = xp.random.default_rng(1).integers(0, 4, (1, 1, 3, 24))
    out, _ = mr.lsh_attention(*heads, buckets, chunk_len=8)
    xp.testing.assert_array_equal(out[:, :, 0], heads[1][:, :, 0])
    case = CASES["lsh, 4 rounds, 12 chunks"]
    assert np.abs(case["logits/float32"] - case["logits/float64"]).max() > 1e-3
    ours = mr.from_huggingface(weights_of(case), case["config"])
    logits = ours(backend.asarray(case["tokens"]), rotations=backend.asarray(case["rotations"]))
    assert np.abs(backend.to_numpy(logits) - case["logits/float64"]).max() < FORWARD["float32"]


def test_a_first_length_does_not_fix_the_number_of_buckets():
    used, fresh = model_of("lsh, factors by length"), model_of("lsh, factors by length")
    used(tokens_of(used, 9))
    tokens = tokens_of(used, 96)
    xp.testing.assert_array_equal(used(tokens), fresh(tokens))
    assert used.config == fresh.config


@pytest.mark.parametrize("length", [1, 5, 37, 96])
def test_it_trains_on_any_length(length):
    """Theirs wants a multiple of the chunks, and just as many tokens as the axial grid has places."""
    model = model_of("odd length")
    tokens = tokens_of(model, length)
    loss, grads = model.loss_and_grads(tokens, tokens)
    assert xp.isfinite(loss) and all(xp.isfinite(grad).all() for grad in grads.values())


def test_a_seed_decides_on_training_and_no_global_generator_is_touched():
    model = model_of("odd length", hidden_dropout_prob=0.2)
    tokens = tokens_of(model, 24)
    before = str(np.random.get_state())  # noqa: NPY002
    loss, _ = model.loss_and_grads(tokens, tokens, seed=5)
    assert model.loss_and_grads(tokens, tokens, seed=5)[0] == loss
    assert model.loss_and_grads(tokens, tokens, seed=6)[0] != loss
    assert str(np.random.get_state()) == before  # noqa: NPY002


def test_buckets_belong_to_a_call_and_not_to_a_layer():
    """Kept by depth alone, those of the second call would be used for the gradients of the first."""
    model = model_of("lsh, 2 factors, 2 rounds")
    (one, two), dlogits = xp.random.default_rng(0).integers(0, 11, (2, 2, 64)), xp.ones((2, 64, 11))
    _, cache = model.forward(one, seed=1)
    _, alone = model.backward(dlogits, cache)
    _, cache = model.forward(one, seed=1)
    model.forward(two, seed=2)
    _, grads = model.backward(dlogits, cache)
    for name, grad in grads.items():
        xp.testing.assert_array_equal(grad, alone[name])


def test_a_key_of_another_round_does_not_weigh_a_thousand_million_times():
    """Where keys count once, lucidrains counts 0 meetings across the border of two rounds, and divides by 1e-9."""
    case = PAPER["count once, both ways, 3 rounds"]
    qk, v, buckets = (backend.asarray(case[key]) for key in ("qk", "v", "buckets"))
    qk = qk * qk.shape[-1] ** -0.5
    exact, _ = dense_lsh_attention(qk, v, buckets, chunk_len=8, **case["options"])
    ours, _ = mr.lsh_attention(qk, v, buckets, chunk_len=8, **case["options"])
    xp.testing.assert_allclose(ours, exact, atol=1e-12)
    apart = np.abs(case["out"] - backend.to_numpy(exact))
    assert apart[case["border"]].max() > 1 and apart[~case["border"]].max() < 1e-8


def test_every_field_of_a_config_has_a_place_there_or_is_ours_alone():
    ours = {field.name for field in fields(mr.ReformerConfig)}
    theirs = {name for name, _ in mr.huggingface._FIELDS.values()}
    alone = {"attention_dropout", "same_bucket", "count_once", "heads_at_once", "reversible", "head", "n_labels"}
    assert ours == theirs | alone and not theirs & alone
