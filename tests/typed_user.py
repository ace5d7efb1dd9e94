"""A program that uses the public names. mypy reads it in its strict mode, and the tests also run it.

What it says about types must be true when it runs. The lines under TYPE_CHECKING are wrong on purpose: mypy has to
object to each of them, or else it calls its `type: ignore` unused.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, assert_type

import numpy as np

import minireformer as mr

config = mr.ReformerConfig(d_model=8, n_heads=1, d_head=8, d_ff=8, axial_shape=(8, 8), max_len=64, lsh_chunk_len=8)
model = mr.Reformer(config, seed=0, dtype="float64")
corpus = mr.data.ByteCorpus({"a": bytes(range(256)), "b": bytes(range(256))})
tokens, targets = corpus.batch("train", 0, 2, 32)
logits = model(tokens)

loss, grads = model.loss_and_grads(tokens, targets, seed=1)
assert_type(loss, float)
assert_type(grads, dict[str, Any])
assert isinstance(loss, float) and grads.keys() == model.params.keys()

optimizer = mr.Adam(model.params, lr=1e-3)
optimizer.step(grads)
log = mr.train(model, lambda step: corpus.batch("train", step, 1, 32), optimizer, steps=2, progress=False)
assert_type(log, list[dict[str, Any]])
assert isinstance(log, list) and log[-1]["step"] == 2

assert mr.Adafactor(model.params).lr is None

text = mr.generate(model, "one", 3, temperature=0.5, top_k=5)
assert "".join(mr.stream(model, "one", 3, temperature=0.5, top_k=5)) == text[3:]
mr.beam_search(model, b"one", 2, n_beams=2)
decoder = mr.CachedDecoder(model, max_len=16)
decoder.step(decoder.start(tokens[:, :4]).argmax(axis=-1))

with TemporaryDirectory() as folder:
    path = Path(folder) / "model.safetensors"
    model.save(path)
    loaded = mr.Reformer.load(path)
    assert_type(loaded, mr.Reformer)
    assert isinstance(loaded, mr.Reformer)
    mr.to_huggingface(loaded, folder)
    assert_type(mr.from_huggingface(folder), mr.Reformer)
    assert mr.huggingface.state_dict(loaded).keys() != loaded.params.keys()

x = np.random.default_rng(0).standard_normal((2, 1, 32, 8))
rotations = mr.random_rotations(0, n_heads=1, d_head=8, n_hashes=2, n_buckets=4)
buckets = mr.hash_vectors(x, rotations.astype(x.dtype))
order = mr.sort_by_bucket(buckets)
out, cache = mr.lsh_attention(x, x, buckets, chunk_len=8)
assert len(mr.lsh_attention_backward(out, cache)) == 2
assert len(mr.full_attention_backward(*mr.full_attention(x, x, x))) == 3
assert len(mr.local_attention_backward(*mr.local_attention(x, x, x, chunk_len=8))) == 3
mr.collision_probability(0.5, 4)

report = mr.gradcheck(model, tokens[:1, :8])
assert_type(report.ok, bool)
assert isinstance(report.ok, bool) and isinstance(report.worst, float)
with mr.memory.peak() as measured:
    model(tokens)
    measured.mark("logits")
assert_type(measured.marks[0].highest, int)
assert isinstance(measured.marks[0].highest, int)
stored = mr.memory.predict(config, batch=2, length=32).stored
assert_type(stored, int)
assert isinstance(mr.memory.nbytes(cache), int)

pairs = mr.EncoderDecoder(mr.EncoderDecoderConfig(**vars(config)))
assert_type(mr.AttentionOptions(chunk_len=8).width, int)
assert mr.backend.to_numpy(pairs((tokens, tokens))).shape == (2, 32, 256)
mr.backend.set_threads(mr.backend.n_threads())

if TYPE_CHECKING:
    mr.Reformer({"d_model": 8})  # type: ignore[arg-type]
    mr.Reformer(config).save(3)  # type: ignore[arg-type]
    mr.ReformerConfig(d_modle=8)  # type: ignore[call-arg]
    mr.Adam(model)  # type: ignore[arg-type]
    mr.train(model, corpus, optimizer, steps=2)  # type: ignore[arg-type]
    mr.generate(model, "one", "3")  # type: ignore[arg-type]
    print(mr.memory.predict(config, 2, 32).stroed)  # type: ignore[attr-defined]
    mr.full_attention(x, x)  # type: ignore[call-arg]
