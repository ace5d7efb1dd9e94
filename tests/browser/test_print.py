"""The book on paper: nothing leaves its sheet, and `make pdf` puts the pages into one file."""

import importlib.util

import pytest
from test_book import IN_ORDER, ROOT, SITE, name

pytest.importorskip("playwright", reason="no playwright: `make test-browser` installs it")
pypdf = pytest.importorskip("pypdf", reason="no pypdf: `make test-browser` installs it")
annotations = pytest.importorskip("pypdf.annotations")
found = importlib.util.spec_from_file_location("book_pdf", ROOT / "book" / "pdf.py")
pdf = importlib.util.module_from_spec(found)
found.loader.exec_module(pdf)

CUT_OFF = """(width) => [...document.querySelectorAll("article *:not(mjx-assistive-mml, mjx-assistive-mml *)")]
  .filter((part) => {
    const at = part.getBoundingClientRect(), scrolls = getComputedStyle(part).overflowX !== "visible";
    const hides = scrolls && part.scrollWidth > part.clientWidth + 1 && !part.tagName.startsWith("MJX");
    return at.width > 1 && (at.right > width + 1 || hides);
  })
  .map((part) => `${part.tagName} ${part.className}: ${part.textContent.trim().slice(0, 60)}`)"""


@pytest.mark.parametrize("source", IN_ORDER, ids=name)
def test_nothing_on_a_page_is_cut_off_in_print(source, page, site):
    pdf.lay_out(page, site + name(source))
    assert page.evaluate(CUT_OFF, pdf.SHEET["width"]) == []


def test_folded_notes_are_open_in_print_and_folded_code_is_left_out(page, site):
    pdf.lay_out(page, site + "notebooks/03_lsh_hashing.html")
    assert page.get_by_text("Opposites cost no extra multiplications").is_visible()
    assert page.locator("details.hide:visible").count() == 0
    assert page.locator(".related-pages:visible, .headerlink:visible").count() == 0


@pytest.fixture(scope="module")
def printed(tmp_path_factory, chromium):
    """The last two pages of the book as one PDF file."""
    if not (SITE / "index.html").exists():
        pytest.skip("no site in build/book: run `make book` first")
    file = tmp_path_factory.mktemp("pdf") / "book.pdf"
    pdf.write(chromium, file, first=name(IN_ORDER[-2]))
    return pypdf.PdfReader(file)


def test_pages_follow_each_other_with_bookmarks(printed):
    titles = [entry.title for entry in printed.outline]
    starts = [printed.get_destination_page_number(entry) for entry in printed.outline]
    assert len(titles) == 2 and starts[0] == 0 < starts[1] < len(printed.pages)
    for title, start in zip(titles, starts):
        assert title in " ".join(printed.pages[start].extract_text().split())


def test_no_link_leads_to_this_machine(printed):
    links = [
        note.get_object().get("/A", {}).get("/URI", "") for sheet in printed.pages for note in sheet.annotations or []
    ]
    assert not [link for link in links if link.startswith("file:")]


def test_a_link_to_another_page_of_the_book_leads_to_its_first_sheet():
    writer, at = pypdf.PdfWriter(), (0, 0, 9, 9)
    for _ in range(3):
        writer.add_blank_page(595, 842)
    for address in ("file:///book/next.html#part", "file:///book/gone.html", "https://example.org/"):
        writer.add_annotation(0, annotations.Link(rect=at, url=address))
    pdf.link_within(writer, {"file:///book/next.html": 2})
    within, gone, outside = (note.get_object() for note in writer.pages[0]["/Annots"])
    assert within["/A"]["/D"][0] == writer.pages[2].indirect_reference
    assert "/A" not in gone and outside["/A"]["/URI"] == "https://example.org/"
