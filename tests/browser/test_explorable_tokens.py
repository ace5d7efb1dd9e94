"""The explorable "tokens" as a reader meets it: step by step, by hand and with the keyboard, right and wrong."""

import re

import numpy as np
import pytest

import minireformer as mr
from explorable_cases_tokens import CASES, STRETCH, hashed, with_a_mistake
from minireformer.course import cast, explore

STEPS = 19


@pytest.fixture
def show(page, noticed):
    """`show(**data)` opens a page with the figure -> the list of what goes wrong there."""

    def open_page(**data):
        page.set_content(f"<!doctype html><link rel=icon href=data:,>{explore.explore('tokens', **data).html}")
        page.locator(".ex-says").wait_for()
        noticed[:] = [line for line in noticed if not line.startswith("asks for data:")]
        return noticed

    return open_page


def test_the_browser_gives_the_numbers_of_the_package(page):
    for case in CASES:
        assert case.difference(page.evaluate(case.script)) <= 1e-6, case.name


def button(page, name):
    return page.get_by_role("button", name=name)


def says(page):
    return page.locator(".ex-says").inner_text()


def test_every_step_says_something_new_and_the_way_back_is_the_same(page, show):
    complaints = show()
    there, back = [says(page)], []
    for _ in range(STEPS - 1):
        button(page, "Next").click()
        there.append(says(page))
    assert len(set(there)) == STEPS and button(page, "Next").is_disabled()
    for _ in range(STEPS - 1):
        back.append(says(page))
        button(page, "Previous").press("Enter")
    assert [*back, says(page)] == there[::-1] and button(page, "Previous").is_disabled()
    assert complaints == []


def test_python_chooses_where_a_figure_starts(page, show):
    show(step=11, follow="H", nRounds=3, mistake="delta", chunkLen=2)
    assert "Mistake: each round takes a Δ of its own" in says(page)
    assert page.get_by_role("slider", name="rounds").input_value() == "3"
    assert button(page, "Follow H, round 0").get_attribute("aria-pressed") == "true"


def test_each_token_is_in_the_slot_that_the_package_gives_it(page, show):
    show(step=2, nRounds=2)
    page.emulate_media(reduced_motion="reduce")
    for round_, order in enumerate(mr.sort_by_bucket(hashed(cast.VECTORS, 2))):
        tokens = [button(page, f"Follow {letter}, round {round_}") for letter in cast.LETTERS]
        left = [token.bounding_box()["x"] for token in tokens]
        assert np.argsort(left).tolist() == order.tolist()


def test_arrow_keys_lead_through_steps_and_tokens(page, show):
    show()
    page.locator(".tokens-token[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    assert "P is in bucket 1 in round 0, with A, D, G, J and L." in says(page)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")  # after P comes A
    assert "B is in bucket 3 in round 0" in says(page)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Follow B, round 0"
    page.keyboard.press("ArrowLeft")
    assert "Sixteen tokens" in says(page)
    assert page.locator(".tokens-token[tabindex='0']").count() == 1


def test_pointing_follows_a_token_for_a_while_and_a_click_for_good(page, show):
    show(step=2)
    button(page, "Follow C, round 1").hover()
    assert "C goes to slot 0 in round 1" in says(page)
    page.mouse.move(1, 1)
    assert "P goes to slot 8 in round 0" in says(page)
    button(page, "Follow C, round 1").click()
    page.mouse.move(1, 1)
    assert "C goes to slot 0 in round 1" in says(page)


def test_a_vector_moves_by_keyboard_and_pointer_and_comes_back(page, show):
    show(step=1)
    start, point = says(page), page.get_by_role("button", name="Vector of P")
    point.focus()
    for _ in range(5):
        page.keyboard.press("Shift+ArrowRight")
    x, y = (float(number) for number in re.findall(r"-?\d\.\d\d", point.get_attribute("aria-label")))
    assert (x, y) == pytest.approx((-0.89 + 5 * 0.2, 0.8))
    vectors = cast.VECTORS.copy()
    vectors[15] = x, y
    assert f"P is in bucket {hashed(vectors, 1)[0, 15]} in round 0" in says(page) != start
    box = point.bounding_box()
    page.mouse.move(box["x"] + 10, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + 80, box["y"] + 180, steps=5)
    page.mouse.up()
    assert "P is in bucket 3 in round 0" in says(page)
    button(page, "Reset the vectors").click()
    assert says(page) == start


@pytest.mark.parametrize("mistake, label", [("lookback", "forget the look-back"), ("delta", "a Δ for each round")])
def test_the_error_of_a_mistake_is_that_of_the_package(page, show, mistake, label):
    show()
    page.get_by_role("combobox", name="gradient of").select_option("all outputs")
    page.get_by_role("combobox", name="mistake").select_option(label)
    assert says(page).startswith("Mistake:")
    page.get_by_role("slider", name="step").fill(str(STEPS - 1))
    arguments = STRETCH * cast.VECTORS, cast.VECTORS, hashed(cast.VECTORS, 2), np.ones((16, 2)), 4, True
    right, wrong = (with_a_mistake(*arguments, one) for one in ("none", mistake))
    lengths = np.linalg.norm(np.concatenate(wrong - right, axis=1), axis=1)
    percent = round(100 * np.linalg.norm(wrong - right) / np.linalg.norm(right))
    assert f"wrong by {percent} % of its length, at {(lengths > 0.005).sum()} tokens" in says(page)
    assert page.locator(".tokens-token.tokens-wrong").count() >= (lengths > 0.005).sum()
    assert page.locator("td.tokens-wrong").count() > 0
    page.get_by_role("combobox", name="mistake").select_option("none")
    assert page.locator(".tokens-wrong").count() == 0


def test_before_a_mistake_is_made_the_text_says_where_and_then_what_is_red(page, show):
    show(nRounds=2)
    mistake, step = page.get_by_role("combobox", name="mistake"), page.get_by_role("slider", name="step")
    wrong = page.locator(".tokens-token.tokens-wrong, td.tokens-wrong, .tokens-spoilt")
    for label, made_at in (("a Δ for each round", 11), ("hash again in backward", 11), ("forget the look-back", 16)):
        mistake.select_option(label)
        assert int(step.input_value()) == made_at and says(page).startswith("Mistake:")
        for at in range(STEPS):
            step.fill(str(at))
            ahead, here, none = (
                words in says(page)
                for words in (
                    f"Your mistake comes later, at step {made_at + 1}",
                    f"Red is what the mistake of step {made_at + 1} has changed",
                    f"The mistake of step {made_at + 1} changes nothing here",
                )
            )
            assert ahead == (at < made_at)
            assert (here or none) == (made_at < at < STEPS - 1)
            assert (wrong.count() > 0) == (here or at == STEPS - 1 or (at == made_at and wrong.count() > 0))
        assert "is wrong by" in says(page)  # the choice has found a token that the mistake spoils


def test_the_plane_and_the_table_show_the_round_that_was_chosen(page, show):
    show(step=1, nRounds=3)
    turned = page.locator(".tokens-sector").first
    choice = page.get_by_role("combobox", name="plane and table")
    first = turned.get_attribute("d")
    choice.select_option("round 2")
    assert turned.get_attribute("d") != first and "in round 2" in says(page)
    page.get_by_role("slider", name="step").fill("6")
    assert "round 2" in page.locator(".tokens-scroll").inner_text()
    page.get_by_role("slider", name="step").fill("9")  # all rounds at once
    assert turned.count() == 0 and not choice.is_visible()
    page.get_by_role("slider", name="rounds").fill("1")
    page.get_by_role("slider", name="step").fill("6")
    assert not choice.is_visible() and "round" not in page.locator(".tokens-scroll").inner_text()


def test_on_a_phone_the_choices_are_folded_above_the_picture(page, show):
    page.set_viewport_size({"width": 390, "height": 800})
    show(step=6)
    mistake, row = page.get_by_role("combobox", name="mistake"), page.locator(".ex-drawing").first
    assert not mistake.is_visible() and row.bounding_box()["y"] < 420
    page.get_by_text("Change something").click()
    assert mistake.is_visible() and mistake.bounding_box()["y"] < row.bounding_box()["y"]


def test_a_mistake_without_effect_says_so(page, show):
    show(nRounds=1, mistake="delta", step=STEPS - 1)
    assert "doesn't change the gradient of P's output" in says(page)


def test_tokens_glide_unless_less_motion_is_asked_for(page, show):
    duration = "getComputedStyle(document.querySelector('.tokens-token')).transitionDuration"
    show()
    assert page.evaluate(duration).startswith("0.7s")
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(duration) == "0s"


def test_a_phone_shows_every_step_in_lines_of_eight(page, show):
    page.set_viewport_size({"width": 390, "height": 800})
    page.emulate_media(reduced_motion="reduce")
    show(nRounds=2, chunkLen=8, mistake="lookback", all=True)
    places = """() => {
        const squares = document.querySelectorAll(".tokens-token:not(.tokens-hidden) .tokens-square");
        return [...squares].map((one) => one.getBoundingClientRect()).map(({ x, y, width }) => [x, y, width]);
    }"""
    for step in range(STEPS):
        page.get_by_role("slider", name="step").fill(str(step))
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        row, squares = page.locator(".ex-drawing").first.bounding_box(), np.array(page.evaluate(places))
        assert len(set(np.round(squares[:, 1] / 20))) == len(squares) / 8
        assert row["x"] <= squares[:, 0].min() and (squares[:, 0] + squares[:, 2]).max() <= row["x"] + row["width"]
        assert squares[:, 2].min() >= 24  # pixels: room for a finger
