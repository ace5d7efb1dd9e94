"""Interactive figures in the page itself: `explore("hash")` in a notebook shows one.

Each is a small JavaScript module in `explorables/`: `hash.js` draws and listens, `hash_maths.js` computes. They need
no kernel, so they also live in a saved notebook and in the book. We pack one into a single piece of HTML: a container
with a still picture, the style, the data, and one script.

Why HTML and not a widget: a widget (anywidget too) needs a manager, which the book and Colab would fetch from another
server, and a saved widget state, which our notebooks do without. Why a classic script and not a module: every place
below runs it, even where a security policy blocks imports. It has no ids and looks for its container by name, so any
number of figures share a page, and the same call always gives the same HTML.

Where it runs: `make test-browser` tries every control in the book, and the figure of notebook 03 in JupyterLab and
Notebook 7. We tried every control of all five in VS Code 1.139 (as code-server, in a trusted folder). We could not run
Colab. So the tests do with the saved HTML what the documents and sources of both say that they do. Colab puts an
output into a frame of another origin, and we use a sandboxed one; VS Code inserts the HTML and then every script
again, under a security policy, and ours is stricter. Where scripts don't run (GitHub, a Jupyter notebook that isn't
trusted), the still picture remains. In Restricted Mode, VS Code shows no HTML at all, so not even the picture.
"""

import base64
import html
import json
import re
from pathlib import Path

IMPORT = r'^import (\{[^}]*\}) from "\./(\w+\.js)";$'
TEXT = r"""('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`[^`]*`)"""  # a string in JavaScript
FOLDER = Path(__file__).parent / "explorables"
LIVE = "https://github.com/minireformer/minireformer#the-course"  # how to see it live
STILLS = {  # what the still picture shows, for readers who cannot see it
    "hash": "A circle cut into coloured sectors, one for each hash bucket, with two vectors in neighbouring ones; "
    "beside it, the chance to share a bucket, a curve that falls as the angle between the two vectors grows.",
    "memory": "Four bars for the memory of one training step: an ordinary Transformer, with LSH attention, with "
    "reversible layers, and with chunks. Each is shorter than the one before; a line marks the GPU's memory.",
    "reversible": "A stack of reversible blocks. Forward fills in the activations, they are dropped, and backward "
    "rebuilds them from the last pair, one block after the other, beside the gradient.",
    "tokens": "Sixteen coloured tokens go through LSH attention in steps: they are hashed, sorted by bucket, cut into "
    "chunks and attend to their chunk and the one before. Then the gradient takes the same steps back.",
    "attention": "A passage of code with one byte marked. The earlier bytes that a head of a trained model reads from "
    "there with LSH attention are coloured, more strongly where they get more weight.",
}


class Explorable:
    """A figure as HTML, which a notebook shows."""

    def __init__(self, name, page):
        self.name, self.html = name, page

    def __repr__(self):
        return f"explore({self.name!r}): a figure to play with, in a notebook or in the book"

    def _repr_html_(self):
        return self.html


def explore(name, **data):
    """The interactive figure `name`; `data` is what it shows (JSON values), besides what was recorded in `name`.json.

    ValueError for a name that is not in `STILLS`, TypeError for data that is not JSON.
    """
    if name not in STILLS:
        raise ValueError(f"name: expected one of {', '.join(STILLS)}; got {name!r}")
    recorded = FOLDER / f"{name}.json"
    if recorded.exists():
        data = json.loads(recorded.read_text(encoding="utf-8")) | data
    values = json.dumps(data, sort_keys=True, separators=(",", ":")).replace("</", "<\\/")
    return Explorable(
        name,
        f'<div class="explorable" data-explorable="{name}">\n<div class="ex-still">{_still(name)}</div>\n'
        f'<script type="application/json">{values}</script>\n</div>\n'
        f"<style>\n{_style(name)}</style>\n<script>\n{pack(name)}</script>\n",
    )


def pack(name):
    """The module `name`.js and all that it imports, as one script that mounts it in every container of that name.

    A container far down the page waits until it is nearly in sight. Its observer answers after a frame with the still
    picture, so the page isn't held up. The figure is drawn below that picture, to know how wide it will be, and then
    replaces it; if something fails, the picture stays. The keys that work a control stay in the figure: in VS Code,
    they would also move to another cell.
    """
    start = """const start = (place) => {
  const root = document.createElement("div");
  root.addEventListener("keydown", (event) => {
    const modified = event.ctrlKey || event.altKey || event.metaKey;
    if (!modified && /^(Arrow|Page|Home$|End$|Enter$| $)/.test(event.key)) event.stopPropagation();
  });
  place.append(root);
  mount(root, JSON.parse(place.querySelector("script").textContent));
  place.querySelector(".ex-still").remove();
};
const soon = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      soon.unobserve(target);
      start(target);
    }
  },
  { rootMargin: "600px" },
);
for (const place of document.querySelectorAll('[data-explorable="NAME"]:not([data-started])')) {
  place.dataset.started = "";
  soon.observe(place);
}
"""
    start = start.replace("NAME", name)
    return f'(() => {{\n{definitions(name)}const {{ mount }} = modules["{name}.js"];\n{_packed(start)}}})();\n'


def definitions(name):
    """JavaScript that defines `modules`: what `name`.js and each module that it imports export, by the file's name."""
    modules = {}
    _collect(f"{name}.js", modules)
    return "const modules = {};\n" + "".join(modules.values())


def _collect(file, modules):
    """Add a module to `modules`, after those that it imports: a statement without import and export."""
    source = (FOLDER / file).read_text(encoding="utf-8")
    for _, imported in re.findall(IMPORT, source, flags=re.M):
        if imported not in modules:
            _collect(imported, modules)
    source = re.sub(r"^\s*//.*\n", "", source, flags=re.M)
    source = re.sub(IMPORT, r'const \1 = modules["\2"];', source, flags=re.M)
    exported = re.findall(r"^export (?:function\*?|const) (\w+)", source, flags=re.M)
    source = re.sub(r"^export ", "", source, flags=re.M)
    modules[file] = f'modules["{file}"] = (() => {{\n{_packed(source)}return {{ {", ".join(exported)} }};\n}})();\n'


def _style(name):
    """The shared part of the style, and the figure's own, which follows the comment `/* name */`."""
    style = (FOLDER / "explorables.css").read_text(encoding="utf-8")
    style = re.sub(r"/\* (?!\w+ \*/).*?\*/", "", style, flags=re.S)
    shared, *parts = re.split(r"^/\* (\w+) \*/$", style, flags=re.M)
    style = _small(shared + dict(zip(parts[::2], parts[1::2])).get(name, ""))
    return re.sub(r"(?<=[{};:,>])\s+|\s+(?=[{>])|;(?=\s*})|(?<=[ :,(])0(?=\.\d)", "", style)


def _small(source):
    """Without indents and empty lines: a sixth of the bytes."""
    return re.sub(r"^\s+", "", source, flags=re.M)


def _tight(line):
    """A line of JavaScript without a comment at its end and spaces round brackets and operators: a tenth of the bytes.

    Strings and templates stay as they are, and so does a line with two templates, or with a regular expression.
    """
    line = re.sub(r"(?<=[;,{)\]]) // .*", "", line)
    if line.count("`") > 2 or re.search(r"/\S", line):  # a template in a template, or a regular expression
        return line
    return re.sub(TEXT + r"| ?([=?:,;{}()<>&|*!]+) ?| ([-+/]) (?![-+/])", r"\1\2\3", line)


def _packed(source):
    """Statements on one line, where each ends with a semicolon, and without what only a formatter needs."""
    source = "".join(map(_tight, _small(source).splitlines(keepends=True)))
    source = re.sub(r",\n(?=[}\])])", "\n", source)
    source = re.sub(r"^const .*;\n(const .*;\n)+", lambda lines: lines[0].replace(";\nconst ", ","), source, flags=re.M)
    source = re.sub(r'" \+\n"', "", source)  # a long string in pieces
    source = re.sub(r" ([-+/])\n(?![-+/])", r"\1\n", source)
    source = re.sub(r"^((?!.*//).*)(?<=\W)\n(?=.)|^((?!.*//).*)\n(?=\W)", r"\1\2", source, flags=re.M)
    return re.sub(r"(?<!\w)\((\w+)\)=>", r"\1=>", source)


def _still(name):
    """A picture in the page itself, so that nothing is fetched."""
    data = base64.b64encode((FOLDER / f"{name}.webp").read_bytes()).decode()
    link = f'<a href="{LIVE}">Open this figure in a notebook or in the book to play with it.</a>'
    return f'<img decoding="async" src="data:image/webp;base64,{data}" alt="{html.escape(STILLS[name])}"><p>{link}</p>'
