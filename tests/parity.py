"""minireformer beside another Reformer: the same weights, tokens and rotations, and how far apart the numbers are.

A case is a dict of arrays and texts that `fixtures/peers.py` made with Hugging Face's library, which is not needed to
compare. Tests read cases from `fixtures/`, `make parity` makes new ones.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy
import safetensors
import safetensors.numpy

import minireformer as mr
from minireformer import backend

FIXTURES = Path(__file__).parent / "fixtures"
FORWARD = {"float32": 1e-5, "float64": 1e-10}  # the largest differences that are allowed, absolute:
GRADIENT = 1e-8  # logits are sums of a dozen products of size 1. Relative, in float64


class Differences(NamedTuple):
    """The largest of a case."""

    float32: float  # of the logits, absolute: from theirs in float32, or in float64 where `theirs` is too large
    float64: float
    loss: float  # absolute, in float64
    gradient: float  # relative to the largest entry of a parameter's gradient, in float64
    parameter: str  # whose gradient that is
    theirs: float  # between their logits in float32 and in float64

    @property
    def fit(self):
        """Whether all are small enough."""
        return (
            self.float32 <= FORWARD["float32"]
            and max(self.float64, self.loss) <= FORWARD["float64"]
            and self.gradient <= GRADIENT
        )


def differences(case):
    """`Differences` between a case and what minireformer computes.

    Where a mask hides a token, its own logits are nobody's business and are left out. A token that sees nothing but
    itself in several rounds has a logit of -1e5 there in their code, which float32 knows to 1/256: their output for
    it, its own value, is then off by up to 0.4 %. So is what comes of it, and only float64 can be compared.
    """
    visible = case["mask"] if "mask" in case and case["head"] != "sequence" else slice(None)
    single, double = (case[f"logits/{dtype}"][visible] for dtype in FORWARD)
    theirs = _largest(single - double)
    _, logits = _logits(case, "float32")
    float32 = _largest(logits[visible] - (single if theirs <= FORWARD["float32"] else double))
    model, logits = _logits(case, "float64")
    float64 = _largest(logits[visible] - double)
    given = _given(case) | {"mask": _array(case.get("counts"))}
    loss, grads = model.loss_and_grads(_array(case["tokens"]), _array(case["targets"]), **given)
    grads = {name: backend.to_numpy(grad) for name, grad in mr.huggingface.state_dict(model, grads).items()}
    expected = {name[len("gradients/") :]: value for name, value in case.items() if name.startswith("gradients/")}
    assert grads.keys() == expected.keys()
    # A gradient that is 0 but for rounding is compared with the largest of all.
    floor = 1e-6 * max(map(_largest, expected.values()))
    relative = {name: _largest(grads[name] - e) / max(_largest(e), floor) for name, e in expected.items()}
    worst = max(relative, key=relative.get)
    return Differences(float32, float64, abs(loss - float(case["loss"])), relative[worst], worst, theirs)


def load_cases(path):
    """The cases that `save_cases` wrote, a dict by name."""
    with safetensors.safe_open(path, framework="numpy") as file:
        cases = json.loads(file.metadata()["cases"])
        for key in file.keys():
            name, _, part = key.partition("/")
            cases[name][part] = file.get_tensor(key)
    return cases


def save_cases(path, cases):
    """Write cases, a dict by name, to a safetensors file: arrays as they are, the rest as one JSON text."""
    arrays, about = {}, {}
    for name, case in cases.items():
        arrays |= {f"{name}/{key}": numpy.ascontiguousarray(v) for key, v in case.items() if _is_array(v)}
        about[name] = {key: value for key, value in case.items() if not _is_array(value)}
    safetensors.numpy.save_file(arrays, path, metadata={"cases": json.dumps(about)})
    path.chmod(0o644)


def table(rows):
    """Lines that show `rows`, of (name, Differences)."""
    lines = [f"{'':32} {'float32':>9} {'float64':>9} {'loss':>9} {'gradient':>9} {'(theirs)':>9}"]
    for name, d in rows:
        lines.append(f"{name:32} {d.float32:9.1e} {d.float64:9.1e} {d.loss:9.1e} {d.gradient:9.1e} {d.theirs:9.1e}")
    return lines


def _logits(case, dtype):
    weights = {name.removeprefix("weights/"): case[name] for name in case if name.startswith("weights/")}
    config = case["config"] | ({} if case["num_hashes"] is None else {"num_hashes": case["num_hashes"]})
    model = mr.from_huggingface(weights, config, dtype)
    return model, backend.to_numpy(model(_array(case["tokens"]), **_given(case)))


def _given(case):
    return {"key_mask": _array(case.get("mask")), "rotations": _array(case.get("rotations"))}


def _array(values):
    return None if values is None else backend.asarray(values)


def _largest(values):
    return float(numpy.abs(values).max(initial=0))


def _is_array(value):
    return isinstance(value, numpy.ndarray)
