"""Figure 3 of the paper, small: do shared queries and keys, and reversible layers, cost a language model anything?

    python benchmarks/paper/shared_and_reversible.py            # minutes; writes results/shared_and_reversible.json
    python benchmarks/paper/shared_and_reversible.py --quick    # seconds; writes build/shared_and_reversible_quick.json

Three byte models with full attention, of equally many parameters, on the source code of Python's standard library:

    separate   queries and keys projected apart; reversible layers
    shared     one projection for both, with keys of unit length; reversible layers
    regular    queries and keys projected apart; ordinary residual layers, of which there is one stream

What sharing saves, and the narrower last layer of one stream, is given to the feed-forward layers. Each model is
trained with every learning rate once, with the first seed, and with the best of them with the other seeds. If a run is
killed, the same command resumes it from its last checkpoint; delete build/shared_and_reversible to start over.
"""

import dataclasses
from typing import NamedTuple

import recording

import minireformer as mr
from minireformer import backend, rng
from minireformer.checks import float_dtype
from minireformer.dropout import Dropout
from minireformer.embedding import Embedding
from minireformer.heads import TokenHead
from minireformer.layer import Layer, prefixed
from minireformer.layer_norm import LayerNorm
from minireformer.model import make_attention, make_feed_forward, make_positions
from minireformer.reversible import PreNorm

FULL = {"d_model": 96, "n_layers": 3, "length": 256, "batch": 8, "steps": 400, "log_every": 25, "seeds": 3}
FULL |= {"learning_rates": (1e-3, 3e-3, 1e-2), "final_batches": 16}
QUICK = {"d_model": 32, "n_layers": 2, "length": 64, "batch": 4, "steps": 20, "log_every": 10, "seeds": 2}
QUICK |= {"learning_rates": (1e-3, 3e-3), "final_batches": 1}
DIFFERENT = (
    "The paper trains on enwik8 and imagenet64: 3 layers, d_model 1024, d_ff 4096, 8 heads, sequences of 64K and 12K "
    "tokens, tens of thousands of steps. Here: 400 steps of 8 pieces of 256 bytes of Python source, d_model 96, 4 "
    "heads. All models have the same number of parameters (the width of the feed-forward layers makes up the "
    "difference), and each gets the best of three learning rates."
)


class ResidualStack(Layer):
    """Blocks of (attention F, feed-forward G), each a `PreNorm`, with one stream: x + F(x), and of this u, u + G(u).

    x (B, T, d_model) -> y of the same shape. Everything is stored for backward. Parameters as `ReversibleStack`.
    """

    def __init__(self, blocks):
        super().__init__()
        self.sublayers = []  # (name, PreNorm), in the order of `forward`
        for i, block in enumerate(blocks):
            for name, sublayer in zip(("attention", "feed_forward"), block):
                self.sublayers.append((f"{i}.{name}", self.add(f"{i}.{name}", sublayer)))

    def forward(self, x, seed=0, training=True, key_mask=None, rotations=None, cross_attention=None):
        """x (B, T, d_model) -> y (B, T, d_model), the caches of all sub-layers. No layer hashes or has a source."""
        caches = []
        for name, sublayer in self.sublayers:
            given = {"key_mask": key_mask} if name.endswith("attention") else {}
            f, cache = sublayer.forward(x, rng.fold(seed, name), training, **given)
            x = x + f
            caches.append(cache)
        return x, caches

    def backward(self, dy, caches):
        """dy (B, T, d_model) -> dx, grads: what comes back through a sub-layer is added to what passes it by."""
        grads = {}
        for (name, sublayer), cache in zip(reversed(self.sublayers), reversed(caches)):
            d, part_grads = sublayer.backward(dy, cache)
            dy = dy + d
            grads.update(prefixed(name, part_grads))
        return dy, {name: grads[name] for name in self.params}


class RegularTransformer(mr.Reformer):
    """A `Reformer` with a `ResidualStack`: the last LayerNorm and the head read one stream and not two.

    Everything else, training included, is the Reformer's own.
    """

    def __init__(self, config, seed=0, dtype="float32"):
        Layer.__init__(self)
        self.config, self.dtype = config, float_dtype(dtype)
        d_model, eps = config.d_model, config.layer_norm_eps
        table = Embedding(config.vocab_size, d_model, seed=rng.fold(seed, "embedding"), dtype=dtype)
        self.embedding = self.add("embedding", table)
        self.positions = self.add("positions", make_positions(config, rng.fold(seed, "positions"), dtype))
        blocks = []
        for i, kind in enumerate(config.attn_layers):
            attention = make_attention(config, kind, rng.fold(seed, i, "attention"), dtype)
            feed_forward = make_feed_forward(config, rng.fold(seed, i, "feed_forward"), dtype)
            blocks.append([PreNorm(part, d_model, eps, dtype) for part in (attention, feed_forward)])
        self.layers = self.add("layers", ResidualStack(blocks))
        self.layer_norm = self.add("layer_norm", LayerNorm(d_model, eps=eps, dtype=dtype))
        head = TokenHead(d_model, config.vocab_size, rng.fold(seed, "head"), config.loss_chunk_len, dtype)
        self.head = self.add("head", head)
        self.dropout = Dropout(config.dropout)


class Variant(NamedTuple):
    """What a model is made of."""

    model: type
    kind: str  # of attention


VARIANTS = {
    "separate": Variant(mr.Reformer, "full"),
    "shared": Variant(mr.Reformer, "shared_full"),
    "regular": Variant(RegularTransformer, "full"),
}


def make_model(name, size, seed=0):
    """The model `name`, its feed-forward layers as wide as brings it nearest to the parameters of "separate"."""
    plain = {name: VARIANTS[name].model(config_of(name, size)) for name in {name, "separate"}}
    missing = recording.count_parameters(plain["separate"]) - recording.count_parameters(plain[name])
    a_unit = size["n_layers"] * (2 * size["d_model"] + 1)  # in every layer: a row, its bias, and a column
    return VARIANTS[name].model(config_of(name, size, round(missing / a_unit)), seed=seed)


def config_of(name, size, wider=0):
    """Full attention throughout; d_ff is four times d_model, and `wider` more."""
    return mr.ReformerConfig(
        vocab_size=256,
        d_model=size["d_model"],
        n_heads=4,
        d_head=size["d_model"] // 4,
        d_ff=4 * size["d_model"] + wider,
        attn_layers=(VARIANTS[name].kind,) * size["n_layers"],
        axial_shape=(size["length"] // 16, 16),
        max_len=size["length"],
    )


def run_one(name, size, corpus, learning_rate, seed, folder):
    """Train one model; -> its row of the result, with the log."""
    model = make_model(name, size, seed)
    log = recording.train_on_bytes(
        model, corpus, size, learning_rate, seed, folder / f"{name}_{learning_rate}_{seed}.safetensors"
    )
    bits = recording.held_out_bits(corpus, model, size["final_batches"], size)
    print(f"{name}, learning rate {learning_rate}, seed {seed}: {bits:.3f} bits per byte", flush=True)
    return {"seed": seed, "learning_rate": learning_rate, "held_out_bits": bits, "log": log}


def main():
    """Train what is not trained yet, write one JSON file."""
    options = recording.options(__doc__)
    backend.use("numpy")
    folder, path = recording.places("shared_and_reversible", options)
    size = QUICK if options.quick else FULL
    corpus = mr.data.standard_library()
    variants = {}
    for name in VARIANTS:
        sweep = [run_one(name, size, corpus, rate, 0, folder) for rate in size["learning_rates"]]
        best = min(sweep, key=lambda run: run["held_out_bits"])
        others = range(1, size["seeds"])
        runs = [best] + [run_one(name, size, corpus, best["learning_rate"], seed, folder) for seed in others]
        model = make_model(name, size)
        variants[name] = {
            "n_parameters": recording.count_parameters(model),
            "config": dataclasses.asdict(model.config),
            "learning_rate": best["learning_rate"],
            "sweep": {run["learning_rate"]: run["held_out_bits"] for run in sweep},  # with the first seed
            "held_out_bits": recording.over_seeds([run["held_out_bits"] for run in runs]),
            "runs": runs,  # with the best learning rate; the logs are the curves
        }
    bits = {name: [run["held_out_bits"] for run in variant["runs"]] for name, variant in variants.items()}
    result = {
        "paper": {
            "shared": "sharing queries and keys does not make a model worse, and at first it learns a little faster",
            "regular": "curves of a reversible and of a regular Transformer are nearly the same",
        },
        "different": DIFFERENT,
        "variants": variants,
        # Seed by seed, on the same data: more than 0 where the first named needs more bits.
        "shared_minus_separate": recording.over_seeds([a - b for a, b in zip(bits["shared"], bits["separate"])]),
        "reversible_minus_regular": recording.over_seeds([a - b for a, b in zip(bits["separate"], bits["regular"])]),
        "size": size,
        "corpus_bytes": {"train": len(corpus.train), "held_out": len(corpus.held_out)},
    }
    recording.write(path, result)


if __name__ == "__main__":
    main()
