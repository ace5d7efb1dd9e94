"""The course as a static site: `make book`. Sphinx reads the notebooks as they were saved, with their outputs.

The pages never ask another server for anything: the theme and MathJax come with what pip installs, and badges become
links. The source folder is the whole repository, so that links between notebooks/ and docs/ work on GitHub and here.
"""

import re
from pathlib import Path

from docutils import nodes
from PIL import Image
from sphinx import addnodes

import minireformer

project = "minireformer"
html_title = "minireformer"
language = "en"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx.ext.mathjax", "sphinx-mathjax-offline"]
root_doc = "notebooks/index"
include_patterns = ["notebooks/*.md", "notebooks/*.ipynb", "notebooks/solutions/*.ipynb", "docs/*.md"]
exclude_patterns = [".*", "build", "tests", "benchmarks", "minireformer"]  # folders that Sphinx need not search
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 2
nb_execution_mode = "off"  # `make test` runs them, and compares with what is saved
suppress_warnings = ["myst.header"]  # a solution's exercises follow its title directly, as deep as in the lesson

add_module_names = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "none"  # docstrings give shapes and units, which hints cannot

html_theme = "furo"
html_favicon = "icon.svg"
html_static_path = ["book.css"]
html_css_files = ["book.css"]
html_additional_pages = {"index": "to_the_first_page.html"}
templates_path = ["."]
html_show_copyright = False
html_show_sourcelink = False
html_copy_source = False
html_use_index = False
pygments_style, pygments_dark_style = "default", "github-dark"

WIDE = 850  # pixels: a figure that is wider than this scrolls sideways on a phone, where others shrink


def show_remote_images_as_text(app, doctree):
    """A badge in a link becomes a link of words."""
    for image in list(doctree.findall(nodes.image)):
        if "://" in image["uri"]:
            image.replace_self(nodes.Text(image["alt"]))


def describe_figures_by_their_captions(app, doctree):
    """The caption below a notebook's figure becomes its text for readers who cannot see it."""
    for cell in doctree.findall(lambda node: isinstance(node, nodes.container) and "cell" in node["classes"]):
        below = next(iter(cell.findall(nodes.paragraph, include_self=False, descend=False, siblings=True)), None)
        caption = below[0].astext() if below is not None and isinstance(below[0], nodes.emphasis) else ""
        for image in cell.findall(nodes.image):
            image["alt"] = " ".join(caption.split()) or "Figure, described in the text below it"


def let_wide_figures_scroll(app, doctree):
    """On a phone, a wide figure keeps a width at which its labels can be read."""
    for image in doctree.findall(nodes.image):
        path, shown = Path(app.srcdir, image["uri"]), str(image.get("width", ""))
        if not shown and path.suffix == ".png":
            shown = str(Image.open(path).width)
        if (pixels := re.fullmatch(r"(\d+)(px)?", shown)) and int(pixels[1]) > WIDE:
            image["classes"].append("wide")


def name_folded_cells(app, doctree):
    """A folded cell is called what its first line, `# @title ...`, says."""
    for cell in doctree.findall(lambda node: isinstance(node, nodes.container) and "prompt_show" in node):
        title = re.match(r"# @title (.*)", next((code.astext() for code in cell.findall(nodes.literal_block)), ""))
        cell["prompt_show"] = title[1] if title else "Show the code"
        cell["prompt_hide"] = "Fold the code"


def link_methods_to_the_class_that_defines_them(app, doctree):
    """`Reformer.save` is written in its base class; viewcode links to the source that we name here."""
    for signature in doctree.findall(addnodes.desc_signature):
        thing = minireformer
        for name in f"{signature['module']}.{signature['fullname']}".split(".")[1:]:
            thing = getattr(thing, name)
        signature["module"], signature["fullname"] = thing.__module__, thing.__qualname__


def typeset_docstring(app, what, name, obj, options, lines):
    """Docstrings are plain text; here they become reStructuredText, in place.

    Paragraphs stay paragraphs, with `names` as code. Two columns (a name, two spaces or more, what it means) become a
    list of definitions, and a block that is indented stays as it is.
    """
    typeset = []
    for block in re.split(r"\n\s*\n", "\n".join(lines).strip("\n")):
        rows = block.split("\n")
        indents = [len(row) - len(row.lstrip()) for row in rows]
        in_columns = re.match(r"\S+(?: \S+)*  +(?=\S)", rows[0])
        column = in_columns.end() if in_columns else max(indents)
        if indents[0]:
            typeset += ["::", "", *("   " + row for row in rows), ""]
        elif column:
            for row, indent in zip(rows, indents):
                cut = column if indent or row[column - 1 : column] == " " else len(row)
                typeset += [_prose(row[:cut].strip())] * (not indent) + ["   " + _prose(row[cut:].strip())]
            typeset.append("")
        else:
            typeset += [*map(_prose, rows), ""]
    lines[:] = typeset


def _prose(line):
    parts = re.split(r"(`[^`]+`)", line)
    return "".join(f"`{part}`" if part.startswith("`") else re.sub(r"([*_|\\])", r"\\\1", part) for part in parts)


def setup(app):
    """Called by Sphinx."""
    app.connect("doctree-read", show_remote_images_as_text)
    app.connect("doctree-read", describe_figures_by_their_captions)
    app.connect("doctree-read", let_wide_figures_scroll)
    app.connect("doctree-read", name_folded_cells)
    app.connect("doctree-read", link_methods_to_the_class_that_defines_them, priority=400)  # before viewcode reads it
    app.connect("autodoc-process-docstring", typeset_docstring)
