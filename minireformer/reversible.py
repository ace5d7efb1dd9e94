"""Reversible residual layers (section 3 of the paper): backward needs no stored activations.

Two streams pass through blocks of attention F and feed-forward G, each preceded by a LayerNorm:

    y1 = x1 + F(x2)        x2 = y2 - G(y1)
    y2 = x2 + G(y1)        x1 = y1 - F(x2)

The right column recovers a block's inputs from its outputs, so backward starts from the last pair of streams and
recomputes each block's activations just before it needs them. Besides that pair, we keep only what a recomputation
has to be given: the seed and, for LSH, the buckets. Memory does not grow with the number of blocks.

F and G are a block's sub-layers. Each takes the same step, after which the streams trade places,

    x1, x2 = x2, x1 + f(x2)                  back: x1, x2 = x2 - f(x1), x1

so a block may have any number of them. The decoder for translation has three: attention, cross-attention and
feed-forward.

**Handing over.** Memory also depends on who holds a reference to an array. A function's variables keep their arrays
alive while it calls another function. So when a backward pass in this package calls another one, it puts the arrays
that it will not need again into a list, and pops them in the call itself,

    caches = list(cache)
    del cache
    dx, grads = part.backward(dy, caches.pop())

The called function then has the only reference, and frees the arrays as soon as it has used them.
Read next: `config.py`.
"""

from typing import Any, NamedTuple

from minireformer import backend, rng
from minireformer.checks import check_array
from minireformer.layer import Layer, add_to, prefixed
from minireformer.layer_norm import LayerNorm

NAMES = {2: ("attention", "feed_forward"), 3: ("attention", "cross_attention", "feed_forward")}  # by how many they are


class PreNormCache(NamedTuple):
    """The caches of the two parts."""

    layer_norm: Any
    part: Any


class PreNorm(Layer):
    """y = part(LayerNorm(x)). Parameters: the part's own, and `layer_norm.*` beside them.

    `kwargs` are passed on to the part. If it has a second input (cross-attention's `memory`), only x is normalised.
    """

    def __init__(self, part, d_model, eps=1e-12, dtype="float32"):
        super().__init__()
        self.layer_norm = self.add("layer_norm", LayerNorm(d_model, eps=eps, dtype=dtype))
        self.part = part
        self.params.update(part.params)

    def forward(self, x, seed=0, training=True, keep=True, **kwargs):
        """x (B, T, d_model) -> y, cache. `keep=False`: the cache lacks LayerNorm's output, which backward makes again.

        The part, an attention layer, then gets a function in place of its input: see `AttentionLayer`.
        """
        caches = {}

        def normed():
            y, caches["layer_norm"] = self.layer_norm.forward(x)
            return y

        y, part = self.part.forward(normed() if keep else normed, seed=seed, training=training, **kwargs)
        return y, PreNormCache(caches["layer_norm"], part)

    def backward(self, dy, cache):
        caches = list(cache)  # handed over, see above
        del cache
        dnormed, *dmemory, grads = self.part.backward(dy, caches.pop())
        dx, norm_grads = self.layer_norm.backward(dnormed, caches.pop())
        return dx, *dmemory, grads | prefixed("layer_norm", norm_grads)

    def forward_and_backward(self, x, dy, seed=0, training=True, **kwargs):
        *normed, layer_norm = self.layer_norm.forward(x)
        y, *dnormed, grads = self.part.forward_and_backward(normed.pop(), dy, seed, training, **kwargs)
        dx, norm_grads = self.layer_norm.backward(dnormed.pop(0), layer_norm)
        return y, dx, *dnormed, grads | prefixed("layer_norm", norm_grads)

    def replay(self, cache):
        """The arguments that `forward` needs to repeat its computation: see `AttentionLayer.replay`."""
        return self.part.replay(cache.part)

    def terms(self, replay):
        """The same, for each term of a sum that `forward` may be cut into: see `AttentionLayer.terms`."""
        return self.part.terms(replay)


class ReversibleCache(NamedTuple):
    """What backward needs: with `reversible`, only the buckets grow with the number of blocks."""

    y: Any  # (B, T, 2 d_model): the last pair of streams, side by side
    seed: int
    training: bool
    inputs: dict  # by the name of a sub-layer: what it gets besides a stream and a seed
    replays: list  # per block: the buckets, or nothing
    stored: list  # per block: the caches of its sub-layers, with `reversible=False` in training; else empty


class ReversibleStack(Layer):
    """Blocks of (attention F, feed-forward G), each a `PreNorm`; parameters `0.attention.*`, `0.feed_forward.*`, ...

    Blocks of three have `0.cross_attention.*` between the two. x (B, T, d_model) starts both streams; y (B, T, 2
    d_model) is the last pair side by side. `reversible=False` computes the same function but stores every
    activation in training, so that you can compare memory and gradients.
    """

    def __init__(self, blocks, reversible=True):
        super().__init__()
        self.blocks, self.reversible = blocks, reversible
        for i, name, sublayer in self.sublayers():
            self.add(f"{i}.{name}", sublayer)

    def sublayers(self):
        """(number of the block, name, layer) of every sub-layer, in the order of `forward`."""
        return [(i, *pair) for i, block in enumerate(self.blocks) for pair in zip(NAMES[len(block)], block)]

    def forward(self, x, seed=0, training=True, key_mask=None, rotations=None, cross_attention=None):
        """x (B, T, d_model) -> y (B, T, 2 d_model), cache.

        Attention gets `key_mask` and `rotations` (a dict from the number of a block to an array). `cross_attention` is
        a dict of what that layer's `forward` needs besides x and a seed.
        """
        check_array("x", x, None, None, None, like=next(iter(self.params.values()), None))
        inputs = {"attention": {"key_mask": key_mask}, "cross_attention": cross_attention, "feed_forward": {}}
        store = training and not self.reversible
        x1 = x2 = x
        del x
        replays, stored = [], [[] for _ in self.blocks] if store else []
        for i, name, sublayer in self.sublayers():
            kwargs = inputs[name]
            if name == "attention" and rotations and i in rotations:
                kwargs = kwargs | {"rotations": rotations[i]}
            f, cache = sublayer.forward(x2, rng.fold(seed, i, name), training, **kwargs)
            f += x1  # in place: f is a new array, while a cache may hold the old x1
            x1, x2 = x2, f  # x1, x2 = x2, x1 + f(x2)
            if name == "attention":
                replays.append(sublayer.replay(cache))
            if store:
                stored[i].append(cache)
            del f, cache
        y = backend.get_xp(x1).concatenate([x1, x2], axis=-1)
        return y, ReversibleCache(y, seed, training, inputs, replays, stored)

    def backward(self, dy, cache):
        """dy (B, T, 2 d_model) -> dx (B, T, d_model), dmemory if there is cross-attention, grads."""
        check_array("dy", dy, *cache.y.shape)
        y, seed, training, inputs, replays, stored = cache
        stored = [part_cache for block in stored for part_cache in block]
        del cache
        dx1, dx2 = _streams(dy)
        del dy  # it takes as much memory as the two streams, and so does y
        x1, x2 = (None, None) if stored else _streams(y)
        del y
        dmemory, grads = {}, {}
        for i, name, sublayer in reversed(self.sublayers()):
            # Back: x1, x2 = x2 - f(x1), x1. Here x2 still contains f(x1), so dx2 is also the gradient of f(x1).
            kwargs = inputs[name] | {"seed": rng.fold(seed, i, name), "training": training}
            replay, part_grads = replays[i] if name == "attention" else {}, {}
            for d, *of_memory, term_grads in (
                [sublayer.backward(dx2, stored.pop())] if stored else undo(name, sublayer, x1, x2, dx2, replay, kwargs)
            ):
                dx1 += d
                add_to(part_grads, term_grads)
                add_to(dmemory, dict(enumerate(of_memory)))  # all cross-attention reads one memory: a sum
                del d
            x1, x2, dx1, dx2 = x2, x1, dx2, dx1  # the streams change places, and their gradients with them
            grads |= prefixed(f"{i}.{name}", part_grads)
        dx1 += dx2  # both streams started as x
        return dx1, *dmemory.values(), {name: grads[name] for name in self.params}


def undo(name, sublayer, x1, x2, dx2, replay, kwargs):
    """x2 -= f(x1), in place. Yields what `sublayer.backward` returns for dx2: once, or for each term of a sum."""
    if name == "feed_forward":  # computes its hidden layer once for both passes
        f, *gradients = sublayer.forward_and_backward(x1, dx2, **kwargs)
        x2 -= f
        del f
        yield gradients
    else:
        for term in sublayer.terms(replay):
            f, *caches = sublayer.forward(x1, keep=False, **kwargs, **term)
            x2 -= f
            del f  # backward needs the memory
            yield sublayer.backward(dx2, caches.pop())


def _streams(y):
    """The two halves of y (B, T, 2 d), as copies that may be changed in place."""
    d_model = y.shape[-1] // 2
    return y[..., :d_model].copy(), y[..., d_model:].copy()
