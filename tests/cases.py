"""minireformer beside another Reformer: the same weights, tokens and rotations, and how far apart the numbers are.

A case is a dict of arrays and texts that `fixtures/peers.py` made with Hugging Face's library, which is not needed to
compare. Tests read cases from `fixtures/`, `make parity` makes new ones.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

import minireformer as mr
from minireformer import backend

FIXTURES = Path(__file__).parent / "fixtures"
FORWARD = {"float32": 1e-5, "float64": 1e-10}  # the largest differences that are allowed, absolute:
GRADIENT = 1e-8  # logits are sums of a dozen products of size 1. Relative, in float64


PUBLIC_CONFIGS = {  # of google/reformer-enwik8 and google/reformer-crime-and-punishment, as far as they matter
    "enwik8": {
        "attn_layers": ["local", "local", "lsh", "local"] * 3,
        "hidden_size": 1024,
        "feed_forward_size": 4096,
        "num_attention_heads": 8,
        "attention_head_size": 128,
        "lsh_attn_chunk_length": 256,
        "local_attn_chunk_length": 128,
        "num_buckets": 512,
        "num_hashes": 4,
        "axial_pos_shape": [128, 512],
        "axial_pos_embds_dim": [256, 768],
        "max_position_embeddings": 65536,
        "vocab_size": 258,
        "is_decoder": True,
    },
    "crime and punishment": {
        "attn_layers": ["local", "lsh"] * 3,
        "hidden_size": 256,
        "feed_forward_size": 512,
        "num_attention_heads": 2,
        "attention_head_size": 64,
        "lsh_attn_chunk_length": 64,
        "local_attn_chunk_length": 64,
        "num_buckets": [64, 128],
        "num_hashes": 1,
        "axial_pos_shape": [512, 1024],
        "axial_pos_embds_dim": [64, 192],
        "max_position_embeddings": 524288,
        "vocab_size": 320,
        "is_decoder": True,
    },
}


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
    floor = max(1e-6 * max(map(_largest, expected.values())), 1e-12)
    relative = {name: _largest(grads[name] - e) / max(_largest(e), floor) for name, e in expected.items()}
    worst = max(relative, key=relative.get)
    return Differences(float32, float64, abs(loss - float(case["loss"])), relative[worst], worst, theirs)


class PaperDifferences(NamedTuple):
    """The largest of a case of lucidrains' LSHAttention, relative to the largest number, in float64."""

    forward: float
    gradient: float
    allowed: float

    @property
    def fit(self):
        """Whether both are small enough."""
        return max(self.forward, self.gradient) <= self.allowed


def paper_differences(case):
    """`PaperDifferences` between a case that `fixtures/make_lucidrains.py` made and `mr.lsh_attention`.

    Their logits are divided by sqrt(D). So are queries here: keys have length 1 whatever they are multiplied with.
    Where a key counts once, theirs subtracts log(N + 1e-9), so that weights differ by 1e-9, and for a "border" token
    they differ by far more: see `make_lucidrains.py`.
    """
    temperature = case["qk"].shape[-1] ** -0.5
    qk, v, buckets, dout = (backend.asarray(case[key]) for key in ("qk", "v", "buckets", "dout"))
    out, cache = mr.lsh_attention(qk * temperature, v, buckets, chunk_len=case["chunk_len"], **case["options"])
    dqk, dv = mr.lsh_attention_backward(dout, cache)
    size = _largest(case["out"])
    forward = _largest((backend.to_numpy(out) - case["out"])[~case["border"]]) / size
    pairs = [(dqk * temperature, case["dqk"]), (dv, case["dv"])]
    gradient = max(_largest(backend.to_numpy(ours) - theirs) / _largest(theirs) for ours, theirs in pairs)
    return PaperDifferences(forward, gradient, 1e-9 if case["options"]["count_once"] else 1e-11)


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
        arrays |= {f"{name}/{key}": np.ascontiguousarray(v) for key, v in case.items() if _is_array(v)}
        about[name] = {key: value for key, value in case.items() if not _is_array(value)}
    safetensors.numpy.save_file(arrays, path, metadata={"cases": json.dumps(about)})
    path.chmod(0o644)


def table(rows):
    """Lines that show `rows`, of (name, Differences)."""
    lines = [f"{'':46} {'float32':>9} {'float64':>9} {'loss':>9} {'gradient':>9} {'(theirs)':>9}"]
    for name, d in rows:
        lines.append(f"{name:46} {d.float32:9.1e} {d.float64:9.1e} {d.loss:9.1e} {d.gradient:9.1e} {d.theirs:9.1e}")
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
    return float(np.abs(values).max(initial=0))


def _is_array(value):
    return isinstance(value, np.ndarray)
