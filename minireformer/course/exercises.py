"""Checks for the exercises of the course: they say what is wrong without giving the answer away.

If something stops, the message says whether it was your code, and at which line, or the check, because of what your
code returned.
"""

import contextlib
import dis
import io
import itertools
import traceback
import types


def check(exercise, test):
    """Run `test()`, which asserts what a solution must do, and print how it went.

    A stub that raises NotImplementedError counts as not solved yet, so a notebook runs to its end before you have
    solved anything. If you write a test, write the messages of its asserts for a learner: what you expected, what you
    got, and where to look.
    """
    try:
        test()
    except NotImplementedError:
        print(f"{exercise}: not solved yet")
    except Exception as error:
        print(f"{exercise}: {_what_went_wrong(error, test)}")
    else:
        print(f"{exercise}: right")


@contextlib.contextmanager
def marked(exercise):
    """Around a check: raise AssertionError unless it prints "right". This is how nbgrader learns who gets the points.

    nbgrader takes whatever goes to stderr for a failure, warnings included, so here they are printed with the rest.
    """
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        yield
    print(said.getvalue(), end="")
    if not any(line.startswith(f"{exercise}: right") for line in said.getvalue().splitlines()):
        raise AssertionError(f"{exercise} is not right yet: see above.")


def _what_went_wrong(error, test):
    frames = traceback.extract_tb(error.__traceback__)
    solution = _solution(test)
    files = {function.__code__.co_filename for function in solution}
    own = [frame for frame in frames if frame.filename in files]
    stopped = f"{type(error).__name__}: {error}"
    forgotten = [function.__name__ for function in solution if _returns_nothing(function)]
    hint = f"`{forgotten[0]}` never returns a value. Is there a `return`?" if forgotten else ""
    if isinstance(error, AssertionError) and not (own and own[-1] is frames[-1]):
        return f"not right yet. {error} {hint}".rstrip()
    if own:
        line = f"line {own[-1].lineno}" + (f", `{own[-1].line}`" if own[-1].line else "")
        return f"your code stopped at {line}, with {stopped}"
    if isinstance(error, NameError):
        return f"not right yet. `{error.name}` is not defined. Did you run the cell that defines it?"
    hint = hint or "Does each function return what its docstring says?"
    return f"not right yet. {hint} The check stopped on what your code returned, with {stopped}"


def _solution(test):
    """The functions of the solution: those of the cell that first defined the last of all names that the test uses.

    Helpers that the notebook gives you were defined before it, and a name that is defined again keeps its place.
    """
    names, known = _names(test.__code__), test.__globals__
    here = test.__code__.co_filename
    for name in list(names):  # functions beside the test are a part of it
        if _is_from(known, known.get(name)) and known[name].__code__.co_filename == here:
            names |= _names(known[name].__code__)
    used = [known[name] for name in known if name in names and _is_from(known, known[name])]
    used = [function for function in used if function.__code__.co_filename != here]
    return [function for function in used if function.__code__.co_filename == used[-1].__code__.co_filename]


def _is_from(known, value):
    """Whether this is a function that was defined in the notebook, not imported."""
    return isinstance(value, types.FunctionType) and value.__globals__ is known


def _names(code):
    """The global names and attributes in a function and in the functions inside it."""
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return set(code.co_names).union(*inner)


def _returns_nothing(function):
    """Whether a function reaches its end, and no `return` in it has a value."""
    steps = [step for step in dis.get_instructions(function) if step.opname != "NOP"]
    ends = [
        (step.argval if step.opname == "RETURN_CONST" else before.argval if before.opname == "LOAD_CONST" else ...)
        for before, step in itertools.pairwise(steps)
        if step.opname in ("RETURN_CONST", "RETURN_VALUE")
    ]
    return bool(ends) and all(end is None for end in ends)
