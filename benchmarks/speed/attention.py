"""LSH attention, forward and backward, beside the PyTorch Reformers and exact attention on the same CPU.

    make bench                                                  # all sizes; half an hour or more on two cores
    python benchmarks/speed/attention.py --lengths 1024 4096    # some

One sequence, 8 heads of 64, chunks of 64, 4 hash rounds, causal, float32, hashing included. Contenders: this
package; the LSH layer of Hugging Face's transformers, which projects to heads and back, and this package with the same
projections; reformer-pytorch (lucidrains); torch's exact attention; and the floor: the seven matrix products of the
kernel alone. Writes benchmarks/speed/results/attention.json.
"""

from pathlib import Path

import contest

BATCH, HEADS, D_HEAD, CHUNK, HASHES = 1, 8, 64, 64, 4
RESULTS = Path(__file__).parent / "results" / "attention.json"


def ours(length):
    """`hash_vectors`, `lsh_attention` and its backward, on the backend in use."""
    import numpy as np

    import minireformer as mr
    from minireformer.hashing import default_n_buckets

    random = np.random.default_rng(0)
    shape = (BATCH, HEADS, length, D_HEAD)
    qk, v, dout = (mr.backend.asarray(random.standard_normal(shape, dtype="float32")) for _ in range(3))
    n_buckets = default_n_buckets(length, CHUNK, length)

    def step():
        rotations = mr.random_rotations(0, n_heads=HEADS, d_head=D_HEAD, n_hashes=HASHES, n_buckets=n_buckets)
        buckets = mr.hash_vectors(qk, rotations, n_buckets)
        _, cache = mr.lsh_attention(qk, v, buckets, chunk_len=CHUNK)
        mr.lsh_attention_backward(dout, cache)

    return step


def ours_projected(length):
    """The same behind the projections that Hugging Face's layer has: to heads, and not back."""
    import numpy as np

    import minireformer as mr
    from minireformer.hashing import default_n_buckets
    from minireformer.linear import Linear

    d_model, random = HEADS * D_HEAD, np.random.default_rng(0)
    query_key, value = (Linear(d_model, d_model, seed, bias=False) for seed in (0, 1))
    x, dout = (mr.backend.asarray(random.standard_normal((BATCH, length, d_model), dtype="float32")) for _ in range(2))
    n_buckets = default_n_buckets(length, CHUNK, length)

    def split(y):
        return y.reshape(BATCH, length, HEADS, D_HEAD).swapaxes(1, 2)

    def step():
        (qk, qk_cache), (v, v_cache) = query_key.forward(x), value.forward(x)
        rotations = mr.random_rotations(0, n_heads=HEADS, d_head=D_HEAD, n_hashes=HASHES, n_buckets=n_buckets)
        buckets = mr.hash_vectors(split(qk), rotations, n_buckets)
        _, cache = mr.lsh_attention(split(qk), split(v), buckets, chunk_len=CHUNK)
        dqk, dv = (d.swapaxes(1, 2).reshape(x.shape) for d in mr.lsh_attention_backward(split(dout), cache))
        dx = query_key.backward(dqk, qk_cache)[0]
        dx += value.backward(dv, v_cache)[0]

    return step


def huggingface(length, device="cpu"):
    """`LSHSelfAttention` of transformers."""
    import torch
    from transformers import ReformerConfig
    from transformers.models.reformer.modeling_reformer import LSHSelfAttention

    torch.set_num_threads(contest.N_THREADS)
    d_model = HEADS * D_HEAD
    config = ReformerConfig(
        attn_layers=["lsh"],
        hidden_size=d_model,
        num_attention_heads=HEADS,
        attention_head_size=D_HEAD,
        lsh_attn_chunk_length=CHUNK,
        num_hashes=HASHES,
        is_decoder=True,
        lsh_attention_probs_dropout_prob=0.0,
        max_position_embeddings=length,
        hash_seed=0,
    )
    layer = LSHSelfAttention(config).to(device)
    x, dout = (torch.randn(BATCH, length, d_model, device=device) for _ in range(2))
    x.requires_grad_()

    def step():
        x.grad = None
        layer.zero_grad()
        layer(x)[0].backward(dout)

    return step


def lucidrains(length):
    """`LSHAttention` of reformer-pytorch."""
    import torch
    from reformer_pytorch import LSHAttention

    torch.set_num_threads(contest.N_THREADS)
    attention = LSHAttention(bucket_size=CHUNK, n_hashes=HASHES, causal=True)
    qk, v = (torch.randn(BATCH * HEADS, length, D_HEAD, requires_grad=True) for _ in range(2))
    dout = torch.randn(BATCH * HEADS, length, D_HEAD)

    def step():
        qk.grad = v.grad = None
        attention(qk, v)[0].backward(dout)

    return step


def exact(length, device="cpu"):
    """torch's `scaled_dot_product_attention`: exact, in tiles, without the matrix in memory."""
    import torch

    torch.set_num_threads(contest.N_THREADS)
    q, k, v, dout = (torch.randn(BATCH, HEADS, length, D_HEAD, device=device) for _ in range(4))
    for x in (q, k, v):
        x.requires_grad_()

    def step():
        q.grad = k.grad = v.grad = None
        torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).backward(dout)

    return step


def floor(length):
    """The seven batched products of the kernel, two forward and five backward, on the same shapes and threads."""
    import numpy as np

    from minireformer import threads

    random = np.random.default_rng(0)
    n_chunks = HASHES * length // CHUNK
    n = 16  # chunks in a tile

    def work(heads):
        queries = random.standard_normal((n, CHUNK, D_HEAD), dtype="float32")
        keys = random.standard_normal((n, 2 * CHUNK, D_HEAD), dtype="float32")
        logits = np.empty((n, CHUNK, 2 * CHUNK), "float32")
        to_queries, to_keys = np.empty_like(queries), np.empty_like(keys)
        for _ in heads:
            for _ in range(0, n_chunks, n):
                for _ in range(3):  # Q K' forward and backward, dO V'
                    np.matmul(queries, keys.swapaxes(1, 2), out=logits)
                for _ in range(2):  # P V, dS K
                    np.matmul(logits, keys, out=to_queries)
                for _ in range(2):  # dS' Q, P' dO
                    np.matmul(logits.swapaxes(1, 2), queries, out=to_keys)

    return lambda: threads.parallel_for(work, BATCH * HEADS, np)


CONTENDERS = {
    "minireformer": ours,
    "minireformer with projections": ours_projected,
    "Hugging Face": huggingface,
    "lucidrains": lucidrains,
    "exact (torch)": exact,
    "floor": floor,
}


if __name__ == "__main__":
    contest.main(__file__, __doc__, CONTENDERS, [1024, 2048, 4096, 16384, 65536], RESULTS)
