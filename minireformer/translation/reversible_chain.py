"""Reversible layers with any number of sub-layers a block: the decoder of the paper's translation model.

A block of the decoder has three sub-layers, self-attention, cross-attention and feed-forward, for two streams. They
form a chain: each reads one stream and adds to the other, then the streams change places.

    (u, w) -> (w, u + f(w))          back: (w, y) -> (u, w) with u = y - f(w)

With two sub-layers a block this is `ReversibleStack`, where streams are back in their places after each block; with
three, each sub-layer takes on the other stream's side in every second block, and always reads what the one before it
wrote. Cross-attention also reads the encoder's output, the same in every block: its gradient is the sum over blocks,
added up as backward goes along, and no block keeps anything of it. Read next: `encoder_decoder.py`.
"""

from typing import Any, NamedTuple

from minireformer import backend, rng
from minireformer.checks import check_array
from minireformer.layer import Layer, prefixed

NAMES = ("attention", "cross_attention", "feed_forward")


class ReversibleChainCache(NamedTuple):
    """What backward needs: with `reversible`, nothing whose size grows with the number of blocks but buckets."""

    y: Any  # (B, T, 2 d_model): the last pair of streams, side by side
    seed: int
    training: bool
    given: dict  # masks and the encoder's output, by the name of the sub-layers that take them
    replays: list  # per sub-layer: the buckets, or nothing
    stored: list  # per sub-layer: its cache, with `reversible=False` in training; else empty


class ReversibleChain(Layer):
    """Blocks of three `PreNorm`s: (attention, cross-attention, feed-forward). Parameters `0.cross_attention.*`, ...

    x (B, T, d_model) starts both streams; y (B, T, 2 d_model) is the last pair side by side. `backward` gives a pair,
    (dx, dmemory), in place of dx. `reversible=False` as in `ReversibleStack`.
    """

    def __init__(self, blocks, reversible=True):
        super().__init__()
        self.blocks, self.reversible = blocks, reversible
        for i, block in enumerate(blocks):
            for name, sublayer in zip(NAMES, block):
                self.add(f"{i}.{name}", sublayer)

    def forward(self, x, seed=0, training=True, *, memory, memory_mask=None, key_mask=None):
        """x (B, T, d_model), memory (B, S, d_memory) -> y (B, T, 2 d_model), cache.

        `memory_mask` (B, S) and `key_mask` (B, T) booleans hide padding, of the source and of the target.
        """
        check_array("x", x, None, None, None, like=next(iter(self.params.values()), None))
        given = self.given(memory, memory_mask, key_mask)
        store = training and not self.reversible
        one = other = x
        replays, stored = [], []
        for i, name, sublayer in self.sublayers():
            f, cache = sublayer.forward(other, rng.fold(seed, i, name), training, **given[name])
            f += one  # in place: f is fresh, while the old stream may stand in a cache
            one, other = other, f
            replays.append(sublayer.replay(cache) if name == "attention" else {})
            if store:
                stored.append(cache)
            del f, cache
        y = backend.get_xp(x).concatenate([one, other], axis=-1)
        return y, ReversibleChainCache(y, seed, training, given, replays, stored)

    def backward(self, dy, cache):
        """dy (B, T, 2 d_model) -> (dx (B, T, d_model), dmemory (B, S, d_memory)), grads."""
        check_array("dy", dy, *cache.y.shape)
        d_model = dy.shape[-1] // 2
        _, seed, training, given, replays, stored = cache
        one, other = (None, None) if stored else (cache.y[..., :d_model].copy(), cache.y[..., d_model:].copy())
        d_one, d_other = dy[..., :d_model].copy(), dy[..., d_model:].copy()
        del dy, cache
        dmemory, grads = 0, {}
        for n, (i, name, sublayer) in reversed(list(enumerate(self.sublayers()))):
            # Here (one, other) = (what it read, the other stream + f(what it read)).
            if stored:
                d, part_grads = sublayer.backward(d_other, stored[n])
            else:
                f, d, part_grads = sublayer.forward_and_backward(
                    one, d_other, rng.fold(seed, i, name), training, **given[name], **replays[n]
                )
                other -= f
                one, other = other, one
                del f
            if name == "cross_attention":
                d, of_memory = d
                dmemory += of_memory
                del of_memory
            d_one += d
            del d
            d_one, d_other = d_other, d_one
            grads.update(prefixed(f"{i}.{name}", part_grads))
        d_one += d_other  # both streams started as x
        return (d_one, dmemory), {name: grads[name] for name in self.params}

    def given(self, memory, memory_mask=None, key_mask=None):
        """What the `forward` of each kind of sub-layer is given beside its input and its seed, by name."""
        of_cross_attention = {"memory": memory, "memory_mask": memory_mask}
        return dict(zip(NAMES, ({"key_mask": key_mask}, of_cross_attention, {})))

    def sublayers(self):
        """(block, name, sub-layer), in the order of `forward`."""
        return [(i, name, sublayer) for i, block in enumerate(self.blocks) for name, sublayer in zip(NAMES, block)]
