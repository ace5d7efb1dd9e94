"""How much memory? What a cache keeps, and the peak that a computation reaches.

    memory.nbytes(cache)            # what training has to remember between forward and backward
    with memory.peak() as m:        # the most that was alive at any moment inside the block
        y, cache = layer.forward(x)
        m.mark("attention")         # adds to m.marks what is alive now, and the most since the last mark
    m.bytes
    memory.predict(config, batch, length)   # what training will remember, from the sizes alone, before it runs

The first two answer different questions: a reversible layer has a small cache, a chunked layer a small peak.
Both count arrays, so they do not depend on what the operating system or a memory pool happens to hold.
Read next: `course/plots.py`, which draws what you have measured.
"""

import contextlib
import dataclasses
import tracemalloc
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from minireformer import backend
from minireformer.attention import padded_length
from minireformer.checks import check_count, check_module, float_dtype
from minireformer.config import ReformerConfig
from minireformer.hashing import default_n_buckets, smallest_int


def nbytes(values: Any) -> int:
    """The bytes of all arrays in `values`: an array, or dicts, lists, tuples, dataclasses of arrays (nested).

    Memory that is reached twice counts once. A view counts as the whole array that it looks into, because it keeps
    all of that alive. None, numbers and strings count 0. Raises TypeError for anything else.
    """
    return sum(owner.nbytes for owner in {id(owner): owner for owner in _owners(values)}.values())


def _owners(values):
    """Yield the array that owns the memory, for every array that is reached from `values`."""
    if values is None or isinstance(values, (bool, int, float, complex, str, bytes, np.generic, np.dtype)):
        return
    if isinstance(values, dict):
        parts = values.values()
    elif isinstance(values, (list, tuple)):
        parts = values
    elif dataclasses.is_dataclass(values):
        parts = [getattr(values, field.name) for field in dataclasses.fields(values)]
    else:
        check_module("values", values)  # a TypeError unless it is an array
        yield _owner(values)
        return
    for part in parts:
        yield from _owners(part)


def _owner(array):
    """The array whose memory `array` looks into: itself, unless it is a view."""
    owner = array
    while (array := getattr(array, "base", None)) is not None:
        if hasattr(array, "nbytes"):  # not a memory map, or NumPy's stand-in below a strided view
            owner = array
    return owner


class Mark(NamedTuple):
    """Memory at one moment inside a `peak` block, and just before it: bytes above those at the block's start."""

    label: str
    highest: int  # the most since the previous mark, or since the start
    now: int  # at the mark itself


class Peak:
    """What `peak()` yields: `bytes` is None until the block has ended; each `mark` adds one to `marks`."""

    def __init__(self, look: Any) -> None:
        self.bytes: int | None = None
        self.marks: list[Mark] = []
        self._look = look

    def mark(self, label: str) -> None:
        """Add a `Mark` of this moment to `marks`; RuntimeError once the block has ended."""
        if self._look is None:
            raise RuntimeError(f"mark {label!r}: the block of `peak()` has ended")
        self.marks.append(Mark(label, *self._look()))

    def _end(self):
        highest, _ = self._look()  # since the last mark
        self.bytes, self._look = max([highest, *(mark.highest for mark in self.marks)]), None


@contextlib.contextmanager
def peak() -> Iterator[Peak]:
    """`with peak() as m: ...`, then `m.bytes`: the most bytes alive at once in the block, above those at its start.

    The block follows the backend that is in use when it begins. NumPy: `tracemalloc` sees every thread; it also counts
    a few kilobytes of Python's own objects, and slows down Python code that makes many of them. CuPy: it counts the
    allocations of this thread, in the pool's steps of 512 bytes. Neither sees what BLAS allocates for itself. Blocks
    may be nested.
    """
    follow = _follow_host if backend.active() is np else _follow_device
    with follow() as look:  # look() -> bytes above those at the start: the most since the last look, and now
        measured = Peak(look)
        try:
            yield measured
        finally:
            measured._end()


_highest = {}  # for the `look` of every open block on the host: the most bytes since it was last called


@contextlib.contextmanager
def _follow_host():
    def look():
        now = _note_highest()
        highest, _highest[look] = _highest[look], now
        return highest - start, now - start

    starts_tracing = not tracemalloc.is_tracing()
    if starts_tracing:
        tracemalloc.start()
    start = _highest[look] = _note_highest()
    try:
        yield look
    finally:
        del _highest[look]
        if starts_tracing:
            tracemalloc.stop()


def _note_highest():
    """Note the peak for every open block, because tracemalloc has only one, and reset it; -> bytes alive now."""
    now, highest = tracemalloc.get_traced_memory()
    for look, before in _highest.items():
        _highest[look] = max(before, highest)
    tracemalloc.reset_peak()
    return now


@contextlib.contextmanager
def _follow_device():
    from cupy.cuda import MemoryHook

    class LiveBytes(MemoryHook):
        now = highest = 0
        name = property(lambda self: f"minireformer {id(self)}")  # hooks that are nested need different names

        def malloc_postprocess(self, *, mem_size, **_):
            self.now += mem_size
            self.highest = max(self.highest, self.now)

        def free_postprocess(self, *, mem_size, **_):
            self.now -= mem_size

        def look(self):
            highest, self.highest = self.highest, self.now
            return highest, self.now

    with LiveBytes() as live:
        yield live.look


class Prediction(NamedTuple):
    """Bytes, from the sizes of a model alone: see `predict`."""

    activation: int  # one (B, T, d_model) array
    hidden: int  # one (B, T, d_ff) array: the inside of a feed-forward layer
    attention_matrix: int  # one (T, T) matrix of attention weights: for one head of one sequence
    blocks: int  # what the blocks of the config keep for backward, stored layer by layer
    buckets: int  # of all LSH layers, which a recompute needs
    stored: int  # what a training step keeps from forward to backward, with the config as it is


def predict(config: ReformerConfig, batch: int, length: int, dtype: Any = "float32") -> Prediction:
    """How much memory training must keep, for a `ReformerConfig` and `batch` sequences of `length` tokens.

    `stored` is what `memory.nbytes` measures on the cache of `Reformer.features`, without the parameters. With
    `config.reversible` it is the last pair of streams and the buckets, however many blocks there are; otherwise
    `blocks` as well. A Transformer would also keep the attention matrices and the hidden arrays; the kernel and the
    chunked feed-forward layer here never do. Assumes no dropout and no key mask. ValueError or TypeError names an
    argument that is out of range, such as a `length` beyond the config's max_len.
    """
    if not isinstance(config, ReformerConfig):
        raise TypeError(f"config: expected a ReformerConfig; got {type(config).__name__}")
    batch, length = check_count("batch", batch), check_count("length", length)
    if length > config.max_len:
        raise ValueError(f"length: expected at most {config.max_len} (max_len); got {length}")
    size, tokens = float_dtype(dtype).itemsize, batch * length
    activation, heads = tokens * config.d_model * size, tokens * config.n_heads * config.d_head * size
    statistics = 2 * tokens * size  # mean and scale of a LayerNorm
    padded = padded_length(length, config.chunk_lens or (length,))
    blocks = buckets = 0
    for kind in config.attn_layers:
        chunk_len = getattr(config, f"{kind}_chunk_len", padded)  # full attention has no chunks
        chunked = padded > chunk_len
        slots = batch * config.n_heads * (padded if chunked else length)  # in one round
        n_projections = 2 if kind in ("lsh", "shared_full") else 3
        # The streams and their LayerNorms' outputs; the projections; the heads' output, m and l for every query.
        blocks += 4 * activation + 2 * statistics + n_projections * heads + slots * (config.d_head + 2) * size
        if chunked and padded > length:
            blocks += batch * padded  # the mask that hides the padding
        if chunked and kind == "local":
            blocks += padded * 8  # the order of the slots
        if kind == "lsh":
            n_rounds = config.n_hashes if chunked else 1
            n_buckets = config.n_buckets or default_n_buckets(padded, chunk_len, config.max_len)
            bucket_size = np.dtype(smallest_int(np.prod(n_buckets) if chunked else 1)).itemsize
            buckets += n_rounds * config.n_heads * tokens * bucket_size
            # The order of each round's slots, and for the mask of `same_bucket` their buckets as well.
            blocks += chunked * n_rounds * slots * (4 + config.same_bucket * bucket_size)
    stored = tokens * 8 + 2 * activation + statistics + buckets + (0 if config.reversible else blocks)
    return Prediction(activation, tokens * config.d_ff * size, length**2 * size, blocks, buckets, stored)
