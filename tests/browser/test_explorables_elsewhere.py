"""The explorables where we cannot run the tests themselves: what Colab, VS Code and GitHub do to a saved output.

Each test takes the HTML that a notebook was saved with, and does with it what is known of that place:

Colab     puts an output into a frame of another origin, whose scripts run. Ours is a sandbox with an opaque origin,
          which may do less: it has no storage, no cookies and no access to the page around it.
VS Code   sets innerHTML, and then inserts a copy of each script and removes it (`domEval` in its
          extensions/notebook-renderers). Its policy allows inline scripts and eval; ours forbids eval and the network.
          It sends each key that reaches the window to its notebook, where an arrow moves to another cell.
GitHub    shows the output without its scripts.
"""

import html
import json
from pathlib import Path

import pytest
from reader import FIGURES, each_figure, try_every_control

from minireformer.course import explore

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
REFUSED = """() => ["localStorage", "sessionStorage", "document.cookie", "parent.document.title"].map((name) => {
    try {
        name.split(".").reduce((thing, part) => thing[part], globalThis);
        return "allowed";
    } catch (error) {
        return error.name;
    }
})"""
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
PAGE = f"""<!doctype html><meta charset=utf-8><meta http-equiv="Content-Security-Policy" content="{POLICY}">
<script>
try {{ eval("1"); document.title = "eval"; }} catch (error) {{ document.title = error.name; }}
</script>
<body class="vscode-dark"><div></div>"""
INSERT = """(output) => {
    const container = document.querySelector("div");
    container.innerHTML = output;
    for (const { textContent, type } of [...container.getElementsByTagName("script")]) {
        const script = Object.assign(document.createElement("script"), { text: textContent });
        if (type) script.type = type;
        container.appendChild(script).remove();
    }
}"""


def saved():
    """The first saved output of each figure, by its name."""
    found = {}
    for path in sorted(NOTEBOOKS.glob("*.ipynb"), reverse=True):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                page = "".join(output.get("data", {}).get("text/html", ""))
                found |= {name: page for name in FIGURES if f'data-explorable="{name}"' in page}
    return found


SAVED = saved()


def test_each_figure_is_saved_in_a_notebook():
    assert set(SAVED) == set(FIGURES)


@each_figure
def test_it_works_in_a_sandboxed_frame_of_another_origin_as_on_colab(page, noticed, name):
    page.set_viewport_size({"width": 1000, "height": 1300})
    sandbox = f'<iframe sandbox="allow-scripts" srcdoc="{html.escape(SAVED[name])}" width=960 height=1250></iframe>'
    page.set_content(f"<!doctype html><link rel=icon href=data:,>{sandbox}")
    figure = page.frame_locator("iframe").locator(".explorable")
    figure.locator(".ex-says").wait_for()
    assert page.frames[1].evaluate(REFUSED) == ["SecurityError"] * 4
    noticed[:] = [line for line in noticed if not line.startswith(("asks for data:", "asks for about:srcdoc"))]
    assert len(try_every_control(page, figure)) >= 5
    assert noticed == []


@each_figure
def test_it_works_when_its_scripts_are_inserted_again_under_a_strict_policy_as_in_vs_code(page, noticed, name):
    page.set_content(PAGE)
    assert page.title() == "EvalError"
    assert page.evaluate("fetch('https://example.org').catch((error) => error.name)") == "TypeError"
    assert noticed and all("Content Security Policy" in line for line in noticed), noticed
    noticed.clear()
    page.evaluate(INSERT, SAVED[name])
    figure = page.locator(".explorable")
    figure.locator(".ex-says").wait_for()
    assert len(try_every_control(page, figure)) >= 5
    assert [line for line in noticed if not line.startswith("asks for data:")] == []


@each_figure
def test_keys_that_work_a_control_stay_in_the_figure_or_vs_code_would_move_to_another_cell(page, name):
    page.set_content(PAGE)
    page.evaluate("window.addEventListener('keydown', (event) => (window.heard ??= []).push(event.key))")  # as VS Code
    page.evaluate(INSERT, explore.explore(name).html)
    figure = page.locator(".explorable")
    figure.locator(".ex-says").wait_for()
    for control in (figure.get_by_role("slider"), figure.get_by_role("button"), figure.get_by_role("combobox")):
        for key in ("ArrowDown", "ArrowRight", "Home", "PageUp", "Space", "Enter", "Shift+ArrowUp"):
            if control.count():
                control.first.focus()
                page.keyboard.press(key)
                page.keyboard.press("Escape")  # closes a list, and is for the notebook, too
    figure.get_by_role("slider").first.focus()
    page.keyboard.press("Control+Enter")
    assert set(page.evaluate("heard")) <= {"Shift", "Escape", "Control", "Enter"}
    assert page.evaluate("heard.filter((key) => key === 'Enter').length") == 1


@each_figure
@pytest.mark.parametrize("sanitised", [False, True], ids=["no scripts run", "scripts and styles are taken out"])
def test_without_scripts_there_are_a_picture_and_a_link_and_nothing_else_as_on_github(chromium, name, sanitised):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.set_content(SAVED[name])
    if sanitised:
        page.evaluate("document.querySelectorAll('script, style').forEach((element) => element.remove())")
    assert page.locator("body").inner_text().strip() == page.get_by_role("link").inner_text().strip()
    assert page.get_by_role("link").get_attribute("href") == explore.LIVE
    picture = page.get_by_role("img", name=explore.STILLS[name])
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 300
    context.close()
