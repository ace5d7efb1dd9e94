"""The decks that `make slides` left in build/slides, in a browser: each opens, fits its pages and asks nobody else."""

from pathlib import Path

import pytest

DECKS = Path(__file__).parents[2] / "build" / "slides"
NAMES = sorted(path.stem for path in DECKS.glob("*_*.html"))
WITH_FIGURES = [name for name in NAMES if 'class="explore"' in (DECKS / f"{name}.html").read_text(encoding="utf-8")]

# Of the slide that is shown: what leaves the page, formulas with errors, pictures that did not load or are too small.
FAULTS = """() => {
  const slide = document.querySelector("section.present .page"), page = slide.getBoundingClientRect(), faults = [];
  if (page.width !== 1280 || page.height !== 720) faults.push(`a page of ${page.width} x ${page.height}`);
  for (const part of slide.querySelectorAll("*:not(mjx-assistive-mml *, mjx-assistive-mml)")) {
    const at = part.getBoundingClientRect();
    if (!at.width) continue;
    const fits = at.left >= 20 && at.right <= 1260 && at.top >= 8 && at.bottom <= 710;
    if (!fits) faults.push(`${part.tagName} leaves the page`);
  }
  if (slide.querySelector("mjx-merror, [data-mjx-error]")) faults.push("a formula has an error");
  if (slide.innerText.includes("$")) faults.push("a formula is not typeset");
  for (const image of slide.querySelectorAll(".figure img")) {
    const at = image.getBoundingClientRect();
    const scale = Math.min(at.width / image.naturalWidth, at.height / image.naturalHeight);
    if (!(scale * image.naturalHeight >= 260 || scale * image.naturalWidth >= 1000)) faults.push("a small figure");
  }
  return faults;
}"""


@pytest.fixture
def deck(chromium):
    """`deck(name)` opens a deck -> its page, and the list of what goes wrong there, which grows."""
    if not NAMES:
        pytest.skip("no slides in build/slides: run `make slides` first")
    context, wrong = chromium.new_context(viewport={"width": 1280, "height": 720}), []

    def asked(request):
        if not request.url.startswith((DECKS.as_uri(), "data:", "about:", "blob:")):
            wrong.append(f"asks for {request.url}")

    def open_deck(name):
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"{DECKS.as_uri()}/{name}.html")
        page.wait_for_function("window.Reveal && Reveal.isReady()")
        return page, wrong

    context.on("request", asked)
    context.on("requestfailed", lambda request: wrong.append(f"did not get {request.url}"))
    yield open_deck
    context.close()


@pytest.mark.parametrize("name", NAMES)
def test_every_slide_fits_its_page_and_reports_no_error(name, deck):
    page, wrong = deck(name)
    for number in range(page.evaluate("Reveal.getTotalSlides()")):
        page.evaluate(f"Reveal.slide({number}, 0, 0)")
        if page.locator("section.present .explore").count():
            page.locator("section.present .ex-says").wait_for()
        page.evaluate("Promise.all([...document.querySelectorAll('.present img')].map((image) => image.decode()))")
        title = page.locator("section.present h2").inner_text()
        wrong += [f"{title}: {fault}" for fault in page.evaluate(FAULTS)]
    assert wrong == []


@pytest.mark.parametrize("name", NAMES)
def test_what_follows_a_guess_appears_with_the_next_key(name, deck):
    page, wrong = deck(name)
    guesses = page.evaluate(
        "() => Reveal.getSlides().flatMap((slide, i) => (slide.querySelector('.guess') ? [i] : []))"
    )
    assert guesses
    for number in guesses:
        page.evaluate(f"Reveal.slide({number}, 0, -1)")
        answer = page.locator("section.present .fragment > *").last
        assert not answer.is_visible()
        page.keyboard.press("ArrowRight")
        assert answer.is_visible() and page.evaluate("Reveal.getIndices().h") == number
    assert wrong == []


@pytest.mark.parametrize("name", WITH_FIGURES)
def test_keys_in_an_interactive_figure_move_its_slider_and_not_the_slides(name, deck):
    page, wrong = deck(name)
    number = page.evaluate("() => Reveal.getSlides().findIndex((slide) => slide.querySelector('.explore'))")
    page.evaluate(f"Reveal.slide({number})")
    slider = page.locator("section.present input[type=range]").first
    slider.focus()
    before = slider.input_value()
    page.keyboard.press("ArrowRight")
    assert slider.input_value() != before and page.evaluate("Reveal.getIndices().h") == number
    page.mouse.click(10, 300)
    page.keyboard.press("ArrowRight")
    assert page.evaluate("Reveal.getIndices().h") == number + 1
    assert wrong == []


def test_the_speaker_sees_the_notes_in_a_window_of_their_own(deck):
    page, wrong = deck("course_03")
    page.evaluate("Reveal.slide(3)")
    with page.expect_popup() as opened:
        page.keyboard.press("s")
    notes = opened.value.locator(".speaker-controls-notes .value")
    notes.get_by_text("In the first round H and O are apart").wait_for()
    assert wrong == []


def test_the_list_of_decks_leads_to_every_deck(deck):
    page, wrong = deck("course_00")
    page.goto(f"{DECKS.as_uri()}/index.html")
    links = page.locator("a").evaluate_all("(links) => links.map((link) => link.getAttribute('href'))")
    assert sorted(links) == [f"{name}.html" for name in NAMES]
    assert wrong == []
