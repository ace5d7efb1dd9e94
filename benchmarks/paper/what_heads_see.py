"""What the heads of a small trained model look at: records the numbers behind the explorable "attention".

    python benchmarks/paper/what_heads_see.py            # some minutes; writes course/explorables/attention.json
    python benchmarks/paper/what_heads_see.py --quick    # seconds; writes build/what_heads_see_quick.json

A Reformer of bytes learns Python's standard library, with alternating local and LSH layers. We keep, for one passage
of a held-out file, what each head of its LSH layers hashes and compares: the vectors r (queries, and at unit length
keys), rounded to 8 bits, and their buckets. From these the page computes the weights, as a notebook would.
"""

import base64
import dataclasses
import json

import numpy as np
import recording

import minireformer as mr
from minireformer import backend
from minireformer.backend import to_numpy
from minireformer.course import explore

FULL = {"d_model": 64, "length": 256, "batch": 8, "steps": 1600, "log_every": 100}
QUICK = FULL | {"d_model": 16, "steps": 4, "log_every": 2}
LEARNING_RATE = 4e-3
N_HEADS, D_HEAD, CHUNK, N_HASHES = 2, 16, 16, 4


def config_of(size):
    """Alternating local and LSH layers, for short pieces."""
    return mr.ReformerConfig(
        vocab_size=256,
        d_model=size["d_model"],
        n_heads=N_HEADS,
        d_head=D_HEAD,
        d_ff=4 * size["d_model"],
        attn_layers=("local", "lsh", "local", "lsh"),
        local_chunk_len=CHUNK,
        lsh_chunk_len=CHUNK,
        n_hashes=N_HASHES,
        n_buckets=2 * size["length"] // CHUNK,
        axial_shape=(16, size["length"] // 16),
        max_len=size["length"],
    )


def passage(corpus, length):
    """The held-out piece in which most positions follow four bytes that occurred before, in plain lines of code."""
    data, best = corpus.held_out, (0, None)
    for start in range(0, len(data) - length, length // 2):
        text = data[start : start + length].tobytes()
        lines = text.split(b"\n")
        if not text.isascii() or b"\0" in text or b"\t" in text or max(map(len, lines)) > 60 or b"def " not in text:
            continue
        grams = [text[t : t + 4] for t in range(length - 3)]
        words = [gram for gram in grams if gram.isalpha()]
        best = max(best, (len(words) - len(set(words)), start))
    start = best[1]
    end = start + length
    index = int((corpus.held_out[:start] == 0).sum())
    return corpus.names["held_out"][index], corpus.held_out[start:end].astype("int64")


def looks(model, tokens):
    """For each LSH layer and head: the vectors r as int8 in base64 with their scale, and the buckets as letters."""
    stored = recording.with_config(model, dataclasses.replace(model.config, reversible=False))  # it keeps its caches
    _, cache = stored.features(backend.asarray(tokens[None]), seed=0)
    found = []
    for layer, (kind, (attention, _)) in enumerate(zip(model.config.attn_layers, cache.layers.stored)):
        if kind != "lsh":
            continue
        vectors, buckets = (to_numpy(x)[0] for x in (attention.part.attention.q, attention.part.buckets))
        for head in range(N_HEADS):
            scale = float(abs(vectors[head]).max()) / 127
            whole = np.rint(vectors[head] / scale).astype("int8")  # T, D
            found.append(
                {
                    "layer": layer,
                    "head": head,
                    "scale": scale,
                    "vectors": base64.b64encode(whole.tobytes()).decode(),
                    "buckets": "".join(chr(ord("0") + bucket) for bucket in buckets[head].ravel()),  # R T of them
                }
            )
    return found


def main():
    """Train, look, write."""
    options = recording.options(__doc__)
    size = QUICK if options.quick else FULL
    folder, results = recording.places("what_heads_see", options)
    corpus = mr.data.standard_library()
    model = mr.Reformer(config_of(size), seed=0)
    recording.train_on_bytes(model, corpus, size, LEARNING_RATE, 0, folder / "model.safetensors")
    file, tokens = passage(corpus, size["length"])
    result = {
        "text": tokens.astype("uint8").tobytes().decode("ascii"),
        "file": file,
        "bits": round(recording.held_out_bits(corpus, model, 4, size), 2),
        "steps": size["steps"],
        "chunk_len": CHUNK,
        "heads": looks(model, tokens),
    }
    path = results if options.quick else explore.FOLDER / "attention.json"
    path.write_text(json.dumps(result, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"wrote {path.name}: {result['bits']} bits a byte")


if __name__ == "__main__":
    main()
