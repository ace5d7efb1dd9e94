"""What README and docs/ say is so: their code runs, their numbers were measured, and what they point to is there."""

import json
import re
from pathlib import Path

import pytest

import minireformer as mr
from minireformer import backend

ROOT = Path(__file__).parents[1]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]}
README = PAGES["README.md"]
LESSONS = sorted(ROOT.glob("notebooks/[0-9]*.ipynb"))


def code(page):
    """The one example in Python of a page."""
    (example,) = re.findall(r"```python\n(.*?)```", PAGES[page], flags=re.DOTALL)
    return example


# Its examples


def test_the_first_example_prints_what_the_readme_shows(capsys):
    def without_rounding_errors(text):
        return re.sub(r"\d\.\d+e-\d\d", "tiny", text)

    backend.use("numpy")  # whose arrays it makes
    names = {}
    exec(code("README.md"), names)
    (shown,) = re.findall(r"```text\n(.*?)```", README, flags=re.DOTALL)
    assert without_rounding_errors(capsys.readouterr().out) == without_rounding_errors(shown)
    assert max(map(float, re.findall(r"\d\.\d+e-\d\d", shown))) < 1e-8
    assert names["grads"].keys() == names["layer"].params.keys()


def test_the_example_of_training_writes_and_saves_a_model(monkeypatch, tmp_path, capsys):
    trains = code("start.md")
    assert len([line for line in trains.splitlines() if line]) <= 14  # "twelve lines", and those of a long call
    monkeypatch.chdir(tmp_path)
    assert trains.count("steps=50") == trains.count("100,") == 1  # made shorter here
    names = {}
    exec(trains.replace("steps=50", "steps=2").replace("100,", "3,"), names)
    bits, text = capsys.readouterr().out.split("\n", 1)
    assert 4 < float(bits) < 10 and text.startswith("def forward(self")
    loaded = mr.Reformer.load(tmp_path / "reformer.safetensors")
    assert all((loaded.params[name] == param).all() for name, param in names["model"].params.items())


def test_the_example_of_a_checkpoint_loads_writes_and_saves_it(monkeypatch, tmp_path):
    config = mr.ReformerConfig(
        vocab_size=258, d_model=8, n_heads=1, d_head=4, d_ff=8, axial_shape=(8, 16), max_len=128, lsh_chunk_len=16
    )
    monkeypatch.chdir(tmp_path)
    mr.to_huggingface(mr.Reformer(config), "reformer-enwik8")
    loads = code("huggingface.md")
    assert loads.count("50,") == 1  # made shorter here
    names = {}
    exec(loads.replace("50,", "3,"), names)
    assert names["text"].startswith(b"In 1965, Brooks left IBM") and len(names["text"]) == 24 + 3
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["config.json", "model.safetensors"]


# Its numbers


def recorded(name):
    return json.loads((ROOT / "benchmarks" / name).read_text(encoding="utf-8"))


@pytest.mark.once
def test_the_speed_memory_and_size_of_the_readme_are_recorded():
    attention = recorded("speed/results/attention.json")["lengths"]["16384"]
    seconds = [f"{attention[name]['seconds']:.2f} s" for name in ("minireformer", "lucidrains", "exact (torch)")]
    step = recorded("speed/results/training_step.json")["lengths"]["4096"]
    megabytes = [f"{step[name]['peak_mb']:.0f} MB" for name in ("minireformer", "lucidrains", "Hugging Face")]
    million = recorded("paper/results/million_tokens.json")["lengths"]["1048576"]
    said = re.search(r"^## Speed, memory, size\n(.*?)^## ", README, flags=re.MULTILINE | re.DOTALL)[1]
    speed, memory, size = said.split("\n- ")[1:]
    assert re.findall(r"\d\.\d\d s", speed) == seconds
    assert re.findall(r"\d\d+\sMB", memory.replace("\n ", "")) == megabytes
    assert "million tokens" in size and len(million["config"]["attn_layers"]) == 6
    assert re.search(r"(\d+) minutes and (\d\.\d) GB", size).groups() == (
        f"{million['seconds'] / 60:.0f}",
        f"{million['peak_resident_bytes'] / 1e9:.1f}",
    )


@pytest.mark.once
def test_the_page_on_memory_says_what_is_recorded_of_the_motivating_example():
    example = recorded("paper/results/motivating_example.json")
    page = (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")
    assert example["config"]["max_len"] == 65536 and 745 < example["seconds"] < 755
    assert f"took 750 s and at most {example['peak_resident_bytes'] / 1e9:.1f} GB" in page
    batch = recorded("paper/results/motivating_batch.json")
    assert (batch["batch"], batch["length"], len(batch["config"]["attn_layers"])) == (8, 65536, 12)
    took = f"took {batch['seconds'] / 60:.0f} minutes and at most {batch['peak_resident_bytes'] / 1e9:.1f} GB"
    assert took in page.replace("\n", " ")


@pytest.mark.once
def test_the_page_on_generation_says_what_is_recorded_of_very_long_texts():
    lengths = recorded("speed/results/long_context.json")["lengths"]
    rows = {
        "tokens of context": [f"{int(length):,}" for length in lengths],
        "LSH layers": [str(row["layers"]) for row in lengths.values()],
        "seconds for the prompt": [f"{row['prompt_s']:.0f}" for row in lengths.values()],
        "milliseconds for a new token": [f"{1e3 * row['cached_s']:.1f}" for row in lengths.values()],
        "GB while tokens are generated": [f"{row['resident_bytes'] / 1e9:.1f}" for row in lengths.values()],
        "GB at most, while the prompt is read": [f"{row['peak_resident_bytes'] / 1e9:.1f}" for row in lengths.values()],
    }
    for name, cells in rows.items():
        assert f"| {name} | {' | '.join(cells)} |" in PAGES["generation.md"]


def minutes(path):
    """How long a notebook takes without its exercises, by its first cell."""
    first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
    said = re.search(r"\*\*Time:?\*\*:? (.*)", first)[1]
    return re.search(r"(\d+) minutes|an hour", said)[1] or "60"


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.name)
@pytest.mark.once
def test_the_course_lists_a_notebook_with_its_minutes(path):
    number = path.name.partition("_")[0]
    (row,) = re.findall(rf"^\| \[{number} [^\]]*\]\(notebooks/{path.name}\) \|.*$", README, flags=re.MULTILINE)
    assert row.split(" | ")[2:] == [minutes(path), f"[![Colab][badge]][{number}] |"]
    assert re.search(rf"^\[{number}\]: https://colab\.\S+/notebooks/{path.name}$", README, flags=re.MULTILINE)


# What it points to


@pytest.mark.once
def test_the_readme_is_short():
    assert len(README.split()) <= 900


TARGETS = [(page, "".join(found)) for page in PAGES for found in re.findall(
    r"\]\((?!http)([^)#]+)\)|src=\"([^\"]+)\"|`((?:minireformer|benchmarks)/[\w./]*\w\.\w+)`", PAGES[page]
)]  # fmt: skip


@pytest.mark.parametrize("page, target", sorted(set(TARGETS)))
@pytest.mark.once
def test_every_file_that_a_page_names_is_there(page, target):
    named_from_the_top = page == "README.md" or target.startswith(("minireformer/", "benchmarks/"))
    assert ((ROOT if named_from_the_top else ROOT / "docs") / target).exists()


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.once
def test_pictures_say_what_they_show(page):
    for alt in re.findall(r"!\[([^\]]+)\]\((?!http)|alt=\"([^\"]+)\"", PAGES[page]):
        assert len("".join(alt)) >= 100


@pytest.mark.parametrize("page", ["speed.md", "memory.md", "generation.md", "claims.md"])
@pytest.mark.once
def test_a_page_of_measurements_says_how_to_repeat_them(page):
    commands = re.findall(r"python (benchmarks/\S+\.py)|^(make bench)\b", PAGES[page], flags=re.MULTILINE)
    assert commands
    assert all((ROOT / script).exists() for script, _ in commands if script)


@pytest.mark.once
def test_the_reference_describes_every_public_name():
    described = set(
        re.findall(r"^(?:\.\. auto\w+|\.\. currentmodule):: (\S+?)(?:\(\))?$", PAGES["reference.md"], re.MULTILINE)
    )
    modules = {name.removeprefix("minireformer.") for name in described}
    assert set(mr.__all__) <= described | modules
