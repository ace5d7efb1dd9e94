"""What files in Hugging Face's format may hold, what is refused, and what is not written."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy

import minireformer as mr
from huggingface_cases import CASES, folder_of, model_of, weights_of
from minireformer import backend

# What it takes


@pytest.mark.parametrize("theirs", ["gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate"])
def test_their_names_of_the_fit_to_gelu_are_known(theirs):
    assert model_of("lsh", hidden_act=theirs).config.activation == "gelu_tanh"
    assert model_of("lsh", hidden_act="gelu_python").config.activation == "gelu"


def test_what_a_config_leaves_out_has_their_default():
    case = CASES["lsh"]
    config = {key: value for key, value in case["config"].items() if not key.startswith(("layer_norm_eps", "local_"))}
    model = mr.from_huggingface(weights_of(case), config | {"attn_layers": ["lsh"]})
    assert model.config.layer_norm_eps == 1e-12 and model.config.n_hashes == 1


def test_dropout_rates_are_kept_apart():
    rates = {"lsh_attention_probs_dropout_prob": 0.1, "local_attention_probs_dropout_prob": 0.2}
    config = model_of("classifier", **rates, hidden_dropout_prob=0.3, classifier_dropout=0.4).config
    assert (config.lsh_attention_dropout, config.local_attention_dropout) == (0.1, 0.2)
    assert (config.dropout, config.head_dropout) == (0.3, 0.4)


def test_what_older_files_hold_besides_is_passed_over():
    case = CASES["lsh"]
    weights = weights_of(case)
    start = "reformer.encoder.layers.0.attention.self_attention."
    for name in ("self_mask_value_float16", "self_mask_value_float32", "mask_value_float16", "mask_value_float32"):
        weights[start + name] = np.float32(-1e4)
    weights["lm_head.decoder.bias"] = weights["lm_head.bias"]
    expected = mr.from_huggingface(weights_of(case), case["config"]).params
    for gone in ([], ["lm_head.bias"]):
        params = mr.from_huggingface({k: v for k, v in weights.items() if k not in gone}, case["config"]).params
        assert all((params[name] == value).all() for name, value in expected.items())


def test_the_bias_that_their_newest_version_applies_is_loaded_and_both_are_written(tmp_path):
    case = CASES["lsh"]
    weights = weights_of(case)
    weights["lm_head.decoder.bias"] = weights["lm_head.bias"] + 1
    model = mr.from_huggingface(weights, case["config"])
    np.testing.assert_array_equal(backend.to_numpy(model.params["head.bias"]), weights["lm_head.decoder.bias"])
    mr.to_huggingface(model, tmp_path)
    written = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    for name in ("lm_head.bias", "lm_head.decoder.bias"):
        np.testing.assert_array_equal(written[name], weights["lm_head.decoder.bias"])


def test_weights_of_16_bits_are_taken():
    case = CASES["lsh"]
    half = {name: value.astype("float16") for name, value in weights_of(case).items()}
    model = mr.from_huggingface(half, case["config"])
    assert all(param.dtype == "float32" for param in model.params.values())


def test_a_grid_smaller_than_their_max_len_is_what_counts():
    assert model_of("lsh", max_position_embeddings=4096).config.max_len == 96
    assert model_of("lsh", max_position_embeddings=80).config.max_len == 80
    small = {"num_buckets": None, "lsh_attn_chunk_length": 2}
    with pytest.raises(
        ValueError, match="config: expected num_buckets, because the default for max_position_emb.* 4096"
    ):
        model_of("lsh", max_position_embeddings=4096, **small)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"hidden_act": "silu"}, "config: expected hidden_act to be one of relu, .*; got 'silu'"),
        ({"hidden_act": None}, "hidden_act"),
        ({"attn_layers": ["lsh", "full"]}, "config: expected attn_layers, a list of lsh and local"),
        ({"attn_layers": "lsh"}, "attn_layers"),
        ({"attn_layers": []}, "config: attn_layers"),
        ({"model_type": "bert"}, "config: expected model_type reformer; got 'bert'"),
        ({"num_buckets": 7}, "config: n_buckets: expected an even number"),
        ({"axial_pos_embds_dim": [4, 4]}, "config: axial_dims: expected sizes that add up to d_model 12"),
        ({"axial_pos_shape": None}, "config: axial_shape: expected a tuple"),
        ({"max_position_embeddings": "96"}, "config: max_len: expected an integer"),
        ({"lsh_attn_chunk_length": None}, "config: lsh_chunk_len: expected an integer >= 1; got None"),
        ({"hidden_dropout_prob": 1.5}, "config: dropout: expected a rate"),
        ({"hidden_size": 16, "axial_pos_embds_dim": [4, 12]}, "word_embeddings.weight: the config expects shape"),
        ({"attn_layers": ["lsh", "lsh"]}, "weights are missing: reformer.encoder.layers.1"),
        ({"axial_pos_embds": False}, "missing: reformer.embeddings.position_embeddings.embedding.weight"),
    ],
)
def test_configs_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        model_of("lsh", **change)


def test_weights_that_do_not_fit_are_refused():
    case = CASES["lsh"]
    weights, config = weights_of(case), case["config"]
    bias = weights["lm_head.bias"]
    for change, error, message in [
        ({"lm_head.bias": bias[:-1]}, ValueError, r"lm_head.bias: the config expects shape \(11,\); got \(10,\)"),
        ({"lm_head.bias": bias * np.nan}, ValueError, "lm_head.bias holds NaN or infinity"),
        ({"lm_head.bias": bias.astype(int)}, TypeError, "lm_head.bias: expected floats; got dtype int64"),
        (
            {"lm_head.bias": bias.astype("float64") + 1e300},
            ValueError,
            "as float32, lm_head.bias holds NaN or infinity",
        ),
        ({"lm_head.bias": [[1.0], [1.0, 2.0]]}, ValueError, "lm_head.bias: expected an array"),
        ({3: bias}, TypeError, "folder_or_state_dict: expected the names of weights as text; got 3"),
        ({"lm_head.scale": bias}, ValueError, "the config has no place for lm_head.scale"),
    ]:
        with pytest.raises(error, match=message):
            mr.from_huggingface(weights | change, config)
    body = {name: value for name, value in weights.items() if not name.startswith("lm_head")}
    with pytest.raises(ValueError, match=r"weights of a head, lm_head\., classifier\., qa_outputs\.; found none"):
        mr.from_huggingface(body, config)
    with pytest.raises(ValueError, match="config: expected a dict beside the weights; got None"):
        mr.from_huggingface(weights)
    with pytest.raises(TypeError, match="config: expected a dict such as that in config.json; got str"):
        mr.from_huggingface(weights, "config.json")
    with pytest.raises(TypeError, match="folder_or_state_dict: expected a folder or a dict of arrays; got int"):
        mr.from_huggingface(3)
    with pytest.raises(ValueError, match="dtype: expected float32 or float64"):
        mr.from_huggingface(weights, config, "float16")


def test_folders_that_are_not_whole_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json: no such file; expected a folder that holds"):
        mr.from_huggingface(tmp_path)
    hint = "expected a folder that holds config.json and model.safetensors; nothing is downloaded"
    with pytest.raises(FileNotFoundError, match=f"google/reformer-enwik8/config.json: no such file; {hint}"):
        mr.from_huggingface("google/reformer-enwik8")
    folder = folder_of(CASES["lsh"], tmp_path)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="model.safetensors: not a safetensors file, or only a part of one"):
        mr.from_huggingface(folder)
    shutil.move(folder / "model.safetensors", folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"model.safetensors: no such file; help\(minireformer.huggingface"):
        mr.from_huggingface(folder)
    (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="config.json: not a JSON text"):
        mr.from_huggingface(folder)
    (folder / "config.json").write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(ValueError, match="config.json: not a JSON text"):
        mr.from_huggingface(folder)


def test_what_is_no_folder_or_has_no_head_is_not_written(tmp_path):
    (tmp_path / "file").write_text("kept", encoding="utf-8")
    for path in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(ValueError, match="folder: expected a folder, new or not"):
            mr.to_huggingface(model_of("lsh"), path)
    assert (tmp_path / "file").read_text(encoding="utf-8") == "kept"
    config = mr.EncoderDecoderConfig(d_model=8, n_heads=1, d_head=4, d_ff=8, axial_shape=(8, 8), max_len=64)
    with pytest.raises(ValueError, match="model: expected one with a head"):
        mr.to_huggingface(mr.EncoderDecoder(config).encoder, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_numbers_of_brain_floats_are_refused(tmp_path):
    header = json.dumps({"lm_head.bias": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    folder = folder_of(CASES["lsh"], tmp_path)
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ValueError, match="model.safetensors: expected floats of 16, 32 or 64 bits"):
        mr.from_huggingface(folder)
