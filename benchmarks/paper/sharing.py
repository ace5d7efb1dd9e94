"""Which part of the Reformer's attention makes copying hard: sharing, keys of unit length, or not seeing oneself?

    python benchmarks/paper/sharing.py            # two hours of one core; writes results/sharing.json
    python benchmarks/paper/sharing.py --quick    # seconds; writes build/sharing_quick.json
    python benchmarks/paper/sharing.py --more "3 layers"    # this row alone, added to what is recorded

The task is that of copying.py: in random symbols, a word returns after an unknown distance, and the model is scored on
its second occurrence. A model has a local layer, which passes on what comes just before each position, and one or more
layers of dense attention with three switches:

    shared     one projection for queries and keys, not two
    unit       keys scaled to unit length: a logit is |q| cos(angle), not q . k / sqrt(D)
    no_self    a token sees itself only when it sees nothing else

The Reformer turns all three on, and a Transformer none. What sharing saves in parameters goes to the feed-forward
layers. Each combination is trained with every learning rate once, with the first seed, and with the best of them with
the other seeds. The Reformer's combination is then given more heads, larger logits, more layers, and one layer with as
many parameters as three. If a run is killed, the same command resumes it from its last checkpoint; delete build/sharing
to start over.
"""

import argparse
import dataclasses
import json
import math
import statistics
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import recording
from copying import N_SYMBOLS, draw, repeated_word

import minireformer as mr
from minireformer import backend, rng, training
from minireformer.attention_layer import SelfAttention
from minireformer.reference import FORBIDDEN, SELF, causal_mask
from minireformer.unit_length import inverse_length, unit_length_backward

FULL = {"length": 64, "word": 24, "batch": 16, "steps": 1500, "warmup": 100, "log_every": 100, "n_test": 16}
FULL |= {"seeds": (0, 1, 2), "learning_rates": (1e-3, 3e-3, 1e-2)}
QUICK = {"length": 32, "word": 8, "batch": 4, "steps": 4, "warmup": 1, "log_every": 2, "n_test": 1}
QUICK |= {"seeds": (0, 1), "learning_rates": (1e-3, 3e-3)}
SWITCHES = ("shared", "unit", "no_self")
REFORMER = dict.fromkeys(SWITCHES, True)
MORE = {  # for the Reformer's combination: what is changed
    "1 head": {"n_heads": 1},
    "4 heads": {"n_heads": 4},
    "logits 4 times as large": {"sharpness": 4.0},
    "2 layers": {"depth": 2},
    "3 layers": {"depth": 3},
    "wider": {"d_ff": 388},  # one layer, with as many parameters as three
}
N_SEEDS = {"2 layers": 3, "3 layers": 3, "wider": 3}  # of the others, two


class DenseCache(NamedTuple):
    """What `SwitchedAttention.attend_backward` needs: every weight, since this is dense attention."""

    q: Any  # (B, H, T, D)
    k: Any
    v: Any
    scale: Any  # of the keys (B, H, T)
    P: Any  # (B, H, T, T)


class SwitchedAttention(SelfAttention):
    """Causal dense attention with the three switches. Parameters as `FullAttention` or `SharedFullAttention`."""

    takes = {"causal"}

    def __init__(self, *sizes, shared, unit, no_self, sharpness=1.0, **settings):
        names = ("query_key", "value") if shared else ("query", "key", "value")
        self.projections = dict.fromkeys(names, 0)
        self.unit, self.no_self, self.sharpness = unit, no_self, sharpness
        super().__init__(*sizes, **settings)

    def attend(self, heads, seed, settings):
        q, k, v = heads[0], heads[-2], heads[-1]
        xp, length = backend.get_xp(q), q.shape[2]
        scale = inverse_length(k) if self.unit else xp.full(k.shape[:3], 1 / math.sqrt(k.shape[3]), k.dtype)
        S = self.sharpness * q @ (k * scale[..., None]).swapaxes(2, 3)
        S = xp.where(causal_mask(length, xp), S, FORBIDDEN)
        if self.no_self:
            S = xp.where(xp.eye(length, dtype=bool), SELF, S)
        P = xp.exp(S - S.max(axis=-1, keepdims=True))
        P /= P.sum(axis=-1, keepdims=True)
        return P @ v, DenseCache(q, k, v, scale, P)

    def attend_backward(self, dmixed, cache):
        q, k, v, scale, P = cache
        keys = k * scale[..., None]
        dP = dmixed @ v.swapaxes(2, 3)
        dS = self.sharpness * P * (dP - (P * dP).sum(axis=-1, keepdims=True))
        if self.no_self:
            xp = backend.get_xp(q)
            dS = xp.where(xp.eye(q.shape[2], dtype=bool), 0, dS)  # SELF is a constant
        dq, dv, dk = dS @ keys, P.swapaxes(2, 3) @ dmixed, dS.swapaxes(2, 3) @ q
        if self.unit:
            unit_length_backward(dk, keys, scale)
        else:
            dk *= scale[..., None]
        return (dq + dk, dv) if len(self.projections) == 2 else (dq, dk, dv)


class SwitchedModel(mr.Reformer):
    """A language model whose layers of kind "full" are `SwitchedAttention`."""

    def __init__(self, config, switches, seed=0, sharpness=1.0):
        self.settings = {"sharpness": sharpness} | switches
        super().__init__(config, seed)

    def make_block(self, i, kind, seed):
        local, feed_forward = super().make_block(i, kind, seed)
        if kind != "full":
            return local, feed_forward
        sizes = self.config.d_model, self.config.n_heads, self.config.d_head
        seed = rng.fold(seed, i, "attention")
        return SwitchedAttention(*sizes, **self.settings, seed=seed, dtype=self.dtype), feed_forward


def config_of(switches, size, depth=1, n_heads=2, d_ff=None):
    """A local block, and `depth` blocks of switched attention."""
    if d_ff is None:
        d_ff = 144 if switches["shared"] else 128  # as many parameters either way, with 2 heads and one layer
    return mr.ReformerConfig(
        vocab_size=N_SYMBOLS,
        d_model=64,
        n_heads=n_heads,
        d_head=32,
        d_ff=d_ff,
        attn_layers=("local",) + ("full",) * depth,
        local_chunk_len=8,
        axial_shape=(size["length"] // 8, 8),
        max_len=size["length"],
    )


def examine(model, size):
    """What the trained model does at every scored position of the test sequences: a dict of lists.

    The *target* of a position t is the earlier one that has seen the next symbol: its own symbol is the one to predict.
    Its *twin* is the one before the target: there, the model has read the same symbols as at t. `right` says whether
    the prediction is, `t` and `s` are the positions of query and target, and `target`, `twin`, `itself` are what each
    head of the last layer looks at there.
    """
    stored = SwitchedModel(dataclasses.replace(model.config, reversible=False), model.settings)
    stored.load_params(model.params)
    found = {name: [] for name in ("right", "t", "s", "target", "twin", "itself", "cos_target", "cos_twin", "length")}
    xp = backend.active()
    for seed in test_seeds(size):
        tokens, targets, mask = repeated_word(seed, size)
        _, cache = stored.features(tokens)
        attention = cache.layers.stored[-1][0].part.attention
        P = backend.to_numpy(attention.P)  # (B, H, T, T)
        q, k = (backend.to_numpy(x / xp.sqrt((x * x).sum(-1, keepdims=True))) for x in (attention.q, attention.k))
        cos, length = q @ k.swapaxes(2, 3), np.sqrt((backend.to_numpy(attention.q) ** 2).sum(-1))
        found["length"].append(length.mean(axis=0).tolist())  # of the queries, by position
        guesses, targets = backend.to_numpy(model(tokens)).argmax(axis=-1), backend.to_numpy(targets)
        for row, (first, second) in enumerate(draw(seed, size)[1]):
            for t in np.flatnonzero(backend.to_numpy(mask)[row]):
                twin = t - (second - first)
                found["right"].append(bool(guesses[row, t] == targets[row, t]))
                found["t"].append(int(t))
                found["s"].append(int(twin + 1))
                for name, key in (("target", twin + 1), ("twin", twin), ("itself", t)):
                    found[name].append(P[row, :, t, key])
                found["cos_target"].append(cos[row, :, t, twin + 1])
                found["cos_twin"].append(cos[row, :, t, twin])
    return found


def summary(found):
    """Means of what `examine` finds, for each head, and accuracy by the distance of query and target."""
    right, t, s = (np.array(found[name]) for name in ("right", "t", "s"))
    names = ("target", "twin", "itself", "cos_target", "cos_twin")
    means = {name: np.mean(found[name], axis=0, dtype=float).round(3).tolist() for name in names}
    distance = {str(d): round(float(right[t - s == d].mean()), 3) for d in sorted(set((t - s).tolist()))}
    length = np.mean(found["length"], axis=0, dtype=float).round(1).tolist()
    return {"looks at": means, "length of queries by position": length, "accuracy by distance": distance}


def test_seeds(size):
    """Seeds of the held-out sequences."""
    return [10**9 + i for i in range(size["n_test"])]


def train_one(name, switches, rate, seed, size, folder, sharpness=1.0, **changes):
    """Train one model -> a dict of what came out, with seconds."""
    model = SwitchedModel(config_of(switches, size, **changes), switches, seed, sharpness)
    test = [repeated_word(one, size) for one in test_seeds(size)]
    log = recording.train(
        model,
        lambda step: repeated_word(10**6 * seed + step, size),
        lambda model: statistics.mean(training.bits_per_token(model, *one) for one in test[:4]),
        size,
        rate,
        size["warmup"],
        seed,
        folder / f"{name} {rate} {seed}.safetensors",
    )
    n_tokens = size["batch"] * size["length"] * size["log_every"]
    seconds = sum(n_tokens / row["tokens_per_s"] for row in log if row["tokens_per_s"])
    accuracy = statistics.mean(training.accuracy(model, *one) for one in test)
    print(f"{name}, rate {rate}, seed {seed}: {accuracy:.1%} right, {seconds:.0f} s", flush=True)
    result = {"learning_rate": rate, "seed": seed, "accuracy": round(accuracy, 4), "bits": log[-1]["held_out_bits"]}
    result |= {"parameters": recording.count_parameters(model), "seconds": round(seconds)}
    return result | {"curve": [round(row["held_out_bits"], 4) for row in log]} | summary(examine(model, size))


def name_of(switches):
    """What is turned on: "shared + unit"."""
    return " + ".join(name for name in SWITCHES if switches[name]) or "none"


def options():
    """The command line, with `more`: the one row of MORE to train, or None for everything."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--more", choices=list(MORE), help="train this row alone, and add it to the recorded result")
    return recording.options(__doc__, parser)


def train_combinations(size, folder):
    """All eight combinations -> their runs. The first seed tries every learning rate, the others take its best."""
    first, *others = size["seeds"]
    runs = {}
    for values in product((False, True), repeat=3):
        switches = dict(zip(SWITCHES, values))
        name = name_of(switches)
        runs[name] = [train_one(name, switches, rate, first, size, folder) for rate in size["learning_rates"]]
        best = best_rate(runs[name])
        runs[name] += [train_one(name, switches, best, seed, size, folder) for seed in others]
    return runs


def best_rate(runs):
    """The learning rate of the run with the fewest bits."""
    return min(runs, key=lambda run: run["bits"])["learning_rate"]


def main():
    """Train all models, or one row more, and write one JSON file."""
    chosen = options()
    folder, path = recording.places("sharing", chosen)
    size = QUICK if chosen.quick else FULL
    if chosen.more:
        result = json.loads(path.read_text(encoding="utf-8"))
        ran_on = result["surroundings"]
    else:
        ran_on = recording.surroundings()
        result = {"size": size, "n_symbols": N_SYMBOLS, "config": dataclasses.asdict(config_of(REFORMER, size))}
        result |= {"training": {"schedule": "cosine", "clip": 1.0}}
        result |= {"combinations": train_combinations(size, folder), "more": {}}
    rate = best_rate(result["combinations"][name_of(REFORMER)][: len(size["learning_rates"])])
    for name in [chosen.more] if chosen.more else MORE:
        seeds = size["seeds"][: N_SEEDS.get(name, 2)]
        result["more"][name] = [train_one(name, REFORMER, rate, seed, size, folder, **MORE[name]) for seed in seeds]
        if chosen.more:  # the surroundings of the others stay as they are
            result.setdefault("added", {})[name] = recording.surroundings()
        recording.write(path, result, ran_on)  # after each: the last ones take longest


if __name__ == "__main__":
    main()
