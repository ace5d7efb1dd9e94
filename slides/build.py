"""Make the slides in build/slides: `make slides`.

There is a text file for each notebook that a meeting uses: `03.md` is the deck of notebook 03. It has the words, and
refers to the notebook for figures, formulas and code, so that a deck always shows what its notebook says:

    ---                        begins a slide
    --- course                 begins one that the workshop leaves out
    ## Title                   then Markdown, with formulas between dollars
    guess: Where? How many?    a question; what follows it appears with the next key
    figure: two rounds of      the figure whose caption begins so, or whose cell has the title "Draw: two rounds of ..."
    formula: p_R(\\theta)       the displayed formula of the notebook that contains this
    code: def look_back        the lines of a cell from the one that begins so
    printed: def look_back     what that cell printed
    explore: tokens            the interactive figure of that name, with the notebook's own settings
    Note:                      what follows is for the speaker, as is a figure's caption

Everything that a deck needs is copied beside it: reveal.js from the package sphinx-revealjs, MathJax from
sphinx-mathjax-offline. (reveal.js itself is on npm, but then you would need Node.)
"""

import ast
import base64
import html
import importlib.util
import io
import json
import re
import shutil
import sys
from pathlib import Path

from nbconvert.filters import markdown2html
from PIL import Image

from minireformer.course import explore

SLIDES = Path(__file__).parent
NOTEBOOKS = SLIDES.parent / "notebooks"
OUT = SLIDES.parent / "build" / "slides"
WORKSHOP = ("00", "03", "04", "05b", "06", "08")  # the meetings of the workshop in notebooks/teaching.md
ASIDE = 1.5  # a figure goes beside the words if its width is less than this many times its height
REFERENCE = re.compile(r"(guess|figure|formula|code|printed|explore): (.*)")


class Notebook:
    """What a deck may refer to. Methods take the words of a reference; LookupError if they fit no or two things."""

    def __init__(self, number):
        (path,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
        self.name, self.cells = path.name, json.loads(path.read_text(encoding="utf-8"))["cells"]
        self.sources = ["".join(cell["source"]) for cell in self.cells]

    def figure(self, words):
        """-> PNG file, caption. A cell's title means its last figure, as the first may be a map of the model."""
        found = []
        for i, cell in enumerate(self.cells):
            outputs = [output.get("data", {}) for output in cell.get("outputs", [])]
            pictures = [data["image/png"] for data in outputs if "image/png" in data]
            title = re.sub(r"^# @title .*?draw: ", "", self.sources[i].split("\n")[0], flags=re.IGNORECASE)
            captions = self._captions(i)
            for picture, caption in zip(pictures[::-1], captions[::-1]):
                if caption.startswith(words) or (title.startswith(words) and picture is pictures[-1]):
                    found.append((base64.b64decode("".join(picture)), caption.replace("$", "")))
        return self._only(found, "figure", words)

    def _captions(self, i):
        """The paragraphs in italics at the start of the cell below; one that is empty if there are none."""
        below = self.sources[i + 1] if i + 1 < len(self.cells) else ""
        captions = re.match(r"(\*[^*].*\*\n*)*", below).group().strip().split("\n\n")
        return [re.sub(r"^Figure \d+\. ", "", caption.replace("*", "")) for caption in captions]

    def formula(self, words):
        """-> TeX."""
        texts = [text for cell, text in zip(self.cells, self.sources) if cell["cell_type"] == "markdown"]
        found = [tex.strip() for text in texts for tex in re.findall(r"\$\$(.*?)\$\$", text, flags=re.DOTALL)]
        return self._only([tex for tex in found if words in tex], "formula", words)

    def code(self, words):
        """-> Python: a function, or lines up to an empty one."""
        return self._only([lines for _, lines in self._lines(words)], "line of code", words)

    def printed(self, words):
        """-> text."""
        i, _ = self._only(list(self._lines(words)), "line of code", words)
        return "".join("".join(out.get("text", "")) for out in self.cells[i]["outputs"]).rstrip()

    def explore(self, words):
        """-> HTML (see `minireformer.course.explore`)."""
        found = re.findall(rf'^explore\("{re.escape(words)}".*\)$', "\n".join(self.sources), flags=re.MULTILINE)
        call = ast.parse(self._only(found, "interactive figure", words), mode="eval").body
        return explore.explore(words, **{data.arg: ast.literal_eval(data.value) for data in call.keywords}).html

    def _lines(self, words):
        for i, cell in enumerate(self.cells):
            found = re.search(rf"^{re.escape(words)}.*(?:\n.+)*", self.sources[i], flags=re.MULTILINE)
            if found and cell["cell_type"] == "code":
                lines = found.group()
                if lines.startswith("def "):
                    lines = re.match(r".*(?:\n(?:[ )].*)?)*", self.sources[i][found.start() :]).group().rstrip()
                yield i, lines

    def _only(self, found, what, words):
        if len(found) != 1:
            raise LookupError(f"{self.name}: expected one {what} for {words!r}; found {len(found)}")
        return next(iter(found))


class Slide:
    """One slide of a deck: its title, its parts as pairs (kind, text), and what the speaker says."""

    def __init__(self, text):
        kind, _, text = text.partition("\n")
        if kind.strip() not in ("", "course"):
            raise ValueError(f"--- {kind.strip()}: expected nothing or 'course' behind the dashes")
        self.course_only = kind.strip() == "course"
        shown, _, self.notes = (part.strip() for part in text.partition("\nNote:\n"))
        self.title, _, shown = shown.removeprefix("#").lstrip("# ").partition("\n")
        self.parts = []
        for line in shown.split("\n"):
            reference = REFERENCE.fullmatch(line)
            if reference:
                self.parts.append(reference.groups())
            elif self.parts and self.parts[-1][0] == "words":
                self.parts[-1] = "words", f"{self.parts[-1][1]}\n{line}"
            else:
                self.parts.append(("words", line))
        self.parts = [(kind, text.strip()) for kind, text in self.parts if text.strip()]


def read(number, workshop=False):
    """The slides of a deck; for the workshop without those that it leaves out."""
    text = (SLIDES / f"{number}.md").read_text(encoding="utf-8")
    slides = [Slide(part) for part in re.split(r"^---", text, flags=re.MULTILINE)[1:]]
    return [slide for slide in slides if not (workshop and slide.course_only)]


def fitted(text, made):
    """`made`, in type small enough for the longest line of `text`."""
    return f'<div style="--columns: {max(map(len, text.split(chr(10))))}">{made}</div>'


def slide_html(slide, notebook, name):
    """A slide as HTML; its figure, named `name`, is written into the folder beside the decks."""
    made = {"words": "", "figure": ""}  # HTML of the column of words, and of the figure beside or below it
    notes, guessed, layout = slide.notes, False, "plain"
    for kind, text in slide.parts:
        if kind == "figure":
            data, caption = notebook.figure(text)
            (OUT / "figures" / f"{name}.png").write_bytes(data)
            width, height = Image.open(io.BytesIO(data)).size
            layout = "aside" if width < ASIDE * height and len(slide.parts) > 1 else "tall"
            notes += f"\n\n*The figure:* {caption}"
            part = f'<img src="figures/{name}.png" width="{width}" height="{height}" alt="{html.escape(caption)}">'
        elif kind == "formula":
            part = f"\\[{html.escape(notebook.formula(text))}\\]"
        elif kind == "code":
            code = notebook.code(text)
            part = fitted(code, markdown2html(f"```python\n{code}\n```"))
        elif kind == "printed":
            printed = notebook.printed(text)
            part = fitted(printed, f"<pre>{html.escape(printed)}</pre>")
        elif kind == "explore":
            part, layout = notebook.explore(text), "live"
        else:
            part = markdown2html(text)
        column = "figure" if kind == "figure" else "words"
        later = ' data-fragment-index="0"' if guessed else ""  # after a question, all appears with the next key
        made[column] += f'<div class="{kind}{" fragment custom" * guessed}"{later}>{part}</div>\n'
        guessed = guessed or kind == "guess"
    title = re.sub(r"^<p>|</p>$", "", markdown2html(slide.title).strip())
    words = f'<div class="column">{made["words"]}</div>' if made["words"] else ""
    page = f'<div class="page {layout}"><h2>{title}</h2>\n{words}\n{made["figure"]}</div>'
    return f'<section>{page}\n<aside class="notes">{markdown2html(notes)}</aside></section>\n'


def write(number, workshop):
    """Write one deck."""
    slides, notebook = read(number, workshop), Notebook(number)
    name = f"workshop_{number}" if workshop else f"course_{number}"
    sections = [slide_html(slide, notebook, f"{name}_{i}") for i, slide in enumerate(slides)]
    template = (SLIDES / "deck.html").read_text(encoding="utf-8")
    page = template.replace("TITLE", html.escape(slides[0].title)).replace("SLIDES", "".join(sections))
    (OUT / f"{name}.html").write_text(page, encoding="utf-8")
    return f'<li><a href="{name}.html">{html.escape(slides[0].title)}</a></li>\n'


def folder_of(package):
    """Where pip has installed a package, whose name may have dashes."""
    found = importlib.util.find_spec(package)
    if found is None:
        sys.exit(f"{package} is missing. This installs it: python -m pip install --editable '.[slides]'")
    return Path(found.submodule_search_locations[0])


def main():
    """All decks, and a page that lists them."""
    reveal = folder_of("sphinx_revealjs") / "_static" / "revealjs"
    mathjax = folder_of("sphinx-mathjax-offline") / "static" / "mathjax"
    shutil.rmtree(OUT, ignore_errors=True)
    (OUT / "figures").mkdir(parents=True)
    for path in ("LICENSE", "dist/reset.css", "dist/reveal.css", "dist/reveal.js", "plugin/notes/notes.js"):
        (OUT / "reveal.js" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(reveal / path, OUT / "reveal.js" / path)
    shutil.copytree(reveal / "dist" / "theme" / "fonts", OUT / "reveal.js" / "fonts")
    shutil.copy(mathjax / "tex-svg.js", OUT)
    shutil.copy(SLIDES / "deck.css", OUT)
    workshop = "".join(write(number, workshop=True) for number in WORKSHOP)
    course = "".join(write(path.stem, workshop=False) for path in sorted(SLIDES.glob("[0-9]*.md")))
    index = (SLIDES / "index.html").read_text(encoding="utf-8")
    index = index.replace("WORKSHOP", workshop).replace("COURSE", course)
    (OUT / "index.html").write_text(index, encoding="utf-8")


if __name__ == "__main__":
    main()
