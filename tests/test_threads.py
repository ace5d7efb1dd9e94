"""Work that is shared out over threads: every part is done once, and results do not depend on how many there are."""

import math
import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from minireformer import backend, threads


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_parallel_for_does_every_item_once_with_blas_on_one_thread(n_threads, monkeypatch):
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


def test_parallel_for_passes_errors_on(monkeypatch):
    monkeypatch.setattr(backend, "_n_threads", 2)

    def work(items):
        raise ArithmeticError("in a thread")

    with pytest.raises(ArithmeticError, match="in a thread"):
        threads.parallel_for(work, 3, np)


def test_nothing_to_share_out_is_no_work():
    done = []
    threads.parallel_for(done.extend, 0, np)
    assert done == []


@pytest.mark.parametrize("n, k, m", [(0, 3, 2), (3, 0, 2), (3, 2, 0)])
def test_a_matrix_without_rows_or_columns_has_a_product(n, k, m):
    np.testing.assert_array_equal(threads.matmul(np.ones((n, k)), np.ones((k, m))), np.full((n, m), k))


def test_matrices_that_do_not_fit_are_named():
    for a, b in (((2, 3), (2, 3)), ((3,), (3, 2)), ((2, 3), (1, 3, 2))):
        with pytest.raises(ValueError, match=r"b: expected matrices \(n, k\) and \(k, m\); got"):
            threads.matmul(np.ones(a), np.ones(b))


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
@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("n_rows", [0, 1, 1000, 4097])
def test_parallel_rows_takes_every_row_once_in_blocks_that_do_not_depend_on_threads(
    n_rows, products, n_threads, monkeypatch
):
    monkeypatch.setattr(backend, "_n_threads", n_threads)
    seen = np.zeros((n_rows, 256))

    def work(first, rows, nothing):
        rows += 1 + np.arange(first, first + len(rows))[:, None]
        assert nothing is None
        return len(rows)

    results = threads.parallel_rows(work, seen, None, products=products)
    assert (seen == 1 + np.arange(n_rows)[:, None]).all()
    step = 1024 if not products else max(128, math.ceil(n_rows / 16))
    starts = range(0, max(1, n_rows), step)
    assert list(results.items()) == [(start, min(step, n_rows - start)) for start in starts]


@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_block_takes_its_steps_in_order(n_threads, monkeypatch):
    monkeypatch.setattr(backend, "_n_threads", n_threads)
    a, b = np.random.default_rng(0).standard_normal((2, 1000, 1000))
    expected = a @ b
    out = np.empty_like(expected)

    def work(_, a, out):
        np.matmul(a, b, out=out)
        np.negative(out, out=out)

    threads.parallel_rows(work, a, out, products=True)
    np.testing.assert_allclose(out, -expected, rtol=0, atol=1e-10)


def test_rows_of_an_array_with_more_axes_are_those_of_all_but_the_last():
    x, shapes = np.zeros((2, 3, 5)), []
    threads.parallel_rows(lambda _, rows: shapes.append(rows.shape), x)
    threads.parallel_rows(lambda _, rows: shapes.append(rows.shape), x[0, 0])
    assert shapes == [(6, 5), (1, 5)]
