"""Whole pictures of the course's sixteen tokens (`cast.py`): LSH attention forward and backward, and in several rounds.

`journey` is the paper's figure 2 as we draw it; with `backward=True` it shows the path of the gradient. `rounds` shows
what several hash rounds find together. Run `python -m minireformer.course.journey docs` to redraw the picture on the
front page, `docs/journey.png`.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from minireformer.course import plots
from minireformer.course.cast import (
    BACKWARD,
    FORWARD,
    LETTERS,
    TOKEN_COLOURS,
    arrow,
    bucket_bands,
    bucket_tags,
    canvas,
    chunk_boxes,
    chunk_places,
    darker,
    hash_cast,
    look_back_arcs,
    row_label,
    sort_arrows,
    strip,
)
from minireformer.hashing import sort_by_bucket

FORWARD_LABELS = (
    ("Sequence", "similar colours mean\nsimilar vectors"),
    ("Hash", "similar vectors get\nthe same bucket"),
    ("Sort", "by bucket, in order\nwithin a bucket"),
    ("Cut", "into chunks of {}"),
    ("Attend", "to the same chunk\nand the one before"),
)
BACKWARD_LABELS = (
    ("Home", "one sum for\neach token"),
    ("Hash", "no gradient: the\nbuckets are constants"),
    ("Unsort", "every gradient goes\nback to its token"),
    ("dQ, dK, dV", "a chunk adds up what\nits readers send"),
    ("dO → dS", "through the softmax,\nchunk by chunk"),
)


def journey(buckets=None, chunk_len=4, backward=False):
    """The paper's figure 2, with our tokens: hash, sort, cut into chunks, attend. Returns the figure.

    `buckets` (16,) are those of the tokens (default: `hash_cast()`). `backward`: the same picture with all arrows
    turned round, for the gradient: it comes in as dO at the bottom and goes home to each token at the top.
    """
    buckets = hash_cast() if buckets is None else np.asarray(buckets)
    order = sort_by_bucket(buckets[None])[0]
    cut = chunk_places(chunk_len)
    x = np.arange(16) + (cut[-1] - 15) / 2
    figure, ax = canvas(-6.5, cut[-1] + 0.85, -15.75, 0.8)
    rows = (0.0, -2.5, -6.1, -9.1, -13.7)
    for y, (name, text) in zip(rows, BACKWARD_LABELS if backward else FORWARD_LABELS):
        row_label(ax, y, name, text.format(chunk_len))
    strip(ax, range(16), rows[0], x)
    strip(ax, range(16), rows[1], x)
    bucket_tags(ax, buckets, rows[1], x)
    strip(ax, order, rows[2], x)
    bucket_bands(ax, buckets[order], rows[2], x)
    for y in rows[3:]:
        strip(ax, order, y, cut)
        bucket_bands(ax, buckets[order], y, cut, label=False)
        chunk_boxes(ax, cut, y, chunk_len)
    straight = range(16), rows[0] - 0.5, rows[1] + 0.55, x, x
    sort_arrows(ax, *straight, backward)
    sort_arrows(ax, order, rows[1] - 1.15, rows[2] + 0.68, x, x, backward)
    for before, after, index in zip(x, cut, order):
        ends = [(before, rows[2] - 1.45), (after, rows[3] + 0.8)]
        arrow(ax, ends[::-1] if backward else ends, BACKWARD if backward else darker(TOKEN_COLOURS[index]))
    look_back_arcs(ax, cut, rows[4] + 0.76, chunk_len, backward)
    note = "the last gets a share from the first" if backward else "the first chunk reads the last"
    ax.text(cut.mean(), rows[4] + 2.6, note, fontsize=10.5, ha="center", va="bottom", color="#333333")
    for middle in cut.reshape(-1, chunk_len).mean(axis=1):
        ends = [(middle, rows[4] - 0.8), (middle, rows[4] - 1.6)]
        arrow(ax, ends[::-1] if backward else ends, BACKWARD if backward else FORWARD, 1.5)
        ax.text(middle + 0.25, rows[4] - 1.2, "dO" if backward else "output", fontsize=11, va="center")
    return figure


def rounds(buckets, chunk_len=4, query="P"):
    """What one token, `query`, reads in each of several hash rounds, and in all of them together. Returns the figure.

    `buckets` (R, 16), such as `hash_cast([50, 0])`. Each row is one round, sorted and cut into chunks; tokens that the
    query doesn't read are pale. The last row is the sequence; numbers say in how many rounds the query meets a token.
    """
    me, order = LETTERS.index(query), sort_by_bucket(np.asarray(buckets))
    n_rounds, cut = len(order), chunk_places(chunk_len)
    chunks = order.reshape(-1, chunk_len)  # of all rounds; they form a circle
    mine = np.flatnonzero((chunks == me).any(axis=1))
    read = [*mine, *(mine - 1) % len(chunks)]
    met = np.bincount(chunks[read].ravel(), minlength=16)
    lit = np.isin(np.arange(len(chunks)), read).repeat(chunk_len).reshape(n_rounds, 16)
    figure, ax = canvas(-5.2, cut[-1] + 0.85, -2.9 * n_rounds - 1.3, 0.95)
    for r, y in enumerate(-2.9 * np.arange(n_rounds)):
        row_label(ax, y, f"Round {r}", f"{query} reads its chunk\nand the one before", left=-5)
        strip(ax, order[r], y, cut, set(order[r][~lit[r]]), {me})
        bucket_bands(ax, buckets[r][order[r]], y, cut)
        chunk_boxes(ax, cut, y, chunk_len, colour="#AAAAAA")
    y, x = -2.9 * n_rounds, np.arange(16) + (cut[-1] - 15) / 2
    row_label(ax, y, "Together", f"how often {query}\nmeets each token", left=-5)
    strip(ax, range(16), y, x, set(np.flatnonzero(met == 0)), {me})
    for place, count in zip(np.delete(x, me), np.delete(met, me)):
        ax.text(place, y - 0.65, f"{count}×" if count else "–", ha="center", va="top", fontsize=10.5)
    return figure


def draw(folder):
    """Draw `journey()` into `folder`/journey.png, 1600 pixels wide and in 256 colours."""
    plots.style()
    path = Path(folder) / "journey.png"
    journey().savefig(path, dpi=1600 / 7.5)
    Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    draw(sys.argv[1])
