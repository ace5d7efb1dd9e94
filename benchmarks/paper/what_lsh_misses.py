"""What does LSH attention miss? Against exact attention, on the vectors of a trained model and on random ones.

    python benchmarks/paper/what_lsh_misses.py            # minutes; writes results/what_lsh_misses.json
    python benchmarks/paper/what_lsh_misses.py --quick    # seconds; writes build/what_lsh_misses_quick.json

The model is match_full.py's with three LSH layers, as that script has trained it (it is trained first where its
checkpoint is missing), on held-out text. Exact attention is that of the same layer's own queries and values: shared
queries and keys, keys at unit length. Three questions, by hash rounds and by chunk length:

    recall     how much of the exact attention's mass lies on the keys that a query meets
    output     relative error of the layer's heads, |o - exact o| / |exact o|
    dqk, dv    relative errors of their gradients, from the gradient that the model's loss sends back

`once` repeats the output's error with keys that are met in several rounds counted once (`count_once`). Random vectors
have the lengths of the trained model's queries and random directions.
"""

import match_full
import numpy as np
import recording

import minireformer as mr
from minireformer import reference
from minireformer.hashing import default_n_buckets

FULL = {"rounds": [1, 2, 4, 8, 16], "chunk_lens": [16, 32, 64, 128, 256], "n_pieces": 2, "n_seeds": 3}
QUICK = {"rounds": [1, 4], "chunk_lens": [8, 16], "n_pieces": 1, "n_seeds": 2}
ROUNDS = 4  # where chunk lengths are compared; rounds are compared at the chunk length that the model was trained with
DIFFERENT = (
    "The paper measures what LSH costs in accuracy (its section 5), not what it misses. Our model is small and was "
    "trained only briefly. It was trained with LSH attention, so it may have learned to put its weights where LSH "
    "finds them. Where most queries point the same way (common direction close to 1), they share their buckets, so "
    "further rounds meet few new keys. Exact attention is then close to a mean over all keys, and no small set of keys "
    "can replace that."
)


class Heads:
    """Notes what passes through an attention layer: its heads in forward, the gradient of its output in backward."""

    def __init__(self, layer):
        self.attend, self.attend_backward = layer.attend, layer.attend_backward
        layer.attend, layer.attend_backward = self.forward, self.backward

    def forward(self, heads, seed, options):
        self.qk, self.v = (np.array(x) for x in heads)  # B, H, T, D
        return self.attend(heads, seed, options)

    def backward(self, dmixed, cache):
        self.dout = np.array(dmixed)
        return self.attend_backward(dmixed, cache)


def heads_of(model, size, piece):
    """[(qk, v, dout)] of every layer, (1, H, T, D) each, with exact attention in the place of LSH."""
    exact = match_full.with_other_attention(model, size, ("shared_full",) * len(model.config.attn_layers))
    noted = [Heads(attention.part) for attention, _ in exact.layers.blocks]
    exact.loss_and_grads(*piece)
    return [(one.qk, one.v, one.dout) for one in noted]


def random_like(qk):
    """Random directions, with the lengths of the vectors qk."""
    draw = np.random.default_rng(0).standard_normal(qk.shape).astype(qk.dtype)
    return reference.unit_length(draw) * np.linalg.norm(qk, axis=-1, keepdims=True)


def exact_weights(qk):
    """Weights of exact attention, one head: qk (T, D) -> (T, T). A token sees those before it."""
    logits = qk @ reference.unit_length(qk).T
    logits[np.triu_indices(len(qk))] = reference.FORBIDDEN
    logits[0, 0] = 0  # the first sees nothing but itself
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def met(buckets, chunk_len):
    """Which key (column) a query (row) meets in any round: buckets (R, T) of one head -> booleans (T, T).

    As `reference.lsh_meetings`, which counts meetings of every round and needs the memory for it.
    """
    chunks = mr.sort_by_bucket(buckets).reshape(-1, chunk_len)  # of all rounds
    meets = np.zeros((buckets.shape[1],) * 2, bool)
    for queries, before in zip(chunks, np.roll(chunks, 1, axis=0)):
        for keys in (queries, before):
            meets[queries[:, None], keys] = True
    return meets


def common_direction(qk):
    """Length of the mean of the vectors qk (1, H, T, D) at unit length: the mean over heads."""
    return float(np.linalg.norm(reference.unit_length(qk).mean(axis=2), axis=-1).mean())


def relative_error(approximate, exact):
    """|approximate - exact| / |exact|, a float."""
    return float(np.linalg.norm(approximate - exact) / np.linalg.norm(exact))


class Layer:
    """One layer's vectors, and exact attention of them."""

    def __init__(self, qk, v, dout):
        self.qk, self.v, self.dout = qk, v, dout
        self.out, cache = mr.full_attention(qk, None, v)
        self.dqk, self.dv = mr.full_attention_backward(dout, cache)
        self.weights = [exact_weights(one) for one in qk[0]]

    def compare(self, n_hashes, chunk_len, seed):
        """What LSH attention with these rotations makes of it."""
        n_heads, length, d_head = self.qk.shape[1:]
        n_buckets = default_n_buckets(length, chunk_len)
        rotations = mr.random_rotations(seed, n_heads, d_head, n_hashes, n_buckets)
        buckets = mr.hash_vectors(self.qk, rotations, n_buckets)
        out, cache = mr.lsh_attention(self.qk, self.v, buckets, chunk_len=chunk_len)
        dqk, dv = mr.lsh_attention_backward(self.dout, cache)
        once, _ = mr.lsh_attention(self.qk, self.v, buckets, chunk_len=chunk_len, count_once=True)
        met_by_heads = [met(one, chunk_len) for one in buckets[0]]
        allowed = np.tri(length, k=-1, dtype=bool)
        pairs = list(zip(self.weights, met_by_heads))
        return {
            "recall": float(np.mean([(weights * meets)[1:].sum(axis=1).mean() for weights, meets in pairs])),
            "keys_met": float(np.mean([meets[allowed].mean() for meets in met_by_heads])),
            "output": relative_error(out, self.out),
            "once": relative_error(once, self.out),
            "dqk": relative_error(dqk, self.dqk),
            "dv": relative_error(dv, self.dv),
        }


def spread(layers, n_hashes, chunk_len, n_seeds):
    """{quantity: {"mean", "deviation"}}: the deviation over seeds of rotations, each a mean over pieces."""
    found = [[layer.compare(n_hashes, chunk_len, seed) for layer in layers] for seed in range(n_seeds)]
    by_seed = {name: [np.mean([one[name] for one in row]) for row in found] for name in found[0][0]}
    return {n: {"mean": float(np.mean(x)), "deviation": float(np.std(x, ddof=1))} for n, x in by_seed.items()}


def main():
    """Compare, and write one JSON file."""
    options = recording.options(__doc__)
    size, of_model = (QUICK, match_full.QUICK) if options.quick else (FULL, match_full.FULL)
    corpus = mr.data.standard_library()
    model, log = match_full.train_one("LSH", 0, of_model, options, corpus)
    pieces = match_full.held_out(corpus, of_model, size["n_pieces"])
    by_piece = [heads_of(model, of_model, piece) for piece in pieces]
    vectors = {f"layer {i}": [layers[i] for layers in by_piece] for i in range(len(by_piece[0]))}
    for name in list(vectors):
        vectors[f"{name}, random directions"] = [(random_like(qk), v, dout) for qk, v, dout in vectors[name]]
    result = {
        "question": "What does LSH attention miss of exact attention?",
        "different": DIFFERENT,
        "size": size | {"length": of_model["length"], "chunk_len": of_model["chunk_len"], "n_hashes": ROUNDS},
        "model": {"variant": "LSH", "seed": 0, "steps": log[-1]["step"], "held_out_bits": log[-1]["held_out_bits"]},
        "length_of_queries": {},  # the median; the longer, the sharper the attention
        "common_direction": {},  # 0 where queries point everywhere, 1 where all point the same way and share buckets
        "by_rounds": {},  # vectors: rounds: quantity: mean and deviation; at the model's chunk length
        "by_chunk_len": {},  # vectors: chunk length: the same; at ROUNDS rounds
    }
    for name, given in vectors.items():
        layers = [Layer(*one) for one in given]
        lengths = np.concatenate([np.linalg.norm(one.qk, axis=-1).ravel() for one in layers])
        result["length_of_queries"][name] = float(np.median(lengths))
        result["common_direction"][name] = float(np.mean([common_direction(one.qk) for one in layers]))
        for what, settings in (
            ("by_rounds", {n: (n, of_model["chunk_len"]) for n in size["rounds"]}),
            ("by_chunk_len", {c: (ROUNDS, c) for c in size["chunk_lens"]}),
        ):
            result[what][name] = {key: spread(layers, *one, size["n_seeds"]) for key, one in settings.items()}
            for key, found in result[what][name].items():
                print(name, what, key, *(f"{n} {x['mean']:.3f}" for n, x in found.items()), flush=True)
    recording.write(recording.places("what_lsh_misses", options)[1], result)


if __name__ == "__main__":
    main()
