"""The package on the CuPy double: NumPy's numbers, and no more waiting for the device than there must be.

`make test-double` runs all other tests and the notebooks on the double as well.
"""

import ast
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import minireformer as mr
from minireformer import backend, cuda, schedule
from minireformer.training import loop
from minireformer.training.data import duplicate_task

pytestmark = pytest.mark.once

NAMES = json.loads((Path(__file__).parent / "double" / "cupy" / "interface.json").read_bytes())["modules"][""]


@pytest.mark.parametrize("path", sorted(Path(mr.__file__).parent.rglob("*.py")), ids=lambda path: path.stem)
def test_the_package_asks_for_nothing_that_cupy_lacks(path):
    """Also where no test comes by: every `xp.name`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "xp" and not node.attr.startswith("__"):
            assert node.attr in NAMES, f"line {node.lineno}: xp.{node.attr}"


CONFIG = mr.ReformerConfig(
    vocab_size=20,
    d_model=16,
    n_heads=2,
    d_head=8,
    d_ff=32,
    attn_layers=("lsh", "local", "full", "shared_full"),
    lsh_chunk_len=8,
    local_chunk_len=16,
    n_hashes=2,
    axial_shape=(16, 32),
    max_len=512,
    ff_chunk_len=150,
    loss_chunk_len=150,
)
CONFIGS = {
    "plain": CONFIG,
    "dropout": replace(CONFIG, dropout=0.1, attention_dropout=0.1, activation="gelu", heads_at_once=1),
    "paper": replace(CONFIG, same_bucket=True, count_once=True, positions="learned"),
    "encoder": replace(CONFIG, causal=False, lsh_n_after=1, n_buckets=(2, 4), positions="sinusoidal"),
    "stored": replace(CONFIG, reversible=False, ff_chunk_len=0),
}


@pytest.fixture
def one_tile(monkeypatch):
    """A round is one tile on both backends: where a tile ends, sums are added up in another order."""
    monkeypatch.setattr(schedule, "TILE_LOGITS", 1 << 40)
    monkeypatch.setattr(cuda, "logits_per_tile", lambda queries, window_len: 1 << 40)


def training(name, config, dtype, make, scale=1):
    """Everything that two steps of training on backend `name` compute, as NumPy arrays, step by step."""
    backend.use(name)
    model = mr.Reformer(config, seed=1, dtype=dtype)
    for key, param in model.params.items():
        if key.endswith("query_key.weight"):
            param *= scale
    opt, results = make(model.params), []
    draws = np.random.default_rng(0)
    for seed in range(2):
        tokens = backend.asarray(draws.integers(0, 20, (2, 301)))
        mask, key_mask = (backend.asarray(draws.random((2, 301)) < 0.8) for _ in range(2))
        loss, grads = model.loss_and_grads(tokens, tokens, seed=seed, mask=mask, key_mask=key_mask)
        opt.step(grads)
        results.append({"loss": loss, "logits": model(tokens, key_mask=key_mask), **grads, **opt.state})
    results.append(model.params)
    backend.use("numpy")
    return [{key: backend.to_numpy(value).copy() for key, value in result.items()} for result in results]


@pytest.mark.parametrize(
    "config, make, dtype",
    [(config, *pair) for config in CONFIGS for pair in ((mr.Adam, "float32"), (mr.Adafactor, "float64"))]
    + [("plain", mr.Adam, "float64"), ("plain", mr.Adafactor, "float32")],
)
def test_training_gives_the_bits_that_it_gives_on_numpy(config, make, dtype, cupy, one_tile):
    """All heads at once, as on a GPU, or one after another: the same sums, so the same bits."""
    on_host, on_device = (training(name, CONFIGS[config], dtype, make) for name in ("numpy", "cupy"))
    for expected, found in zip(on_host, on_device):
        assert expected.keys() == found.keys()
        for key, array in expected.items():
            assert array.dtype == found[key].dtype
            np.testing.assert_array_equal(found[key], array, err_msg=key)


def test_large_logits_give_the_same_bits(cupy, one_tile):
    on_host, on_device = (training(name, CONFIG, "float32", mr.Adam, scale=1000) for name in ("numpy", "cupy"))
    for expected, found in zip(on_host, on_device):
        for key, array in expected.items():
            np.testing.assert_array_equal(found[key], array, err_msg=key)


@pytest.mark.parametrize("config", CONFIGS)
def test_tiles_of_another_size_change_only_the_last_bits(config, cupy):
    expected, found = (training(name, CONFIGS[config], "float64", mr.Adam)[0] for name in ("numpy", "cupy"))
    for key, array in expected.items():
        if not key.startswith(("square.", "mean.")) and key != "logits":  # after the step, which magnifies rounding
            np.testing.assert_allclose(found[key], array, rtol=0, atol=1e-13, err_msg=key)


@pytest.mark.parametrize("n_blocks", [1, 3])
def test_a_training_step_waits_for_the_device_once_however_deep_the_model(n_blocks, cupy, counts):
    backend.use("cupy")
    model = mr.Reformer(replace(CONFIGS["dropout"], attn_layers=CONFIG.attn_layers * n_blocks))
    opt = mr.Adafactor(model.params)
    tokens, targets, mask = (backend.asarray(a) for a in duplicate_task(0, 2, 300, 19))
    counts.clear()
    _, grads = model.loss_and_grads(tokens, targets)
    opt.step(grads)
    assert counts["synchronize"] == 1
    counts.clear()
    loop.training_step(model, lambda step: (tokens, targets), opt, 0, None, 1.0, seed=0)
    assert counts["synchronize"] == 1  # loss, norm of the gradients, whether all ids are in the vocabulary
    counts.clear()
    loop.training_step(model, lambda step: (tokens, targets, mask), opt, 0, None, 1.0, seed=0)
    assert counts["synchronize"] == 2  # and how many positions the mask leaves
    assert counts["to_host"] == 1


def test_a_training_step_of_an_encoder_and_decoder_waits_once(cupy, counts):
    backend.use("cupy")
    sizes = {"vocab_size": 12, "d_model": 16, "n_heads": 2, "d_head": 8, "d_ff": 16, "axial_shape": (4, 8)}
    model = mr.EncoderDecoder(mr.EncoderDecoderConfig(**sizes, attn_layers=("lsh",), max_len=32))
    tokens = backend.asarray([[3, 4, 5], [6, 7, 8]])
    counts.clear()
    loop.training_step(model, lambda step: ((tokens, tokens), tokens), mr.Adam(model.params), 0, None, 1.0, seed=0)
    assert counts["synchronize"] == 1


@pytest.mark.parametrize("which", ["tokens", "targets"])
@pytest.mark.parametrize("bad", [-1, 20])
def test_an_id_out_of_range_is_named_at_the_one_wait_and_the_next_step_is_as_ever(which, bad, cupy, counts):
    backend.use("cupy")
    model = mr.Reformer(CONFIG)
    opt = mr.Adam(model.params)
    given = {name: backend.asarray([[3, 1, 2, 7]]) for name in ("tokens", "targets")}
    wrong = given | {which: backend.asarray([[3, bad, 2, 7]])}
    before = {name: param.get() for name, param in model.params.items()}
    counts.clear()
    with pytest.raises(ValueError, match=rf"^{which}: expected ids from 0 to 19; got .*{bad}"):
        loop.training_step(model, lambda step: tuple(wrong.values()), opt, 0, None, 1.0, seed=0)
    assert counts["synchronize"] == 1
    for name, param in model.params.items():
        np.testing.assert_array_equal(param.get(), before[name])
    with pytest.raises(ValueError, match="^tokens: expected 1 to"):  # raised within the block: nothing stays put off
        loop.training_step(model, lambda step: (tokens_too_long(), tokens_too_long()), opt, 0, None, 1.0, seed=0)
    _, loss, norm = loop.training_step(model, lambda step: tuple(given.values()), opt, 0, None, 1.0, seed=0)
    assert math.isfinite(loss) and norm > 0


def tokens_too_long():
    return backend.asarray(np.zeros((1, CONFIG.max_len + 1), "int64"))
