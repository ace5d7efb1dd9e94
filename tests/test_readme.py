"""What the README says is so: its code runs, and what it points to is there."""

import re
from pathlib import Path

import pytest

import minireformer as mr
from minireformer import backend

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TRAINS, LOOKS_INSIDE, LOADS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_first_example_trains_writes_and_saves_a_model(monkeypatch, tmp_path, capsys):
    assert len([line for line in TRAINS.splitlines() if line]) <= 14  # "twelve lines", and those of a long call
    monkeypatch.chdir(tmp_path)
    assert TRAINS.count("steps=50") == TRAINS.count("100,") == 1  # made shorter here
    names = {}
    exec(TRAINS.replace("steps=50", "steps=2").replace("100,", "3,"), names)
    bits, text = capsys.readouterr().out.split("\n", 1)
    assert 4 < float(bits) < 10 and text.startswith("def forward(self")
    loaded = mr.Reformer.load(tmp_path / "reformer.safetensors")
    assert all((loaded.params[name] == param).all() for name, param in names["model"].params.items())


def test_the_second_example_checks_the_gradients_of_a_layer(capsys):
    backend.use("numpy")  # whose arrays it makes
    names = {}
    exec(LOOKS_INSIDE, names)
    assert capsys.readouterr().out.startswith("LSHAttention: every gradient is right")
    assert names["grads"].keys() == names["layer"].params.keys()


def test_the_third_example_loads_writes_and_saves_a_checkpoint(monkeypatch, tmp_path):
    config = mr.ReformerConfig(
        vocab_size=258, d_model=8, n_heads=1, d_head=4, d_ff=8, axial_shape=(8, 16), max_len=128, lsh_chunk_len=16
    )
    monkeypatch.chdir(tmp_path)
    mr.to_huggingface(mr.Reformer(config), "reformer-enwik8")
    assert LOADS.count("50,") == 1  # made shorter here
    names = {}
    exec(LOADS.replace("50,", "3,"), names)
    assert names["text"].startswith(b"In 1965, Brooks left IBM") and len(names["text"]) == 24 + 3
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)|`(\w+/[\w./]*\w\.\w+)`", README))))
def test_every_file_that_the_readme_names_is_there(target):
    assert (ROOT / "".join(target)).exists()
