"""The explorables as a reader meets them: with the keyboard, on a phone, in the dark, without scripts."""

import math
import re

import pytest
from reader import FIGURES, each_figure, try_every_control
from test_book import SITE

import minireformer as mr
from explorable_cases import CASES
from minireformer.course import explore

SHOWN = ".explorable[data-explorable={}] .ex-says"


@pytest.fixture
def show(page, noticed):
    """`show(names, body)` opens a page with these figures -> the list of what goes wrong there."""

    def open_page(*names, body="", root=""):
        figures = "".join(explore.explore(name).html for name in names)
        head = "<meta charset=utf-8><meta name=viewport content='width=device-width'><link rel=icon href=data:,>"
        page.set_content(f"<!doctype html><html {root}><head>{head}</head><body {body}>{figures}</body></html>")
        noticed[:] = [line for line in noticed if not line.startswith("asks for data:")]
        return noticed

    return open_page


@pytest.fixture(scope="session")
def calculator(chromium):
    """One empty page for all calculations."""
    page = chromium.new_page()
    yield page
    page.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_browser_gives_the_numbers_of_the_package(case, calculator):
    assert case.difference(calculator.evaluate(case.script)) <= 1e-6


@each_figure
def test_every_control_works_with_the_keyboard(page, show, name):
    complaints = show(name)
    page.locator(SHOWN.format(name)).wait_for()
    assert len(try_every_control(page, page.locator(".explorable"))) >= 5
    assert complaints == []


@each_figure
def test_every_control_works_in_the_book(page, site, complaints, name):
    marks = f'data-explorable="{name}"'
    places = [path for path in sorted(SITE.rglob("notebooks/*.html")) if marks in path.read_text(encoding="utf-8")]
    if not places:
        pytest.skip("no page of the book shows it")
    page.goto(site + places[0].relative_to(SITE).as_posix())
    figure = page.locator(f".explorable[{marks}]").first
    figure.scroll_into_view_if_needed()
    figure.locator(".ex-says").wait_for()
    assert len(try_every_control(page, figure)) >= 5
    assert complaints == []


def test_all_figures_share_a_page_and_one_may_be_there_twice(page, show):
    complaints = show(*FIGURES, FIGURES[0])
    for figure in page.locator(".explorable").all():
        figure.scroll_into_view_if_needed()
        figure.locator(".ex-says").wait_for()
    assert page.locator(".ex-says").count() == len(FIGURES) + 1
    assert page.locator(".explorable [id]").count() == 0
    assert complaints == []


LOOKS = """() => [...document.querySelector(".explorable").querySelectorAll("*")].map((element) => {
    const { borderLeft, minHeight, width, font, color, fill, stroke, display } = getComputedStyle(element);
    const name = [element.tagName, element.getAttribute("class")];
    return [...name, borderLeft, minHeight, width, font, color, fill, stroke, display];
})"""


@each_figure
def test_a_figure_looks_the_same_whatever_follows_it_on_the_page(page, show, name):
    page.emulate_media(reduced_motion="reduce")
    alone, followed = [name], [name, *(other for other in FIGURES if other != name)]
    looks = []
    for names in (alone, followed):
        show(*names)
        page.locator(SHOWN.format(name)).first.wait_for()
        page.evaluate("scrollTo(0, 0)")
        looks.append(page.evaluate(LOOKS))
    assert looks[0] == looks[1]


@each_figure
def test_every_control_has_a_name(page, show, name):
    show(name)
    page.locator(SHOWN.format(name)).wait_for()
    nameless = """() => [...document.querySelectorAll(".explorable :is(button, input, select, [tabindex])")].filter(
        (one) => !(one.getAttribute("aria-label") || (one.closest("label") ?? one).textContent.trim()))
        .map((one) => one.outerHTML)"""
    assert page.evaluate(nameless) == []
    valueless = "[role=slider]:not([aria-valuenow]), [role=slider]:not([aria-valuetext])"
    assert page.locator(valueless).count() == 0
    assert page.locator("[aria-live=polite]").count() == 1


@each_figure
def test_a_phone_shows_all_of_it(page, show, name):
    page.set_viewport_size({"width": 390, "height": 800})
    show(name, body='style="margin: 0"')
    page.locator(SHOWN.format(name)).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    letters = "[...document.querySelectorAll('.explorable svg text')].map(t => t.getBoundingClientRect().height)"
    assert min(page.evaluate(letters), default=99) >= 9  # pixels, of the line


@pytest.mark.parametrize(
    "system, root, body, dark",
    [
        ("light", "", "", False),
        ("dark", "", "", True),
        ("light", "", 'data-theme="dark"', True),
        ("dark", "", 'data-theme="light"', False),
        ("dark", "", 'data-theme="auto"', True),
        ("light", "", 'data-jp-theme-light="false"', True),
        ("dark", "", 'data-jp-theme-light="true"', False),
        ("light", "", 'class="vscode-dark"', True),
        ("light", 'theme="dark"', "", True),
    ],
)
def test_colours_follow_the_theme_of_the_page(page, show, system, root, body, dark):
    page.emulate_media(color_scheme=system)
    show(FIGURES[0], root=root, body=body)
    page.locator(SHOWN.format(FIGURES[0])).wait_for()
    colours = "(s => [s.backgroundColor, s.color])(getComputedStyle(document.querySelector('.explorable')))"
    paper, ink = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in page.evaluate(colours))
    assert (paper < 200 and ink > 600) if dark else (paper > 600 and ink < 200)


@each_figure
def test_without_scripts_the_picture_and_the_link_are_there(chromium, name):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.set_content(explore.explore(name).html)
    assert page.get_by_role("link").get_attribute("href") == explore.LIVE
    assert page.locator("img").get_attribute("alt") == explore.STILLS[name]
    assert page.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 300
    context.close()


def test_hash_says_the_probability_of_the_package(page, show):
    show("hash")
    says, h = page.locator(SHOWN.format("hash")), page.get_by_role("slider", name="Direction of vector H")
    for n_buckets in (2, 4, 8, 16):
        page.get_by_role("combobox", name="buckets").select_option(str(n_buckets))
        for n_rounds in (1, 2):
            page.get_by_role("slider", name="rounds").fill(str(n_rounds))
            h.press("ArrowRight")
            (angle,) = re.findall(r"(\d+) degrees apart", says.inner_text())
            p = mr.collision_probability(math.radians(int(angle)), n_buckets, n_rounds)
            assert f"with probability {p:.3f}" in says.inner_text()


def test_hash_follows_the_pointer(page, show):
    show("hash")
    h = page.get_by_role("slider", name="Direction of vector H")
    circle = page.locator(".ex-drawing").first.bounding_box()
    box = h.locator("rect").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(circle["x"] + circle["width"] / 2, circle["y"] + 40, steps=5)
    page.mouse.up()
    assert abs(int(h.get_attribute("aria-valuenow")) - 90) <= 2


def test_hash_counts_a_thousand_draws(page, show):
    show("hash")
    page.get_by_role("button", name="Draw 1,000 times").click()
    says = page.locator(SHOWN.format("hash"))
    says.get_by_text("In 1,000 draws").wait_for()
    met = int(re.search(r"they did so (\d+) times", says.inner_text())[1])
    p = mr.collision_probability(math.radians(38), 4)
    assert abs(met / 1000 - p) < 4 * math.sqrt(p * (1 - p) / 1000)


@pytest.mark.parametrize("width", [340, 390, 700, 740, 1000])
def test_the_memory_bill_is_whole_and_its_columns_are_apart(page, show, width):
    page.set_viewport_size({"width": width, "height": 900})
    show("memory", body='style="margin: 0"')
    page.locator(SHOWN.format("memory")).wait_for()
    cut_off = """() => [...document.querySelectorAll(".memory-scroll, .memory-table th[scope=col]")]
        .filter((part) => part.scrollWidth > part.clientWidth).map((part) => part.textContent)"""
    assert page.evaluate(cut_off) == []


def test_memory_says_what_fits(page, show):
    show("memory")
    says = page.locator(SHOWN.format("memory"))
    assert (
        "needs 1,579 GiB, most of it for attention matrices" in says.inner_text()
    )  # the sum of notebook 00's figure 1
    page.get_by_role("slider", name="tokens").fill("8")  # 2^8
    assert "Even the plain Transformer fits" in says.inner_text()


def test_reversible_takes_one_step_where_less_motion_is_asked_for(page, show):
    page.emulate_media(reduced_motion="reduce")
    show("reversible")
    says = page.locator(SHOWN.format("reversible"))
    page.get_by_role("button", name="Forward").press("Enter")
    assert "passed 8 of 8 blocks" in says.inner_text()
    page.keyboard.press("Enter")  # the focus has moved on to the next step
    page.get_by_role("button", name="All the way back").press("Enter")
    assert "input of block 0 in float32" in says.inner_text() and "good enough" in says.inner_text()
    page.get_by_role("combobox", name="dropout").select_option("another seed in backward")
    assert "That gradient is wrong" in says.inner_text()
