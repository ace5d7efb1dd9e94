"""The ladder of twenty-four puzzles, `notebooks/puzzles.ipynb`: `check` looks at an answer, `progress` counts rungs.

What is right is found from the rung's own function, by finite differences in float64 on a few random numbers. A wrong
answer is drawn beside the right one, as Jacobians. If it equals what a typical mistake leads to, you get a hint about
that mistake; otherwise the message says where the error is. Read next: `puzzle_rung.py`.
"""

import copy
import traceback
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np

import minireformer
from minireformer import backend
from minireformer.course import puzzle_attention, puzzle_memory, puzzle_moves, puzzle_products, puzzle_softmax
from minireformer.course.capstone import Unfinished, check_backward
from minireformer.course.puzzle_picture import jacobians
from minireformer.course.puzzle_rung import jacobian, problem

RUNGS = {
    rung.number: rung
    for module in (puzzle_moves, puzzle_products, puzzle_softmax, puzzle_attention, puzzle_memory)
    for rung in module.RUNGS
}
LAST = 24  # LSH attention for one head: `capstone.py` knows its answer
LAST_PRAISE = "You have climbed the whole ladder: this is how LSH attention learns."
LARGER = "The first problem is right, but a larger one is not. "
TOLERANCE = 1e-6  # of the largest entry; differences are right to about 1e-9
OURS = tuple(str(Path(module.__file__).parent) for module in (minireformer, np))

_right = set()  # the rungs whose last check was right


class _Wrong(Exception):
    """What is wrong with an answer, and the two Jacobians to draw (or None)."""

    def __init__(self, message, picture=None):
        super().__init__(message)
        self.picture = picture


def check(rung, *functions):
    """Check the answer to a rung such as "Rung 4", and print how it went.

    `functions` are those of the notebook: f, then what you wrote. A stub that raises NotImplementedError is "not
    started"; a wrong answer is drawn.
    """
    number = int(rung.removeprefix("Rung "))
    _right.discard(number)
    in_use = backend.active().__name__
    backend.use("numpy")  # the puzzles are NumPy all the way
    try:
        if number == LAST:
            check_backward(*functions)
        else:
            _check_rung(RUNGS[number], *functions)
    except _Wrong as wrong:
        print(f"{rung}: not right yet. {wrong}{_doubts(number, functions)}")
        if wrong.picture:
            jacobians(*wrong.picture)
            plt.show()
    except Unfinished as error:
        print(f"{rung}: not finished. {error}")
    except AssertionError as error:
        print(f"{rung}: not right yet. {str(error).replace('dout', 'dy')}{_doubts(number, functions)}")
    except NotImplementedError as error:
        print(f"{rung}: {_empty(error, number, functions)}")
    except Exception as error:
        print(f"{rung}: not right yet. Your code stopped{_line(error)} with {type(error).__name__}: {error}")
    else:
        _right.add(number)
        print(f"{rung}: right. {LAST_PRAISE if number == LAST else RUNGS[number].praise}")
    finally:
        backend.use(in_use)


def progress():
    """Print how many rungs are done, and which comes next."""
    ladder = "".join("■" if number in _right else "□" for number in range(1, LAST + 1))
    print(f"{ladder}  {len(_right)} of {LAST} rungs")
    todo = [number for number in range(1, LAST + 1) if number not in _right]
    if todo:
        title = "LSH attention for one head" if todo[0] == LAST else RUNGS[todo[0]].title
        print(f"Next: rung {todo[0]}, {title}.")
    else:
        print("That is all of them. Well climbed!")


def _check_rung(rung, f, *answers):
    """Check the gradients of two problems, then what else the rung asks for."""
    answer = answers[0] if len(answers) == 1 else answers
    for n in rung.sizes:
        m = problem(rung, f, n)
        names = list(rung.gradients)
        slopes = {name: jacobian(rung, f, m, name[1:]) for name in names}
        found = _gradients(rung, answer, m)
        for name in names:
            m.found, m.right = found[name], (m.dy.ravel() @ slopes[name]).reshape(getattr(m, name[1:]).shape)
            if not _equal(rung.gradients[name][0](m), m.right):
                raise _Wrong(
                    f"`{f.__name__}` is no longer what it was. Copy it again: only its backward pass is yours."
                )
            if not _equal(m.found, m.right):
                picture, start = (_picture(rung, answer, m, slopes), "") if n == rung.sizes[0] else (None, LARGER)
                raise _Wrong(f"{start}{name}: {_hint(rung, name, m) or _where(name, m, picture)}", picture)
    rung.extra(answer)


def _gradients(rung, answer, m):
    """What the reader's function returns: {"dx": an array}. _Wrong if it isn't gradients, or spoils its arguments."""
    own = copy.deepcopy(m)
    found, names = rung.call(answer, own), list(rung.gradients)
    if found is Ellipsis or found is NotImplemented:
        raise NotImplementedError
    if found is None:
        raise _Wrong("Your function returns None. Is there a `return`?")
    if len(names) > 1 and not (isinstance(found, tuple | list) and len(found) == len(names)):
        raise _Wrong(f"Return {len(names)} gradients, in this order: {', '.join(names)}.")
    found = found if isinstance(found, tuple) else (found,) if len(names) == 1 else tuple(found)
    for name in ("dy", *own.names):
        if isinstance(getattr(m, name), np.ndarray) and not np.array_equal(getattr(m, name), getattr(own, name)):
            what = "the gradient that it is given" if name == "dy" else name
            raise _Wrong(f"Your function changes {what} in place, and others still need it. Work on a new array.")
    return {name: _array(name, value) for name, value in zip(names, found)}


def _array(name, value):
    try:
        return np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        raise _Wrong(f"{name} is {type(value).__name__}. An array of numbers is expected.") from None


def _equal(a, b):
    """Whether two arrays have the same shape and numbers, up to the error of the differences."""
    a, b = np.asarray(a), np.asarray(b)
    size = max(1.0, abs(np.nan_to_num(b)).max()) if b.size else 1.0
    return a.shape == b.shape and np.allclose(a, b, rtol=0, atol=TOLERANCE * size, equal_nan=True)


def _hint(rung, name, m):
    """The hint of the mistake that gives these numbers; None if no typical one does."""
    with np.errstate(all="ignore"):
        for hint, mistake in rung.gradients[name][1]:
            try:
                if _equal(mistake(m), m.found):
                    return hint
            except (IndexError, ValueError):  # with these shapes, nobody could make this mistake
                continue


def _where(name, m, picture):
    """What is wrong where, if no typical mistake fits."""
    if m.found.shape != m.right.shape:
        return f"its shape is {m.found.shape}, but {name[1:]} has the shape {m.right.shape}. They should be the same."
    if not np.isfinite(m.found).all():
        return "some entries are NaN or infinite. Do you divide by zero, or take the exp of a large number?"
    ratio = float((m.found * m.right).sum() / (m.right**2).sum())
    if _equal(m.found, -m.right):
        return "every sign is reversed."
    if _equal(m.found, ratio * m.right):
        return f"every entry is {ratio:.3g} times what it should be."
    if picture and picture[-1] is not None and not picture[-1].any():
        return "it is right where dy has a single 1, and wrong for other numbers. Do you multiply dy by dy?"
    wrong = abs(m.found - m.right) > TOLERANCE * max(1.0, abs(m.right).max())
    index = tuple(map(int, np.argwhere(wrong)[0]))
    numbers = f"{name}{list(index)} is {m.found[index]:.3f}, and {m.right[index]:.3f} is expected"
    return f"{wrong.sum()} of {wrong.size} entries are wrong. The first: {numbers}."


def _picture(rung, answer, m, slopes):
    """The arguments of `jacobians`: row by row, what the answer makes of a dy with a single 1. None if it fails."""
    rows = []
    try:
        for index in np.ndindex(m.dy.shape):
            one = SimpleNamespace(**vars(m) | {"dy": np.zeros_like(m.dy)})
            one.dy[index] = 1
            rows.append(np.concatenate([dx.ravel() for dx in _gradients(rung, answer, one).values()]))
        came = np.stack(rows)
    except Exception:
        return None
    expected = np.concatenate(list(slopes.values()), axis=1)
    fits = came.shape == expected.shape
    wrong = ~np.isclose(came, expected, rtol=0, atol=TOLERANCE * max(1.0, abs(expected).max())) if fits else None
    return came, expected, list(slopes), [slope.shape[1] for slope in slopes.values()], wrong


def _empty(error, number, functions):
    """What to say when a stub raised this error: the rung's own, the second of two, or that of a rung below."""
    name = traceback.extract_tb(error.__traceback__)[-1].name
    called = next((rung.number for rung in RUNGS.values() if name == f"{rung.name}_backward"), number)
    if called != number:
        return f"not right yet. It calls {name}: climb rung {called} first."
    if len(functions) > 2 and name == functions[-1].__name__:
        return f"half done. `{functions[-2].__name__}` runs; now write `{name}`."
    return "not started"


def _doubts(number, functions):
    """A question about the first rung below that an answer calls, unless its check said that it is right."""
    called = {name for function in functions for name in function.__code__.co_names}
    below = [r for r in RUNGS.values() if f"{r.name}_backward" in called and r.number not in _right | {number}]
    return f" (It calls {below[0].name}_backward: is rung {below[0].number} right?)" if below else ""


def _line(error):
    """The reader's line that raised this error."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(OURS) and f.line]
    return f" at `{frames[-1].line}`" if frames else ""
