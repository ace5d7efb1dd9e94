"""Does far context help? A small Reformer of bytes with 16,384 tokens of context, on Python's standard library.

    python benchmarks/paper/far_context.py            # about 30 minutes of one core; writes results/far_context.json
    python benchmarks/paper/far_context.py --quick    # seconds; writes build/far_context_quick.json

Training begins with short pieces and goes on with whole ones. Then, on held-out files:

position    bits per byte against the place in the context, and the same where everything further back than `near` bytes
            is replaced by another file's bytes, or has its own bytes shuffled
kept        bits per byte of the last bytes against the number of true bytes before them; before those, another file's
copy        a made-up name returns after some distance: bits per byte of its end, with and without a first visit
attention   where the LSH layer looks: mass against distance, and the far pairs with the most weight
sample      a held-out file, continued

Notebook 09 draws the result. If a run is killed, the same command resumes it from its last checkpoint; delete
build/far_context to start over.
"""

import dataclasses
import math

import numpy as np
import recording
from match_full import summary, without_layers
from where_lsh_looks import far_attention

import minireformer as mr
from minireformer import backend, rng, training
from minireformer.backend import to_numpy

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
CONTROLS = ("another file", "shuffled")
DIFFERENT = (
    "The paper trains on 64K bytes at once, with models of up to 20 layers and many thousands of steps, and does not "
    "ask how much of that context a model uses. Here: three layers of 128 units, one of them LSH attention, on 16,384 "
    "bytes of Python source; 1,800 steps of short pieces, then 250 of whole ones."
)


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


def trained(corpus, size, checkpoint):
    """-> the trained model and its log."""
    model = mr.Reformer(config_of(size), seed=0)
    batch, length, first_steps = size["short"]
    probe = corpus.batch("held_out", 0, 1, size["length"])

    def batches(step):
        return corpus.batch("train", step, *((batch, length) if step < first_steps else (1, size["length"])))

    log = recording.train(
        model,
        batches,
        lambda model: training.bits_per_token(model, *probe),
        size,
        LEARNING_RATE,
        size["warmup"],
        seed=0,
        checkpoint=checkpoint,
    )
    return model, [{name: row[name] for name in ("step", "bits_per_token", "held_out_bits")} for row in log]


def pieces_of(corpus, size):
    """`n_pieces` pieces (length + 1,), each inside one held-out file, at most two of a file; -> (names, n x T + 1)."""
    names, pieces = [], []
    files = dict(zip(corpus.names["held_out"], corpus.held_out.tobytes().split(b"\0")))
    for name in rng.generator(0, "files").permutation(sorted(files)):
        data = np.frombuffer(files[name], dtype="uint8").astype("int64")
        for start in range(0, min(len(data) - size["length"], 2 * size["length"]), size["length"] + 1):
            names.append(str(name))
            pieces.append(data[start : start + size["length"] + 1])
    return names[: size["n_pieces"]], np.stack(pieces[: size["n_pieces"]])


def bits(model, piece, start=0, stop=None):
    """-log2 p of the bytes start + 1 .. stop of `piece` (T + 1,), each from all before it: (stop - start,)."""
    tokens = backend.asarray(piece[None, :-1])
    features, _ = model.features(tokens, training=False)
    logits = to_numpy(model.head(features[:, start:stop]))[0].astype("float64")  # n, V
    logits -= logits.max(axis=1, keepdims=True)
    found = np.take_along_axis(logits, piece[start + 1 :][: len(logits), None], axis=1)[:, 0]
    return (np.log(np.exp(logits).sum(axis=1)) - found) / math.log(2)


def replaced(piece, end, how, other, seed):
    """`piece` with its first `end` bytes replaced: by those of `other`, or by themselves in random order."""
    changed = piece.copy()
    changed[:end] = other[:end] if how == "another file" else rng.generator(seed, "shuffle").permutation(piece[:end])
    return changed


def others(names, pieces):
    """For each piece, one of another file."""
    turned = [*range(len(names) // 2, len(names)), *range(len(names) // 2)]
    return [pieces[next(j for j in turned[i:] + turned[:i] if names[j] != name)] for i, name in enumerate(names)]


def far_copies(piece, start, near, n=8):
    """Which of the bytes start + 1 .. T follow `n` bytes that last stood more than `near` bytes before `start`, and
    were then followed by the same byte: (T - start,) bools. So could be known from far context alone."""
    text, seen, found = piece.astype("uint8").tobytes(), {}, np.zeros(len(piece) - 1, bool)
    for t in range(n - 1, len(found)):
        last = seen.get(text[t - n + 1 : t + 1], start)
        found[t] = last < start - near and text[last + 1] == text[t + 1]
        seen[text[t - n + 1 : t + 1]] = t
    return found[start:]


def by_position(model, names, pieces, size):
    """Bits per byte, piece by piece: along the context, and where the far context is another (see the top)."""
    length, width = size["length"], size["length"] // 16  # `width` bytes are scored at a time; and so many stay true
    edges = [0, *(2**k for k in range(5, int(math.log2(width)) + 1)), *range(2 * width, length + 1, width)]
    curve = [bits(model, piece) for piece in pieces]
    starts = [2 * width, 4 * width, 8 * width, length - width]
    scored = {"true": [[row[s : s + width] for s in starts] for row in curve]}  # pieces, starts, bytes
    for how in CONTROLS:
        scored[how] = [
            [bits(model, replaced(piece, s - width, how, other, i), s, s + width) for s in starts]
            for i, (piece, other) in enumerate(zip(pieces, others(names, pieces)))
        ]
    means = {how: np.mean(rows, axis=-1) for how, rows in scored.items()}
    copied = np.concatenate([far_copies(piece, starts[-1], width) for piece in pieces])
    at_copies = {how: np.concatenate([row[-1] for row in rows])[copied] for how, rows in scored.items()}
    return {
        "edges": edges,
        "bits": [[float(row[a:b].mean()) for a, b in zip(edges, edges[1:])] for row in curve],
        "starts": starts,
        "width": width,
        "near": width,
        "segments": {how: values.tolist() for how, values in means.items()},  # pieces, starts
        "gain_at_the_end": {how: summary(means[how][:, -1], means["true"][:, -1]) for how in CONTROLS},
        # of the bytes scored there, those that a copier with far context knows
        "far_copies": {"share": float(copied.mean()), "bits": {how: float(x.mean()) for how, x in at_copies.items()}},
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
    length = size["length"]
    eight = recording.with_config(model, dataclasses.replace(model.config, n_hashes=8))
    models = {"2 rounds": model, "8 rounds": eight}
    distances = [length // 256, length // 64, length // 16, length // 4, 5 * length // 8]
    found = {visit: {kind: [] for kind in models} for visit in ("with", "without")}
    for distance in distances:
        rows = {(visit, kind): [] for visit in found for kind in models}
        for i in range(size["n_names"]):
            random = rng.generator(i, "name")
            name, another = ("".join(random.choice(list("bcdfghjklmnpqrstvwxz"), 16)) for _ in range(2))
            end = length - 16  # the name's second visit ends here
            for visit, first in (("with", name), ("without", another)):
                piece = pieces[i % len(pieces)].copy()
                for text, at in ((f"self.{first}(", end - distance), (f"self.{name}(", end)):
                    piece[at - len(text) : at] = list(text.encode())
                for kind, one in models.items():  # 8 letters, then the bracket
                    rows[visit, kind].append(float(bits(one, piece, end - 10, end - 2).mean()))
        for (visit, kind), values in rows.items():
            found[visit][kind].append(values)
    return {"distances": distances} | found


def worth_of_lsh(model, pieces):
    """The rise in bits per byte of each piece where the LSH layer's attention adds nothing: mean, standard error."""
    last = len(model.config.attn_layers) - 1
    as_it_is, without = ([bits(one, x).mean() for x in pieces] for one in (model, without_layers(model, [last])))
    return summary(without, as_it_is)


def sample(model, name, piece, size):
    """The beginning of a held-out file, continued by the model."""
    prompt = piece[: 5 * size["length"] // 8].astype("uint8").tobytes()
    text = mr.generate(model, prompt, size["n_new"], temperature=0.7, top_p=0.95, seed=0, cached=True)
    return {
        "file": name,
        "prompt_bytes": len(prompt),
        "prompt_end": prompt[-400:].decode(errors="replace"),
        "text": text[len(prompt) :].decode(errors="replace"),
    }


def main():
    """Train, measure, write one JSON file."""
    options = recording.options(__doc__)
    folder, path = recording.places("far_context", options)
    size = QUICK if options.quick else FULL
    corpus = mr.data.standard_library()
    model, log = trained(corpus, size, folder / "model.safetensors")
    names, pieces = pieces_of(corpus, size)
    position = by_position(model, names, pieces, size)
    result = {
        "different": DIFFERENT,
        "config": dataclasses.asdict(model.config),
        "n_parameters": recording.count_parameters(model),
        "size": size,
        "training": {"learning_rate": LEARNING_RATE, "schedule": "cosine", "clip": 1.0, "seed": 0},
        "corpus_bytes": {"train": len(corpus.train), "held_out": len(corpus.held_out)},
        "log": log,
        "files": names,
        "position": position,
        "kept": by_kept(model, names, pieces, size),
        "copy": copies(model, pieces, size),
        "attention": far_attention(model, pieces[:4]),
        "rise_without_lsh": worth_of_lsh(model, pieces),
        "sample": sample(model, names[0], pieces[0], size),
    }
    recording.write(path, result)
    for how, gain in position["gain_at_the_end"].items():
        print(f"far context {how}: {gain['mean']:+.3f} +- {gain['standard_error']:.3f} bits a byte")


if __name__ == "__main__":
    main()
