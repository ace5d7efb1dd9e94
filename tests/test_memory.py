"""`memory`: bytes are those of the arrays that are alive, measured or predicted."""

import dataclasses
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest

from arrays import generator, xp
from minireformer import Reformer, ReformerConfig, backend, memory
from minireformer.attention import full_attention, full_attention_backward

MB = 1 << 20


def megabytes(n):
    return xp.zeros(n * MB, dtype="uint8")


def about(n):
    """`n` megabytes, give or take Python's own objects, which tracemalloc counts too."""
    return pytest.approx(n * MB, abs=64 << 10)


class Pair(NamedTuple):
    left: object
    right: object


@dataclasses.dataclass
class Box:
    content: object
    seed: int = 7


def test_nbytes_finds_arrays_in_every_kind_of_container():
    a, b, c, d = (np.zeros(n, dtype="float32") for n in (1, 10, 100, 1000))
    cache = Pair([a, None, 3], {"deep": (Box(b), Box({"x": [c]})), "name": "text", "rate": 0.1, "d": d})
    assert memory.nbytes(cache) == 4 * 1111


@pytest.mark.parametrize("nothing", [None, 3, 0.5, True, "text", np.float32(2), (), {}, [None, [()]]])
def test_nbytes_of_what_holds_no_array_is_zero(nothing):
    assert memory.nbytes(nothing) == 0


def test_an_array_reached_twice_counts_once():
    a = np.zeros(100)
    assert memory.nbytes([a, {"again": a}, Pair(a, a)]) == 800


def test_views_count_the_array_that_they_keep_alive_once():
    a = np.zeros((8, 100))
    assert memory.nbytes(a[:1, :1]) == 6400
    assert memory.nbytes([a.T, a.reshape(-1)[::2][::3], a[1], a.view("int64")]) == 6400
    assert memory.nbytes(np.broadcast_to(a[0], (1000, 100))) == 6400
    assert memory.nbytes(np.lib.stride_tricks.sliding_window_view(a, (4, 4))) == 6400
    assert memory.nbytes([a[0], a[0].copy()]) == 6400 + 800


def test_an_array_over_foreign_memory_counts_itself():
    assert memory.nbytes(np.frombuffer(bytes(80), dtype="float64")[:2]) == 80


def test_nbytes_refuses_what_it_cannot_see_into():
    with pytest.raises(TypeError, match="got function"):
        memory.nbytes([np.zeros(3), lambda: None])


def test_peak_is_the_most_that_was_alive_not_the_sum():
    with memory.peak() as m:
        a = megabytes(8)
        del a
        b = megabytes(5)
    assert m.bytes == about(8)
    del b


def test_peak_counts_above_what_was_alive_at_the_start():
    tracemalloc.start()
    try:
        before = megabytes(8)
        with memory.peak() as m:
            del before
            after = megabytes(11)
        assert m.bytes == about(3)
        assert tracemalloc.is_tracing()
        del after
    finally:
        tracemalloc.stop()


def test_peak_leaves_tracing_as_it_was_also_after_an_error():
    with pytest.raises(ZeroDivisionError):
        with memory.peak() as m:
            megabytes(2)
            raise ZeroDivisionError
    assert m.bytes == about(2)
    assert not tracemalloc.is_tracing()


def test_peak_sees_allocations_of_other_threads():
    backend.use("numpy")  # CuPy follows one thread
    with memory.peak() as m, ThreadPoolExecutor(3) as pool:
        arrays = list(pool.map(megabytes, [2, 3, 4]))
    assert m.bytes == about(9)
    del arrays


@pytest.mark.parametrize("before, inside, after", [(9, 2, 4), (3, 7, 4), (3, 2, 8), (0, 5, 0)])
def test_nested_peaks_do_not_disturb_each_other(before, inside, after):
    with memory.peak() as outer:
        kept = megabytes(1)
        megabytes(before)
        with memory.peak() as first:
            megabytes(inside)
        with memory.peak() as second:
            megabytes(1)
        megabytes(after)
    for m, expected in (first, inside), (second, 1), (outer, 1 + max(before, inside, after)):
        assert m.bytes == about(expected)
    del kept


def test_an_array_that_an_inner_block_keeps_counts_in_the_outer_peak():
    with memory.peak() as outer:
        with memory.peak() as inner:
            kept = megabytes(3)
        megabytes(2)
    assert inner.bytes == about(3)
    assert outer.bytes == about(5)
    del kept


def test_marks_show_what_is_alive_and_the_most_since_the_last_mark():
    with memory.peak() as m:
        kept = megabytes(1)
        megabytes(6)
        m.mark("high")
        megabytes(2)
        m.mark("low")
        del kept
        m.mark("freed")
    assert [mark.label for mark in m.marks] == ["high", "low", "freed"]
    assert [mark.highest for mark in m.marks] == [about(7), about(3), about(1)]
    assert [mark.now for mark in m.marks] == [about(1), about(1), about(0)]
    assert m.bytes == about(7)


def test_what_comes_after_the_last_mark_counts_in_the_peak():
    with memory.peak() as m:
        megabytes(1)
        m.mark("so far")
        megabytes(4)
    assert m.marks[0].highest == about(1)
    assert m.bytes == about(4)


@pytest.mark.parametrize("inside", [2, 8])
def test_marks_and_nested_peaks_do_not_disturb_each_other(inside):
    with memory.peak() as outer:
        kept = megabytes(1)
        megabytes(4)
        with memory.peak() as inner:
            outer.mark("before")
            megabytes(inside)
            inner.mark("its own")
            outer.mark("after")
    assert [mark.highest for mark in outer.marks] == [about(5), about(1 + inside)]
    assert inner.bytes == inner.marks[0].highest == about(inside)
    assert outer.bytes == about(1 + max(4, inside))
    del kept


def test_a_mark_after_the_end_is_refused():
    with memory.peak() as m:
        pass
    with pytest.raises(RuntimeError, match="mark 'late'"):
        m.mark("late")
    assert m.marks == []


def test_peak_on_the_gpu_follows_live_arrays_not_the_pool():
    try:
        cupy = backend.use("cupy")
    except ImportError as error:
        pytest.skip(str(error))
    freed_inside = cupy.zeros(MB, dtype="uint8")
    with memory.peak() as outer:
        del freed_inside
        kept = cupy.zeros(8 * MB, dtype="uint8")
        with memory.peak() as inner:
            cupy.zeros(2 * MB, dtype="uint8")
    assert (inner.bytes, outer.bytes) == (2 * MB, 9 * MB)
    assert memory.nbytes([kept, kept[3:]]) == 8 * MB


CONFIG = ReformerConfig(
    vocab_size=100, d_model=64, n_heads=4, d_head=16, d_ff=128, n_hashes=2, max_len=4096, axial_shape=(64, 64)
)


@pytest.mark.parametrize("layers", [("lsh",), ("local",), ("full", "shared_full"), ("full", "lsh", "local") * 2])
@pytest.mark.parametrize("length", [1, 60, 90, 1000, 1024])
@pytest.mark.parametrize("reversible", [True, False])
@pytest.mark.parametrize("changes", [{}, {"same_bucket": True, "n_buckets": (200, 200)}])
def test_prediction_is_what_a_forward_pass_keeps(layers, length, reversible, changes):
    config = dataclasses.replace(CONFIG, attn_layers=layers, reversible=reversible, local_chunk_len=96, **changes)
    model = Reformer(config)
    _, cache = model.features(xp.zeros((2, length), int))
    kept = memory.nbytes((cache, model.params)) - memory.nbytes(model.params)
    assert memory.predict(config, 2, length).stored == kept


def test_prediction_gives_the_sums_that_motivate_the_reformer():
    """64K tokens, d_model 1024, batch 8: 2 GB a layer, 24 GB over 12; a 64K x 64K attention matrix is 16 GB."""
    config = dataclasses.replace(CONFIG, d_model=1024, max_len=65536, axial_shape=(256, 256), axial_dims=None)
    prediction = memory.predict(config, 8, 65536)
    gigabyte = 2**30
    assert prediction.activation == 2 * gigabyte
    assert 12 * prediction.activation == 24 * gigabyte
    assert prediction.attention_matrix == 16 * gigabyte


def test_prediction_does_not_grow_with_depth_but_for_buckets():
    kept = [memory.predict(dataclasses.replace(CONFIG, attn_layers=("lsh",) * n), 1, 4096) for n in (2, 12)]
    assert kept[1].stored - kept[1].buckets == kept[0].stored - kept[0].buckets
    assert kept[1].buckets == 6 * kept[0].buckets


def test_sizes_of_few_bits_do_not_overflow():
    assert memory.predict(CONFIG, np.int8(100), np.int8(100)) == memory.predict(CONFIG, 100, 100)
    assert memory.predict(CONFIG, np.int16(200), np.int16(4096)).attention_matrix == 4 * 4096**2


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"config": {"d_model": 8}}, TypeError, "config: expected a ReformerConfig; got dict"),
        ({"length": 4097}, ValueError, r"length: expected at most 4096 \(max_len\); got 4097"),
        ({"length": 0}, ValueError, "length: expected an integer >= 1"),
        ({"batch": 1.5}, ValueError, "batch: expected an integer >= 1"),
        ({"dtype": "int8"}, ValueError, "dtype: expected float32 or float64"),
        ({"dtype": None}, ValueError, "dtype: expected float32 or float64; got None"),
    ],
)
def test_bad_sizes_are_not_predicted(change, error, message):
    with pytest.raises(error, match=message):
        memory.predict(**({"config": CONFIG, "batch": 1, "length": 64} | change))


def test_the_memory_of_exact_attention_grows_with_length_backward_too():
    peaks = []
    for length in (1024, 2048, 4096):
        q, k, v, dout = generator(0).standard_normal((4, 1, 1, length, 16), dtype="float32")
        with memory.peak() as m:
            _, cache = full_attention(q, k, v)
            full_attention_backward(dout, cache)
        peaks.append(m.bytes)
    assert peaks[1] < 2.1 * peaks[0] and peaks[2] < 2.1 * peaks[1]
