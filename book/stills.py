"""Draw the still pictures of the explorables, for places where scripts don't run: `python book/stills.py [NAME ...]`.

Needs Chromium and Playwright (see `make test-browser`). Run it when a figure's looks have changed.
"""

import io
import shutil
import sys

from PIL import Image
from playwright.sync_api import sync_playwright

from minireformer.course import explore

PRESS = {  # the buttons that lead to a moment worth a picture; it leaves them out, as they would do nothing there
    "hash": ["Draw 1,000 times"],
    "memory": [],
    "attention": [],
    "reversible": ["Forward", "Drop activations", *["One block back"] * 5],
    "tokens": ["Next"] * 4,
}
SIMPLER = {"tokens": {"nRounds": 1}}  # what a figure shows where its own start is too much for a small picture
SMALLER = {"tokens": 520}  # pixels of such a picture, which must leave room for the figure itself
WIDTH = 820  # pixels of the page


def still(page, name):
    """The figure in its moment, as WebP."""
    page.set_content(f"<body style='margin: 0'>{explore.explore(name, **SIMPLER.get(name, {})).html}</body>")
    figure = page.locator(".explorable")
    figure.locator(".ex-says").wait_for()
    for label in PRESS[name]:
        page.get_by_role("button", name=label).click()
    page.evaluate("document.activeElement.blur()")
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)
    shown = figure.locator(".ex-drawing" if name == "attention" else ".ex-panels, .ex-drawing").first
    picture, packed = Image.open(io.BytesIO(shown.screenshot())), io.BytesIO()
    picture.thumbnail([SMALLER.get(name, picture.width)] * 2, Image.Resampling.LANCZOS)
    picture.convert("RGB").save(packed, "webp", quality=40, method=6)
    return packed.getvalue()


def main(names):
    """Write the pictures of these figures, or of all."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program)
        context = browser.new_context(viewport={"width": WIDTH, "height": 700}, reduced_motion="reduce")
        for name in names or PRESS:
            picture = still(context.new_page(), name)
            (explore.FOLDER / f"{name}.webp").write_bytes(picture)
            print(f"{name}: {len(picture):,} bytes, {len(explore.explore(name).html.encode()):,} in the page")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
