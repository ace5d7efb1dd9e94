"""The ladder of `notebooks/puzzles.ipynb`: every answer is right, and typical wrong ones are recognised and drawn."""

import re

import numpy as np
import pytest
from ladder import NUMBERS, SOLUTION
from wrong_answers import WRONG

import minireformer as mr
from minireformer import backend
from minireformer.course import capstone, puzzles
from minireformer.course.puzzle_rung import jacobian, problem
from minireformer.course.puzzles import LAST, RUNGS, check

pytestmark = [
    pytest.mark.once,  # the puzzles are NumPy all the way
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # some wrong answers divide by zero
]

GENERIC = r"entries are wrong|its shape is|NaN or infinite|every entry is|every sign is reversed|Your code stopped"


@pytest.mark.parametrize("number", NUMBERS)
def test_the_solution_is_right(number, said, pictures):
    assert said(number).startswith(f"Rung {number}: right. ") and not pictures


@pytest.mark.parametrize("number, body, words", WRONG, ids=[f"{n}-{words}" for n, _, words in WRONG])
def test_a_typical_mistake_gets_its_own_hint_and_a_picture(number, body, words, said, pictures):
    text = said(number, body)
    assert text.startswith(f"Rung {number}: not right yet. ") and words in text
    assert not re.search(GENERIC, text)
    assert len(pictures) == ("Let each chunk go" not in words)


def test_every_rung_but_the_capstones_has_two_typical_mistakes():
    for number in RUNGS:
        assert sum(number == other for other, *_ in WRONG) >= 2
    assert set(NUMBERS) == {*RUNGS, LAST}  # those of the last are in test_capstone.py


@pytest.mark.parametrize("number", RUNGS)
def test_no_hint_is_given_for_the_numbers_of_another_mistake_or_for_the_right_ones(number, names):
    rung = RUNGS[number]
    m = problem(rung, names[rung.name], rung.sizes[0])
    for name, (right, mistakes) in rung.gradients.items():
        m.right = right(m)
        m.found = np.full_like(m.right, np.nan)
        seen = [m.right]
        for hint, mistake in mistakes:
            if "another mask" not in hint:  # those depend on what was found
                seen.append(np.asarray(mistake(m), dtype=float))
                assert not any(puzzles._equal(seen[-1], other) for other in seen[:-1]), f"{name}: {hint}"


@pytest.mark.parametrize("number", RUNGS)
def test_finite_differences_agree_with_the_formulas(number, names):
    rung = RUNGS[number]
    for n in rung.sizes:
        m = problem(rung, names[rung.name], n)
        for name, (right, _) in rung.gradients.items():
            by_differences = m.dy.ravel() @ jacobian(rung, names[rung.name], m, name[1:])
            assert abs(by_differences - right(m).ravel()).max() < 1e-7


def test_the_last_rung_knows_the_mistakes_of_the_capstone(names, capsys):
    def says(old, new):
        exec(SOLUTION[24][0].replace(old, new), names)
        check("Rung 24", names["lsh_attention_backward"])
        return capsys.readouterr().out

    end = SOLUTION[24][0][SOLUTION[24][0].index("return {") :]
    assert "not finished. Right so far: P. The next piece is dvw" in says(end, 'return {"P": P}')
    assert "dS is wrong. Over all rounds" in says(" - delta[token][..., None])", ")")
    dP = "dy[token] @ v[window].swapaxes(1, 2)"
    alone = says(f"P * ({dP} - delta[token][..., None])", f"softmax_backward({dP}, logits(q, token, window))")
    assert "dS is wrong. Each round's weights" in alone
    weights = "np.exp(logits(q, token, window) - L[token][..., None])"
    assert "all rounds share one softmax" in says(weights, "softmax(logits(q, token, window))")
    first_line = f"P = {weights}"  # with one round it is right, and the other problems are looked at all the same
    wrong = 'return {"P": softmax(logits(q, token, window))}'
    assert first_line in SOLUTION[24][0] and "all rounds share one softmax" in says(first_line, wrong)
    assert "Is your dy sorted?" in says("@ dy[token]\n", "@ dy[np.arange(order.size).reshape(token.shape) % len(q)]\n")


def test_the_forward_pass_of_the_last_rung_is_the_librarys(names):
    assert (names["SELF"], names["FORBIDDEN"]) == (capstone.SELF, capstone.FORBIDDEN)
    q, v = np.random.default_rng(0).standard_normal((2, 24, 4))
    backend.use("numpy")
    rotations = mr.random_rotations(0, 1, 4, 3, 4, dtype="float64")
    buckets = mr.hash_vectors(q[None, None], rotations)
    order = mr.sort_by_bucket(buckets)[0, 0]
    out, _ = names["lsh_attention"](q, v, order, 4)
    library, _ = mr.lsh_attention(q[None, None], v[None, None], buckets, chunk_len=4)
    assert abs(out - library[0, 0]).max() < 1e-10
