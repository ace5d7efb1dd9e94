import json
import os
import stat

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from minireformer import backend, checkpoint
from minireformer.model import Reformer
from minireformer.training.optimizers import Adafactor, Adam


@pytest.fixture
def trained(tiny_config):
    """`trained()`: a model and an optimizer that have made a few steps, so that nothing is at its initial value."""

    def make(seed=0, dtype="float32", make=Adam, steps=2, **changes):
        changes = {"attn_layers": ("local", "lsh"), "n_buckets": (2, 4)} | changes
        model = Reformer(tiny_config(**changes), seed=seed, dtype=dtype)
        opt = make(model.params, lr=0.1)
        random = np.random.default_rng(seed)
        for _ in range(steps):
            opt.step({n: backend.asarray(random.standard_normal(p.shape), dtype) for n, p in model.params.items()})
        return model, opt

    return make


def assert_same_bits(arrays, expected):
    assert arrays.keys() == expected.keys()
    for name in arrays:
        assert arrays[name].dtype == expected[name].dtype
        np.testing.assert_array_equal(backend.to_numpy(arrays[name]), backend.to_numpy(expected[name]), err_msg=name)


@pytest.fixture
def saved(tmp_path, trained):
    model, opt = trained()
    path = tmp_path / "run.safetensors"
    checkpoint.save_model(model, path, opt, progress={"step": 2, "loss": 0.1 + 0.2})
    return path


def rewrite(path, change):
    """Write the file again after `change(arrays, metadata)`."""
    with safetensors.safe_open(path, framework="numpy") as file:
        arrays, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
    change(arrays, metadata)
    safetensors.numpy.save_file(arrays, path, metadata=metadata)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_saved_model_comes_back_bit_for_bit(tmp_path, dtype, trained):
    model, _ = trained(dtype=dtype)
    model.save(tmp_path / "model.safetensors")
    loaded = Reformer.load(str(tmp_path / "model.safetensors"))
    assert loaded.config == model.config and loaded.dtype == model.dtype
    assert_same_bits(loaded.params, model.params)
    tokens = backend.asarray(np.arange(20).reshape(2, 10) % 11)
    np.testing.assert_array_equal(backend.to_numpy(loaded(tokens)), backend.to_numpy(model(tokens)))


def test_arrays_that_are_not_contiguous_are_saved_as_they_look(tmp_path, trained):
    model, _ = trained()
    expected = {name: param.copy() for name, param in model.params.items()}
    model.params |= {name: param.T.copy().T for name, param in expected.items()}
    model.save(tmp_path / "model.safetensors")
    assert_same_bits(Reformer.load(tmp_path / "model.safetensors").params, expected)


@pytest.mark.parametrize("make", [Adam, Adafactor])
def test_a_resumed_optimizer_goes_on_as_if_nothing_had_happened(tmp_path, make, trained):
    path = tmp_path / "run.safetensors"
    model, opt = trained(make=make)
    progress = {"step": 2, "log": [{"loss": 1 / 3}], "nothing": None}
    checkpoint.save_model(model, path, opt, progress)
    other, other_opt = trained(seed=9, make=make, steps=5)
    assert checkpoint.resume(other, other_opt, path) == progress
    assert_same_bits(other_opt.state, opt.state)
    for optimizer in (opt, other_opt):
        optimizer.step({name: param * 0 + 1 for name, param in model.params.items()})
    assert_same_bits(other.params, model.params)


def test_a_model_can_be_loaded_from_a_training_checkpoint(saved, trained):
    assert_same_bits(Reformer.load(saved).params, trained()[0].params)


def test_the_same_model_gives_the_same_bytes(saved, tmp_path, trained):
    model, opt = trained()
    checkpoint.save_model(model, tmp_path / "again", opt, progress={"step": 2, "loss": 0.1 + 0.2})
    assert (tmp_path / "again").read_bytes() == saved.read_bytes()


def test_whoever_stops_half_way_leaves_the_previous_file_whole(saved, monkeypatch, trained):
    def write_half(arrays, path, metadata):
        path.write_bytes(before[: len(before) // 2])
        raise KeyboardInterrupt

    before = saved.read_bytes()
    monkeypatch.setattr(safetensors.numpy, "save_file", write_half)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save_model(trained(seed=1)[0], saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_the_new_file_is_on_the_disk_before_it_takes_the_place_of_the_old(saved, monkeypatch, trained):
    before, calls = saved.read_bytes(), []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append(saved.read_bytes() == before), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("replace"), replace(*names)))
    checkpoint.save_model(trained(seed=1)[0], saved)
    assert calls == [True, "replace"]
    assert saved.read_bytes() != before


def test_what_a_killed_run_left_is_cleared_away(saved, trained):
    folder = saved.with_name(saved.name + ".part")
    folder.mkdir()
    (folder / ".tmpA1b2").write_bytes(b"half a file")
    checkpoint.save_model(trained()[0], saved)
    assert os.listdir(saved.parent) == [saved.name]


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_files_are_as_readable_as_the_users_other_files(saved):
    (saved.parent / "other").touch()
    assert stat.S_IMODE(saved.stat().st_mode) == stat.S_IMODE((saved.parent / "other").stat().st_mode)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_file_is_named(saved, keep, trained):
    saved.write_bytes(saved.read_bytes()[:keep])
    for read in (Reformer.load, lambda path: checkpoint.resume(*trained(), path)):
        with pytest.raises(ValueError, match="run.safetensors: not a safetensors file, or only a part of one"):
            read(saved)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"minireformer": json.dumps({"format": "other 3"})}])
def test_a_foreign_safetensors_file_is_named(tmp_path, metadata):
    path = tmp_path / "foreign.safetensors"
    safetensors.numpy.save_file({"weight": np.ones(3)}, path, metadata=metadata)
    with pytest.raises(ValueError, match="foreign.safetensors: a safetensors file, but not one"):
        Reformer.load(path)


def test_a_pickle_is_refused_unread(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(b"\x80\x04cos\nsystem\n(S'echo unpickled > " + str(tmp_path / "ran").encode() + b"'\ntR.")
    with pytest.raises(ValueError, match="model.pt: not a safetensors file"):
        Reformer.load(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "minireformer 1"])
def test_metadata_that_is_not_json_is_named(saved, text, trained):
    rewrite(saved, lambda _, metadata: metadata.update(minireformer=text))
    for read in (Reformer.load, lambda path: checkpoint.resume(*trained(), path)):
        with pytest.raises(ValueError, match="run.safetensors: its metadata is not JSON"):
            read(saved)


@pytest.mark.parametrize("name", ["config", "dtype"])
@pytest.mark.parametrize("value", [None, 3])
def test_metadata_without_a_config_or_a_dtype_is_named(saved, name, value, trained):
    def change(_, metadata):
        about = json.loads(metadata["minireformer"]) | {name: value}
        metadata["minireformer"] = json.dumps({key: value for key, value in about.items() if value is not None})

    rewrite(saved, change)
    for read in (Reformer.load, lambda path: checkpoint.resume(*trained(), path)):
        with pytest.raises(ValueError, match="run.safetensors: expected a config and a dtype in its metadata"):
            read(saved)


def test_metadata_without_progress_is_a_model(saved, trained):
    def change(_, metadata):
        about = json.loads(metadata["minireformer"])
        del about["progress"]
        metadata["minireformer"] = json.dumps(about)

    rewrite(saved, change)
    with pytest.raises(ValueError, match="run.safetensors: holds a model, but no training run"):
        checkpoint.resume(*trained(), saved)


def test_a_missing_file_and_a_folder_are_named(tmp_path, monkeypatch, trained):
    with pytest.raises(FileNotFoundError, match=f"path: {tmp_path / 'nowhere'}: no such file"):
        Reformer.load(tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path, ""):
        for call in (Reformer.load, trained()[0].save):
            with pytest.raises(ValueError, match=f"path: expected a file; got the folder '{path}'"):
                call(path)
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_not_saved_into_a_folder_that_is_missing(tmp_path, trained):
    path = tmp_path / "no" / "model.safetensors"
    with pytest.raises(ValueError, match=f"path: expected a file in a folder that exists; got '{path}'"):
        trained()[0].save(path)
    assert list(tmp_path.iterdir()) == []


def test_progress_that_is_refused_changes_nothing(saved, trained):
    def refuse(progress):
        raise ValueError(f"not {progress['step']}")

    model, opt = trained(seed=1)
    with pytest.raises(ValueError, match="not 2"):
        checkpoint.resume(model, opt, saved, refuse)
    assert_same_bits(model.params, trained(seed=1)[0].params)
    assert_same_bits(opt.state, trained(seed=1)[1].state)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["params.layer_norm.weight", "optimizer.mean.layer_norm.weight"])
def test_nan_and_infinity_are_named_and_change_nothing(saved, bad, name, trained):
    rewrite(saved, lambda arrays, _: arrays[name].__setitem__(3, bad))
    model, opt = trained(seed=1)
    with pytest.raises(ValueError, match=f"run.safetensors: {name} holds NaN or infinity"):
        checkpoint.resume(model, opt, saved)
    assert_same_bits(model.params, trained(seed=1)[0].params)
    if name.startswith("params"):
        with pytest.raises(ValueError, match=name):
            Reformer.load(saved)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda arrays: arrays.pop("params.head.bias"), r"missing \['params.head.bias'\]"),
        (
            lambda arrays: arrays.update({"params.more": np.ones(2, "float32")}),
            r"missing \[\], unknown \['params.more'\]",
        ),
        (
            lambda arrays: arrays.update({"params.head.bias": np.ones(12, "float32")}),
            r"expected params.head.bias with shape and dtype \(\(11,\), .*float32.*\); got \(\(12,\)",
        ),
        (
            lambda arrays: arrays.update({"params.head.bias": np.ones(11)}),
            "expected params.head.bias .*; got .*float64",
        ),
    ],
)
def test_parameters_that_do_not_fit_are_named_and_change_nothing(saved, change, message, trained):
    rewrite(saved, lambda arrays, _: change(arrays))
    with pytest.raises(ValueError, match="run.safetensors: " + message):
        Reformer.load(saved)
    model, opt = trained(seed=1)
    with pytest.raises(ValueError, match="run.safetensors: " + message):
        checkpoint.resume(model, opt, saved)
    assert_same_bits(model.params, trained(seed=1)[0].params)
    assert_same_bits(opt.state, trained(seed=1)[1].state)


def test_resuming_with_another_config_or_optimizer_says_what_differs(saved, trained):
    with pytest.raises(ValueError, match=r"attn_layers \['local', 'lsh'\], here \['lsh', 'lsh'\]; n_hashes 2, here 3$"):
        checkpoint.resume(*trained(n_hashes=3, attn_layers=("lsh", "lsh")), saved)
    with pytest.raises(ValueError, match="run.safetensors: missing .*optimizer.columns"):
        checkpoint.resume(*trained(make=Adafactor), saved)
    with pytest.raises(ValueError, match="run.safetensors: .*float64.*; got .*float32"):
        checkpoint.resume(*trained(dtype="float64"), saved)


def test_resuming_from_a_file_without_an_optimizer_says_so(tmp_path, trained):
    model, opt = trained()
    model.save(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="model.safetensors: holds a model, but no training run"):
        checkpoint.resume(model, opt, tmp_path / "model.safetensors")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_not_written_and_the_last_file_stays(saved, bad, trained):
    before = saved.read_bytes()
    model, opt = trained(seed=1)
    model.params["head.bias"][2] = bad
    with pytest.raises(ValueError, match="not written, because params.head.bias holds NaN or infinity"):
        checkpoint.save_model(model, saved, opt, {})
    model.params["head.bias"][2] = 0
    opt.state["mean.head.bias"][2] = bad
    with pytest.raises(ValueError, match="not written, because optimizer.mean.head.bias holds NaN or infinity"):
        checkpoint.save_model(model, saved, opt, {})
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_path_is_a_path(trained):
    for call in (Reformer.load, trained()[0].save):
        with pytest.raises(TypeError, match="path: expected a path; got NoneType"):
            call(None)


def test_a_config_from_elsewhere_is_named(saved):
    def change(_, metadata):
        about = json.loads(metadata["minireformer"])
        about["config"]["n_wheels"] = 4
        metadata["minireformer"] = json.dumps(about)

    rewrite(saved, change)
    with pytest.raises(ValueError, match="run.safetensors: its config is not a ReformerConfig: .*n_wheels"):
        Reformer.load(saved)
