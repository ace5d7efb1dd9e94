"""Backends and random numbers: what is asked for, or an error that says what to install."""

import os
import subprocess
import sys

import numpy as np
import pytest

from minireformer import backend, rng
from minireformer.checks import check_array
from minireformer.layer import Layer


def test_numpy_is_the_default_and_an_unknown_backend_is_refused():
    assert backend.use("numpy") is np and backend.active() is np
    with pytest.raises(ValueError, match="backend: expected one of numpy, cupy; got 'jax'"):
        backend.use("jax")


def run_python(code, **environment):
    """Run `code` in a Python of its own, with these variables alone (Windows needs SYSTEMROOT to start one)."""
    environment |= {"PATH": ""} | {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, encoding="utf-8")


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
    done = run_python(code, MINIREFORMER_BACKEND=name)
    assert done.returncode != 0 and error in done.stderr


def test_arrays_know_their_module():
    assert backend.get_xp(np.ones(2)) is np and backend.get_xp(np.float32(1)) is np
    with pytest.raises(TypeError, match="expected a NumPy or CuPy array; got list"):
        backend.get_xp([1, 2])


def test_deferred_sync_fetches_all_numbers_together_and_checks_before_it_gives_them(cupy, counts):
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
    backend.check_later(x, lambda *values: seen.append(values))  # outside: at once, and what was pending is forgotten
    assert len(seen) == 2


def test_on_numpy_nothing_is_deferred():
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
        "import numpy as np; from minireformer.threads import matmul; x = np.eye(3); print((matmul(x, x) == x).all())"
    )
    done = run_python(code, OMP_NUM_THREADS="0")
    assert done.stdout.strip() == "True", done.stderr


def test_the_number_of_threads_follows_the_environment():
    code = "from minireformer import backend; print(backend.n_threads())"
    done = run_python(code, OMP_NUM_THREADS="3")
    assert done.stdout.strip() == "3", done.stderr


def test_where_the_system_does_not_say_which_cores_we_may_use_we_use_all():
    """As on Windows and macOS."""
    code = (
        "import os; vars(os).pop('sched_getaffinity', None); os.cpu_count = lambda: 5; "
        "from minireformer import backend; print(backend.n_threads())"
    )
    done = run_python(code)
    assert done.stdout.strip() == "5", done.stderr
