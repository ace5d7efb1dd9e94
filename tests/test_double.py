"""The CuPy double refuses what CuPy refuses, and counts what a GPU would wait for. See `test_on_double.py` next."""

import inspect
import json
import operator
from pathlib import Path

import numpy as np
import pytest

from minireformer import backend

pytestmark = pytest.mark.once

FOLDER = Path(__file__).parent / "double"
INTERFACE = json.loads((FOLDER / "cupy" / "interface.json").read_text(encoding="utf-8"))


def in_place(array, operand):
    array += operand


def assign(array, index, value):
    array[index] = value


# What it refuses: a name, an attempt with the double, an array x of its own and one of NumPy's (2, 3), the error

REFUSED = {
    "numpy.asarray": (lambda cupy, x, host: np.asarray(x), TypeError, "Implicit conversion"),
    "numpy.array of a list of them": (lambda cupy, x, host: np.array([x[0, 0], x[0, 1]]), TypeError, "Implicit"),
    "a ufunc of NumPy's": (lambda cupy, x, host: np.exp(x), TypeError, "does not support ufuncs"),
    "a function of NumPy's": (lambda cupy, x, host: np.concatenate([x]), TypeError, "numpy.concatenate"),
    "a reduction of NumPy's": (lambda cupy, x, host: np.mean(x), TypeError, "numpy.mean"),
    "array + NumPy's": (lambda cupy, x, host: x + host, TypeError, "Unsupported type"),
    "NumPy's + array": (lambda cupy, x, host: host + x, TypeError, "Unsupported type"),
    "array @ NumPy's": (lambda cupy, x, host: x @ host.T, TypeError, "Unsupported type"),
    "NumPy's == array": (lambda cupy, x, host: host == x, TypeError, "Unsupported type"),
    "NumPy's 0-d array": (lambda cupy, x, host: x + np.array(1.0), TypeError, "Unsupported type"),
    "array += NumPy's": (lambda cupy, x, host: in_place(x, host), TypeError, "Unsupported type"),
    "NumPy's += array": (lambda cupy, x, host: in_place(host, x), TypeError, "does not support ufuncs"),
    "array + list": (lambda cupy, x, host: x + [1, 2, 3], TypeError, "Unsupported type"),
    "x[...] = NumPy's": (lambda cupy, x, host: assign(x, ..., host), TypeError, "Unsupported type"),
    "NumPy's[...] = x": (lambda cupy, x, host: assign(host, ..., x), TypeError, "Implicit conversion"),
    "x[NumPy's]": (lambda cupy, x, host: x[np.array([0])], TypeError, "Unsupported type"),
    "NumPy's[x]": (lambda cupy, x, host: host[x.astype(int)], (TypeError, IndexError), "Implicit|only integers"),
    "a function of NumPy's array": (lambda cupy, x, host: cupy.sum(host), TypeError, "Unsupported type"),
    "a ufunc of NumPy's array": (lambda cupy, x, host: cupy.exp(host), TypeError, "Unsupported type"),
    "a ufunc of a list": (lambda cupy, x, host: cupy.maximum(x, [1, 2, 3]), TypeError, "Unsupported type"),
    "out= NumPy's": (lambda cupy, x, host: cupy.exp(x, out=host), TypeError, "Unsupported type"),
    "where= in a ufunc": (lambda cupy, x, host: cupy.exp(x, where=x > 0), TypeError, "Wrong arguments.*where"),
    "where= in a reduction": (lambda cupy, x, host: x.sum(where=x > 0), TypeError, "keyword argument 'where'"),
    "initial= in a reduction": (lambda cupy, x, host: cupy.max(x, initial=0), TypeError, "keyword argument 'initial'"),
    "copy= of 14 only": (lambda cupy, x, host: cupy.asarray(x, copy=False), TypeError, "keyword argument 'copy'"),
    "mode= of take": (lambda cupy, x, host: cupy.take(x, x.argmax(), mode="clip"), TypeError, "argument 'mode'"),
    "too many arguments": (lambda cupy, x, host: cupy.argsort(x, 0, None, None), TypeError, "at most 3"),
    "another sort": (lambda cupy, x, host: cupy.sort(x, kind="quicksort"), NotImplementedError, "stable"),
    "another argsort": (lambda cupy, x, host: cupy.argsort(x, kind="heapsort"), NotImplementedError, "stable"),
    "the method's kind=, not in 13.6": (lambda cupy, x, host: x.argsort(kind="stable"), TypeError, "argument 'kind'"),
    "a missing function": (lambda cupy, x, host: cupy.put_along_axis, AttributeError, "no attribute"),
    "errstate": (lambda cupy, x, host: cupy.errstate, AttributeError, "no attribute 'errstate'"),
    "a function of 14 only": (lambda cupy, x, host: cupy.astype, AttributeError, "no attribute 'astype'"),
    "an attribute of 14 only": (lambda cupy, x, host: x.mT, AttributeError, "no attribute 'mT'"),
    "a method of NumPy's only": (lambda cupy, x, host: x.itemset(0, 1), AttributeError, "no attribute 'itemset'"),
    "a submodule's function": (lambda cupy, x, host: cupy.linalg.cross, AttributeError, "no attribute 'cross'"),
    "a method of generators": (
        lambda cupy, x, host: cupy.random.default_rng(0).permutation(3),
        AttributeError,
        "'permutation'",
    ),
    "duplicate indices": (lambda cupy, x, host: assign(x, cupy.asarray([0, 0]), 1.0), ValueError, "duplicate"),
    "duplicates in +=": (lambda cupy, x, host: in_place_at(x, cupy.asarray([1, 0, 1])), ValueError, "duplicate"),
    "duplicates by sign": (lambda cupy, x, host: assign(x, cupy.asarray([0, -2]), 1.0), ValueError, "duplicate"),
    "duplicate pairs": (
        lambda cupy, x, host: assign(x, (cupy.asarray([0, 1, 0]), cupy.asarray([2, 2, 2])), 1.0),
        ValueError,
        "duplicate",
    ),
    "a range of one": (lambda cupy, x, host: range(x.argmax()), TypeError, "cannot be interpreted as an integer"),
    "hash": (lambda cupy, x, host: {x[0, 0]}, TypeError, "unhashable"),
    "plotting": (lambda cupy, x, host: np.atleast_1d(x), TypeError, "Implicit conversion"),
}


def in_place_at(array, index):
    array[index] += 1


@pytest.mark.parametrize("name", REFUSED)
def test_it_refuses(name, cupy):
    attempt, error, message = REFUSED[name]
    host = np.arange(6.0).reshape(2, 3)
    x = cupy.asarray(host)
    with pytest.raises(error, match=message):
        attempt(cupy, x, host)


def test_a_figure_of_its_arrays_is_refused(cupy):
    axes = pytest.importorskip("matplotlib.figure").Figure().subplots()
    with pytest.raises(TypeError, match="Implicit conversion"):
        axes.plot(cupy.arange(3))
    with pytest.raises(TypeError, match="Implicit conversion"):
        axes.imshow(cupy.zeros((3, 3)))
    axes.plot(cupy.arange(3).get())


# What it does


def test_numbers_mix_freely_and_do_not_widen(cupy):
    x = cupy.ones((2, 3), "float32")
    for number in (2, 2.0, True, np.float32(2)):
        assert (x * number).dtype == (number * x).dtype == "float32"
    assert (x * np.float64(2)).dtype == "float64"  # NEP 50: as in NumPy 2 and CuPy 14
    assert (x + x.astype("float64").sum()).dtype == "float64"


def test_reductions_and_single_entries_are_arrays_without_axes(cupy):
    x = cupy.arange(6.0).reshape(2, 3)
    for scalar in (x.sum(), x.max(), cupy.mean(x), x[1, 2], cupy.vdot(x, x), x[0] @ x[1], x.argmax()):
        assert type(scalar) is cupy.ndarray and scalar.shape == ()
    x[1, 2][...] = 7  # a view, too
    assert float(x[1, 2]) == 7
    assert type(x).__module__ == "cupy" and not isinstance(x, np.ndarray) and backend.get_xp(x) is cupy


def test_it_is_not_torn_by_assignments_without_duplicates(cupy):
    x = cupy.zeros((3, 4))
    x[cupy.asarray([2, 0]), 1:3] += 1
    x[x > 0] = 5
    x[cupy.asarray([[0], [1]]), cupy.asarray([[0, 3]])] = 2
    np.testing.assert_array_equal(x.get(), [[2, 5, 5, 2], [2, 0, 0, 2], [0, 5, 5, 0]])


def test_views_share_memory_and_hooks_see_it_once(cupy):
    seen = []

    class Hook(cupy.cuda.MemoryHook):
        def malloc_postprocess(self, *, mem_size, **_):
            seen.append(mem_size)

        def free_postprocess(self, *, mem_size, **_):
            seen.append(-mem_size)

    with Hook():
        x = cupy.zeros(100)
        view = x.reshape(10, 10).T[2:]
        assert view.base is x and x.base is None and seen == [1024]
        del x
        assert seen == [1024]
        del view
    assert seen == [1024, -1024]


def test_transfers_and_waits_are_counted(cupy, counts):
    x = cupy.asarray(np.arange(6.0))
    y = cupy.exp(x[2:] * 2).sum() + cupy.zeros(3).max()
    assert counts == {"to_device": 1}
    float(y), int(y), bool(y), y.item(), y.get(), y.tolist(), f"{y:.3f}", repr(y)
    assert counts == {"to_device": 1, "to_host": 8, "synchronize": 8}
    x[x > 2], cupy.unique(x), cupy.flatnonzero(x)  # sizes that the host has to know
    cupy.cuda.Device().synchronize()
    assert counts["synchronize"] == 12


def test_indices_out_of_range_are_taken_modulo_the_axis_as_cupy_does(cupy):
    x = cupy.arange(12.0).reshape(3, 4)
    rows = cupy.asarray([0, 3, -4])
    assert x[rows, 0].get().tolist() == [0, 0, 8]
    assert x[None, ..., rows].shape == (1, 3, 3) and x[:, rows][1].get().tolist() == [4, 7, 4]
    x[rows[1:]] = 1
    assert x[:, 0].get().tolist() == [1, 4, 1]


@pytest.mark.parametrize("group", ["cuda", "cuda.cublas", "cuda.runtime"])
def test_what_the_double_writes_out_itself_cupy_has_too(group, cupy):
    """The parts that are not made from the record: every public name, and the products' parameters in order."""
    part = operator.attrgetter(group)(cupy)
    names = {name for name in vars(part) if name[0] != "_"}
    helpers = {"cuda": {"SimpleNamespace", "cublas", "look_up", "counts", "hooks", "CUDARuntimeError"}}
    helpers["cuda.cublas"] = {"ctypes", "numpy", "modes"}
    recorded = INTERFACE["modules"][group]
    assert names - helpers.get(group, set()) <= recorded.keys()
    if group == "cuda.cublas":
        for name in ("sgemmStridedBatched", "dgemmStridedBatched", "setMathMode"):
            assert ", ".join(inspect.signature(getattr(part, name)).parameters) == recorded[name]


def test_the_interface_was_recorded_from_both_major_versions():
    assert {version.partition(".")[0] for version in INTERFACE["versions"]} == {"13", "14"}
    assert "13.6.0" in INTERFACE["versions"]
