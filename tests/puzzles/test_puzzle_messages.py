"""What a check of the ladder says besides hints: to a stub, to an error, to half an answer; and its picture."""

import ast

import numpy as np
import pytest
from ladder import NUMBERS, SOLUTION, replaced

from minireformer.course import puzzles
from minireformer.course.puzzle_picture import jacobians
from minireformer.course.puzzles import check, progress

pytestmark = [pytest.mark.once, pytest.mark.filterwarnings("ignore::RuntimeWarning")]


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
