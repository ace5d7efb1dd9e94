"""Is this gradient right? A backward pass written by hand, checked against finite differences.

    print(gradcheck(LayerNorm(8), x))                        # a layer: gradients of x and of its parameters
    print(gradcheck(CrossAttention(...), x, memory))         # a layer with two inputs
    print(gradcheck((softmax, softmax_backward), logits))    # a pair of functions that keep the contract
    assert gradcheck(layer, x).ok                            # in a test

We turn the output into a single number, `loss = (out * dout).sum()` with a random `dout`, so that `backward` returns
the gradient g of that loss. Then we move the input by a small step h along a random direction u. Calculus says how the
loss must change, and two forward passes show how it really does:

    g . u   =   (loss(x + h u) - loss(x - h u)) / (2 h)   +   O(h^2)

A direction checks every entry at once; we look at single entries only to say where a gradient is wrong. Everything
runs in float64: in float32, the difference of two nearly equal numbers would be noise. Read next: `memory.py`.
"""

import copy
import inspect
import itertools
import math
from typing import Any, NamedTuple

import numpy as np

from minireformer import backend, rng
from minireformer.checks import check_array, check_count, check_module, is_number
from minireformer.layer import Layer

TOLERANCE = 1e-6  # a right gradient comes out near 1e-9, a wrong one seldom below 1e-3
N_ENTRIES = 256  # how many single entries we look at when a gradient is wrong


class WorstEntry(NamedTuple):
    """The entry whose gradient is furthest off, among those looked at, and how many of them are off at all."""

    index: tuple
    exact: float  # what backward says
    approximate: float  # what finite differences say
    kink: bool  # the slopes to its left and right differ: there is no gradient at this point
    n_wrong: int
    n_seen: int


class Gradient(NamedTuple):
    """The result for the gradient of one array."""

    name: str
    shape: tuple
    error: float  # relative
    entry: WorstEntry | None  # None where the gradient is right


class Report(NamedTuple):
    """What `gradcheck` returns. `print` it; assert `ok`, or that `worst` is small."""

    target: str
    gradients: list

    @property
    def worst(self) -> float:
        """The largest relative error among the gradients."""
        return max(gradient.error for gradient in self.gradients)

    @property
    def ok(self) -> bool:
        """True if every gradient agrees with finite differences."""
        return self.worst < TOLERANCE

    def __repr__(self):
        rows = [("gradient of", "shape", "relative error", "")]
        rows += [(g.name, str(g.shape), f"{g.error:.1e}", _verdict(g)) for g in self.gradients]
        wide, wider = (max(len(row[column]) for row in rows) for column in (0, 1))
        table = [f"  {n:{wide}}  {s:{wider}}  {e:>14}  {v}".rstrip() for n, s, e, v in rows]
        summary = "every gradient is right" if self.ok else "not every gradient agrees"
        return "\n".join([f"{self.target}: {summary}", *table])


def gradcheck(
    target: Any, *inputs: Any, seed: int = 0, step: float = 1e-6, n_directions: int = 3, **settings: Any
) -> Report:
    """Compare gradients derived by hand with central differences; return a `Report`.

    target    A `Layer`: `forward(*inputs, seed=seed, **settings)` returns `out, cache`, and `backward(dout, cache)`
              returns the gradients of the inputs in the order of `forward`, then `grads`. The gradients of all
              inputs that are floats and of every parameter are checked.
              Or a pair `(f, f_backward)` with `f(*inputs, **settings) -> out, cache` and `f_backward(dout, cache)
              -> dinputs` in the order of the inputs. Pass what has no gradient (integers, booleans) as a setting.
    seed      For the random `dout` and directions; a layer's `forward` gets it, too. (Bind the seed of a function
              beforehand: `functools.partial(f, seed=7)`.)
    step      h. Entries of inputs and parameters should be of size 1, give or take a factor of 100.
    settings  Passed on to `forward` or `f`.

    Nothing that you pass in is changed: float arrays and the layer are checked as float64 copies. A gradient's
    error is |exact - approximate| / max(|exact|, |approximate|, floor), where the two vectors hold the slopes along
    `n_directions` random directions. Raises ValueError if an array is empty, if a gradient is missing, has the
    wrong shape or is float32, or if `forward` gives NaN, float32, or a different result the second time; TypeError if
    the number of inputs is wrong, or if `forward` or `backward` breaks the contract.
    """
    if not is_number(step) or not 0 < step < math.inf:
        raise ValueError(f"step: expected a number > 0; got {step!r}")
    check_count("n_directions", n_directions)
    inputs, settings = [_as_double(x) for x in inputs], {key: _as_double(value) for key, value in settings.items()}
    prepare = _prepare_layer if isinstance(target, Layer) else _prepare_functions
    name, arrays, forward, backward = prepare(target, inputs, seed, settings)
    for label, array in arrays.items():
        if not array.size:
            raise ValueError(f"{label}: expected at least one entry to move; got shape {array.shape}")
    out, cache = _unpack(name, "forward", ["out", "cache"], forward())
    xp = backend.get_xp(next(iter(arrays.values())))
    loss = _Loss(lambda: xp.array(forward()[0]), xp, rng.generator(seed, "gradcheck"), step)
    _check_output(name, xp.array(out), loss.out)
    gradients = backward(loss.dout.copy(), cache)
    _check_gradients(name, arrays, gradients)

    report = Report(name, [])
    for label, array in arrays.items():
        exact, approximate = zip(*(loss.slopes(array, gradients[label]) for _ in range(n_directions)))
        error = _relative_error(exact, approximate, loss.floor)
        entry = None if error < TOLERANCE else _worst_entry(loss, array, gradients[label])
        report.gradients.append(Gradient(label, array.shape, error, entry))
    return report


def _as_double(value):
    """A float64 copy of an array of floats; anything else unchanged."""
    is_float = hasattr(value, "astype") and value.dtype.kind == "f"
    return value.astype("float64") if is_float else value


def _prepare_layer(layer, inputs, seed, settings):
    """-> (its name, the arrays to move, forward() -> out, cache and backward(dout, cache) -> their gradients)."""
    name = type(layer).__name__
    labels = list(itertools.takewhile(lambda label: label != "seed", inspect.signature(layer.forward).parameters))
    if len(inputs) != len(labels):
        raise TypeError(f"inputs: {name}.forward takes ({', '.join(labels)}); got {len(inputs)}")
    for label, x in zip(labels, inputs):
        check_module(label, x)
    layer = copy.deepcopy(layer, {id(param): param.astype("float64") for param in layer.params.values()})
    arrays = {label: x for label, x in zip(labels, inputs) if x.dtype == "float64"} | layer.params
    if not arrays:
        raise TypeError(f"{labels[0]}: {name} has no parameters, and {inputs[0].dtype} has no gradient")

    def backward(dout, cache):
        expected = [*(f"d{label}" for label in labels), "grads"]
        *dinputs, grads = _unpack(name, "backward", expected, layer.backward(dout, cache))
        if not isinstance(grads, dict):
            raise TypeError(f"{name}: expected backward to return grads as a dict; got {type(grads).__name__}")
        return dict(zip(labels, dinputs)) | grads

    return name, arrays, lambda: layer.forward(*inputs, seed=seed, **settings), backward


def _prepare_functions(functions, inputs, seed, settings):
    """The same for a pair of functions."""
    if not isinstance(functions, tuple) or len(functions) != 2 or not all(map(callable, functions)):
        raise TypeError(f"target: expected a Layer or a pair (f, f_backward); got {functions!r}")
    function, function_backward = functions
    name = getattr(getattr(function, "func", function), "__name__", "f")  # `functools.partial` has a `func`
    if not inputs:
        raise TypeError(f"inputs: {name} needs at least one array whose gradient is to be checked")
    labels = list(inspect.signature(function).parameters)[: len(inputs)]
    labels += [f"input {i}" for i in range(len(labels), len(inputs))]
    for label, x in zip(labels, inputs):
        if getattr(x, "dtype", None) != "float64":
            raise TypeError(f"{label}: only arrays of floats have gradients; pass it by name, as a setting")

    def backward(dout, cache):
        gradients = function_backward(dout, cache)
        return dict(zip(labels, gradients if isinstance(gradients, tuple) else [gradients]))

    return name, dict(zip(labels, inputs)), lambda: function(*inputs, **settings), backward


def _unpack(name, function, expected, returned):
    """`returned`, if it is a tuple with one item for each name in `expected`; otherwise TypeError."""
    if not isinstance(returned, tuple) or len(returned) != len(expected):
        got = f"{len(returned)} of them" if isinstance(returned, tuple) else type(returned).__name__
        raise TypeError(f"{name}: expected {function} to return the tuple ({', '.join(expected)}); got {got}")
    return returned


def _check_output(name, out, again):
    if out.dtype != "float64":
        raise ValueError(f"{name}: forward turned float64 into {out.dtype}; differences would be noise")
    if not out.size:
        raise ValueError(f"{name}: forward gave an empty array, of shape {out.shape}")
    if not math.isfinite(float(abs(out).max())):
        raise ValueError(f"{name}: forward gave NaN or infinity")
    if not bool((out == again).all()):
        raise ValueError(f"{name}: forward gave two results for one input; fix its seed")


def _check_gradients(name, arrays, gradients):
    for label, array in arrays.items():
        if gradients.get(label) is None:
            raise ValueError(f"{name}: backward returned no gradient of {label}")
        check_array(f"{name}: the gradient of {label}", gradients[label], *array.shape, like=array, whose=label)
        if gradients[label].dtype != "float64":
            raise ValueError(f"{name}: backward turned float64 into {gradients[label].dtype}, for {label}")


class _Loss:
    """`(out * dout).sum()`, and how it changes when you move one of the arrays that `forward` reads."""

    def __init__(self, forward, xp, draw, step):
        self.forward, self.xp, self.draw, self.step = forward, xp, draw, step
        self.out = forward()
        self.dout = xp.asarray(draw.standard_normal(self.out.shape))
        # Rounding makes the loss uncertain by about 10 eps |out dout|, and a slope by that over h. Below the floor,
        # this noise alone would be an error of TOLERANCE: without it, a gradient that is exactly zero would be
        # compared with noise and found 100 % wrong.
        size = math.sqrt(float(((self.out * self.dout) ** 2).sum()))
        self.floor = max(10 * np.finfo("float64").eps * size / step / TOLERANCE, 1e-300)

    def change(self, array, move):
        """loss(array + move) - loss(array)."""
        start = array.copy()
        array += move
        moved = self.forward()
        array[...] = start
        return float(((moved - self.out) * self.dout).sum())  # subtract first: the sums would swamp it

    def slopes(self, array, gradient, entries=slice(None)):
        """(exact, approximate) slope along a random direction that moves the flat `entries` of `array`."""
        direction = np.zeros(array.size)
        direction[entries] = self.draw.standard_normal(direction[entries].size)
        direction = self.xp.asarray(direction.reshape(array.shape))
        rise = self.change(array, self.step * direction) - self.change(array, -self.step * direction)
        return float((gradient * direction).sum()), rise / (2 * self.step)


def _distance(exact, approximate):
    """|exact - approximate| for two sequences of numbers, infinity where one of them is NaN."""
    distance = math.dist(exact, approximate)
    return math.inf if math.isnan(distance) else distance


def _relative_error(exact, approximate, floor):
    """|exact - approximate| / max(|exact|, |approximate|, floor)."""
    size = max(math.hypot(*exact), math.hypot(*approximate), floor)
    return _distance(exact, approximate) / size if math.isfinite(size) else math.inf


def _worst_entry(loss, array, gradient):
    """The entry of `gradient` that is furthest off, as a `WorstEntry`."""
    entries = loss.draw.permutation(array.size)
    while entries.size > N_ENTRIES:  # too many to look at: continue in the half with the larger error
        entries = max(np.array_split(entries, 2), key=lambda half: _distance(*zip(loss.slopes(array, gradient, half))))
    seen = []
    for entry in sorted(entries):
        index = tuple(int(i) for i in np.unravel_index(entry, array.shape))
        move = loss.xp.zeros(array.shape)
        move[index] = loss.step
        left, right = -loss.change(array, -move) / loss.step, loss.change(array, move) / loss.step
        kink = _relative_error([left], [right], loss.floor) > 1e-3  # on a smooth curve they differ by O(h)
        seen.append(WorstEntry(index, float(gradient[index]), (left + right) / 2, kink, 0, entries.size))
    n_wrong = sum(_relative_error([e.exact], [e.approximate], loss.floor) >= TOLERANCE for e in seen)
    worst = max(seen, key=lambda e: _distance([e.exact], [e.approximate]))
    return worst._replace(n_wrong=n_wrong)


def _verdict(gradient):
    """The last column of the table: right, or what is wrong where."""
    entry = gradient.entry
    if entry is None:
        return "ok"
    if entry.n_wrong == 0:
        return "unsure: no single entry is off; a kink is close by, or the step is too large. Try another seed"
    place = f"at {list(entry.index)}"
    if entry.kink:
        return f"unsure: the function has a kink {place}, and no gradient there. Move the input a little"
    numbers = f"backward says {entry.exact:.6g}, differences say {entry.approximate:.6g}"
    return f"WRONG: {place} {numbers}; {entry.n_wrong} of {entry.n_seen} entries looked at are off"
