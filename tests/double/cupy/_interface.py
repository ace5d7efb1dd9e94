"""What CuPy 13.6 and 14 both have, as `record_cupy.py` wrote it down, and a check of calls against it."""

import json
from pathlib import Path

_RECORDED = json.loads(Path(__file__).with_name("interface.json").read_text(encoding="utf-8"))
MODULES, CLASSES = _RECORDED["modules"], _RECORDED["classes"]


def look_up(group, name, kind="modules"):
    """What is recorded of `name` in a module or class; AttributeError where CuPy has no such thing."""
    found = _RECORDED[kind][group].get(name)
    if found is None:
        where = f"module 'cupy.{group}'".replace(".'", "'") if kind == "modules" else f"{group!r} object"
        raise AttributeError(f"{where} has no attribute {name!r} in CuPy 13.6 or 14")
    return found


def check_call(name, parameters, args, kwargs):
    """TypeError unless a function with the recorded `parameters` takes these arguments."""
    names = parameters.split(", ") if parameters else []
    positional = [n for n in names[: names.index("*")] if n[0] != "*"] if "*" in names else names
    if not any(n[0] == "*" and n.strip("*") for n in names if not n.startswith("**")) and len(args) > len(positional):
        raise TypeError(f"cupy.{name} takes at most {len(positional)} positional arguments; got {len(args)}")
    if not any(n.startswith("**") for n in names):
        for keyword in kwargs:
            if keyword not in names:
                raise TypeError(f"cupy.{name} got an unexpected keyword argument {keyword!r}")


def check_kind(name, kwargs):
    """CuPy has one way to sort, a stable one: the keyword `kind` is taken out of `kwargs`, or refused."""
    kind = kwargs.pop("kind", None)
    if kind not in (None, "stable"):
        raise NotImplementedError(f"cupy.{name} sorts with kind='stable' only; got {kind!r}")
    if name in ("sort", "argsort"):
        kwargs["kind"] = "stable"
