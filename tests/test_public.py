"""The public surface: every name that notebooks and other people's code use is there, once."""

import importlib
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest

import minireformer as mr

pytestmark = pytest.mark.once

NAMES = """
    ReformerConfig Reformer Reformer.forward Reformer.backward Reformer.loss_and_grads Reformer.load_params
    Reformer.save Reformer.load Adam Adam.step Adafactor Adafactor.step train generate stream beam_search CachedDecoder
    from_huggingface to_huggingface huggingface.state_dict random_rotations hash_vectors sort_by_bucket
    AttentionOptions lsh_attention lsh_attention_backward local_attention local_attention_backward
    full_attention full_attention_backward collision_probability gradcheck memory.peak memory.nbytes memory.predict
    EncoderDecoder EncoderDecoderConfig data.ByteCorpus data.ImageCorpus
    data.duplicate_task data.standard_library data.text_files backend.use backend.get_xp __version__
""".split()
MODULES = [module.name for module in pkgutil.walk_packages(mr.__path__, "minireformer.")]


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_there(name):
    found = mr
    for part in name.split("."):
        found = getattr(found, part)
    assert name.partition(".")[0] in [*mr.__all__, "__version__"]


def test_public_names_are_said_once_and_in_order():
    assert mr.__all__ == sorted(set(mr.__all__), key=lambda name: (name.islower(), name))
    functions = [name for name in mr.__all__ if not isinstance(getattr(mr, name), ModuleType)]
    assert not {f"minireformer.{name}" for name in functions} & set(MODULES)  # no module hides behind a function


def test_completion_offers_the_public_names_and_nothing_else():
    assert dir(mr) == sorted([*mr.__all__, "__version__"])
    assert mr.attention.full_attention is mr.full_attention  # a module is still found by name


def test_the_import_brings_nothing_that_takes_long():
    """It takes a fifth of a second beyond NumPy's. `python -X importtime -c "import minireformer"` shows of what."""
    code = "import sys, minireformer; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert not {"IPython", "PIL", "importlib.metadata", "matplotlib", "mpi4py", "pandas", "tqdm"} & set(
        run.stdout.split()
    )


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_found_under_its_own_name(name):
    """`import minireformer.tools.gradcheck as m` gives the module, though `mr.gradcheck` is the function in it."""
    if name.endswith("plots"):
        pytest.importorskip("matplotlib")
    module = importlib.import_module(name)
    folder, _, last = name.rpartition(".")
    assert getattr(importlib.import_module(folder), last) is module


def test_functions_and_their_modules_both_have_names():
    import minireformer.tools.gradcheck as module

    assert mr.gradcheck is module.gradcheck
    assert mr.memory is importlib.import_module("minireformer.tools.memory")
    assert mr.huggingface is importlib.import_module("minireformer.interop.huggingface")
    assert mr.data is importlib.import_module("minireformer.training.data")
