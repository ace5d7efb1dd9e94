"""The explorable "tokens" computes what the package computes, and says at each step what it has computed."""

import json
import re
import shutil
import subprocess

import pytest

pytest.importorskip("matplotlib")

from explorable_cases_tokens import CASES
from minireformer.course import explore

pytestmark = pytest.mark.once

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="no node; `make test-browser` computes the same in a browser")


def run(script, folder):
    (folder / "script.js").write_text(script, encoding="utf-8")
    done = subprocess.run([NODE, folder / "script.js"], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What the JavaScript computes for each case, in one run."""
    return run("".join(f"console.log({case.script});\n" for case in CASES), tmp_path_factory.mktemp("tokens"))


@needs_node
@pytest.mark.parametrize("place", range(len(CASES)), ids=[case.name for case in CASES])
def test_javascript_gives_the_numbers_of_the_package(place, answers):
    assert CASES[place].difference(answers[place]) <= 1e-6


EVERY_STEP = """
const { STEPS, LAST, BACKWARD, MISTAKES, look, marks, placing, say, shape, symbols } = modules["tokens_steps.js"];
const { VECTORS } = modules["tokens_maths.js"];
for (let step = 0; step <= LAST; step++)
  for (const nRounds of [1, 3])
    for (const chunkLen of [2, 8])
      for (const causal of [true, false])
        for (const [mistake] of MISTAKES)
          for (const follow of [0, 15]) {
            const all = nRounds === 3 && causal;
            const choices = { step, nRounds, chunkLen, causal, mistake, follow, all, round: nRounds - 1 };
            const s = look({ ...choices, vectors: VECTORS });
            const { name, code, words, table } = STEPS[step];
            const { title, columns, rows } = table(s);
            const texts = [name, say(code, s), shape(s), say(words, s), title, symbols(s)];
            const ragged = rows.some(([, cells]) => columns.length && cells.length !== columns.length);
            console.log(JSON.stringify({ choices, texts, ragged, rows, marks: marks(s), once: placing(step) }));
          }
"""


@pytest.fixture(scope="module")
def every_step(tmp_path_factory):
    """All that the figure says at every step, for many choices of the reader: lines of JSON."""
    return run(f"{explore.definitions('tokens_steps')}{EVERY_STEP}", tmp_path_factory.mktemp("steps"))


@needs_node
def test_every_step_has_its_sentence_its_code_and_its_numbers_whatever_the_reader_chose(every_step):
    assert len(every_step) == 19 * 2 * 2 * 2 * 4 * 2
    for line in every_step:
        found = json.loads(line)
        assert not any(hole in line for hole in ("undefined", "NaN", "null", "Infinity")), line
        assert not found["ragged"] and found["rows"], line
        assert len(found["texts"][3]) <= 240, found["texts"][3]
        assert len(found["marks"]) == 16 * found["choices"]["nRounds"]


@needs_node
def test_what_the_code_calls_by_a_letter_is_explained_there_or_before(every_step):
    explained = {"np", "T", "R", "N"}  # the shape says what the capitals are
    for found in map(json.loads, every_step):
        choices = found["choices"]
        if choices["mistake"] != "none" or choices["nRounds"] != 3 or choices["chunkLen"] != 2 or choices["follow"]:
            continue
        if choices["step"] == 0:
            seen = set(explained)
        _, code, _, _, _, symbols = found["texts"]
        seen |= set(re.findall(r"[^\W\d]+", symbols))
        letters = re.findall(r"(?<![\w.\"=])(?:[^\W\d]|d[A-Z]\w*|delta|place|length|dqk|dv)(?![\w])", code)
        assert set(letters) <= seen, (code, set(letters) - seen)


@needs_node
def test_numbers_are_red_at_the_end_if_and_only_if_the_mistake_spoils_the_gradient(every_step):
    for found in map(json.loads, every_step):
        red, choices = '"wrong": true' in json.dumps(found["rows"]), found["choices"]
        assert not red or (choices["mistake"] != "none" and choices["step"] > 10)
        if choices["step"] == 18 and choices["mistake"] != "none":
            assert red == found["texts"][3].startswith("Red is")


def test_the_modules_are_short():
    for path in explore.FOLDER.glob("tokens*.js"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 400 and max(map(len, lines)) <= 120, path.name


@pytest.mark.parametrize(
    "line, packed",
    [
        ("const f = (a, b) => { return a - -b; }; // why\n", "const f=(a,b)=>{return a - -b;};\n"),
        ("""say("a = b", 'c (d)', `e ? f`);\n""", """say("a = b",'c (d)',`e ? f`);\n"""),
        ("x = /a , b/.test(`${c ? `d = e` : f}`);\n",) * 2,
    ],
)
def test_packing_leaves_strings_templates_and_regular_expressions_as_they_are(line, packed):
    assert explore._tight(line) == packed
