"""Backends and random numbers: what is asked for, or an error that says what to install."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from minireformer import backend, rng, threads
from minireformer.checks import check_array
from minireformer.layer import Layer


def test_numpy_is_the_default_and_an_unknown_backend_is_refused():
    assert backend.use("numpy") is np and backend.active() is np
    with pytest.raises(ValueError, match="backend: expected one of numpy, cupy; got 'jax'"):
        backend.use("jax")


@pytest.mark.parametrize("name, error", [("cupy", "ImportError: backend: CuPy"), ("torch", "ValueError: backend")])
def test_environment_variable_chooses_the_backend(name, error):
    if name == "cupy":
        try:
            backend._import_cupy()
        except ImportError:
            pass
        else:
            pytest.skip("CuPy and a GPU are here: nothing to refuse")
    code = "import minireformer"
    environment = {"MINIREFORMER_BACKEND": name, "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode != 0 and error in done.stderr


def test_arrays_know_their_module():
    assert backend.get_xp(np.ones(2)) is np and backend.get_xp(np.float32(1)) is np
    with pytest.raises(TypeError, match="expected a NumPy or CuPy array; got list"):
        backend.get_xp([1, 2])


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_share_out_does_every_item_once_with_blas_on_one_thread(n_threads, monkeypatch):
    monkeypatch.setattr(backend, "_n_threads", n_threads)
    done, names, blas = [], set(), []

    def work(items):
        blas.extend(info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas")
        names.add(threading.current_thread().name)
        done.extend(items)

    threads.parallel_for(work, 7, np)
    assert sorted(done) == list(range(7))
    assert set(blas) == {1}
    assert len(names) <= n_threads


def test_share_out_passes_errors_on(monkeypatch):
    monkeypatch.setattr(backend, "_n_threads", 2)

    def work(items):
        raise ArithmeticError("in a thread")

    with pytest.raises(ArithmeticError, match="in a thread"):
        threads.parallel_for(work, 3, np)


def test_one_wait_fetches_all_numbers_together_and_checks_before_it_gives_them(cupy, counts):
    backend.use("cupy")
    x, seen = backend.asarray([3.0, 5.0]), []
    counts.clear()
    with backend.deferred_sync() as fetch:
        with backend.deferred_sync() as inner:
            (low,) = inner(x.min())
        backend.check_later(x, lambda *values: seen.append(values))
        assert not seen and type(low) is type(x)
        assert fetch(low, x.sum()) == [3, 8]
    assert seen == [(3, 5)] and counts == {"to_host": 1, "synchronize": 1}
    with pytest.raises(KeyError), backend.deferred_sync():
        backend.check_later(x, lambda *values: seen.append(values))
        raise KeyError
    backend.check_later(x, lambda *values: seen.append(values))  # outside: at once, and what was put off is forgotten
    assert len(seen) == 2


def test_on_numpy_nothing_is_put_off():
    with backend.deferred_sync() as fetch:
        with pytest.raises(ValueError):
            backend.check_later(np.array([1, 2]), lambda low, high: int("no number"))
        assert fetch(np.float64(2), np.zeros(()) + 1) == [2, 1]


def test_bad_thread_counts_are_refused():
    for n in (0, -1, 1.5, None, True):
        with pytest.raises(ValueError, match="n: expected a number of threads"):
            backend.set_threads(n)


def test_thread_counts_may_be_numpys(monkeypatch):
    monkeypatch.setattr(backend, "_n_threads", 1)
    backend.set_threads(np.int64(2))
    assert backend.n_threads() == 2 and type(backend.n_threads()) is int


def test_nothing_to_share_out_is_no_work():
    done = []
    threads.parallel_for(done.extend, 0, np)
    assert done == []
    assert threads.matmul(np.ones((0, 3)), np.ones((3, 2))).shape == (0, 2)


def test_matrices_that_do_not_fit_are_named():
    for a, b in (((2, 3), (2, 3)), ((3,), (3, 2)), ((2, 3), (1, 3, 2))):
        with pytest.raises(ValueError, match=r"b: expected matrices \(n, k\) and \(k, m\); got"):
            threads.matmul(np.ones(a), np.ones(b))


def test_strided_view_is_numpys():
    x = np.arange(24.0).reshape(1, 8, 3)
    shape, strides = (1, 3, 4, 3), (x.strides[0], 2 * x.strides[1], *x.strides[1:])
    np.testing.assert_array_equal(
        backend.strided(x, shape, strides), np.lib.stride_tricks.as_strided(x, shape, strides)
    )


def test_a_part_of_a_random_stream_is_the_same_as_in_the_whole():
    whole = rng.counter_bits(7, 0, 1000, np)
    np.testing.assert_array_equal(rng.counter_bits(7, 300, 50, np), whole[300:350])
    assert (rng.counter_bits(8, 0, 1000, np) != whole).mean() > 0.99


def test_random_words_are_uniform_and_their_bits_independent():
    words = rng.counter_bits(3, 0, 1 << 16, np)
    bits = (words[:, None] >> np.arange(32, dtype=np.uint32)) & 1  # n, 32
    assert abs(bits.mean(axis=0) - 0.5).max() < 0.01
    assert abs(np.corrcoef(bits.T) - np.eye(32)).max() < 0.02
    assert abs(np.corrcoef(bits[:-1, 31], bits[1:, 31])[0, 1]) < 0.02


def test_folded_seeds_differ_and_need_integers():
    seeds = {rng.fold(s, label, i) for s in range(5) for label in ("a", "b") for i in range(5)}
    assert len(seeds) == 50
    assert rng.fold(-1, "a") != rng.fold(1, "a")
    for seed in (1.0, "1", None, True):
        with pytest.raises(TypeError, match="seed: expected an integer"):
            rng.fold(seed)


def test_random_words_never_change_with_versions():
    """Checkpoints resume, and notebooks repeat, only while these stay."""
    assert rng.fold(0, "layer", 3) == 16231673942367045346
    assert rng.counter_bits(1, 0, 3, np).tolist() == [2466243602, 1150773148, 2841972480]


def test_parameters_are_loaded_whole_or_not_at_all():
    layer = Layer()
    layer.params.update(a=np.zeros(2), b=np.zeros(3))
    with pytest.raises(ValueError, match="missing \\['b'\\], unknown \\['c'\\]"):
        layer.load_params({"a": np.ones(2), "c": np.ones(3)})
    with pytest.raises(ValueError, match="params\\['b'\\]: expected shape \\(3,\\); got \\(2,\\)"):
        layer.load_params({"a": np.ones(2), "b": np.ones(2)})
    assert not layer.params["a"].any()
    a = layer.params["a"]
    layer.load_params({"a": np.ones(2), "b": np.ones(3)})
    assert layer.params["a"] is a and a.all()


def test_array_checks_say_what_was_expected():
    with pytest.raises(ValueError, match=r"x: expected shape \(2, any\); got \(3, 1\)"):
        check_array("x", np.ones((3, 1)), 2, None)
    with pytest.raises(ValueError, match=r"x: expected shape \(..., 4\); got \(2, 3\)"):
        check_array("x", np.ones((2, 3)), ..., 4)
    with pytest.raises(TypeError, match="x: expected a NumPy or CuPy array; got list"):
        check_array("x", [1.0, 2.0], 2)
    with pytest.raises(TypeError, match="x: expected integers; got dtype float64"):
        check_array("x", np.ones(3), 3, kind="i")


def test_zero_threads_in_the_environment_are_not_taken_at_their_word():
    code = (
        "import numpy as np; from minireformer import backend as b; x = np.eye(3); print((b.matmul(x, x) == x).all())"
    )
    environment = {"OMP_NUM_THREADS": "0", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr


@pytest.mark.parametrize("rows", [1, 127, 128, 129, 5000])
def test_matmul_is_numpys_whatever_the_number_of_threads(rows, monkeypatch):
    random = np.random.default_rng(rows)
    a, b = random.standard_normal((rows, 30)), random.standard_normal((20, 30)).T
    results = []
    for n_threads in (1, 2, 3):
        monkeypatch.setattr(backend, "_n_threads", n_threads)
        results.append(threads.matmul(a, b))
    np.testing.assert_allclose(results[0], a @ b, atol=1e-12)
    assert all((other == results[0]).all() for other in results[1:])
    out = np.empty((rows, 40))[:, ::2]
    assert threads.matmul(a, b, out=out) is out
    np.testing.assert_allclose(out, results[0], atol=1e-12)  # NumPy before 2.3 goes past BLAS for such an out


@pytest.mark.parametrize("n_threads", [1, 3])
def test_what_follows_a_product_sees_every_row_once_and_after_its_product(n_threads, monkeypatch):
    monkeypatch.setattr(backend, "_n_threads", n_threads)
    a, b = np.random.default_rng(0).standard_normal((2, 1000, 1000))
    expected = a @ b
    out = np.empty_like(expected)
    threads.matmul(a, b, out=out, epilogue=lambda rows: np.negative(out[rows], out=out[rows]))
    np.testing.assert_allclose(out, -expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("n_rows", [0, 1, 1000, 4097])
def test_by_rows_takes_every_row_once_in_slices_that_do_not_depend_on_threads(n_rows, n_threads, monkeypatch):
    monkeypatch.setattr(backend, "_n_threads", n_threads)
    seen, slices = np.zeros(n_rows), []

    def work(rows):
        seen[rows] += 1
        slices.append((rows.start, rows.stop))

    threads.parallel_rows(work, n_rows, 256, np)
    assert (seen == 1).all()
    assert sorted(slices) == [(start, min(start + 1024, n_rows)) for start in range(0, max(1, n_rows), 1024)]


def test_the_number_of_threads_follows_the_environment():
    code = "from minireformer import backend; print(backend.n_threads())"
    environment = {"OMP_NUM_THREADS": "3", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "3", done.stderr
