"""Memory, term by term (tables 1 and 3 of the paper): from a Transformer to a Reformer, measured and predicted.

    python benchmarks/paper/memory_terms.py            # two minutes; writes results/memory_terms.json
    python benchmarks/paper/memory_terms.py --quick    # seconds; writes build/memory_terms_quick.json

We start from a plain Transformer, which is built here because the package has none: attention that keeps its T x T
weights, a feed-forward layer that keeps its hidden layer, and every activation stored. Then we change one thing at a
time: reversible blocks; feed-forward layer and loss in chunks; LSH attention. Two more models are not in the paper:
exact attention computed tile by tile, before LSH, and LSH without chunks, at the end, because chunks save nothing of a
peak that the T x T weights cause. Measured is the peak of one `loss_and_grads` beyond the parameters, next to the sum
of the terms that should explain it. The bytes of arrays are counted, so the numbers are the same every time.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import recording

import minireformer as mr
from minireformer import reference, schedule
from minireformer.attention_layer import FullAttention
from minireformer.feed_forward import FeedForward

BATCH, HEADS, D_MODEL, D_FF, CHUNK = 1, 4, 128, 512, 64
FULL = {"lengths": [512, 1024, 2048, 4096], "depths": [2, 4, 8], "length": 2048, "depth": 2}
QUICK = {"lengths": [256, 4096], "depths": [2, 3], "length": 512, "depth": 2}
STEPS = {  # name: what of the plain Transformer is left
    "Transformer": {"attention": "dense", "reversible": False, "chunked": False},
    "reversible": {"attention": "dense", "reversible": True, "chunked": False},
    "chunked": {"attention": "dense", "reversible": True, "chunked": True},
    "exact, tile by tile": {"attention": "full", "reversible": True, "chunked": True},
    "LSH": {"attention": "lsh", "reversible": True, "chunked": True},
    "LSH, not chunked": {"attention": "lsh", "reversible": True, "chunked": False},
}
DIFFERENT = (
    "The paper's tables give orders of growth. Ours are bytes, and depend on this implementation: gradients are "
    "derived by hand, and an LSH layer keeps neither logits nor weights, whereas automatic differentiation keeps those "
    "of a layer while it is at work. The paper has no exact attention tile by tile. With it, memory no longer grows "
    "with l^2 even without LSH, and what LSH saves is time."
)


class DenseCache(NamedTuple):
    """What a plain Transformer's attention keeps."""

    q: Any  # (B, H, T, D)
    k: Any
    v: Any
    weights: Any  # (B, H, T, T): the term that LSH attention does away with
    out: Any


class DenseAttention(FullAttention):
    """`FullAttention` that keeps its weights, as the dense oracle makes them, for backward."""

    def attend(self, heads, seed, options):
        q, k, v = heads
        weights = q @ k.swapaxes(-1, -2)
        weights /= math.sqrt(self.d_head)
        weights[:, :, ~reference.causal_mask(q.shape[2], np)] = reference.FORBIDDEN
        weights -= weights.max(axis=-1, keepdims=True)
        np.exp(weights, out=weights)
        weights /= weights.sum(axis=-1, keepdims=True)
        out = weights @ v
        return out, DenseCache(q, k, v, weights, out), None

    def attend_backward(self, dout, cache):
        dweights = dout @ cache.v.swapaxes(-1, -2)  # and in place, the gradient of the logits
        dweights -= (dout * cache.out).sum(axis=-1, keepdims=True)
        dweights *= cache.weights
        dweights /= math.sqrt(self.d_head)
        return dweights @ cache.k, dweights.swapaxes(-1, -2) @ cache.q, cache.weights.swapaxes(-1, -2) @ dout


class HiddenCache(NamedTuple):
    """What a plain Transformer's feed-forward layer keeps."""

    x: Any  # (B, T, d_model)
    hidden: Any  # (B, T, d_ff), activated


class StoringFeedForward(FeedForward):
    """`FeedForward` (with ReLU) that keeps its hidden layer, of all positions, for backward."""

    def forward(self, x, seed=0, training=True):
        hidden = x @ self.params["dense.weight"].T
        hidden += self.params["dense.bias"]
        np.maximum(hidden, 0, out=hidden)
        return hidden @ self.params["output.weight"].T + self.params["output.bias"], HiddenCache(x, hidden)

    def backward(self, dy, cache):
        dhidden = dy @ self.params["output.weight"]
        dhidden *= cache.hidden > 0
        rows = {"dy": dy, "dhidden": dhidden, "x": cache.x, "hidden": cache.hidden}
        rows = {name: values.reshape(-1, values.shape[-1]) for name, values in rows.items()}
        grads = {
            "dense.weight": rows["dhidden"].T @ rows["x"],
            "dense.bias": rows["dhidden"].sum(axis=0),
            "output.weight": rows["dy"].T @ rows["hidden"],
            "output.bias": rows["dy"].sum(axis=0),
        }
        return dhidden @ self.params["dense.weight"], grads

    def forward_and_backward(self, x, dy, seed=0, training=True):
        y, cache = self.forward(x)
        return y, *self.backward(dy, cache)


def make_model(step, depth, length):
    """A model of the package, in which layers of the kinds above take the place of its own."""
    attention, reversible, chunked = step["attention"], step["reversible"], step["chunked"]
    config = mr.ReformerConfig(
        d_model=D_MODEL,
        n_heads=HEADS,
        d_head=D_MODEL // HEADS,
        d_ff=D_FF,
        attn_layers=("lsh" if attention == "lsh" else "full",) * depth,
        lsh_chunk_len=CHUNK,
        n_hashes=4,
        axial_shape=(length // 32, 32),
        max_len=length,
        reversible=reversible,
        ff_chunk_len=CHUNK if chunked else 0,
        loss_chunk_len=CHUNK if chunked else BATCH * length,
    )
    model = mr.Reformer(config)
    for attention_block, feed_forward_block in model.layers.blocks:
        if attention == "dense":
            attention_block.part.__class__ = DenseAttention
        if not chunked:
            feed_forward_block.part.__class__ = StoringFeedForward
    return model


def predicted(step, model, length):
    """-> the terms, in bytes, of what is alive at the peak of a step, and the name of the layer that has the peak.

    Backward lets go of what it has used. So where layers are stored, the peak is in the last block, before the others
    are freed. Elsewhere it is in the first block, where almost all gradients of parameters exist.

    stored       what the package keeps from forward to backward (`memory.predict`), streams and projections among it
    grads        of the parameters behind the attention of that block
    weights      b h l^2: once for every stored layer; of the layer at work its own, unless stored, and their gradient
    hidden       b l d_ff, or a chunk of it: likewise; that of the last stored block is gone before its attention
    activations  b l d_model: of the layer at work its inputs, projections and outputs, unless stored, and all their
                 gradients. In attention 10 where they are made again, 8 where queries are keys;
                 where they are stored, 1 for each layer (its heads side by side), and 1; in a feed-forward layer 5.
                 Counted with the measurements at hand: how the sum grows is a test of the terms, its height is not

    tile         scratch memory of one thread, where attention goes tile by tile: logits, their gradient and a product,
                 and six times the rows of vectors that go with them

    Logits, b l V, are gone before the layers' backward begins.
    """
    known = mr.memory.predict(model.config, BATCH, length)
    n_stored = 0 if step["reversible"] else len(model.layers.blocks)
    n_working = 1 if n_stored else 2
    weights = BATCH * HEADS * known.attention_matrix * (step["attention"] == "dense")
    hidden = known.hidden * CHUNK // length if step["chunked"] else known.hidden
    names = list(model.params)  # in the order of forward
    behind = names.index(f"layers.{max(0, n_stored - 1)}.feed_forward.dense.weight")
    grads = [model.params[name] for name in names[behind:]]
    always = {"stored": known.stored, "grads": mr.memory.nbytes(grads)}
    n_activations = n_stored + 1 if n_stored else {"full": 10, "dense": 10, "lsh": 8}[step["attention"]]
    window = {"dense": 0, "full": min(length, schedule.BLOCK_LEN), "lsh": 2 * CHUNK}[step["attention"]]
    logits = min(schedule.TILE_LOGITS, length * window)  # of a tile, in float32
    tile = 4 * logits * 3 + 4 * logits * 6 * (D_MODEL // HEADS) // window if window else 0
    layers = {
        "attention": {
            "tile": tile,
            "weights": (n_stored + n_working) * weights,
            "hidden": max(0, n_stored - 1) * hidden,
            "activations": n_activations * known.activation,
        },
        "feed-forward": {
            "weights": n_stored * weights,
            "hidden": (n_stored + n_working) * hidden,
            "activations": 5 * known.activation,
        },
    }
    highest = max(layers, key=lambda name: sum(layers[name].values()))
    return always | layers[highest], highest


def measure(name, depth, length):
    """Bytes at the peak of one training step, and what was predicted of them."""
    step = STEPS[name]
    model = make_model(step, depth, length)
    tokens = np.random.default_rng(0).integers(0, 256, (BATCH, length))
    with mr.memory.peak() as m:
        loss, _ = model.loss_and_grads(tokens, tokens)
    terms, layer = predicted(step, model, length)
    one = {"measured": m.bytes, "predicted": sum(terms.values()), "terms": terms, "peak_in": layer, "loss": loss}
    print(f"T {length}, {depth} layers, {name}: {one['measured'] / 1e6:.1f} MB, predicted {one['predicted'] / 1e6:.1f}")
    return one


def main():
    """Measure over lengths and over depths, and write one JSON file."""
    options = recording.options(__doc__)
    size = QUICK if options.quick else FULL
    mr.backend.set_threads(1)  # threads have buffers of their own: with one, a peak is the same each time
    sizes = {"batch": BATCH, "n_heads": HEADS, "d_model": D_MODEL, "d_ff": D_FF, "vocab_size": 256, "chunk_len": CHUNK}
    result = {
        "question": "Does memory fall, step by step, as tables 1 and 3 say?",
        "different": DIFFERENT,
        "size": size | sizes,
        "steps": STEPS,
        "by_length": {n: {t: measure(n, size["depth"], t) for t in size["lengths"]} for n in STEPS},  # at `depth`
        "by_depth": {n: {d: measure(n, d, size["length"]) for d in size["depths"]} for n in STEPS},  # at `length`
    }
    recording.write(recording.places("memory_terms", options)[1], result)


if __name__ == "__main__":
    main()
