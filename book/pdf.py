"""Print the whole course into one PDF: `make pdf`. It prints the pages that `make book` left in build/book.

Chromium prints each page as a reader would, in the order of the "next" links, and we put the results into one file,
with bookmarks. Links to other pages of the book become links within the file. An interactive figure is printed as its
still picture, and a folded cell is left out; the style for paper is at the end of book.css.
"""

import io
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, DictionaryObject, NameObject, NumberObject

BUILD = Path(__file__).parents[1] / "build"
BOOK = BUILD / "book"
OUT = BUILD / "minireformer.pdf"
FIRST = "notebooks/index.html"
STAY_STILL = "window.IntersectionObserver = class { observe() {} unobserve() {} disconnect() {} };"  # for figures
FOOTER = """<div style="width: 100%; padding: 0 16mm; font: 8px sans-serif; color: #555; display: flex;">
<span style="flex: 1">TITLE</span><span class="pageNumber"></span></div>"""
PAPER = {"format": "A4", "scale": 0.75, "print_background": True, "display_header_footer": True, "header_template": " "}
MARGIN = {"top": "15mm", "bottom": "17mm", "left": "16mm", "right": "16mm"}
SHEET = {"width": 896, "height": 1320}  # pixels of a page inside these margins, at this scale
FIT_FORMULAS = """for (const formula of document.querySelectorAll("article div.math")) {
  const room = formula.clientWidth / formula.scrollWidth;
  if (room < 1) formula.style.fontSize = `${95 * room}%`;
}"""


def lay_out(page, address):
    """Open a page of the book as it will be on paper."""
    page.set_viewport_size(SHEET)
    page.emulate_media(media="print")
    page.goto(address)
    page.evaluate("() => window.MathJax && MathJax.startup.promise")
    page.evaluate("document.querySelectorAll('img').forEach((image) => (image.loading = 'eager'))")
    page.evaluate("Promise.all([...document.images].map((image) => image.decode().catch(() => 0)))")
    page.evaluate(FIT_FORMULAS)


def printed(page, address):
    """-> the title of a page of the book, itself as a PDF file, and the address of the next page or None."""
    lay_out(page, address)
    title = page.locator("h1").first.evaluate("(heading) => heading.firstChild.textContent")
    file = page.pdf(**PAPER, margin=MARGIN, footer_template=FOOTER.replace("TITLE", title))
    following = page.locator("link[rel=next]")
    return title, file, following.evaluate("(link) => link.href") if following.count() else None


def link_within(writer, starts):
    """Links to pages of the book lead to where they begin in the file; `starts` is {address: number of a sheet}."""
    for page in writer.pages:
        for note in page.get("/Annots", []):
            action = note.get_object().get("/A", {})
            address = str(action.get("/URI", "")).partition("#")[0]
            if address in starts:
                place = ArrayObject([writer.pages[starts[address]].indirect_reference, NameObject("/XYZ")])
                place += [NumberObject(0), NumberObject(842), NumberObject(0)]
                link = {NameObject("/S"): NameObject("/GoTo"), NameObject("/D"): place}
                note.get_object()[NameObject("/A")] = DictionaryObject(link)
            elif address.startswith("file:"):
                del note.get_object()["/A"]


def write(browser, out, first=FIRST):
    """Print the book, from the page `first` on, into the file `out`; -> the number of sheets."""
    writer, starts, address = PdfWriter(), {}, (BOOK / first).as_uri()
    page = browser.new_page(color_scheme="light")
    page.add_init_script(STAY_STILL)
    while address and address not in starts:
        title, file, following = printed(page, address)
        starts[address] = len(writer.pages)
        writer.append(PdfReader(io.BytesIO(file)), outline_item=title, import_outline=False)
        address = following
    page.close()
    link_within(writer, starts)
    writer.compress_identical_objects()
    writer.add_metadata({"/Title": "minireformer"})
    writer.write(out)
    return len(writer.pages)


if __name__ == "__main__":
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=program)
        n_sheets = write(chromium, OUT)
        chromium.close()
    print(f"Open build/{OUT.name}: {n_sheets} sheets.")
