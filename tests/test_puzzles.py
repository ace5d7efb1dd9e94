"""The ladder of `notebooks/puzzles.ipynb`: every answer is right, and typical wrong ones are recognised and drawn."""

import ast
import json
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

import matplotlib.pyplot as plt

import minireformer as mr
from minireformer import backend
from minireformer.course import capstone, puzzles
from minireformer.course.puzzle_picture import jacobians
from minireformer.course.puzzle_rung import jacobian, problem
from minireformer.course.puzzles import LAST, RUNGS, check, progress

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # some wrong answers divide by zero

FOLDER = Path(__file__).parents[1] / "notebooks"
NUMBERS = range(1, LAST + 1)
GENERIC = r"entries are wrong|its shape is|NaN or infinite|every entry is|every sign is reversed|Your code stopped"


def cells(path, kind="code"):
    return [
        "".join(c["source"])
        for c in json.loads((FOLDER / path).read_text(encoding="utf-8"))["cells"]
        if c["cell_type"] == kind
    ]


def rungs_of(path):
    """{1: (the source of the rung's functions, the names that its check gets), ...}"""
    sources = cells(path)
    calls = {i: re.fullmatch(r'check\("Rung (\d+)", (.*)\)', source) for i, source in enumerate(sources)}
    return {int(call[1]): (sources[i - 1], call[2].split(", ")) for i, call in calls.items() if call}


LESSON, SOLUTION = rungs_of("puzzles.ipynb"), rungs_of("solutions/puzzles.ipynb")

# A rung, what a reader might write in place of the last function's body, and words of the hint.
WRONG = [
    (1, "return dy", "sum over the broadcast axis is missing"),
    (1, "return dy.mean(axis=0)", "mean over the copies"),
    (1, "return dy.sum(axis=1)", "wrong axis"),
    (1, "return dy.sum(axis=0, keepdims=True)", "keepdims"),
    (1, "return dy[0]", "first row"),
    (2, "return np.zeros_like(x) + dy", "transposed"),
    (2, "return np.ones_like(x) * dy[:, None] / x.shape[1]", "a mean, not a sum"),
    (2, "return x * dy[:, None]", "multiply by x"),
    (2, "return dy[:, None]", "One column"),
    (3, "return dy.reshape(2, *x.shape).sum(axis=0)", "half of y apart"),
    (3, "return dy[::2]", "first copy"),
    (3, "return (dy[::2] + dy[1::2]) / 2", "mean of the copies"),
    (4, "return dy[index]", "You gather, where you have to scatter"),
    (4, "dx = np.zeros_like(x)\ndx[index] += dy\nreturn dx", "Repeats are lost"),
    (4, "return dy[np.argsort(index)]", "Only a permutation"),
    (5, "return dy[order]", "permute a second time"),
    (5, "return dy", "still in the order of y"),
    (6, "return sort_by_key(dy)", "Buckets rehashed"),
    (6, "return dy[np.argsort(np.argsort(bucket(dy), kind='stable'))]", "Buckets rehashed: you hash dy"),
    (6, "return dy[np.argsort(bucket(x), kind='stable')]", "sort a second time"),
    (7, "dx = np.zeros_like(x)\nfor i in range(len(dy)):\n    dx[i : i + 3] = dy[i]\nreturn dx", "overwrite"),
    (7, "index = np.arange(len(dy))[:, None] + np.arange(3)\ndx = 0 * x\ndx[index] += dy\nreturn dx", "overwrite"),
    (7, "return dy.sum(axis=1)", "come from one place"),
    (7, "return windows(np.pad(dy.sum(axis=1), 2)).sum(axis=1)", "hand a window's whole sum"),
    (8, "return dy @ B, A @ dy", "B should be transposed"),
    (8, "return B.T @ dy, dy @ A.T", "wrong order"),
    (8, "return dy @ B.T, (A.T @ dy).T", "dB: The whole of it is transposed"),
    (8, "return dy @ B.T, A @ dy", "A should be transposed"),
    (9, "return dy * x, dy * s[:, None]", "sum over the broadcast axis is missing"),
    (9, "return dy.sum(axis=1), dy * s[:, None]", "factor x is forgotten"),
    (9, "return (dy * x).sum(axis=1), dy * s", "Rows and columns are confused"),
    (9, "return (dy * x).sum(axis=1), dy", "factor s is missing"),
    (10, "return dy / length(x)", "A term is forgotten"),
    (10, "y = unit_length(x)\nreturn dy - y * (y * dy).sum(axis=1, keepdims=True)", "how far does a given move turn"),
    (10, "return (dy - x * (x * dy).sum(axis=1, keepdims=True)) / length(x)", "does not have length 1"),
    (10, "y = unit_length(x)\nreturn (dy + y * (y * dy).sum(axis=1, keepdims=True)) / length(x)", "A sign is wrong"),
    (10, "y = unit_length(x)\nreturn (dy - y * (y * dy).sum(axis=1)) / length(x)", "Rows and columns are confused"),
    (
        10,
        "n = np.linalg.norm(x, axis=1, keepdims=True)\nreturn dy / n - x * (x * dy).sum(axis=1, keepdims=True) / n**3",
        "tiny number",
    ),
    (10, "return dy / length(x) - x * (x * dy).sum(axis=1, keepdims=True)", "Yours are as long as x"),
    (
        10,
        "l = length(x)\ny = x / l\nreturn dy / l - y * (y * dy).sum(axis=1, keepdims=True)",
        "divide both terms by the length",
    ),
    (11, "return softmax(x)", "dy is forgotten"),
    (11, "return dy[:, None] * np.exp(x)", "which comes from the log"),
    (11, "return dy[:, None] * np.exp(x) / np.exp(x).sum(axis=0)", "Rows and columns are confused"),
    (11, "return dy[:, None] * np.exp(x) / np.exp(x).sum()", "all rows together"),
    (12, "return softmax(x) * dy", "A term is forgotten"),
    (12, "return softmax(x) * (1 - softmax(x)) * dy", "as for a sigmoid"),
    (12, "y = softmax(x)\nreturn y * (dy - (y * dy).sum(axis=0))", "you sum over columns"),
    (12, "y = softmax(x)\nreturn y * (dy - (y * dy).sum(axis=1))", "sums line up with columns"),
    (12, "y = softmax(x)\nreturn dy - y * (y * dy).sum(axis=1, keepdims=True)", "should multiply dy, too"),
    (12, "y = softmax(x)\nreturn y * ((y * dy).sum(axis=1, keepdims=True) - dy)", "Every sign is reversed."),
    (
        13,
        "P = np.exp(S - L[:, None])\ndP = dy @ V.T\nreturn P * (dP - (P * dP).sum(axis=1, keepdims=True)), P.T @ dy",
        "over these keys alone",
    ),
    (
        13,
        "P = softmax(S)\nreturn P * (dy @ V.T - (dy * O).sum(axis=1, keepdims=True)), P.T @ dy",
        "Which L belongs to all keys",
    ),
    (13, "return softmax_backward(dy @ V.T, S), softmax(S).T @ dy", "as if they were all"),
    (13, "P = np.exp(S - L[:, None])\nreturn P * (dy @ V.T), P.T @ dy", "A term is forgotten"),
    (13, "P = np.exp(S - L[:, None])\nreturn P * (dy @ V.T - (dy * O).sum(axis=1)), P.T @ dy", "lines up with columns"),
    (
        13,
        "P = np.exp(S - L[:, None])\nreturn dy @ V.T - P * (dy * O).sum(axis=1, keepdims=True), P.T @ dy",
        "should multiply dP, too",
    ),
    (
        13,
        "P = np.exp(S - L[:, None])\nreturn P * (dy @ V.T - O.sum(axis=1, keepdims=True)), P.T @ dy",
        "dy is missing in Δ",
    ),
    (14, "return softmax_backward(dy * mask, x * mask)", "You multiply logits and dy"),
    (14, "return softmax_backward(dy, x)", "The mask is forgotten"),
    (14, "return softmax_backward(dy, x) * mask", "Hide keys before"),
    (14, "y = softmax(x) * mask\nreturn y * (dy - (y * dy).sum(axis=1, keepdims=True))", "don't add up to 1"),
    (14, "return softmax_backward(dy, np.where(mask, x, -np.inf))", "Row 1 is NaN"),
    (14, "return softmax_backward(dy, np.where(mask, x, -1e9))", "spread over all keys"),
    (14, "return softmax_backward(dy, x * mask)", "e^0 = 1"),
    (15, "return np.stack([dy, dy]), L", "each round gets all of dy"),
    (15, "w = softmax(L)\nreturn w[..., None] * dy, L", "They should over the rounds"),
    (
        15,
        "w = softmax(L.T).T\nreturn w[..., None] * dy, w * (O * dy).sum(axis=-1)",
        "A term is forgotten",
    ),
    (15, "w = softmax(L.T).T\nreturn w[..., None] * dy, ((O - merge(O, L)) * dy).sum(axis=-1)", "factor w in front"),
    (16, "return dropout(dy, rate, seed + 1)", "another mask"),
    (16, "return dy * (np.random.default_rng().random(x.shape) >= rate) / (1 - rate)", "another mask"),
    (16, "return dy * (np.random.default_rng(seed).random(x.shape) >= rate)", "1 / (1 - rate) is missing"),
    (16, "return dy / (1 - rate)", "The mask is forgotten"),
    (17, "n, scale = normalise(x)\nreturn dy * weight * scale, (dy * n).sum(axis=0)", "Two terms are forgotten"),
    (
        17,
        "n, scale = normalise(x)\ndn = dy * weight\n"
        "return scale * (dn - n * (dn * n).mean(axis=1, keepdims=True)), (dy * n).sum(axis=0)",
        "shifting a row",
    ),
    (
        17,
        "n, scale = normalise(x)\ndn = dy * weight\n"
        "return scale * (dn - dn.mean(axis=1, keepdims=True)), (dy * n).sum(axis=0)",
        "stretching a row",
    ),
    (
        17,
        "n, scale = normalise(x)\ndn = dy * weight\nm = dn.mean(axis=1, keepdims=True)\n"
        "return scale * (dn - m - x * (dn * x).mean(axis=1, keepdims=True)), (dy * n).sum(axis=0)",
        "You measure the stretch with x",
    ),
    (
        17,
        "d = unit_length_backward(dy * weight, x - x.mean(axis=1, keepdims=True))\n"
        "return d - d.mean(axis=1, keepdims=True), (dy * normalise(x)[0]).sum(axis=0)",
        "its squares are averaged",
    ),
    (
        18,
        "dq, dk = product_backward(dy, x, unit_length(x).T)\nreturn dq + unit_length_backward(dk, x)",
        "the gradient of `k.T`",
    ),
    (18, "k = unit_length(x)\nreturn dy @ k + unit_length_backward(dy.T @ x, k)", "Which vector was divided"),
    (18, "return dy @ unit_length(x)", "x is also the key"),
    (18, "return 2 * dy @ unit_length(x)", "double the query's part"),
    (18, "return (dy + dy.T) @ x", "Nothing in yours goes through the unit length"),
    (18, "return dy @ unit_length(x) + dy.T @ x", "does not go through the unit length"),
    (18, "return unit_length_backward(dy @ unit_length(x) + dy.T @ x, x)", "The query was not scaled"),
    (18, "return dy @ unit_length(x) + unit_length_backward(dy @ x, x)", "not transposed"),
    (19, "return dy[:, x.shape[1] :]", "The first half of a window"),
    (19, "C = x.shape[1]\nreturn dy[:, C:] + np.roll(dy[:, :C], 1, axis=0)", "yours goes later"),
    (19, "C = x.shape[1]\nreturn dy[:, C:] + dy[:, :C]", "stays where it is"),
    (19, "C = x.shape[1]\ndx = dy[:, C:].copy()\ndx[:-1] += dy[1:, :C]\nreturn dx", "form a circle"),
    (19, "C = x.shape[1]\nreturn dy[:, C:] + np.roll(dy[:, :C], -1)", "Without `axis`"),
    (19, "C = x.shape[1]\nreturn dy[:, C:] + np.roll(dy[:, :C], -1, axis=1)", "roll within each chunk"),
    (20, "return sum(d[o] for d, o in zip(dy, np.argsort(order, axis=0)))", "Your argsort runs over the rounds"),
    (20, "dx = np.zeros_like(x)\ndx[order] += dy\nreturn dx", "Only the last round"),
    (20, "return dy.sum(axis=0)", "undo each round's sort"),
    (20, "return sum(d[o] for d, o in zip(dy, order))", "sort a second time"),
    (21, "h = np.maximum(x @ W1, 0)\ndh = dy @ W2.T\nreturn dh @ W1.T, x.T @ dh, h.T @ dy", "The ReLU is forgotten"),
    (
        21,
        "h = np.maximum(x @ W1, 0)\ndh = dy @ W2.T * h\nreturn dh @ W1.T, x.T @ dh, h.T @ dy",
        "unchanged, or not at all",
    ),
    (
        21,
        "h = np.maximum(x @ W1, 0)\ndh = np.maximum(dy @ W2.T, 0)\nreturn dh @ W1.T, x.T @ dh, h.T @ dy",
        "not on its own sign",
    ),
    (
        21,
        "dx = np.zeros_like(x)\nfor i in range(0, len(x), chunk_len):\n    s = slice(i, i + chunk_len)\n"
        "    h = np.maximum(x[s] @ W1, 0)\n    dh = dy[s] @ W2.T * (h > 0)\n    dx[s] = dh @ W1.T\n"
        "    dW1 = x[s].T @ dh\n    dW2 = h.T @ dy[s]\nreturn dx, dW1, dW2",
        "Only the last chunk counts",
    ),
    (
        21,
        "h = np.maximum(x @ W1, 0)\ndh = dy @ W2.T * (h > 0)\nreturn dh @ W1.T, x.T @ dh, h.T @ dy",
        "Let each chunk go",
    ),
    (22, "return dy1, dy2 + f_backward(dy1, x2)", "g reads y1"),
    (22, "dx1 = dy1 + g_backward(dy2, x1)\nreturn dx1, dy2 + f_backward(dx1, x2)", "derivative at x1"),
    (22, "y1, y2 = pair(x1, x2)\nreturn dy1 + g_backward(dy2, y2), dy2", "derivative at y2"),
    (22, "dx1 = dy1 + g_backward(dy2, x1 + f(x2))\nreturn dy2 + f_backward(dx1, x2), dx1", "That is dx2"),
    (22, "dx1 = dy1 + g_backward(dy2, x1 + f(x2))\nreturn dx1, dy2 + f_backward(dx1, x1)", "derivative at x1"),
    (22, "return dy1 + g_backward(dy2, x1 + f(x2)), dy2 + f_backward(dy1, x2)", "f gets dy1 alone"),
    (22, "return dy1 + g_backward(dy1, x1 + f(x2)), dy2", "g gets dy1"),
    (
        23,
        "y1, y2, n_layers = cache\nfor _ in range(n_layers):\n    x1 = y1 - f(y2)\n    x2 = y2 - g(x1)\n"
        "    dy1, dy2 = pair_backward(dy1, dy2, x1, x2)\n    y1, y2 = x1, x2\nreturn dy1, dy2",
        "You rebuild x1 first",
    ),
    (
        23,
        "y1, y2, n_layers = cache\nfor _ in range(n_layers):\n    dy1, dy2 = pair_backward(dy1, dy2, y1, y2)\n"
        "return dy1, dy2",
        "each layer's outputs",
    ),
    (
        23,
        "y1, y2, n_layers = cache\nfor _ in range(n_layers):\n    y2 = y2 + g(y1)\n    y1 = y1 + f(y2)\n"
        "    dy1, dy2 = pair_backward(dy1, dy2, y1, y2)\nreturn dy1, dy2",
        "subtracted",
    ),
    (
        23,
        "y1, y2, n_layers = cache\nx2 = y2 - g(y1)\nx1 = y1 - f(x2)\nfor _ in range(n_layers):\n"
        "    dy1, dy2 = pair_backward(dy1, dy2, x1, x2)\nreturn dy1, dy2",
        "last layer's inputs for every layer",
    ),
    (
        23,
        "y1, y2, n_layers = cache\nx2 = y2 - g(y1)\nreturn pair_backward(dy1, dy2, y1 - f(x2), x2)",
        "one layer only",
    ),
]


@pytest.fixture(autouse=True)
def pictures(monkeypatch):
    """The figures that a check has shown; no rung is right at first."""
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf()))
    monkeypatch.setattr(puzzles, "_right", set())
    yield shown
    plt.close("all")


@pytest.fixture
def names():
    """The names that the solutions define."""
    names = {"np": np}
    for source, _ in SOLUTION.values():
        exec(source, names)
    return names


def replaced(number, body):
    """The source of a rung's last function, with another body."""
    function = ast.parse(SOLUTION[number][0]).body[-1]
    return f"def {function.name}({ast.unparse(function.args)}):\n{textwrap.indent(body, '    ')}"


@pytest.fixture
def said(names, capsys):
    """`said(4, "return dy[index]")`: what the check of rung 4 says to this body of its last function."""

    def say(number, body=None):
        if body is not None:
            exec(replaced(number, body), names)
        check(f"Rung {number}", *(names[name] for name in SOLUTION[number][1]))
        return capsys.readouterr().out.strip()

    return say


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


# What else it says


def test_a_stub_is_not_started(said, pictures):
    for body in ("raise NotImplementedError", "return ...", "..."):
        assert said(3, body) in (
            "Rung 3: not started",
            "Rung 3: not right yet. Your function returns None. Is there a `return`?",
        )
    assert not pictures


def test_an_unsolved_rung_below_is_named(said, names):
    exec(replaced(10, "raise NotImplementedError"), names)
    assert said(18) == "Rung 18: not right yet. It calls unit_length_backward: climb rung 10 first."


def test_a_wrong_rung_below_is_named(said, names):
    said(10, "return dy / length(x)")
    assert "(It calls unit_length_backward: is rung 10 right?)" in said(18)


def test_other_errors_have_messages_of_their_own(said, pictures):
    assert "returns None" in said(1, "dy.sum(axis=0)")
    assert "Return 2 gradients, in this order: dA, dB." in said(8, "return dy @ B.T")
    assert "changes the gradient that it is given in place" in said(1, "dy *= 2\nreturn dy.sum(axis=0) / 2")
    assert "ValueError" in said(8, "return dy @ np.ones((7, 7)), B")
    assert "its shape is (2,), but b has the shape (3,)" in said(1, "return np.ones(2)")
    assert "NaN" in said(1, "return np.full(3, np.nan)")
    assert "every entry is 2 times" in said(1, "return 2 * dy.sum(axis=0)")
    assert "wrong for other numbers" in said(1, "return (dy * dy).sum(axis=0)")
    assert "1 of 3 entries are wrong. The first: db[1]" in said(1, "return dy.sum(axis=0) + [0, 1, 0]")
    assert "is str" in said(1, "return 'dy'")
    assert len(pictures) == 5


def test_an_error_in_the_answer_shows_the_line(tmp_path, names, capsys):
    """As in a notebook, where the source of a cell can be looked up."""
    path = tmp_path / "cell.py"
    path.write_text(
        "def product_backward(dy, A, B):\n    both = dy @ B.T[:1]\n    return both, both\n", encoding="utf-8"
    )
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
    check("Rung 8", names["product"], names["product_backward"])
    assert "stopped at `both = dy @ B.T[:1]` with ValueError" in capsys.readouterr().out


def test_a_function_that_has_been_changed_is_noticed(said, names):
    exec("def broadcast(b, n):\n    return np.ones((n, 1)) * 2 * b", names)
    assert "`broadcast` is no longer what it was" in said(1, "return 2 * dy.sum(axis=0)")


def test_an_answer_for_one_shape_only_is_not_right(said, pictures):
    assert "a larger one is not" in said(3, "return np.stack([dy[0] + dy[1], dy[2] + dy[3], dy[4] + dy[5]])")
    assert not pictures


def test_more_rows_than_x_and_a_short_last_chunk_are_looked_at(said):
    assert "a larger one is not" in said(4, "dx = np.zeros_like(dy)\nnp.add.at(dx, index, dy)\nreturn dx")
    whole_chunks = SOLUTION[21][0].replace("range(0, len(x), chunk_len)", "range(0, len(x) - chunk_len + 1, chunk_len)")
    assert whole_chunks != SOLUTION[21][0]
    body = ast.unparse(ast.parse(whole_chunks).body[-1].body)
    assert "a larger one is not" in said(21, body)


def test_half_an_answer_is_half_done(said):
    assert (
        said(23, "raise NotImplementedError")
        == "Rung 23: half done. `lean_stack` runs; now write `lean_stack_backward`."
    )


def test_a_cache_of_inputs_taken_for_outputs_gets_a_hint(said, names):
    names["lean_stack"] = lambda x1, x2, n: (*names["stack"](x1, x2, n), (x1, x2, n))
    assert "Your cache holds the first layer's inputs" in said(23)


def test_a_cache_that_grows_with_depth_is_measured(names, capsys):
    exec(
        "def lean_stack(x1, x2, n):\n    cache = []\n    for _ in range(n):\n        cache.append((x1, x2))\n"
        "        x1, x2 = pair(x1, x2)\n    return x1, x2, cache\n"
        "def lean_stack_backward(dy1, dy2, cache):\n    for x1, x2 in cache[::-1]:\n"
        "        dy1, dy2 = pair_backward(dy1, dy2, x1, x2)\n    return dy1, dy2",
        names,
    )
    check("Rung 23", *(names[name] for name in SOLUTION[23][1]))
    assert "your cache holds 64 arrays" in capsys.readouterr().out


def test_a_backward_pass_that_rebuilds_all_layers_first_is_measured(said):
    body = (
        "y1, y2, n_layers = cache\nxs = []\nfor _ in range(n_layers):\n    y2 = y2 - g(y1)\n    y1 = y1 - f(y2)\n"
        "    xs.append((y1, y2))\nfor x1, x2 in xs:\n    dy1, dy2 = pair_backward(dy1, dy2, x1, x2)\nreturn dy1, dy2"
    )
    assert "Rebuild one layer at a time" in said(23, body)


def test_progress_counts_rungs_and_names_the_next(said, capsys):
    said(1)
    said(3)
    said(3, "return dy")  # no longer right
    progress()
    assert capsys.readouterr().out == f"■{'□' * 23}  1 of 24 rungs\nNext: rung 2, sum.\n"
    puzzles._right.update(NUMBERS)
    progress()
    assert capsys.readouterr().out.startswith("■" * 24 + "  24 of 24 rungs\n")


def test_the_picture_has_both_jacobians_and_marks_what_is_wrong():
    expected = np.arange(1.0, 13.0).reshape(4, 3)
    came = expected.copy()
    came[1, 2] = np.nan
    came[3, 0] = 0
    figure = jacobians(came, expected, ["A", "B"], [1, 2], wrong=~np.isclose(came, expected))
    left, right = figure.axes
    assert [ax.get_title("left") or ax.get_title() for ax in figure.axes] == ["your answer", "the right one"]
    assert (right.images[0].get_array() == expected).all()
    assert sorted((box.get_x() + 0.42, box.get_y() + 0.42) for box in left.patches) == [(0, 3), (2, 1)]
    assert not right.patches


# The notebooks


def test_every_rung_is_a_cell_with_a_stub_and_one_with_its_check():
    assert list(LESSON) == list(SOLUTION) == list(NUMBERS)
    for number in NUMBERS:
        (given, functions), (solved, same_functions) = LESSON[number], SOLUTION[number]
        assert functions == same_functions
        assert solved.startswith(given.partition("    raise NotImplementedError")[0].rstrip())
        assert number == LAST or RUNGS[number].name == functions[0]
        title = "LSH attention for one head" if number == LAST else RUNGS[number].title
        for path in ("puzzles.ipynb", "solutions/puzzles.ipynb"):
            assert f"### Rung {number}: {title}" in "\n".join(cells(path, "markdown"))


def test_the_saved_ladder_is_unsolved_and_its_solution_is_whole():
    for path, end in (("puzzles.ipynb", "not started"), ("solutions/puzzles.ipynb", "right. ")):
        saved = json.loads((FOLDER / path).read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(out.get("text", "")) for cell in saved for out in cell.get("outputs", []))
        for number in NUMBERS:
            assert f"Rung {number}: {end}" in text
        assert f"{0 if end == 'not started' else LAST} of {LAST} rungs" in text
