"""The check of the capstone in notebook 05b: the solution passes, and every typical mistake gets its own hint."""

import json
from pathlib import Path

import pytest

from minireformer.backend import get_xp
from minireformer.course.capstone import FORBIDDEN, PIECES, SELF, check_backward
from minireformer.unit_length import unit_length

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "solutions" / "05b_gradient_of_all_rounds.ipynb"
CELLS = ["".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]]
(SOLUTION,) = [source for source in CELLS if source.startswith("def lsh_backward")]

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # wrong weights overflow

MISTAKES = {  # a part of the solution, what replaces it, the piece that is then wrong, and words of its hint
    "raw keys": ("xp, k = get_xp(q), unit_length(q)", "xp, k = get_xp(q), q", "P", "as long as the queries"),
    "no look at the ends": ("xp.roll(token, 1, axis=0), token]", "token, token]", "P", "chunks are wrong"),
    "halves exchanged": (
        "P = xp.exp(S - L[token][:, :, None])",
        "P = xp.exp(xp.roll(S, chunk_len, axis=2) - L[token][:, :, None])",
        "P",
        "halves of the windows",
    ),
    "no causal mask": ("xp.where(i < j, FORBIDDEN, S)", "S", "P", "later in the text"),
    "a mask by slots": (
        "xp.where(i < j,",
        "xp.where(xp.arange(chunk_len)[:, None] + chunk_len < xp.arange(2 * chunk_len),",
        "P",
        "goes by slots",
    ),
    "no self mask": ("xp.where(i == j, SELF,", "xp.where(i < 0, SELF,", "P", "see themselves"),
    "never itself": ("xp.where(i == j, SELF,", "xp.where(i == j, FORBIDDEN,", "P", "nothing else"),
    "L unsorted": (
        "P = xp.exp(S - L[token]",
        "P = xp.exp(S - L[xp.arange(order.size).reshape(token.shape) % len(q)]",
        "P",
        "L sorted",
    ),
    "a softmax for each round": (
        "    dvw = P.swapaxes",
        "    P = P / xp.maximum(P.sum(axis=-1, keepdims=True), 1e-99)\n    dvw = P.swapaxes",
        "P",
        "Whose L",
    ),
    "a softmax as one writes it": (
        "P = xp.exp(S - L[token][:, :, None])",
        "P = xp.exp(S - S.max(axis=-1, keepdims=True))\n    P = P / P.sum(axis=-1, keepdims=True)",
        "P",
        "Whose L",
    ),
    "a look ahead": ("xp.roll(token, 1, axis=0)", "xp.roll(token, -1, axis=0)", "P", "the chunk after"),
    "divided by the root of D": (
        "@ k[window].swapaxes(1, 2)\n",
        "@ k[window].swapaxes(1, 2) / q.shape[1] ** 0.5\n",
        "P",
        "root of D",
    ),
    "P overwritten": ("dS = P * (", "dS = P\n    dS *= (", "P", "in place"),
    "dout unsorted": (
        "@ dout[token]\n",
        "@ dout[xp.arange(order.size).reshape(token.shape) % len(q)]\n",
        "dvw",
        "dout sorted",
    ),
    "no look-back": (
        "dw[:, chunk_len:] + xp.roll(dw[:, :chunk_len], -1, axis=0)",
        "dw[:, chunk_len:]",
        "dv",
        "first half",
    ),
    "the look-back stays": ("xp.roll(dw[:, :chunk_len], -1, axis=0)", "dw[:, :chunk_len]", "dv", "stays where it is"),
    "the look-back goes on": ("chunk_len], -1, axis=0)", "chunk_len], 1, axis=0)", "dv", "goes later"),
    "no circle": (
        "xp.roll(dw[:, :chunk_len], -1, axis=0)",
        "xp.concatenate([dw[1:, :chunk_len], 0 * dw[:1, :chunk_len]])",
        "dv",
        "form a circle",
    ),
    "a circle for each round": (
        "xp.roll(dw[:, :chunk_len], -1, axis=0)",
        "xp.roll(dw[:, :chunk_len].reshape(len(order), -1, *q[token][0].shape), -1, axis=1).reshape(q[token].shape)",
        "dv",
        "ends of the rounds",
    ),
    "the sort stays": ("[xp.arange(len(order))[:, None], place]", "", "dv", "still by slot"),
    "the sort twice": (", place].sum(axis=0)", ", order].sum(axis=0)", "dv", "a second time"),
    "the last round alone": ("place].sum(axis=0)", "place][-1]", "dv", "Only one round arrives"),
    "a mean over rounds": ("place].sum(axis=0)", "place].mean(axis=0)", "dv", "the mean over rounds"),
    "no delta": (" - delta[token][:, :, None])", ")", "dS", "add up to 0"),
    "a delta for each round": (
        "    dq_query = home(",
        "    dP = dout[token] @ v[window].swapaxes(1, 2)\n"
        "    dS = P * (dP - (P * dP).sum(axis=-1, keepdims=True))\n    dq_query = home(",
        "dS",
        "Δ for each round",
    ),
    "delta unsorted": (
        "delta[token]",
        "delta[xp.arange(order.size).reshape(token.shape) % len(q)]",
        "dS",
        "Δ sorted",
    ),
    "the sign": ("dS = P *", "dS = -P *", "dS", "sign"),
    "no weights": ("dS = P * (", "dS = (", "dS", "without weight"),
    "queries from raw keys": ("home(dS @ k[window])", "home(dS @ q[window])", "dq_query", "had length 1"),
    "keys from short queries": ("swapaxes(1, 2) @ q[token]", "swapaxes(1, 2) @ k[token]", "dk", "not scaled"),
    "the keys' look-back": ("home(apart(dS.", "home((lambda dw: dw[:, chunk_len:])(dS.", "dk", "first half"),
    "no projection": (" - (dk * k).sum(axis=-1, keepdims=True) * k)", ")", "dq", "a part along it"),
    "no scale": ("dq_query + s * (dk", "dq_query + (dk", "dq", "long query"),
    "neither": (
        "dq_query + s * (dk - (dk * k).sum(axis=-1, keepdims=True) * k)",
        "dq_query + dk",
        "dq",
        "dk as it is",
    ),
    "the query's part alone": ("dq = dq_query + s *", "dq = dq_query + 0 *", "dq", "key's is missing"),
    "the key's part alone": ("dq = dq_query + s *", "dq = s *", "dq", "query's is missing"),
    "no epsilon": (" + 1e-6 * q.shape[1]", "", "dq", "small number"),
    "twice": ("dq = dq_query", "dq = 2 * dq_query", "dq", "tokens are wrong"),
    "all too large": ('"dq": dq}', '"dq": 3 * dq}', "dq", "3 times"),
    "not a number": ('"dq": dq}', '"dq": dq / 0}', "dq", "not finite"),
}


def written(source):
    """The function `lsh_backward` of this source, in the names that a notebook has."""
    names = {"FORBIDDEN": FORBIDDEN, "SELF": SELF, "get_xp": get_xp, "unit_length": unit_length}
    exec(source, names)
    return names["lsh_backward"]


def hint(source):
    with pytest.raises(AssertionError) as caught:
        check_backward(written(source))
    return str(caught.value)


def test_the_solution_is_right():
    check_backward(written(SOLUTION))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_its_own_hint(mistake):
    old, new, piece, words = MISTAKES[mistake]
    assert SOLUTION.count(old) == 1
    said = hint(SOLUTION.replace(old, new))
    assert f"{piece} is wrong. " in said and words in said


def test_it_says_how_far_a_reader_has_come():
    ends = [f"return {{{', '.join(f'{p!r}: {p}' for p in list(PIECES)[:n])}}}" for n in range(len(PIECES))]
    start = SOLUTION[: SOLUTION.index("    return {")]
    for n, (end, piece) in enumerate(zip(ends, PIECES)):
        said = hint(f"{start}    {end}")
        assert f"The next piece is {piece}" in said
        assert all(earlier in said for earlier in list(PIECES)[:n])


def test_it_says_what_a_piece_should_look_like():
    assert "dict" in hint(SOLUTION.replace('return {"P": P,', "return P, {"))
    assert "No piece is called dO" in hint(SOLUTION.replace('"dv": dv', '"dO": dv'))
    assert "expected the shape (12, 3), got (3, 12)" in hint(SOLUTION.replace('"dv": dv', '"dv": dv.T'))


def test_pieces_of_an_earlier_call_are_not_believed():
    kept = []

    def remembered(dout, q, *others):
        kept.append(written(SOLUTION)(dout, q, *others))
        return kept[0] if len(kept[0]["dq"]) == len(q) else kept[-1]

    with pytest.raises(AssertionError, match="keep anything from an earlier call"):
        check_backward(remembered)
