"""What to train on, without a download: the paper's duplicate task, and files read as bytes.

The duplicate task (section 2) is a sequence `0 w 0 w`: a random word w, then the same word again. To predict the
second w, a model must find, for every symbol, where it occurred half a sequence earlier. The default corpus is the
source code of Python's own standard library: you already have these 12 MB, and names in them recur thousands of bytes
later. A picture is a sequence, too: `photograph`.

Every batch is a function of a seed. If the seed is the step's number, a run that is interrupted and resumed sees the
same data. Read next: `optimizers.py`.
"""

import importlib.util
import os
import sysconfig
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minireformer import backend, rng
from minireformer.backend import Array
from minireformer.checks import check_count, check_path, expect, expect_type, is_number

_NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
_MAX_TOKENS = 2**28  # in a batch: 2 GiB of ints


def duplicate_task(seed: int, batch: int, length: int, n_symbols: int = 127) -> tuple[Array, Array, Array]:
    """`batch` sequences `0 w 0 w` of `length` tokens, each with a random w of symbols 1..n_symbols.

    -> tokens (B, T) ints; targets (B, T), each the token after (0 after the last); mask (B, T), true where the target
    belongs to the second w, the only part that can be predicted. T = length = 2 |w| + 2. Raises ValueError unless
    `length` is even and >= 4.
    """
    length = check_count("length", length, at_least=4, at_most=_MAX_TOKENS)
    batch = check_count("batch", batch, at_most=_MAX_TOKENS // length)
    n_symbols = check_count("n_symbols", n_symbols, at_most=2**31 - 1)
    expect("length", length, length % 2 == 0, "an even number, for the two halves 0w")
    word = rng.generator(seed, "duplicate").integers(1, n_symbols + 1, (batch, length // 2 - 1))  # B, |w|
    half = np.pad(word, ((0, 0), (1, 0)))  # B, T/2: 0w
    tokens = np.concatenate([half, half], axis=1)
    targets = np.pad(tokens[:, 1:], ((0, 0), (0, 1)))
    mask = np.zeros(tokens.shape, dtype=bool)
    mask[:, length // 2 : -1] = True  # the second 0 predicts the word's first symbol
    return backend.asarray(tokens), backend.asarray(targets), backend.asarray(mask)


class ByteCorpus:
    """Files joined into two long strings of bytes, one to train on and one held out.

    `files` is a dict from name to bytes. A tenth of them (`held_out`), at least one, is held out: those whose names
    have the lowest checksums, so that the choice looks random but is the same everywhere. If there is only one
    file, its end is held out instead. A zero byte marks the end of each file. Raises TypeError if names are not str or
    contents not bytes, ValueError if there is too little to fill both splits.

    `train` and `held_out` are uint8 arrays, `names` the files' names by split.
    """

    def __init__(self, files: dict[str, bytes], held_out: float = 0.1) -> None:
        expect_type("files", files, isinstance(files, dict), "a dict from names to bytes")
        for name, data in files.items():
            expect_type("files", name, isinstance(name, str), "names that are str")
            expect_type(f"files[{name!r}]", data, isinstance(data, bytes), "bytes")
        files = {name: data for name, data in files.items() if data}
        expect("files", files, files, "at least one that is not empty")
        expect("held_out", held_out, is_number(held_out) and 0 < held_out < 1, "a fraction between 0 and 1")
        if len(files) == 1:
            ((name, data),) = files.items()
            n = len(data)
            cut = n - round(n * held_out)
            if cut in (0, n):
                only = f"the {n} bytes of the only file, {name!r}"
                raise ValueError(f"files: expected more than {only}, to hold out {held_out} of them")
            files = {f"{name} (beginning)": data[:cut], f"{name} (end)": data[cut:]}
            train_names, held_out_names = ([name] for name in files)
        else:
            ranked = sorted(files, key=lambda name: (zlib.crc32(name.encode(errors="replace")), name))
            n_held_out = min(max(1, round(len(files) * held_out)), len(files) - 1)
            train_names, held_out_names = sorted(ranked[n_held_out:]), sorted(ranked[:n_held_out])
        self.names = {"train": train_names, "held_out": held_out_names}
        self.train, self.held_out = (
            np.frombuffer(b"".join(files[name] + b"\0" for name in names), "uint8") for names in self.names.values()
        )

    def batch(self, split: str, seed: int, batch: int, length: int) -> tuple[Array, Array]:
        """`batch` random pieces of the "train" or "held_out" split; `seed` decides which.

        -> tokens (B, T), targets (B, T): ints 0..255, the targets one byte further on. T = length.
        Raises ValueError if the split is too short for one piece.
        """
        data, length = _split(self, split), check_count("length", length)
        n = len(data)
        expect("length", length, length < n, f"at most {n - 1}, as the {split} split holds {n} bytes")
        batch = check_count("batch", batch, at_most=max(1, _MAX_TOKENS // length))
        pieces = np.lib.stride_tricks.sliding_window_view(data, length + 1)  # a view: starts, T + 1
        starts = rng.generator(seed, split).integers(0, len(pieces), batch)
        return _tokens_and_targets(pieces[starts])


def standard_library() -> ByteCorpus:
    """The source code of the running Python's standard library, without its tests, as a `ByteCorpus`."""
    folder = Path(sysconfig.get_path("stdlib"))
    paths = [path for path in folder.rglob("*.py") if not _NOT_LIBRARY & set(path.relative_to(folder).parts)]
    if not paths:
        raise ValueError(f"standard_library: found no .py files under {folder}; use text_files(folder) instead")
    return ByteCorpus(_read(folder, paths))


def text_files(path: str | os.PathLike[str]) -> ByteCorpus:
    """A text file, or every text file of a folder and the folders in it, as a `ByteCorpus`.

    In a folder, hidden files are left out, and so are binary ones (those with a zero byte).
    Raises ValueError if `path` is empty or does not exist, or if no text is left.
    """
    path, given = check_path("path", path), str(path)
    exists = given != "" and path.exists()  # to `Path`, "" is the current folder
    expect("path", given, exists, "a file or a folder that exists")
    if path.is_dir():
        files = _read(path, [p for p in path.rglob("*") if "/." not in "/" + p.relative_to(path).as_posix()])
    else:
        files = _read(path.parent, [path])
    files = {name: data for name, data in files.items() if data and b"\0" not in data}
    expect("path", given, files, "text, at least one file that is neither empty nor binary")
    return ByteCorpus(files)


def _read(folder, paths):
    """Files by their names below `folder`, in an order that does not depend on the operating system."""
    names = {path.relative_to(folder).as_posix(): path for path in paths if path.is_file()}
    return {name: names[name].read_bytes() for name in sorted(names)}


def _split(corpus, name):
    """The split "train" or "held_out" of a corpus; ValueError if `name` is neither."""
    known = isinstance(name, str) and name in ("train", "held_out")
    return getattr(corpus, expect("split", name, known, "'train' or 'held_out'"))


def _tokens_and_targets(rows):
    """Bytes (B, T + 1) -> tokens (B, T) and targets (B, T), ints: for each byte, the next one."""
    rows = rows.astype("int64")
    return backend.asarray(rows[:, :-1]), backend.asarray(rows[:, 1:])


class ImageCorpus:
    """Pictures, cut into squares that are read as sequences of bytes.

    A square of side S is 3 S^2 bytes: row by row from the top, in each row pixel by pixel, and for each pixel red,
    green, blue. So each byte has a place in the grid (S, S, 3), which suits axial positions.

    `train` and `held_out` are lists of pictures, uint8 arrays (height, width, 3) that share no pixel. Raises TypeError
    if they are not, ValueError if a list is empty.
    """

    def __init__(self, train: Sequence[np.ndarray], held_out: Sequence[np.ndarray]) -> None:
        for name, pictures in (("train", train), ("held_out", held_out)):
            expect_type(name, pictures, isinstance(pictures, (list, tuple)), "a list of pictures")
            expect(name, pictures, len(pictures) > 0, "at least one picture")
            for i, picture in enumerate(pictures):
                is_bytes = isinstance(picture, np.ndarray) and picture.dtype == "uint8"
                if not is_bytes or picture.shape[2:] != (3,):
                    got = f"{getattr(picture, 'dtype', type(picture).__name__)} {getattr(picture, 'shape', '')}"
                    raise TypeError(f"{name}[{i}]: expected uint8 of shape (height, width, 3); got {got.strip()}")
        self.train, self.held_out = list(train), list(held_out)

    def squares(self, split: str, seed: int, batch: int, side: int) -> np.ndarray:
        """`batch` random squares of the "train" or "held_out" split, half of them mirrored; `seed` decides which.

        -> (B, S, S, 3) uint8 in host memory, S = side. Raises ValueError if a picture is smaller than that.
        """
        pictures, side = _split(self, split), check_count("side", side)
        smallest = min(min(picture.shape[:2]) for picture in pictures)
        expect(
            "side", side, side <= smallest, f"at most {smallest}, the shortest side of a picture in the {split} split"
        )
        batch = check_count("batch", batch, at_most=max(1, _MAX_TOKENS // (3 * side**2)))
        random, chosen = rng.generator(seed, split), []
        for _ in range(batch):
            picture = pictures[random.integers(len(pictures))]
            row, column = (random.integers(size - side + 1) for size in picture.shape[:2])
            square = picture[row : row + side, column : column + side]
            chosen.append(square[:, ::-1] if random.integers(2) else square)
        return np.stack(chosen)

    def batch(self, split: str, seed: int, batch: int, side: int) -> tuple[Array, Array]:
        """`squares` as sequences: -> tokens (B, T), targets (B, T), ints 0..255, the targets one byte further on.

        T = 3 side^2 - 1: the first byte is given, and the last has nothing to predict.
        """
        squares = self.squares(split, seed, batch, side)  # B, S, S, 3
        return _tokens_and_targets(squares.reshape(len(squares), -1))


def photograph() -> ImageCorpus:
    """The one photograph that comes with matplotlib, as an `ImageCorpus`, at full and at half size; needs Pillow.

    It shows Grace Hopper, in 512 x 600 pixels. For its licence, see the source that the file names,
    https://commons.wikimedia.org/wiki/File:Grace_Hopper.jpg; matplotlib's licence does not mention it. A band of 128
    rows across the middle is held out. One picture is enough to see a model learn what pixels have in common, and far
    too little to learn what pictures show. Raises ImportError if matplotlib or Pillow is missing.
    """
    spec = importlib.util.find_spec("matplotlib")  # located, not imported: importing takes a second
    if spec is None or importlib.util.find_spec("PIL") is None:
        raise ImportError(
            "photograph: needs matplotlib, which contains the picture, and Pillow: pip install matplotlib"
        )
    from PIL import Image

    path = Path(spec.origin).parent / "mpl-data" / "sample_data" / "grace_hopper.jpg"
    with Image.open(path) as file:
        pixels = np.asarray(file.convert("RGB"))  # 600, 512, 3
    half = pixels.reshape(300, 2, 256, 2, 3).mean(axis=(1, 3)).round().astype("uint8")
    bands = [np.split(picture, [224 // scale, 352 // scale]) for picture, scale in ((pixels, 1), (half, 2))]
    return ImageCorpus([band for top, _, bottom in bands for band in (top, bottom)], [middle for _, middle, _ in bands])
