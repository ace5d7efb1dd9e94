"""Pictures as sequences of bytes."""

import sys

import numpy as np
import pytest

from minireformer import backend
from minireformer.training.data import (
    ImageCorpus,
    photograph,
)


def on_host(arrays):
    return [backend.to_numpy(array) for array in arrays]


# Every value of these two pictures says where it stands: (picture, row, column, colour) is 96 p + 12 r + 3 c + k.
PLACES = np.arange(2 * 8 * 4 * 3, dtype="uint8").reshape(2, 8, 4, 3)


def test_a_square_is_read_by_rows_with_the_colours_of_a_pixel_side_by_side():
    corpus = ImageCorpus([PLACES[0]], [PLACES[1]])
    tokens, targets = on_host(corpus.batch("train", 0, batch=50, side=2))
    assert tokens.shape == targets.shape == (50, 11)
    mirrored = 0
    for row, target in zip(tokens, targets):
        assert row[1:].tolist() == target[:-1].tolist()
        values = np.append(row, target[-1]).reshape(2, 2, 3)
        assert (np.diff(values, axis=2) == 1).all()  # red, green, blue
        assert (np.diff(values, axis=0) == 12).all()  # a row of the picture further down
        assert set(np.diff(values, axis=1).ravel()) in ({3}, {-3})
        mirrored += values[0, 0, 0] > values[0, 1, 0]
    assert 10 < mirrored < 40


def test_squares_cover_a_split_and_nothing_else():
    corpus = ImageCorpus([PLACES[0]], [PLACES[1]])
    for split, picture in (("train", PLACES[0]), ("held_out", PLACES[1])):
        assert set(np.unique(corpus.squares(split, 0, 500, side=3))) == set(picture.ravel().tolist())
    assert (corpus.squares("train", 3, 4, 2) == corpus.squares("train", 3, 4, 2)).all()
    assert (corpus.squares("train", 3, 4, 2) != corpus.squares("train", 4, 4, 2)).any()


def test_the_photograph_is_split_without_a_shared_pixel():
    corpus = photograph()
    assert [p.shape for p in corpus.train] == [(224, 512, 3), (248, 512, 3), (112, 256, 3), (124, 256, 3)]
    assert [p.shape for p in corpus.held_out] == [(128, 512, 3), (64, 256, 3)]
    full, half = corpus.held_out
    assert abs(full.reshape(64, 2, 256, 2, 3).mean(axis=(1, 3)) - half).max() <= 0.5
    tokens, targets = on_host(corpus.batch("held_out", 0, 2, 64))
    assert tokens.shape == targets.shape == (2, 64 * 64 * 3 - 1)


def test_without_pillow_the_photograph_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)  # an import of it fails
    with pytest.raises(ImportError, match="pip install matplotlib"):
        photograph()


@pytest.mark.parametrize("picture", [PLACES[0].astype(float), PLACES[0, ..., 0], PLACES, "picture", None])
def test_what_is_no_picture_of_three_colours_is_an_error(picture):
    with pytest.raises(TypeError, match=r"held_out\[1\]: expected uint8 of shape \(height, width, 3\); got"):
        ImageCorpus([PLACES[0]], [PLACES[1], picture])


def test_bad_arguments_of_an_image_corpus_are_named():
    with pytest.raises(TypeError, match="train: expected a list of pictures; got ndarray"):
        ImageCorpus(PLACES, [PLACES[1]])
    with pytest.raises(ValueError, match=r"held_out: expected at least one picture; got \[\]"):
        ImageCorpus([PLACES[0]], [])
    corpus = ImageCorpus([PLACES[0]], [PLACES[1]])
    with pytest.raises(ValueError, match="split: .*got 'test'"):
        corpus.batch("test", 0, 1, 2)
    with pytest.raises(ValueError, match="side: expected at most 4, .*train.*got 5"):
        corpus.batch("train", 0, 1, 5)
    with pytest.raises(ValueError, match="batch: .*got 0"):
        corpus.batch("train", 0, 0, 2)
    with pytest.raises(TypeError, match="seed"):
        corpus.batch("train", 0.5, 1, 2)
