"""Figures are functions of plain arrays: they draw what they get, and you can read them on a dark page."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from minireformer.course import plots
from minireformer.tools.memory import Mark

pytestmark = pytest.mark.once


@pytest.fixture
def ax():
    return Figure().subplots()


@pytest.fixture(autouse=True)
def settings_as_before():
    with matplotlib.rc_context():
        yield


def test_an_attention_map_is_in_the_order_that_you_ask_for(ax):
    weights = np.arange(16.0).reshape(4, 4)
    plots.attention_map(ax, weights)
    assert (ax.images[0].get_array() == weights).all()
    assert ax.images[0].norm.vmax == 15
    order = np.array([2, 0, 3, 1])
    plots.attention_map(ax, weights, order, vmax=20)
    assert (ax.images[1].get_array() == weights[order][:, order]).all()
    assert ax.images[1].norm.vmax == 20


def test_the_strips_of_an_attention_map_are_its_buckets(ax):
    buckets = np.array([3, 0, 3, 0, 0])
    order = buckets.argsort(kind="stable")
    plots.attention_map(ax, np.ones((5, 5)), order, buckets, n_buckets=4)
    along_the_top = [patch for patch in ax.patches if patch.get_width() in (2, 3)]
    assert [(patch.get_x(), patch.get_width()) for patch in along_the_top] == [(-0.5, 3), (2.5, 2)]
    assert [text.get_text() for text in ax.texts] == ["0", "3"]
    colours = [patch.get_facecolor() for patch in along_the_top]
    assert colours == [plots.bucket_colour(0, 4), plots.bucket_colour(3, 4)]


def test_buckets_are_as_many_colours_as_you_can_read_black_on():
    colours = [plots.bucket_colour(bucket, 16) for bucket in range(16)]
    assert len(set(colours)) == 16
    for colour in colours:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
        luminance = np.dot([0.2126, 0.7152, 0.0722], linear)  # WCAG's contrast with black: at least 7 for small text
        assert (luminance + 0.05) / 0.05 >= 7


def test_chunk_windows_are_the_own_chunk_and_the_one_before(ax):
    plots.chunk_windows(ax, 6, 2)
    boxes = {(patch.get_x() + 0.5, patch.get_y() + 0.5) for patch in ax.patches}  # first key, first query
    assert boxes == {(0, 0), (4, 0), (2, 2), (0, 2), (4, 4), (2, 4)}
    assert {(patch.get_width(), patch.get_height()) for patch in ax.patches} == {(2, 2)}


def test_a_memory_timeline_has_a_bar_for_each_mark_and_a_look_for_each_kind(ax):
    sizes = [(2, 1), (5, 4), (3, 3), (8, 2)]
    labels = ["between", "attention", "loss", "attention, backward"]
    plots.memory_timeline(ax, [Mark(label, high * 2**20, now * 2**20) for label, (high, now) in zip(labels, sizes)])
    assert [bar.get_height() for bar in ax.patches] == [2, 5, 3, 8]
    assert [line.get_ydata()[0] for line in ax.lines] == [1, 4, 3, 2]
    assert ax.get_legend_handles_labels()[1] == ["between", "attention", "loss"]
    colours = [bar.get_facecolor() for bar in ax.patches]
    assert colours[1] == colours[3] and len(set(colours)) == 3
    names = [(text.get_text(), text.xy) for text in ax.texts]  # you can tell kinds apart without their colours
    assert names == [("attention", (1, 5)), ("loss", (2, 3)), ("attention", (3, 8))]
    assert ax.get_ylim()[0] == 0


def test_lines_and_dots_differ_without_colour():
    assert len(set(map(str, plots.DASHES))) == len(set(plots.MARKERS)) == len(plots.COLOURS)


@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_figures_are_black_on_opaque_white_whatever_the_style_was(style):
    plt.style.use(style)
    plots.style()
    figure = plt.figure(figsize=(2, 1))
    ax = figure.subplots()
    ax.set(title="title", xlabel="x", ylabel="y")
    ink = [ax.title.get_color(), ax.xaxis.label.get_color(), ax.get_xticklabels()[0].get_color()]
    ink.append(ax.text(0, 0, "text").get_color())
    assert set(ink) == {"black"}
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())
    assert (pixels[0, 0] == 255).all() and (pixels[..., 3] == 255).all()
    assert (pixels[..., :3] == 255).all(axis=-1).mean() > 0.5
    plt.close(figure)
