"""`reformer_in_one_file.py` computes what the package computes, is as short as it says, and learns."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minireformer as mr

FILE = Path(__file__).parents[1] / "reformer_in_one_file.py"
SOURCE = FILE.read_text(encoding="utf-8")
SHAPES = {  # of attention: batch, heads, length, size of a head, rounds, chunk length
    "one round": (2, 2, 32, 5, 1, 4),
    "several rounds": (2, 3, 40, 6, 4, 8),
    "two chunks a round": (1, 2, 16, 4, 3, 8),
    "tokens that see only themselves": (2, 2, 24, 4, 2, 1),
}
SIZES = {"B": 3, "T": 32, "V": 11, "L": 3, "H": 2, "D": 5, "D_MODEL": 12, "D_FF": 16, "R": 3, "C": 8}
NAMES = {  # of a block's parameters: those of the file, and the package's
    "f_scale": "attention.layer_norm.weight",
    "f_shift": "attention.layer_norm.bias",
    "Wqk": "attention.query_key.weight",
    "Wv": "attention.value.weight",
    "Wo": "attention.output.weight",
    "g_scale": "feed_forward.layer_norm.weight",
    "g_shift": "feed_forward.layer_norm.bias",
    "W1": "feed_forward.dense.weight",
    "b1": "feed_forward.dense.bias",
    "W2": "feed_forward.output.weight",
    "b2": "feed_forward.output.bias",
}
ENDS = {  # of the parameters outside the blocks
    "embedding": "embedding.weight",
    "positions": "positions.weight",
    "scale": "layer_norm.weight",
    "shift": "layer_norm.bias",
    "W": "head.weight",
    "b": "head.bias",
}

pytestmark = pytest.mark.once  # a file in NumPy


@pytest.fixture
def one_file():
    """The file as a module of its own, so that a test may change its sizes."""

    def load(**sizes):
        spec = importlib.util.spec_from_file_location("reformer_in_one_file", FILE)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        vars(module).update(sizes)
        return module

    return load


def assert_close(found, expected, what, allowed=1e-10):
    """In float64, relative to the largest entry: two orders of the same sums differ by some 1e-14."""
    assert found.shape == expected.shape, what
    assert np.abs(found - expected).max() <= allowed * np.abs(expected).max(), what


# Attention


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_its_attention_and_both_gradients_are_those_of_the_package(one_file, shape):
    n_batch, n_heads, length, d_head, n_rounds, chunk_len = shape
    one, random = one_file(C=chunk_len), np.random.default_rng(0)
    q, v, dout = random.standard_normal((3, n_batch, n_heads, length, d_head))
    rotations = mr.random_rotations(1, n_heads, d_head, n_rounds, 6, dtype="float64")
    order, buckets = one.hash_and_sort(q, rotations.swapaxes(1, 2)), mr.hash_vectors(q, rotations)
    np.testing.assert_array_equal(order, mr.sort_by_bucket(buckets))
    expected, expected_cache = mr.lsh_attention(q, v, buckets, chunk_len=chunk_len)
    out, cache = one.lsh_attention(q, v, order)
    assert_close(out, expected, "output")
    both = zip(one.lsh_attention_backward(dout, cache), mr.lsh_attention_backward(dout, expected_cache))
    for name, (found, gradient) in zip(("dqk", "dv"), both):
        assert_close(found, gradient, name)


# The model


def in_the_package(one, params):
    """Parameters, or gradients, of the file under the names and in the shapes of the package."""
    ends, *blocks = params
    named = {ENDS[name]: value for name, value in ends.items()}
    for i, block in enumerate(blocks):
        named |= {f"layers.{i}.{NAMES[name]}": value for name, value in block.items()}
    for name, value in named.items():
        if value.ndim == 3:  # the projections of heads: (H, d, D), or (H, D, d) at the output
            joined = value.reshape(-1, one.D_MODEL).T if "output" in name else np.hstack(list(value)).T
            named[name] = joined
        elif value.ndim == 2 and name not in ("embedding.weight", "positions.weight"):
            named[name] = value.T
    return named


@pytest.fixture
def both(one_file):
    """The file with small sizes, its parameters, and a model of the package with the same ones, in float64."""
    one, random = one_file(**SIZES), np.random.default_rng(0)
    params = one.new_parameters(random)
    params = [{k: w + 0.1 * random.standard_normal(w.shape) for k, w in group.items()} for group in params]  # no zeros
    config = mr.ReformerConfig(
        vocab_size=one.V,
        d_model=one.D_MODEL,
        n_heads=one.H,
        d_head=one.D,
        d_ff=one.D_FF,
        attn_layers=("lsh",) * one.L,
        lsh_chunk_len=one.C,
        n_hashes=one.R,
        positions="learned",
        max_len=one.T,
    )
    model = mr.Reformer(config, dtype="float64")
    model.load_params(in_the_package(one, params))
    return one, params, model


def batch_and_rotations(one, random):
    rotations = random.standard_normal((one.L, one.H, one.R, one.D, one.T // one.C))
    return one.duplicate_task(random), rotations


def loss_and_grads(one, params, batch, rotations):
    tokens, targets, mask = batch
    logits, cache = one.reformer(tokens, params, rotations)
    loss, log_p = one.cross_entropy(logits, targets, mask)
    return loss, one.reformer_backward(one.cross_entropy_backward(log_p, targets, mask), params, cache)


def test_its_loss_all_gradients_and_three_steps_of_adam_are_those_of_the_package(both):
    one, params, model = both
    opt, random = mr.Adam(model.params, lr=0.01), np.random.default_rng(1)
    means, squares = ([{k: np.zeros_like(w) for k, w in group.items()} for group in params] for _ in range(2))
    for step in (1, 2, 3):
        (tokens, targets, mask), rotations = batch_and_rotations(one, random)
        loss, grads = loss_and_grads(one, params, (tokens, targets, mask), rotations)
        given = {"mask": mask, "rotations": list(rotations.swapaxes(2, 3))}
        expected_loss, expected = model.loss_and_grads(tokens, targets, **given)
        assert abs(loss / expected_loss - 1) < 1e-10
        found = in_the_package(one, grads)
        assert found.keys() == expected.keys()
        for name in expected:
            assert_close(found[name], expected[name], f"gradient of {name}, step {step}")
        one.adam(params, grads, means, squares, step, lr=0.01)
        opt.step(expected)
        moved = in_the_package(one, params)
        for name in expected:
            assert_close(moved[name], model.params[name], f"{name} after step {step}")


def test_its_gradients_are_those_of_finite_differences(both):
    """Along a random direction for each parameter. No bucket flips: the step is tiny, and rotations stay."""
    one, params, _ = both
    batch, rotations = batch_and_rotations(one, np.random.default_rng(1))
    _, grads = loss_and_grads(one, params, batch, rotations)
    random, eps = np.random.default_rng(2), 1e-6
    for group, dgroup in zip(params, grads):
        assert group.keys() == dgroup.keys()
        for name in group:
            start, direction = group[name], random.standard_normal(group[name].shape)
            losses = []
            for sign in (1, -1):
                group[name] = start + sign * eps * direction
                losses.append(loss_and_grads(one, params, batch, rotations)[0])
            group[name] = start
            measured, promised = (losses[0] - losses[1]) / (2 * eps), (dgroup[name] * direction).sum()
            assert abs(measured - promised) <= 1e-6 * max(abs(promised), 1e-2), name


def test_its_batches_are_the_duplicate_task(one_file):
    one = one_file(**SIZES)
    tokens, targets, mask = one.duplicate_task(np.random.default_rng(0))
    half = one.T // 2
    assert (tokens[:, :half] == tokens[:, half:]).all() and (tokens[:, 0] == 0).all() and (tokens[:, 1:half] > 0).all()
    np.testing.assert_array_equal(targets[:, :-1], tokens[:, 1:])
    np.testing.assert_array_equal(mask, mr.data.duplicate_task(0, one.B, one.T)[2])


# The file


def test_it_has_at_most_250_lines():
    assert len(SOURCE.splitlines()) <= 250


def test_it_imports_numpy_and_nothing_else_that_has_to_be_installed():
    nodes = list(ast.walk(ast.parse(SOURCE)))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert imported - set(sys.stdlib_module_names) == {"numpy"}


def test_every_backward_function_is_directly_below_its_forward_function():
    names = [node.name for node in ast.parse(SOURCE).body if isinstance(node, ast.FunctionDef)]
    backward = [name for name in names if name.endswith("_backward")]
    assert len(backward) >= 8
    for name in backward:
        assert names[names.index(name) - 1] == name.removesuffix("_backward")


@pytest.mark.slow
def test_it_learns_to_copy_from_the_command_line():
    """In about a minute, and more on a busy machine."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, FILE], env=environment, capture_output=True, timeout=900, encoding="utf-8")
    assert run.returncode == 0, run.stderr
    first, *_, last = (float(re.search(r"([\d.]+)%", line)[1]) for line in run.stdout.splitlines())
    assert first < 5 and last >= 99
