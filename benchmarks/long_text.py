"""Does far context help? A small Reformer of bytes with 16,384 tokens of context, on Python's standard library.

    python benchmarks/long_text.py            # about 30 minutes of one core; writes benchmarks/results/long_text.json
    python benchmarks/long_text.py --quick    # seconds; writes build/long_text/quick.json

Training begins with short pieces and goes on with whole ones. Then, on held-out files:

position    bits per byte against the place in the context, and the same where everything further back than `near` bytes
            is replaced by another file's bytes, or has its own bytes shuffled
kept        bits per byte of the last bytes against how many true bytes stand before them, another file's before those
copy        a made-up name returns after some distance: bits per byte of its end, with and without a first visit
attention   where the LSH layer looks: mass against distance, and the far pairs with the most weight
sample      a held-out file, continued

Notebook 09 draws the result. A run that is killed goes on where its last checkpoint left it when the same command is
given again; delete the folder with the checkpoints (build/long_text) to begin anew.
"""

import argparse
import dataclasses
import datetime
import json
import math
import platform
import sys
from pathlib import Path

import numpy

import minireformer as mr
from minireformer import backend, rng, training
from minireformer.backend import to_numpy
from minireformer.chunked import unit_length
from minireformer.optim import warmup_cosine

ROOT = Path(__file__).resolve().parents[1]
FULL = {
    "d_model": 128,
    "length": 16384,
    "short": (4, 512, 1800),  # the first stage: pieces a batch, bytes a piece, steps
    "steps": 2050,  # in all; after the first stage one whole piece a step
    "warmup": 100,
    "log_every": 50,
    "n_pieces": 20,
    "n_names": 16,
    "n_new": 1500,
}
QUICK = FULL | {"d_model": 32, "length": 1024, "short": (2, 256, 6), "steps": 9, "warmup": 2, "log_every": 3}
QUICK |= {"n_pieces": 3, "n_names": 2, "n_new": 20}
LEARNING_RATE = 3e-3


def config_of(size):
    """Two local blocks and one of LSH attention: bytes around a place, then places whose bytes are alike."""
    d_model, length = size["d_model"], size["length"]
    return mr.ReformerConfig(
        vocab_size=256,
        d_model=d_model,
        n_heads=4,
        d_head=d_model // 4,
        d_ff=4 * d_model,
        attn_layers=("local", "local", "lsh"),
        local_chunk_len=16,
        lsh_chunk_len=64,
        n_hashes=2,
        n_buckets=(16, length // 512),  # the same for short pieces: a cache gives the same logits
        axial_shape=(length // 512, 32, 16),
        # Little for the coarse parts, which short pieces do not train, much for the place within 16 bytes. With two
        # axes and local chunks of 64, a model needed some four times as many bytes to get below 3.5 bits.
        axial_dims=(d_model // 8, d_model // 4, 5 * d_model // 8),
        max_len=length,
    )


def trained(corpus, size, path):
    """-> the trained model and its log."""
    model = mr.Reformer(config_of(size), seed=0)
    batch, length, first_steps = size["short"]

    def batches(step):
        return corpus.batch("train", step, *((batch, length) if step < first_steps else (1, size["length"])))

    probe = corpus.batch("held_out", 0, 1, size["length"])
    log = mr.train(
        model,
        batches,
        mr.Adam(model.params),
        size["steps"],
        schedule=warmup_cosine(LEARNING_RATE, size["warmup"], size["steps"] + 1),
        clip=1.0,
        log_every=size["log_every"],
        evaluate=lambda model: {"held_out_bits": training.bits_per_token(model, *probe)},
        checkpoint=path,
        checkpoint_every=size["log_every"],
        progress=sys.stderr.isatty(),
    )
    return model, [{name: row[name] for name in ("step", "bits_per_token", "held_out_bits")} for row in log]


def pieces_of(corpus, size):
    """`n_pieces` pieces (length + 1,), each inside one held-out file, at most two of a file; -> (names, n x T + 1)."""
    names, pieces = [], []
    files = dict(zip(corpus.names["held_out"], corpus.held_out.tobytes().split(b"\0")))
    for name in rng.generator(0, "files").permutation(sorted(files)):
        data = numpy.frombuffer(files[name], dtype="uint8").astype("int64")
        for start in range(0, min(len(data) - size["length"], 2 * size["length"]), size["length"] + 1):
            names.append(str(name))
            pieces.append(data[start : start + size["length"] + 1])
    return names[: size["n_pieces"]], numpy.stack(pieces[: size["n_pieces"]])


def bits(model, piece, start=0, stop=None):
    """-log2 p of the bytes start + 1 .. stop of `piece` (T + 1,), each from all before it: (stop - start,)."""
    tokens = backend.asarray(piece[None, :-1])
    features, _ = model.features(tokens, training=False)
    logits = to_numpy(model.head(features[:, start:stop]))[0].astype("float64")  # n, V
    logits -= logits.max(axis=1, keepdims=True)
    found = numpy.take_along_axis(logits, piece[start + 1 :][: len(logits), None], axis=1)[:, 0]
    return (numpy.log(numpy.exp(logits).sum(axis=1)) - found) / math.log(2)


def replaced(piece, end, how, other, seed):
    """`piece` with its first `end` bytes replaced: by those of `other`, or by themselves in random order."""
    changed = piece.copy()
    changed[:end] = other[:end] if how == "another file" else rng.generator(seed, "shuffle").permutation(piece[:end])
    return changed


def others(names, pieces):
    """For each piece, one of another file."""
    turned = [*range(len(names) // 2, len(names)), *range(len(names) // 2)]
    return [pieces[next(j for j in turned[i:] + turned[:i] if names[j] != name)] for i, name in enumerate(names)]


def by_position(model, names, pieces, size):
    """Bits per byte, piece by piece: along the context, and where the far context is another (see the top)."""
    length, width = size["length"], size["length"] // 16  # `width` bytes are scored at a time; and so many stay true
    edges = [0, *(2**k for k in range(5, int(math.log2(width)) + 1)), *range(2 * width, length + 1, width)]
    curve = [bits(model, piece) for piece in pieces]
    starts = [2 * width, 4 * width, 8 * width, length - width]
    found = {"true": [[float(row[s : s + width].mean()) for s in starts] for row in curve]}
    for how in ("another file", "shuffled"):
        found[how] = [
            [float(bits(model, replaced(piece, s - width, how, other, i), s, s + width).mean()) for s in starts]
            for i, (piece, other) in enumerate(zip(pieces, others(names, pieces)))
        ]
    return {
        "edges": edges,
        "bits": [[float(row[a:b].mean()) for a, b in zip(edges, edges[1:])] for row in curve],
        "starts": starts,
        "width": width,
        "near": width,
        "segments": found,
    }


def by_kept(model, names, pieces, size):
    """Bits per byte of the last bytes of each piece against the number of true bytes before them."""
    length, width = size["length"], size["length"] // 32
    last = length - width
    kept = [length // 2**k for k in range(10, 0, -1)] + [last]
    return {
        "kept": kept,
        "width": width,
        "bits": [
            [float(bits(model, replaced(piece, last - n, "another file", other, i), last).mean()) for n in kept]
            for i, (piece, other) in enumerate(zip(pieces, others(names, pieces)))
        ],
    }


def copies(model, pieces, size):
    """Bits per byte of the second half of a made-up name, `distance` bytes after its first visit and without one."""
    length, found = size["length"], {"distances": [], "with": {}, "without": {}}
    models = {"2 rounds": model, "8 rounds": with_rounds(model, 8)}
    for kind in models:
        found["with"][kind], found["without"][kind] = [], []
    found["distances"] = [length // 256, length // 64, length // 16, length // 4, 5 * length // 8]
    for distance in found["distances"]:
        rows = {(visit, kind): [] for visit in ("with", "without") for kind in models}
        for i in range(size["n_names"]):
            random = rng.generator(i, "name")
            name, another = ("".join(random.choice(list("bcdfghjklmnpqrstvwxz"), 16)) for _ in range(2))
            end = length - 16  # the name's second visit ends here
            for visit, first in (("with", name), ("without", another)):
                piece = pieces[i % len(pieces)].copy()
                for text, at in ((f"self.{first}(", end - distance), (f"self.{name}(", end)):
                    data = numpy.frombuffer(text.encode(), dtype="uint8")
                    piece[at - len(data) : at] = data
                for kind, one in models.items():  # 8 letters, then the bracket
                    rows[visit, kind].append(float(bits(one, piece, end - 10, end - 2).mean()))
        for (visit, kind), values in rows.items():
            found[visit][kind].append(values)
    return found


def with_rounds(model, n_hashes):
    """The same parameters, hashed in `n_hashes` rounds."""
    other = mr.Reformer(dataclasses.replace(model.config, n_hashes=n_hashes))
    other.load_params(model.params)
    return other


def last_attention(model, tokens):
    """The cache of the last layer's attention for tokens (1, T): see `reversible.py` for the streams."""
    one = other = model.positions(model.embedding(tokens))
    *before, (attention, _) = model.layers.blocks
    for sublayer in (part for block in before for part in block):
        one, other = other, one + sublayer.part(sublayer.layer_norm(other))
    seed = rng.fold(rng.fold(0, "layers"), len(before), "attention")
    _, cache = attention.part.forward(attention.layer_norm(other), seed, training=False)
    return cache.attention


def weights_of(cache, head):
    """Every pair that one head of an LSH layer forms in a round: queries, keys (n,) places; weights (n,).

    The weights of a query's pairs add up to 1 over all rounds.
    """
    q, lse = to_numpy(cache.q)[0, head], to_numpy(cache.lse)[0, head]
    k = to_numpy(unit_length(cache.q))[0, head]
    chunks = to_numpy(cache.tokens.order)[head].reshape(-1, cache.pattern.chunk_len)  # of all rounds, in one circle
    windows = numpy.concatenate([numpy.roll(chunks, 1, axis=0), chunks], axis=1)  # n, 2 C
    queries, keys, weights = [], [], []
    for chunk, window in zip(chunks, windows):
        seen = window[None, :] < chunk[:, None]
        rows, columns = numpy.nonzero(seen)
        logits = (q[chunk] @ k[window].T)[rows, columns]
        queries.append(chunk[rows])
        keys.append(window[columns])
        weights.append(numpy.exp(logits - lse[chunk[rows]]))
    return (numpy.concatenate(x) for x in (queries, keys, weights))


def attention(model, pieces, size):
    """Mass against distance of each head, for the last queries of the first pieces; and the heaviest far pairs."""
    length = size["length"]
    first = 5 * length // 8  # queries from here on: each could look back over at least so many bytes
    edges = [1, *(2**k for k in range(3, int(math.log2(length)) + 1))]
    n_heads = model.config.n_heads
    mass, met = numpy.zeros((2, n_heads, len(edges) - 1))
    same = numpy.zeros((n_heads, 4))  # far mass and far pairs: where the last 4 bytes are the same, and in all
    pairs = []
    for which, piece in enumerate(pieces[:4]):
        text = piece[:-1].astype("uint8").tobytes()
        cache = last_attention(model, backend.asarray(piece[None, :-1]))
        grams = numpy.array([hash(text[max(0, i - 3) : i + 1]) for i in range(length)])
        for head in range(n_heads):
            queries, keys, weights = weights_of(cache, head)
            totals = numpy.bincount(queries, weights, length)[first:]
            assert abs(totals - 1).max() < 1e-3, "the weights of a query do not add up to 1"
            late = queries >= first
            queries, keys, weights = queries[late], keys[late], weights[late]
            distance = queries - keys
            mass[head] += numpy.histogram(distance, edges, weights=weights)[0]
            met[head] += numpy.histogram(distance, edges)[0]
            far = distance >= length // 4
            alike = grams[queries[far]] == grams[keys[far]]
            same[head] += [weights[far][alike].sum(), weights[far].sum(), alike.sum(), alike.size]
            for i in numpy.flatnonzero(far)[numpy.argsort(-weights[far])[:200]]:
                pairs.append((float(weights[i]), which, head, int(queries[i]), int(keys[i])))
    chosen, used = [], set()
    for weight, which, head, query, key in sorted(pairs, reverse=True):
        where = (which, query // 64)
        if where not in used and len(chosen) < 8:
            used.add(where)
            text = pieces[which].astype("uint8").tobytes().decode(errors="replace")
            around = [text[max(0, at - 30) : at + 1] for at in (key, query)]
            after = [text[at + 1 : at + 9] for at in (key, query)]
            chosen.append({"weight": weight, "head": head, "places": [key, query], "up_to": around, "then": after})
    return {
        "edges": edges,
        "first_query": first,
        "mass": (mass / mass.sum(axis=1, keepdims=True)).tolist(),  # heads, bins
        "met": (met / met.sum(axis=1, keepdims=True)).tolist(),  # the same if all that is met weighed alike
        "far": length // 4,
        "far_mass": (same[:, 1] / mass.sum(axis=1)).tolist(),  # by head
        "same_four_bytes": (same[:, ::2] / numpy.maximum(same[:, 1::2], 1e-30)).tolist(),  # heads, (of mass, of pairs)
        "pairs": chosen,
    }


def run(size, folder):
    """-> what is to be recorded."""
    corpus = mr.data.standard_library()
    model, log = trained(corpus, size, folder / "model.safetensors")
    names, pieces = pieces_of(corpus, size)
    prompt = pieces[0][: 5 * size["length"] // 8].astype("uint8").tobytes()
    text = mr.generate(model, prompt, size["n_new"], temperature=0.7, top_p=0.95, seed=0, cached=True)
    return {
        "config": dataclasses.asdict(model.config),
        "n_parameters": sum(param.size for param in model.params.values()),
        "size": size,
        "training": {"learning_rate": LEARNING_RATE, "clip": 1.0, "seed": 0},
        "corpus_bytes": {"train": len(corpus.train), "held_out": len(corpus.held_out)},
        "log": log,
        "files": names,
        "position": by_position(model, names, pieces, size),
        "kept": by_kept(model, names, pieces, size),
        "copy": copies(model, pieces, size),
        "attention": attention(model, pieces, size),
        "sample": {
            "file": names[0],
            "prompt_bytes": len(prompt),
            "prompt_end": prompt[-400:].decode(errors="replace"),
            "text": text[len(prompt) :].decode(errors="replace"),
        },
    }


def main():
    """Train, measure, write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tiny model, in seconds")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "long_text", help="for checkpoints")
    options = parser.parse_args()
    name = "quick" if options.quick else "full"
    result = run(QUICK if options.quick else FULL, options.folder / name)
    result["versions"] = {
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "minireformer": mr.__version__,
    }
    result["machine"] = {"processor": platform.machine(), "threads": backend.n_threads()}
    result["date"] = datetime.date.today().isoformat()
    out = options.folder / "quick.json" if options.quick else ROOT / "benchmarks" / "results" / "long_text.json"
    out.write_text(json.dumps(result, indent=1) + "\n")
    true, other = (numpy.array(result["position"]["segments"][key])[:, -1] for key in ("true", "another file"))
    gain = other - true
    print(f"the last bytes: {true.mean():.3f} bits each; with another file's far context {gain.mean():+.3f}", end="")
    print(f" ± {gain.std(ddof=1) / math.sqrt(len(gain)):.3f}; wrote {out}")


if __name__ == "__main__":
    main()
