"""Where the LSH layer of a language model looks: the weight of every pair that its heads form, against distance.

This is not a script: `far_context.py` imports it to look at the model that it has trained.
"""

import dataclasses
import math

import numpy as np
import recording

from minireformer import backend
from minireformer.backend import to_numpy
from minireformer.unit_length import unit_length


def last_attention(model, tokens):
    """The cache of the last layer's attention for tokens (1, T), in a model without dropout."""
    stored = recording.with_config(model, dataclasses.replace(model.config, reversible=False))  # it keeps its caches
    _, cache = stored.features(tokens, seed=0)
    attention, _ = cache.layers.stored[-1]
    return attention.part.attention


def weights_of(cache, head):
    """Every pair that one head of an LSH layer forms in a round: queries, keys (n,) places; weights (n,).

    The weights of a query's pairs add up to 1 over all rounds.
    """
    q, m, l = (to_numpy(x)[0, head] for x in (cache.q, cache.m, cache.l))
    k = to_numpy(unit_length(cache.q))[0, head]
    chunks = to_numpy(cache.plan.order)[head].reshape(-1, cache.plan.options.chunk_len)  # of all rounds, in one circle
    windows = np.concatenate([np.roll(chunks, 1, axis=0), chunks], axis=1)  # n, 2 C
    queries, keys = np.broadcast_arrays(chunks[:, :, None], windows[:, None, :])  # n, C, 2 C
    seen = keys < queries
    logits = (q[chunks] @ k[windows].mT)[seen]
    return queries[seen], keys[seen], np.exp(logits - m[queries[seen]]) / l[queries[seen]]


def far_attention(model, pieces):
    """Mass against distance of each head of the last layer, for the last queries of `pieces` (n, T + 1); and far pairs.

    Far is a quarter of T and more.
    """
    length, n_heads = pieces.shape[1] - 1, model.config.n_heads
    first = 5 * length // 8  # queries from here on: each could look back over at least so many bytes
    edges = [1, *(2**k for k in range(3, int(math.log2(length)) + 1))]
    mass, met = np.zeros((2, n_heads, len(edges) - 1))
    sums = {kind: np.zeros((n_heads, 2)) for kind in ("far", "same", "after")}  # weight and number of far pairs
    pairs = []
    for which, piece in enumerate(pieces):
        cache = last_attention(model, backend.asarray(piece[None, :-1]))
        gram = sum(256**n * np.roll(piece, n) for n in range(4))  # the last four bytes at each place, as a number
        for head in range(n_heads):
            queries, keys, weights = weights_of(cache, head)
            totals = np.bincount(queries, weights, length)[first:]
            assert abs(totals - 1).max() < 1e-3, "the weights of a query do not add up to 1"
            late = queries >= first
            queries, keys, weights = queries[late], keys[late], weights[late]
            mass[head] += np.histogram(queries - keys, edges, weights=weights)[0]
            met[head] += np.histogram(queries - keys, edges)[0]
            far = queries - keys >= length // 4
            same, after = (far & (gram[queries] == gram[keys - shift]) for shift in (0, 1))
            for kind, which_pairs in (("far", far), ("same", same), ("after", after)):
                sums[kind][head] += weights[which_pairs].sum(), which_pairs.sum()
            for i in np.flatnonzero(far)[np.argsort(-weights[far])[:200]]:
                pairs.append((float(weights[i]), which, head, int(queries[i]), int(keys[i])))
    return {
        "edges": edges,
        "first_query": first,
        "mass": (mass / mass.sum(axis=1, keepdims=True)).tolist(),  # heads, bins
        "met": (met / met.sum(axis=1, keepdims=True)).tolist(),  # the same if all that is met weighed alike
        "far": length // 4,
        "far_mass": (sums["far"][:, 0] / mass.sum(axis=1)).tolist(),  # by head
        # By head, of the far weight and of the far pairs: the share where the same four bytes end at query and key, and
        # where they end at the byte before the key, so that the key is what followed them.
        "same_four_bytes": (sums["same"] / np.maximum(sums["far"], 1e-30)).tolist(),
        "after_the_same": (sums["after"] / np.maximum(sums["far"], 1e-30)).tolist(),
        "pairs": heaviest(pairs, pieces),
    }


def heaviest(pairs, pieces):
    """Of `pairs` (weight, piece, head, query, key), the eight of most weight, at most one for 64 bytes of queries."""
    chosen, used = [], set()
    for weight, which, head, query, key in sorted(pairs, reverse=True):
        if (which, query // 64) not in used and len(chosen) < 8:
            used.add((which, query // 64))
            text = pieces[which].astype("uint8").tobytes().decode("latin-1")  # a letter for each byte
            around = [text[max(0, at - 30) : at + 1] for at in (key, query)]
            then = [text[at + 1 : at + 9] for at in (key, query)]
            chosen.append({"weight": weight, "head": head, "places": [key, query], "up_to": around, "then": then})
    return chosen
