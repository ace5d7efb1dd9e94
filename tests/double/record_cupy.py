"""Write down what several versions of CuPy have in common: names, parameters, methods. Needs no GPU.

    pip download --no-deps --dest wheels cupy-cuda12x==13.6.0       # and each further version; 100 MB each
    unzip -d cupy-13.6.0 wheels/cupy_cuda12x-13.6.0-*.whl
    pip install fastrlock                                           # imported by CuPy 13
    python record_cupy.py cupy-13.6.0 cupy-14.0.1 cupy-14.2.0       # writes cupy/interface.json

Each folder is that of an unpacked wheel for the Python that runs this. Importing CuPy works without a driver;
`cuda.cublas` wants to find libcublas.so.12, of the nvidia-cublas-cu12 wheel, by LD_LIBRARY_PATH.
A function is recorded as its parameters, as far as all versions have them under one name: "a, axis, *, kind".
What Python knows no signature of (CuPy's methods are compiled) is read from the first line of its docstring.
"""

import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

MODULES = ("", "cuda", "cuda.cublas", "cuda.runtime", "lib.stride_tricks", "linalg", "random", "testing")
CLASSES = ("ndarray", "ufunc", "random.Generator", "cuda.MemoryHook", "cuda.Event", "cuda.Stream")
GENERIC = {"reshape": "*shape, order", "transpose": "*axes"}  # methods whose docstrings call these something else


def describe(value):
    """What is recorded of `value`: "ufunc", "class", "module", "value", or a function's parameters."""
    if type(value).__name__ in ("ufunc", "_GUFunc"):
        return "ufunc"
    if inspect.ismodule(value):
        return "module"
    if inspect.isclass(value):
        return "class"
    if not callable(value):
        return "value"
    try:
        parameters = inspect.signature(value).parameters.values()
    except ValueError:
        return from_docstring(value)
    names, keywords = [], False
    for p in parameters:
        if p.kind is p.KEYWORD_ONLY and not keywords:
            names.append("*")
        keywords = keywords or p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        names.append({p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "") + p.name)
    return ", ".join(name for name in names if name not in ("self", "/"))


def from_docstring(value):
    """The parameters in a first line such as "Generator.random(self, size=None, dtype=numpy.float64) -> array"."""
    name = value.__name__
    found = re.match(rf"[\w.]*\b{name}\((.*?)\)(?: -> .*)?$", (value.__doc__ or "").strip().partition("\n")[0])
    if found is None:
        return GENERIC.get(name, "*args, **kwargs")
    parts = re.sub(r"\([^()]*\)", "", found.group(1)).split(",")
    names = [part.partition("=")[0].split() or [""] for part in parts]  # "Py_ssize_t axis1=0": the type goes
    return ", ".join(name[-1] for name in names if name[-1] not in ("self", "/", ""))


def record():
    """Everything public in the CuPy that can be imported."""
    cupy = importlib.import_module("cupy")
    recorded = {"version": cupy.__version__, "modules": {}, "classes": {}}
    for name in MODULES:
        path, _, last = name.rpartition(".")
        parent = importlib.import_module(f"cupy.{path}".rstrip("."))
        module = getattr(parent, last) if last == "cublas" else importlib.import_module(f"cupy.{name}".rstrip("."))
        public = {n: getattr(module, n) for n in dir(module) if not n.startswith("_")}
        recorded["modules"][name] = {n: describe(value) for n, value in public.items()}
    for name in CLASSES:
        path, _, last = name.rpartition(".")
        of_class = getattr(importlib.import_module(f"cupy.{path}".rstrip(".")), last)
        recorded["classes"][name] = {n: describe(getattr(of_class, n)) for n in dir(of_class)}
    return recorded


def common(kinds):
    """One description from those of all versions: the parameters that all have, in the order of the first."""
    if len(set(kinds)) == 1:
        return kinds[0]
    lists = [kind.split(", ") for kind in kinds]
    return ", ".join(name for name in lists[0] if all(name in names or name == "*" for names in lists))


def intersect(records):
    """What all `records` have: names by module and by class, each with its common description."""
    together = {"versions": [r["version"] for r in records]}
    for part in ("modules", "classes"):
        together[part] = {}
        for group in records[0][part]:
            names = set.intersection(*(set(r[part][group]) for r in records))
            together[part][group] = {n: common([r[part][group][n] for r in records]) for n in sorted(names)}
    return together


if __name__ == "__main__":
    if sys.argv[1:] == ["--one"]:
        print(json.dumps(record()))
        sys.exit()
    output = [
        subprocess.check_output(
            [sys.executable, "-P", __file__, "--one"],
            env=os.environ | {"PYTHONPATH": folder},
            encoding="utf-8",
        )
        for folder in sys.argv[1:]
    ]
    path = Path(__file__).parent / "cupy" / "interface.json"
    interface = json.dumps(intersect([json.loads(text) for text in output]), indent=0, sort_keys=True)
    path.write_text(interface + "\n", encoding="utf-8")
    print(path)
