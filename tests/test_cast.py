"""The pictures of the course's sixteen tokens show what the library does, and the map shows where you are."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

import matplotlib.pyplot as plt
from matplotlib.colors import same_color

import minireformer as mr
from minireformer.course import cast, journey, model_map

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def patches(figure, kind):
    """The patches of a figure whose id starts with `kind`, with the rest of their ids, in the order of drawing."""
    found = [(str(patch.get_gid()), patch) for patch in figure.axes[0].patches]
    return [(gid.removeprefix(f"{kind} "), patch) for gid, patch in found if gid.startswith(f"{kind} ")]


def rows_of_letters(figure):
    """The letters of each strip, from top to bottom, from left to right."""
    rows = {}
    for letter, patch in patches(figure, "token"):
        rows.setdefault(round(-patch.get_y(), 6), []).append((patch.get_x(), letter))
    return ["".join(letter for _, letter in sorted(row)) for _, row in sorted(rows.items())]


@pytest.mark.parametrize("n_buckets", [2, 4, 8])
def test_buckets_of_the_cast_are_the_nearest_arrows(n_buckets):
    angles = [50, 0, 75]
    buckets = cast.hash_cast(angles, n_buckets)
    turns = np.radians(np.array(angles)[:, None] + 360 * np.arange(n_buckets) / n_buckets)  # R, n_buckets
    nearness = np.stack([np.cos(turns), np.sin(turns)], axis=-1) @ cast.VECTORS.T  # R, n_buckets, 16
    assert (buckets == nearness.argmax(axis=1)).all()
    assert (cast.hash_cast(angles[1], n_buckets) == buckets[1]).all()
    rotations = mr.random_rotations(0, 1, 2, 3, n_buckets, dtype="float64", like=cast.VECTORS)
    hashed = mr.hash_vectors(cast.VECTORS[None, None], rotations)[0, 0]
    assert (cast.hash_cast(rotations=rotations) == hashed).all()


def test_the_cast_is_sixteen_different_tokens_in_buckets_of_different_sizes():
    lengths = np.linalg.norm(cast.VECTORS, axis=1)
    assert cast.VECTORS.shape == (16, 2) and 0.7 < lengths.min() and lengths.max() < 1.5
    assert len(set(cast.LETTERS)) == len(set(cast.TOKEN_COLOURS)) == 16
    assert np.bincount(cast.hash_cast()).tolist() == [3, 6, 2, 5]


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("chunk_len", [2, 4, 8])
def test_the_journey_shows_the_hash_the_sort_and_the_chunks(chunk_len, backward):
    buckets = cast.hash_cast(15)
    figure = journey.journey(buckets, chunk_len, backward)
    order = mr.sort_by_bucket(buckets[None])[0]
    in_order = "".join(cast.LETTERS[i] for i in order)
    assert rows_of_letters(figure) == [cast.LETTERS] * 2 + [in_order] * 3
    assert [int(tag) for tag, _ in patches(figure, "tag")] == buckets.tolist()
    assert len(patches(figure, "chunk")) == 2 * (16 // chunk_len) + 2 * 16 // chunk_len  # boxes of two rows, and arcs
    bands = [(int(bucket), round(band.get_width())) for bucket, band in patches(figure, "bucket")]
    sizes = np.bincount(buckets)
    assert bands[: len(bands) // 3] == [(b, sizes[b]) for b in np.unique(buckets)]


@pytest.mark.parametrize("chunk_len", [2, 4, 8])
def test_the_arcs_are_the_windows_of_attention(chunk_len):
    _, ax = cast.canvas(-1, 20, -1, 4)
    pairs = cast.look_back_arcs(ax, cast.chunk_places(chunk_len), 0, chunk_len)
    n_chunks = 16 // chunk_len
    assert set(pairs) == {(n, m % n_chunks) for n in range(n_chunks) for m in (n, n - 1)}
    assert sorted(patch.get_gid() for patch in ax.patches) == sorted(f"chunk {n} reads {m}" for n, m in pairs)
    buckets = cast.hash_cast()
    order = mr.sort_by_bucket(buckets[None])[0]
    qk, values = np.pad(cast.VECTORS, ((0, 0), (0, 14))), np.eye(16)  # the output of each query is its weights
    options = {"chunk_len": chunk_len, "causal": False}
    out, _ = mr.lsh_attention(qk[None, None], values[None, None], buckets[None, None, None], **options)
    met = out[0, 0] > 0
    for n, m in np.ndindex(n_chunks, n_chunks):
        queries, keys = (order.reshape(-1, chunk_len)[i] for i in (n, m))
        assert met[np.ix_(queries, keys)].any() == ((n, m) in pairs)


@pytest.mark.parametrize("angles", [[50], [50, 0], [50, 0, 75]])
def test_rounds_show_what_a_query_reads(angles):
    for query in "APC":
        buckets = cast.hash_cast(angles)
        figure = journey.rounds(buckets, query=query)
        chunks = [chunk for row in mr.sort_by_bucket(buckets) for chunk in row.reshape(-1, 4)]
        read = [i for n, chunk in enumerate(chunks) if cast.LETTERS.index(query) in chunk for i in (n, n - 1)]
        counts = np.bincount(np.concatenate([chunks[i] for i in read]), minlength=16)
        shown = [text.get_text() for text in figure.axes[0].texts[-15:]]
        assert shown == [f"{n}×" if n else "–" for n in np.delete(counts, cast.LETTERS.index(query))]


@pytest.mark.parametrize("here", model_map.HERE)
def test_the_map_lights_what_it_is_told(here):
    figure = model_map.model_map(here)
    parts = {patch.get_gid(): patch for patch in figure.axes[0].patches if patch.get_gid()}
    lit = {part for part, patch in parts.items() if same_color(patch.get_facecolor(), model_map.LIT)}
    if same_color(parts["gradients"].get_edgecolor(), model_map.ACCENT):
        lit.add("gradients")
    assert lit == set(model_map.HERE[here])
    assert any(text.get_text().startswith("you are here") for text in figure.axes[0].texts)


def test_the_map_knows_its_places():
    texts = model_map.model_map().axes[0].texts
    assert not any(text.get_text().startswith("you are here") for text in texts)
    with pytest.raises(ValueError, match="here: expected one of memory, .*; got 'nowhere'"):
        model_map.model_map("nowhere")
