"""The course as a site, as `make book` left it in build/book: every page, in a browser that can reach nothing else."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS, SITE = ROOT / "notebooks", ROOT / "build" / "book"
DOCS = "speed memory generation claims gpu start reference huggingface".split()
IN_ORDER = [
    NOTEBOOKS / "index.md",
    *sorted(NOTEBOOKS.glob("[0-9]*.ipynb")),
    *(ROOT / "docs" / f"{page}.md" for page in DOCS),
    NOTEBOOKS / "teaching.md",
    *sorted(NOTEBOOKS.glob("solutions/[0-9]*.ipynb")),
]
LESSON = next(path for path in IN_ORDER if path.name.startswith("04_"))


def name(source):
    """The page of a source, as its address ends."""
    return source.relative_to(ROOT).with_suffix(".html").as_posix()


def cells(source):
    return json.loads(source.read_text(encoding="utf-8"))["cells"] if source.suffix == ".ipynb" else []


@pytest.mark.parametrize("place", range(len(IN_ORDER)), ids=lambda place: name(IN_ORDER[place]))
def test_a_page_shows_its_formulas_figures_and_neighbours_and_reports_no_error(place, page, site, complaints):
    source = IN_ORDER[place]
    page.goto(site + name(source))
    page.evaluate("() => window.MathJax && MathJax.startup.promise")
    text = "".join("".join(cell["source"]) for cell in cells(source) if cell["cell_type"] == "markdown")
    formulas = page.locator(".math")
    assert (formulas.count() > 0) == bool(re.search(r"\$[^$]+\$", text))
    assert page.locator(".math:has(mjx-container)").count() == formulas.count()
    assert page.locator("mjx-merror, [data-mjx-error], mjx-container [style*='color: red']").count() == 0
    assert "$$" not in page.locator("article").inner_text()

    page.evaluate("() => Promise.all([...document.images].map(image => image.decode()))")  # raises if one is broken
    images = page.locator("article img")
    drawing = [[out for out in cell.get("outputs", []) if "image/png" in out.get("data", {})] for cell in cells(source)]
    assert images.count() >= sum(map(len, drawing))
    texts = [image.get_attribute("alt") for image in images.all()]
    assert all(len(text) >= 100 for text in texts)
    assert len(set(texts)) >= sum(map(bool, drawing))  # the figures of a cell share its caption
    assert page.evaluate("() => document.fonts.ready.then(fonts => [...fonts].every(font => font.status != 'error'))")

    for link, neighbours in ("a.next-page", IN_ORDER[place + 1 :]), ("a.prev-page", IN_ORDER[:place][::-1]):
        shown = [a.evaluate("link => link.href") for a in page.locator(link).all()]
        assert shown == [site + name(neighbour) for neighbour in neighbours[:1]]
    assert complaints == []


def test_there_are_no_other_pages():
    if not SITE.exists():
        pytest.skip("no site in build/book: run `make book` first")
    pages = {path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html")}
    others = {page for page in pages if page.startswith(("_static/", "_modules/"))}  # the latter: the source code
    assert pages - others == {*map(name, IN_ORDER), "search.html", "index.html"}


def test_search_finds_the_notebook_about_a_word(page, site, complaints):
    page.goto(site)
    page.locator("input[name=q]").fill("collide")
    page.locator("input[name=q]").press("Enter")
    page.locator("#search-results li a", has_text="LSH: hashing directions").first.click()
    assert re.fullmatch(r".*/03_lsh_hashing\.html(\?.*)?(#.*)?", page.url)
    assert complaints == []


def test_the_address_of_the_site_leads_to_its_first_page(page, site, complaints):
    page.goto(site)
    page.wait_for_url(site + name(IN_ORDER[0]))
    assert complaints == []


@pytest.mark.parametrize("width", [390, 1280, 1440])
@pytest.mark.parametrize("source", [IN_ORDER[0], LESSON, ROOT / "docs" / "reference.md"], ids=name)
def test_a_page_is_no_wider_than_its_window(page, site, source, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(site + name(source))
    widths = "[document.documentElement, document.querySelector('.content')].map(one => one.scrollWidth)"
    assert max(page.evaluate(widths)) <= width


def test_code_is_not_cut_off_on_a_laptop(page, site):
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto(site + name(LESSON))
    cut_off = (
        "() => [...document.querySelectorAll('div.highlight pre')].filter(pre => pre.scrollWidth > pre.clientWidth)"
    )
    assert page.evaluate(f"({cut_off})().map(pre => pre.textContent)") == []


def test_a_folded_cell_opens_and_is_called_by_its_title(page, site):
    source, title = next(
        (
            (source, title[1])
            for source in IN_ORDER
            for cell in cells(source)
            if "hide-input" in cell["metadata"].get("tags", [])
            and (title := re.match("# @title (.*)", "".join(cell["source"])))
        ),
        (None, None),
    )
    if source is None:
        pytest.skip("no notebook has a folded cell")
    page.goto(site + name(source))
    folded = page.locator("details.hide", has_text=title).first
    code = folded.locator("pre").first
    assert not code.is_visible()
    folded.locator("summary").click()
    assert code.is_visible()


def test_the_reference_links_to_the_source(page, site, complaints):
    page.goto(site + "docs/reference.html")
    page.locator("dt", has_text="lsh_attention_backward").get_by_text("[source]").click()
    assert page.url.startswith(site + "_modules/minireformer/attention.html")
    assert "def lsh_attention_backward" in page.locator("article").inner_text()
    assert complaints == []
