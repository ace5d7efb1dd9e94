"""Random numbers as functions of an integer seed: no global state, the same bits on every backend.

We need two kinds. Parameters and hash rotations are few, so NumPy draws them on the host and we move them. Dropout
masks are large and must be *replayable in any order*: a reversible layer recomputes them in its backward pass, and the
attention kernel does so tile by tile. So they come from a hash of a counter: the mask of an entry depends on the seed
and on the entry's index, never on what was drawn before. Read next: `checks.py`.
"""

import zlib

import numpy as np

_MASK64 = (1 << 64) - 1


class RowSeed(int):
    """A seed for some rows of a batch, which begin at `first_row`: `RowSeed(7, first_row=4)`.

    These rows get the dropout masks that they have in the whole batch, so we may compute a batch in parts. The same
    goes for some heads of an attention layer: `heads` is the number of the first, and how many the layer has.
    Seeds folded from it know both, too; a plain integer begins at row 0 and at head 0.
    """

    def __new__(cls, seed, first_row=0, heads=(0, None)):
        self = super().__new__(cls, seed)
        self.first_row, self.heads = first_row, heads
        return self


def first_row(seed):
    """The row of the batch at which the rows of `seed` begin."""
    return getattr(seed, "first_row", 0)


def head_numbers(seed, row, head, n_heads):
    """Number b H + h of each head in the whole batch and layer, given its row and its number among these n_heads."""
    first, n_in_layer = getattr(seed, "heads", (0, None))
    return (row + first_row(seed)) * (n_in_layer or n_heads) + first + head


def fold(seed, *labels):
    """A new 64-bit seed from `seed` (int) and `labels` (ints or strings): `fold(seed, "layer", 3)`.

    Each part of a model gets a seed of its own this way, so that no two parts share random numbers.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed: expected an integer; got {type(seed).__name__}")
    state = int(seed) & _MASK64
    for label in labels:
        word = zlib.crc32(label.encode()) if isinstance(label, str) else int(label)
        state = (state ^ word) + 0x9E3779B97F4A7C15 & _MASK64  # splitmix64
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK64
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK64
        state ^= state >> 31
    return RowSeed(state, seed.first_row, seed.heads) if isinstance(seed, RowSeed) else state


def generator(seed, *labels):
    """NumPy's `Generator` for `fold(seed, *labels)`, to draw numbers on the host."""
    return np.random.default_rng(fold(seed, *labels))


def hash_uint32(words):
    """A hash of every uint32 in the array `words`, in place: flipping an input bit flips about half the output bits."""
    words ^= words >> 16
    words *= words.dtype.type(0x7FEB352D)
    words ^= words >> 15
    words *= words.dtype.type(0x846CA68B)
    words ^= words >> 16
    return words


def counter_bits(seed, start, n, xp):
    """`n` random uint32 (1-D): entries `start`, `start + 1`, ... of the random stream of `seed`."""
    low, high = fold(seed, "low") & 0xFFFFFFFF, fold(seed, "high") & 0xFFFFFFFF
    words = xp.arange(start, start + n, dtype=xp.int64).astype(xp.uint32)  # wraps at 2^32 by design
    words += words.dtype.type(low)
    hash_uint32(words)
    words ^= words.dtype.type(high)
    return hash_uint32(words)


def keep_threshold(rate):
    """The uint32 below which a random word means "drop", for a dropout rate in [0, 1)."""
    return np.uint32(round(rate * 2**32))
