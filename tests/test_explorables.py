"""The explorables compute what the package computes, and are self-contained HTML. `tests/browser` tries them out."""

import base64
import html
import re
import shutil
import subprocess

import pytest

pytest.importorskip("matplotlib")

from explorable_cases import CASES
from minireformer.course import explore

pytestmark = pytest.mark.once

NODE = shutil.which("node")
MODULES = sorted(explore.FOLDER.glob("*.js"))
FIGURES = [name for name in explore.STILLS if (explore.FOLDER / f"{name}.js").exists()]

each_figure = pytest.mark.parametrize("name", FIGURES)


@pytest.mark.skipif(NODE is None, reason="node is not installed; `make test-browser` computes the same in a browser")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_javascript_gives_the_numbers_of_the_package(case, tmp_path):
    (tmp_path / "case.js").write_text(f"console.log({case.script})", encoding="utf-8")
    run = subprocess.run([NODE, tmp_path / "case.js"], capture_output=True, encoding="utf-8")
    assert run.returncode == 0, run.stderr
    assert case.difference(run.stdout) <= 1e-6


@each_figure
def test_a_figure_is_the_same_small_piece_of_html_every_time_and_asks_no_server(name):
    page = explore.explore(name).html
    assert page == explore.explore(name).html
    assert len(page.encode()) <= 60_000
    without_links = re.sub(r'<a href="[^"]*">|http://www.w3.org/2000/svg', "", page)
    assert not re.search(r"https?:|fetch\(|XMLHttpRequest|@import|\burl\(|\bid=", without_links)
    assert not re.search(r"^\s*(import|export) ", page, flags=re.MULTILINE)


@each_figure
def test_without_scripts_a_picture_and_a_link_remain(name):
    assert len(explore.STILLS[name]) >= 100
    page = re.sub(r"<(script|style).*?</\1>", "", explore.explore(name).html, flags=re.DOTALL)
    ((data, words),) = re.findall(r'<img decoding="async" src="data:image/webp;base64,(.*?)" alt="(.*?)"', page)
    (link,) = re.findall(r'href="(.*?)"', page)
    assert base64.b64decode(data) == (explore.FOLDER / f"{name}.webp").read_bytes()
    assert (html.unescape(words), link) == (explore.STILLS[name], explore.LIVE)


def test_data_goes_into_the_page_and_cannot_end_its_script():
    page = explore.explore("hash", words="</script><b>").html
    assert '"<\\/script><b>"' in page and page.count("</script>") == 2


def test_a_figure_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="name: expected one of hash, .*; got 'hush'"):
        explore.explore("hush")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_module_is_short_and_its_maths_draws_nothing(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 400
    assert not path.stem.endswith("_maths") or not re.search(r"\bdocument\b|\bwindow\b|common\.js", source)
