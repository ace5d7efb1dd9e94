"""Reversible residual layers (section 3 of the paper): backward needs no stored activations.

Two streams pass through blocks of attention F and feed-forward G, each behind a LayerNorm:

    y1 = x1 + F(x2)        x2 = y2 - G(y1)
    y2 = x2 + G(y1)        x1 = y1 - F(x2)

The right column gives a block's inputs back from its outputs, so backward starts from the last pair of streams
and rebuilds each block's activations just before it needs them. Besides that pair, only what a recompute
cannot make again is kept: the seed and, for LSH, the buckets. Memory does not grow with the number of blocks.
Read next: `config.py`.
"""

from typing import Any, NamedTuple

from minireformer import backend, rng
from minireformer.checks import check_array
from minireformer.layer import Layer, prefixed
from minireformer.layer_norm import LayerNorm


class PreNormCache(NamedTuple):
    """The caches of the two parts."""

    layer_norm: Any
    part: Any


class PreNorm(Layer):
    """y = part(LayerNorm(x)). Parameters: the part's own, and `layer_norm.*` beside them."""

    def __init__(self, part, d_model, eps=1e-12, dtype="float32"):
        super().__init__()
        self.layer_norm = self.add("layer_norm", LayerNorm(d_model, eps=eps, dtype=dtype))
        self.part = part
        self.params.update(part.params)

    def forward(self, x, seed=0, training=True, **given):
        normed, layer_norm = self.layer_norm.forward(x)
        y, part = self.part.forward(normed, seed=seed, training=training, **given)
        return y, PreNormCache(layer_norm, part)

    def backward(self, dy, cache):
        layer_norm, *part = cache
        del cache  # if nobody else holds it, the part can let go of what it has used
        dnormed, grads = self.part.backward(dy, part.pop())
        dx, norm_grads = self.layer_norm.backward(dnormed, layer_norm)
        return dx, grads | prefixed("layer_norm", norm_grads)

    def forward_and_backward(self, x, dy, seed=0, training=True, **given):
        normed, layer_norm = self.layer_norm.forward(x)
        y, dnormed, grads = self.part.forward_and_backward(normed, dy, seed, training, **given)
        dx, norm_grads = self.layer_norm.backward(dnormed, layer_norm)
        return y, dx, grads | prefixed("layer_norm", norm_grads)

    def __call__(self, x, seed=0, **given):
        normed = self.layer_norm(x)
        return self.part.forward(normed, seed=seed, training=False, **given)[0]

    def replay(self, cache):
        """What the part's `forward` must be given again: see `SelfAttention.replay`."""
        return self.part.replay(cache.part)


class ReversibleCache(NamedTuple):
    """What backward needs: with `reversible`, nothing whose size grows with the number of blocks but buckets."""

    y: Any  # (B, T, 2 d_model): the last pair of streams, side by side
    seed: int
    training: bool
    key_mask: Any
    replays: list  # per block: the buckets, or nothing
    stored: list  # per block: the caches of F and G, with `reversible=False` in training; else empty


class ReversibleStack(Layer):
    """Blocks of (attention F, feed-forward G), each a `PreNorm`; parameters `0.attention.*`, `0.feed_forward.*`, ...

    x (B, T, d_model) starts both streams; y (B, T, 2 d_model) is the last pair side by side. `reversible=False`
    is the same function with every activation stored in training: it exists to compare memory and gradients.
    """

    def __init__(self, blocks, reversible=True):
        super().__init__()
        self.blocks, self.reversible = blocks, reversible
        for i, (attention, feed_forward) in enumerate(blocks):
            self.add(f"{i}.attention", attention)
            self.add(f"{i}.feed_forward", feed_forward)

    def forward(self, x, seed=0, training=True, key_mask=None, rotations=None):
        """x (B, T, d_model) -> y (B, T, 2 d_model), cache. `rotations`: a list, per block an array or None."""
        check_array("x", x, None, None, None, like=next(iter(self.params.values()), None))
        store = training and not self.reversible
        x1 = x2 = x
        replays, stored = [], []
        for i, (attention, feed_forward) in enumerate(self.blocks):
            given = {"key_mask": key_mask}
            if rotations is not None and rotations[i] is not None:
                given["rotations"] = rotations[i]
            f, f_cache = attention.forward(x2, rng.fold(seed, i, "attention"), training, **given)
            f += x1  # in place: f is fresh, while the old x1 may stand in a cache
            x1 = f
            replays.append(attention.replay(f_cache))
            if not store:
                del f_cache
            g, g_cache = feed_forward.forward(x1, rng.fold(seed, i, "feed_forward"), training)
            g += x2
            x2 = g
            if store:
                stored.append((f_cache, g_cache))
            del f, g, g_cache
        y = backend.get_xp(x).concatenate([x1, x2], axis=-1)
        return y, ReversibleCache(y, seed, training, key_mask, replays, stored)

    def backward(self, dy, cache):
        """dy (B, T, 2 d_model) -> dx (B, T, d_model), grads."""
        check_array("dy", dy, *cache.y.shape)
        (dx1, dx2), (x1, x2) = _streams(dy), (None, None) if cache.stored else _streams(cache.y)
        _, seed, training, key_mask, replays, stored = cache
        del dy, cache  # nobody else may need them: as much memory as the streams themselves
        grads = {}
        for i, (attention, feed_forward) in reversed(list(enumerate(self.blocks))):
            if stored:
                d, part_grads = feed_forward.backward(dx2, stored[i][1])
            else:
                g, d, part_grads = feed_forward.forward_and_backward(
                    x1, dx2, rng.fold(seed, i, "feed_forward"), training
                )
                x2 -= g
                del g
            dx1 += d
            del d
            grads.update(prefixed(f"{i}.feed_forward", part_grads))
            if stored:
                f_cache = [stored[i][0]]
            else:
                f, *f_cache = attention.forward(
                    x2, rng.fold(seed, i, "attention"), training, key_mask=key_mask, **replays[i]
                )
                x1 -= f
                del f
            d, part_grads = attention.backward(dx1, f_cache.pop())
            dx2 += d
            del d
            grads.update(prefixed(f"{i}.attention", part_grads))
        dx1 += dx2  # both streams started as x
        return dx1, {name: grads[name] for name in self.params}

    def __call__(self, x, seed=0, **given):
        return self.forward(x, seed, training=False, **given)[0]


def _streams(y):
    """The two halves of y (B, T, 2 d), as copies that may be changed in place."""
    d_model = y.shape[-1] // 2
    return y[..., :d_model].copy(), y[..., d_model:].copy()
