"""What a GPU is given: kernels that compile, and give what `kernel.py` says in NumPy; products that copy no operand."""

import re
import sys

import numpy as np
import pytest

import host_cuda
import minireformer as mr
from minireformer import backend, cuda, threads
from minireformer.attention import AttentionOptions
from minireformer.backend import row_dot
from minireformer.schedule import Plan, Schedule
from minireformer.tables import HeadTable, Scratch
from test_on_double import CONFIGS, training

KERNELS = re.findall(r"__global__ void (\w+)\(", cuda.source("float32"))


@pytest.mark.skipif(host_cuda.find_nvrtc() is None, reason="the nvidia-cuda-nvrtc-cu12 wheel is not installed")
@pytest.mark.parametrize("architecture", ["compute_75", "compute_90"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_kernel_compiles_for_a_gpu_and_stays_in_its_precision(dtype, architecture):
    text = host_cuda.ptx(cuda.source(dtype), architecture)
    assert re.findall(r"\.visible \.entry (\w+)\(", text) == KERNELS
    if dtype == "float32":
        assert ".f64" not in text


def test_a_kernel_that_does_not_compile_is_noticed():
    if host_cuda.find_nvrtc() is None:
        pytest.skip("the nvidia-cuda-nvrtc-cu12 wheel is not installed")
    with pytest.raises(RuntimeError, match="undefined"):
        host_cuda.ptx(cuda.source("float32").replace("sum += p;", "sum += missing;"), "compute_75")


@pytest.fixture
def kernels(cupy, monkeypatch):
    """The double compiles kernels, with the host's compiler; those that were started, by name."""
    if host_cuda.COMPILER is None:
        pytest.skip("no C++ compiler is installed")
    monkeypatch.setattr(cupy, "RawModule", host_cuda.Module, raising=False)
    monkeypatch.setattr(host_cuda.Module, "started", [])
    cuda._module.cache_clear()
    yield host_cuda.Module.started
    cuda._module.cache_clear()


def attention(name, dtype, scale, **options):
    """Outputs and gradients of the three attentions on backend `name`: sizes that fill no block, a key mask."""
    backend.use(name)
    draw, results = np.random.default_rng(0), []
    q, k, v, dout = (
        backend.asarray((draw.standard_normal((2, 3, 75, 6)) * size).astype(dtype)) for size in (scale, 1, 1, 1)
    )
    options["key_mask"] = backend.asarray(draw.random((2, 75)) < 0.8)
    options["dropout"] = 0.2 * (scale == 1)
    paper = {key: options.pop(key) for key in ("same_bucket", "count_once") if key in options}
    rotations = mr.random_rotations(0, n_heads=3, d_head=6, n_hashes=3, n_buckets=6, dtype=dtype)
    buckets = mr.hash_vectors(q, rotations)
    for out, cache in (
        mr.lsh_attention(q, v, buckets, chunk_len=8, n_after=1, **options, **paper),
        mr.local_attention(q, k, v, chunk_len=8, n_before=2, **options),
        mr.full_attention(q, k, v, **options),
    ):
        results += [out, cache.m, cache.l, *mr.full_attention_backward(dout, cache)]
    backend.use("numpy")
    return [backend.to_numpy(array) for array in results]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("paper", [(), ("same_bucket",), ("count_once",), ("same_bucket", "count_once")])
@pytest.mark.parametrize("scale", [1, 400])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_attention_by_kernels_is_attention_step_by_step(dtype, scale, paper, causal, kernels):
    options = dict.fromkeys(paper, True) | {"causal": causal}
    expected, found = (attention(name, dtype, scale, **options) for name in ("numpy", "cupy"))
    assert {"running_softmax", "softmax_gradient", "scatter_add", "row_dot"} == set(kernels)
    for a, b in zip(expected, found):
        # A logit of 400 |k| carries an error of 400 units in the last place into its exponential.
        error = abs(a - b).max() / abs(a).max()
        assert error < 30 * scale * np.finfo(dtype).eps


@pytest.mark.parametrize("length", [75, 40000, 70000])
def test_token_positions_of_any_size_reach_the_kernels(length, kernels):
    """They are 32-bit integers there."""
    results = []
    for name in ("numpy", "cupy"):
        backend.use(name)
        q, k, v, dout = (
            backend.asarray(x) for x in np.random.default_rng(0).standard_normal((4, 1, 1, length, 2), "float32")
        )
        out, cache = mr.local_attention(q, k, v, chunk_len=4)
        results.append([backend.to_numpy(x) for x in (out, *mr.local_attention_backward(dout, cache))])
    for a, b in zip(*results):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("config", CONFIGS)
def test_training_by_kernels_is_training_step_by_step(config, kernels):
    expected, found = (training(name, CONFIGS[config], "float64", mr.Adam)[0] for name in ("numpy", "cupy"))
    for key, array in expected.items():
        if not key.startswith(("square.", "mean.")) and key != "logits":  # after the step, which magnifies rounding
            np.testing.assert_allclose(found[key], array, rtol=0, atol=1e-12, err_msg=key)


@pytest.mark.parametrize("name", ["numpy", "cupy"])
def test_a_nan_is_passed_on_and_not_hidden(name, kernels):
    backend.use(name)
    q, k = np.ones((2, 1, 1, 16, 4), "float32")
    q[..., 3, :] = np.nan
    q, k = map(backend.asarray, (q, k))
    out, _ = mr.full_attention(q, k, k)
    assert np.isnan(backend.to_numpy(out))[0, 0].all(axis=1).tolist() == [i == 3 for i in range(16)]


def test_the_dot_products_of_rows_are_those_of_einsum(kernels, cupy):
    a, b = (cupy.asarray(np.random.default_rng(seed).standard_normal((5, 7, 33))) for seed in (0, 1))
    expected = np.einsum("...i,...i->...", a.get(), b.get())
    np.testing.assert_allclose(row_dot(a, b).get(), expected, rtol=1e-12)
    np.testing.assert_array_equal(row_dot(a[:, ::2], b[:, ::2]).get(), row_dot(a, b)[:, ::2].get())
    assert row_dot(a[:0], b[:0]).shape == (0, 7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_read_transposed_and_overlapping_matrices_where_they_lie(dtype, cupy, counts, monkeypatch):
    monkeypatch.setattr(type(cupy.zeros(1)), "copy", None)  # nothing may be copied
    draw = np.random.default_rng(0)
    host = [draw.standard_normal(shape).astype(dtype) for shape in ((3, 5, 4, 6), (3, 5, 7, 6), (3, 6, 4, 6))]
    a, b, c = map(cupy.asarray, host)
    size = c.itemsize
    windows = backend.strided(c, (3, 5, 8, 6), (6 * 4 * 6 * size, 4 * 6 * size, 6 * size, size))
    host_windows = np.stack([host[2][:, i : i + 2].reshape(3, 8, 6) for i in range(5)], axis=1)
    for left, right, expected in (
        (a, b.swapaxes(-1, -2), host[0] @ host[1].swapaxes(-1, -2)),
        (a, windows.swapaxes(-1, -2), host[0] @ host_windows.swapaxes(-1, -2)),
        (windows, b.swapaxes(-1, -2), host_windows @ host[1].swapaxes(-1, -2)),
        (a.swapaxes(-1, -2), a, host[0].swapaxes(-1, -2) @ host[0]),
        (a[:, 1:3, :1], b[:, 2:4].swapaxes(-1, -2), host[0][:, 1:3, :1] @ host[1][:, 2:4].swapaxes(-1, -2)),
        (a[..., :1], b[..., :4, :1].swapaxes(-1, -2), host[0][..., :1] @ host[1][..., :4, :1].swapaxes(-1, -2)),
    ):
        out = cupy.empty(expected.shape, dtype)
        assert threads.batched_matmul(left, right, out) is out
        np.testing.assert_allclose(cupy.asnumpy(out), expected, rtol=0, atol=1e-5 if dtype == "float32" else 1e-13)
    with pytest.raises(ValueError, match="expected rows or columns without gaps"):
        threads.batched_matmul(a[..., ::2], b[..., ::2].swapaxes(-1, -2), cupy.empty((3, 5, 4, 7), dtype))


def test_tf32_is_off_unless_cupys_own_variable_asks_for_it(cupy, monkeypatch):
    from cupy import _cublas

    a, out = cupy.ones((1, 2, 3, 3), "float32"), cupy.empty((1, 2, 3, 3), "float32")
    monkeypatch.setattr(_cublas, "modes", [])
    for value in (None, "", "0"):
        monkeypatch.delenv("CUPY_TF32", raising=False) if value is None else monkeypatch.setenv("CUPY_TF32", value)
        threads.batched_matmul(a, a, out)
    assert _cublas.modes == []
    monkeypatch.setenv("CUPY_TF32", "1")
    threads.batched_matmul(a, a, out)
    assert _cublas.modes == [3, 0]  # CUBLAS_TF32_TENSOR_OP_MATH, for which CuPy has no name, and the default
    threads.batched_matmul(a.astype("float64"), a.astype("float64"), out.astype("float64"))
    assert len(_cublas.modes) == 2


def test_tf32_costs_three_digits_and_not_more(cupy, monkeypatch):
    """The double rounds factors as a card does, to 10 bits."""
    exact = attention("cupy", "float64", 1)[:5]  # LSH attention: output, m and l, gradients
    errors = []
    for value in ("0", "1"):
        monkeypatch.setenv("CUPY_TF32", value)
        pairs = zip(exact, attention("cupy", "float32", 1))
        errors.append(max(abs(a - b).max() / abs(a).max() for a, b in pairs))
    full, tf32 = errors
    assert full < 1e-6 and 1e-4 < tf32 < 2e-3, errors


@pytest.mark.slow
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("by", ["kernels", "cupy"])
def test_whatever_a_tile_holds_the_numbers_are_the_same(by, causal, monkeypatch, request):
    """From one chunk of one head at a time, to everything at once."""
    request.getfixturevalue(by)
    results = []
    for size in (0, 1 << 12, 1 << 16, 1 << 40):
        monkeypatch.setattr(cuda, "_SHARE", 0)
        monkeypatch.setattr(cuda, "_LEAST_BYTES", size)
        results.append(attention("cupy", "float64", 1, causal=causal))
    for other in results[1:]:
        for a, b in zip(results[0], other):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_a_tile_takes_a_sixteenth_of_a_small_card_at_most(cupy, monkeypatch):
    backend.use("cupy")
    peaks = []
    q, v = (backend.asarray(x) for x in np.random.default_rng(0).standard_normal((2, 1, 4, 4096, 16), "float32"))
    plan, queries = Plan(AttentionOptions(64), order=cupy.broadcast_to(cupy.arange(4096), (4, 1, 4096))), HeadTable(q)
    for card in (1 << 34, 1 << 22):
        monkeypatch.setattr(cuda, "device_bytes", lambda xp, card=card: card)
        for group in plan.groups(range(4), queries, 4096):
            s = Schedule(plan, group, "queries", queries, queries, Scratch(cupy, q.dtype))
            sizes = [chunk.stop - chunk.start for chunk, _ in s.tiles()]
            assert sum(sizes) == 4096
        with mr.memory.peak() as m:
            mr.local_attention(q, q, v, chunk_len=64)
        peaks.append((max(sizes), m.bytes))
    (most, large), (fewest, small) = peaks
    assert most > fewest >= 64 and large > small + (1 << 20)


# Asked for what is not there


@pytest.fixture
def forget(cupy):
    """The backend looks for CuPy anew, now and afterwards."""
    backend._import_cupy.cache_clear()
    yield
    backend._import_cupy.cache_clear()


def test_without_cupy_the_error_says_which_wheel_belongs_to_which_cuda(forget, monkeypatch):
    message = r"CUDA 12: pip install 'cupy-cuda12x\[ctk\]'; for CUDA 13: .*cupy-cuda13x"
    with monkeypatch.context() as patch, pytest.raises(ImportError, match=message):
        patch.setitem(sys.modules, "cupy", None)  # as if it were not installed
        backend.use("cupy")
    assert backend.use("numpy") is np


@pytest.mark.parametrize("found, message", [("nothing", r"finds no GPU or driver \(no driver\)"), (0, "finds no GPU")])
def test_with_cupy_but_no_driver_or_card_the_error_says_so(found, message, forget, cupy, monkeypatch):
    def count():
        if found == 0:
            return 0
        raise cupy.cuda.runtime.CUDARuntimeError("no driver")

    backend.use("numpy")
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", count)
    with pytest.raises(ImportError, match=message):
        backend.use("cupy")
    assert backend.active() is np
