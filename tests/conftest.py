"""What all tests share: the gradient check, and the lines at the end that say what was checked and compared.

    def test_layer_norm_gradients(assert_gradients):
        assert_gradients(LayerNorm(8), x)

Arrays come from the backend in use: see `arrays.py`. Every check is kept with its test's report, so that it
also arrives when pytest-xdist runs the test in another process.
"""

import importlib
import sys
from dataclasses import asdict, replace
from pathlib import Path

import hypothesis
import pytest

from arrays import xp
from minireformer import EncoderDecoder, EncoderDecoderConfig, Reformer, ReformerConfig, backend
from minireformer.tools.gradcheck import TOLERANCE, gradcheck

DOUBLE = Path(__file__).parent / "double"  # where `import cupy` finds the double

# The same examples in every run, and no time limit that a busy machine could miss.
hypothesis.settings.register_profile("minireformer", deadline=None, derandomize=True)
hypothesis.settings.load_profile("minireformer")


def pytest_collection_modifyitems(config, items):
    """On CuPy or its double, leave out the tests that are marked `once`: on NumPy they say the same."""
    if backend.active().__name__ != "numpy":
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("once")])
        items[:] = [item for item in items if not item.get_closest_marker("once")]


@pytest.fixture(autouse=True)
def same_backend_afterwards():
    """A test that switches backends does so for itself alone."""
    name = backend.active().__name__
    yield
    backend.use(name)


@pytest.fixture
def cupy(monkeypatch):
    """The double, for one test: what is installed under CuPy's name comes back afterwards."""
    here = getattr(sys.modules.get("cupy"), "__file__", "")
    if here and Path(here).parent == DOUBLE / "cupy":
        yield sys.modules["cupy"]
        return
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "cupy"}
    for name in before:
        del sys.modules[name]
    monkeypatch.syspath_prepend(DOUBLE)
    backend._import_cupy.cache_clear()
    yield importlib.import_module("cupy")
    backend.use("numpy")
    backend._import_cupy.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "cupy"]:
        del sys.modules[name]
    sys.modules.update(before)


@pytest.fixture
def counts(cupy):
    """How often arrays were moved ("to_device", "to_host") and the host waited ("synchronize"), from 0."""
    counts = importlib.import_module("cupy._memory").counts
    counts.clear()
    return counts


TINY = ReformerConfig(
    vocab_size=11,
    d_model=12,
    n_heads=2,
    d_head=5,
    d_ff=16,
    attn_layers=("lsh", "local", "full", "shared_full", "lsh"),
    lsh_chunk_len=4,
    local_chunk_len=6,
    n_hashes=2,
    n_buckets=4,
    axial_shape=(4, 8),
    axial_dims=(4, 8),
    max_len=32,
    dropout=0.1,
    attention_dropout=0.1,
    ff_chunk_len=7,
    loss_chunk_len=5,
)
OF_PAIRS = {"source_vocab_size": 9, "encoder_layers": ("lsh", "local"), "attn_layers": ("local", "full", "lsh")}
OF_PAIRS |= {"activation": "gelu", "dropout": 0.0, "attention_dropout": 0.0}  # relu has kinks


@pytest.fixture
def tiny_config():
    """`tiny_config(**changes)`: a model of every kind of layer, with chunks, buckets and sizes that differ."""
    return lambda **changes: replace(TINY, **changes)


@pytest.fixture
def tiny_pair_config():
    """The same for an `EncoderDecoderConfig`."""
    return lambda **changes: EncoderDecoderConfig(**asdict(TINY) | OF_PAIRS | changes)


@pytest.fixture
def tiny_model(tiny_config, tiny_pair_config):
    """`tiny_model(dtype="float64", seed=0, pairs=False, **changes)`: such a model, without zeros that hide errors."""

    def make(dtype="float64", seed=0, pairs=False, **changes):
        kind, config = (EncoderDecoder, tiny_pair_config) if pairs else (Reformer, tiny_config)
        model = kind(config(**changes), seed=seed, dtype=dtype)
        random = xp.random.default_rng(seed)
        for param in model.params.values():
            param += 0.1 * random.standard_normal(param.shape)
        return model

    return make


@pytest.fixture
def assert_gradients(record_property):
    """`assert_gradients(target, *inputs, name=None, **settings)`: `gradcheck` of these finds no error.

    `name` is what the check counts as in the summary; it defaults to that of the layer or function.
    """

    def check(target, *inputs, name=None, **settings):
        report = gradcheck(target, *inputs, **settings)
        # Before the assert, for a failure counts too. A NumPy float would not survive pytest-xdist.
        record_property("gradient", (name or report.target, float(report.worst)))
        assert report.worst < TOLERANCE, str(report)

    return check


def pytest_terminal_summary(terminalreporter):
    """Print how many functions and layers were gradient-checked, and how close other Reformers' numbers are."""
    reports = [
        report
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"  # those of set-up and teardown repeat the properties
    ]
    checks, parity = (
        [value for report in reports for key, value in report.user_properties if key == name]
        for name in ("gradient", "parity")
    )
    if checks:
        n_checked = len({name for name, _ in checks})
        name, worst = max(checks, key=lambda check: check[1])
        terminalreporter.write_sep("-", "gradients")
        terminalreporter.write_line(
            f"{n_checked} functions and layers checked against finite differences in float64, "
            f"{len(checks)} checks; largest relative error {worst:.1e} ({name})"
        )
    if parity:
        terminalreporter.write_sep("-", "parity")
        for line in parity_table(parity):
            terminalreporter.write_line(line)


def parity_table(cases):
    """Lines with the largest differences of cases (library, float32, float64, loss, gradient), by library.

    None stands for what was not compared.
    """
    columns = ("logits, float32", "float64", "loss", "gradient")
    lines = [f"{'largest differences from':24} {'cases':>5}  {'  '.join(f'{column:>8}' for column in columns)}"]
    for library in dict.fromkeys(case[0] for case in cases):
        own = [case[1:] for case in cases if case[0] == library]
        worst = ["-" if None in numbers else f"{max(numbers):.1e}" for numbers in zip(*own)]
        cells = (f"{text:>{max(8, len(column))}}" for text, column in zip(worst, columns))
        lines.append(f"{library:24} {len(own):5}  {'  '.join(cells)}")
    return lines
