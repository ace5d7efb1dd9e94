import ast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minireformer import backend
from minireformer.training.data import (
    ByteCorpus,
    ImageCorpus,
    duplicate_task,
    standard_library,
    text_files,
)

FILES = {f"file{i}.txt": bytes([65 + i]) * (50 + i) for i in range(20)}  # each file is one letter


def on_host(arrays):
    return [backend.to_numpy(array) for array in arrays]


@given(
    seed=st.integers(0, 2**40),
    batch=st.integers(1, 5),
    half=st.integers(2, 40),
    n_symbols=st.integers(1, 200),
)
def test_duplicate_task_repeats_its_word_and_masks_the_second(seed, batch, half, n_symbols):
    tokens, targets, mask = on_host(duplicate_task(seed, batch, 2 * half, n_symbols))
    assert tokens.shape == targets.shape == mask.shape == (batch, 2 * half)
    for row, target, known in zip(tokens, targets, mask):
        word = row[1:half]
        assert row.tolist() == [0, *word, 0, *word]
        assert 1 <= word.min() and word.max() <= n_symbols
        assert target.tolist() == [*row[1:], 0]
        assert target[known].tolist() == word.tolist()  # what is asked for is w, all of it and nothing else
        assert known.sum() == half - 1 and not known[:half].any()


def test_duplicate_task_uses_every_symbol_equally():
    tokens, _, _ = on_host(duplicate_task(0, batch=400, length=128))
    counts = np.bincount(tokens[:, 1:64].ravel(), minlength=128)
    expected = 400 * 63 / 127
    assert counts[0] == 0 and len(counts) == 128
    assert abs(counts[1:] - expected).max() < 6 * expected**0.5  # six standard deviations


def test_batches_are_functions_of_their_seed():
    corpus = ByteCorpus(FILES)
    for make in (
        lambda seed: duplicate_task(seed, 4, 64)[0],
        lambda seed: corpus.batch("train", seed, 4, 64)[0],
    ):
        assert (make(3) == make(3)).all()
        assert (make(3) != make(4)).any()


@pytest.mark.parametrize("length", [0, 2, 7, -4, 8.0])
def test_duplicate_task_refuses_lengths_that_are_not_two_halves(length):
    with pytest.raises(ValueError, match="length: expected"):
        duplicate_task(0, 1, length)


def test_no_file_is_in_both_splits_and_no_piece_crosses():
    corpus = ByteCorpus(FILES)
    assert sorted(corpus.names["train"] + corpus.names["held_out"]) == sorted(FILES)
    for split, other in (("train", "held_out"), ("held_out", "train")):
        foreign = {FILES[name][0] for name in corpus.names[other]}
        tokens, targets = on_host(corpus.batch(split, 0, batch=200, length=60))
        assert not foreign & set(np.unique(tokens)) | foreign & set(np.unique(targets))


@given(st.dictionaries(st.text(min_size=1), st.binary(min_size=1, max_size=20), min_size=2, max_size=20))
def test_splits_depend_on_names_alone_and_neither_is_empty(files):
    corpus = ByteCorpus(files)
    shuffled = ByteCorpus({name: data + b"!" for name, data in reversed(files.items())})
    assert corpus.names == shuffled.names
    assert len(corpus.names["held_out"]) == max(1, round(len(files) / 10))
    assert corpus.names["train"] == sorted(files.keys() - set(corpus.names["held_out"])) != []
    joined = b"".join(files[name] + b"\0" for name in corpus.names["train"])
    assert corpus.train.tobytes() == joined


def test_pieces_cover_the_split_from_first_byte_to_last():
    corpus = ByteCorpus({"a": bytes(range(1, 101))})
    tokens, targets = on_host(corpus.batch("train", 0, batch=2000, length=8))
    assert (tokens[:, 1:] == targets[:, :-1]).all()
    assert set(np.unique(tokens[:, 0])) == set(range(1, 91 - 8 + 1))  # 90 bytes and a zero: 83 places to start
    assert targets.max() == 90 and (targets[:, -1] == 0).any()


def test_a_single_file_is_cut_with_its_end_held_out():
    corpus = ByteCorpus({"book": b"x" * 90 + b"y" * 10})
    assert corpus.train.tobytes() == b"x" * 90 + b"\0"
    assert corpus.held_out.tobytes() == b"y" * 10 + b"\0"


def test_a_split_as_long_as_one_piece_is_enough_and_a_byte_less_is_an_error():
    corpus = ByteCorpus({"a": b"x" * 90})  # 81 bytes and the zero to train on
    tokens, targets = on_host(corpus.batch("train", 0, batch=2, length=81))
    assert (tokens == ord("x")).all() and (targets[:, -1] == 0).all()
    with pytest.raises(ValueError, match="length: expected at most 81.*train.*82 bytes; got 82"):
        corpus.batch("train", 0, batch=2, length=82)


def test_bad_arguments_of_a_batch_are_named():
    corpus = ByteCorpus(FILES)
    with pytest.raises(ValueError, match="split: .*'held_out'; got 'test'"):
        corpus.batch("test", 0, 1, 8)
    with pytest.raises(ValueError, match="split: .*got array"):
        corpus.batch(np.zeros(2), 0, 1, 8)
    with pytest.raises(ValueError, match="batch: .*got 0"):
        corpus.batch("train", 0, 0, 8)
    with pytest.raises(TypeError, match="seed"):
        corpus.batch("train", 0.5, 1, 8)


@pytest.mark.parametrize("size", [2**29, 2**40, 2**70])
@pytest.mark.parametrize("name", ["batch", "length", "side", "n_symbols"])
def test_a_size_beyond_all_memory_is_named(name, size):
    """And not NumPy's "Maximum allowed dimension exceeded", after much work or none."""
    images = ImageCorpus([PLACES[0]], [PLACES[1]])
    for make, sizes in (
        (lambda **given: duplicate_task(0, **given), {"batch": 2, "length": 8, "n_symbols": 3}),
        (lambda **given: ByteCorpus(FILES).batch("train", 0, **given), {"batch": 2, "length": 8}),
        (lambda **given: images.squares("train", 0, **given), {"batch": 2, "side": 3}),
        (lambda **given: images.batch("train", 0, **given), {"batch": 2, "side": 3}),
    ):
        if name in sizes and (name, size) != ("n_symbols", 2**29):
            with pytest.raises(ValueError, match=f"^{name}: expected .*got {size}"):
                make(**(sizes | {name: size}))


def test_small_numpy_integers_do_not_overflow():
    small = np.int8(100)
    for expected, found in (
        (duplicate_task(0, 100, 100, 127), duplicate_task(0, small, small, np.int8(127))),
        (ByteCorpus(FILES).batch("train", 0, 100, 100), ByteCorpus(FILES).batch("train", 0, small, small)),
    ):
        for one, other in zip(expected, found):
            assert (one == other).all()
    picture = np.zeros((100, 100, 3), "uint8")
    assert ImageCorpus([picture], [picture]).batch("train", 0, small, small)[0].shape == (100, 29_999)


@pytest.mark.parametrize("files", [{}, {"empty": b""}])
def test_a_corpus_without_bytes_is_an_error(files):
    with pytest.raises(ValueError, match="files: expected at least one"):
        ByteCorpus(files)


def test_a_corpus_of_strings_is_an_error():
    with pytest.raises(TypeError, match=r"files\['a'\]: expected bytes; got str"):
        ByteCorpus({"a": "text"})


@pytest.mark.parametrize("name", [1, None, b"a"])
def test_names_are_strings(name):
    with pytest.raises(TypeError, match="files: expected names that are str; got"):
        ByteCorpus({name: b"text", "other": b"text"})


@pytest.mark.parametrize("n_bytes, held_out", [(1, 0.1), (5, 0.1), (1, 0.9), (40, 0.01), (40, 0.99)])
def test_a_single_file_too_short_to_be_cut_is_an_error(n_bytes, held_out):
    with pytest.raises(ValueError, match=f"files: expected more than the {n_bytes} bytes of the only file, 'a'"):
        ByteCorpus({"a": b"x" * n_bytes}, held_out)
    assert len(ByteCorpus({"a": b"x" * (n_bytes + 100)}, held_out).held_out) > 1  # beside the zero


def test_standard_library_is_python_source_with_long_files():
    corpus = standard_library()
    names = corpus.names["train"] + corpus.names["held_out"]
    assert "argparse.py" in names and "json/decoder.py" in names
    assert not any("site-packages" in name or name.startswith("test/") for name in names)
    assert len(corpus.train) > 5_000_000 and len(corpus.held_out) > 500_000
    longest = max(corpus.train.tobytes().split(b"\0"), key=len)
    assert len(longest) > 65536
    ast.parse(longest)  # whole files, in one piece


def test_text_files_reads_a_folder_but_not_what_is_hidden_empty_or_binary(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    for name in ("one.txt", "deep/two.md", "deep/er/three"):
        (tmp_path / name).write_bytes(b"text of " + name.encode())
    for name, data in (
        (".git/config", b"x"),
        (".hidden", b"x"),
        ("empty.txt", b""),
        ("picture", b"\x89PNG\0"),
    ):
        (tmp_path / name).write_bytes(data)
    corpus = text_files(tmp_path)
    assert sorted(corpus.names["train"] + corpus.names["held_out"]) == [
        "deep/er/three",
        "deep/two.md",
        "one.txt",
    ]


def test_an_empty_path_is_not_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "text").write_bytes(b"x" * 100)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="path: expected a file or a folder that exists; got ''"):
        text_files("")
    assert text_files(".").train.tobytes() == b"x" * 90 + b"\0"


def test_text_files_reads_a_hidden_file_that_is_named(tmp_path):
    path = tmp_path / ".notes"
    path.write_bytes(b"x" * 100)
    assert text_files(path).train.tobytes() == b"x" * 90 + b"\0"


def test_text_files_reads_one_file_though_its_folder_is_hidden(tmp_path):
    path = tmp_path / ".cache" / "book.txt"
    path.parent.mkdir()
    path.write_text("é" * 100, encoding="utf-8")
    assert text_files(str(path)).train.tobytes() == "é".encode() * 90 + b"\0"


@pytest.mark.parametrize("files", [[b"one"], None, b"one"])
def test_files_are_a_dict(files):
    with pytest.raises(TypeError, match="files: expected a dict from names to bytes; got"):
        ByteCorpus(files)


@pytest.mark.parametrize("held_out", [0, 1, "0.1", None])
def test_what_is_held_out_is_a_fraction(held_out):
    with pytest.raises(ValueError, match="held_out: expected a fraction between 0 and 1; got"):
        ByteCorpus({"one": b"1", "two": b"2"}, held_out)


def test_missing_and_textless_paths_are_errors(tmp_path):
    with pytest.raises(TypeError, match="path: expected a path; got NoneType"):
        text_files(None)
    with pytest.raises(ValueError, match="path: expected a file or a folder that exists; got .*nowhere"):
        text_files(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="neither empty nor binary"):
        text_files(tmp_path)
    (tmp_path / "binary").write_bytes(b"\0\1")
    with pytest.raises(ValueError, match="neither empty nor binary"):
        text_files(tmp_path / "binary")


# Every value of these two pictures says where it stands: (picture, row, column, colour) is 96 p + 12 r + 3 c + k.
PLACES = np.arange(2 * 8 * 4 * 3, dtype="uint8").reshape(2, 8, 4, 3)
