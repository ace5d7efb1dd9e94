"""The course as a static site: `make book`. Sphinx reads the notebooks as they are saved, with their outputs.

The pages ask no other server for anything: theme and MathJax come with what pip installs, and badges become links.
"""

from docutils import nodes

project = "minireformer"
html_title = "minireformer"
language = "en"

extensions = ["myst_nb", "sphinx.ext.mathjax", "sphinx-mathjax-offline"]
include_patterns = ["index.md", "teaching.md", "[0-9]*.ipynb", "solutions/[0-9]*.ipynb"]
myst_enable_extensions = ["amsmath", "dollarmath"]
nb_execution_mode = "off"  # `make test` runs them, and compares with what is saved
suppress_warnings = ["myst.header"]  # a solution's exercises follow its title directly, as deep as in the lesson
nb_render_image_options = {"alt": "Figure, described in the text below it"}

html_theme = "furo"
html_favicon = "icon.svg"
html_static_path = ["book.css"]
html_css_files = ["book.css"]
html_show_copyright = False
html_show_sourcelink = False
html_copy_source = False
html_use_index = False


def show_remote_images_as_text(app, doctree):
    """A badge in a link becomes a link of words."""
    for image in list(doctree.findall(nodes.image)):
        if "://" in image["uri"]:
            image.replace_self(nodes.Text(image["alt"]))


def setup(app):
    """Called by Sphinx."""
    app.connect("doctree-read", show_remote_images_as_text)
