"""One training step of a whole language model (loss and all gradients), beside the PyTorch Reformers.

    python benchmarks/speed/training_step.py                      # part of make bench
    python benchmarks/speed/training_step.py --lengths 4096

Six layers, all LSH: d_model 256, 4 heads of 64, d_ff 1024, vocabulary 256, chunks of 64, 4 hash rounds, causal,
float32, batch 1. Contenders: this package, Hugging Face's transformers, reformer-pytorch (lucidrains). Writes
benchmarks/speed/results/training_step.json.
"""

from pathlib import Path

import contest

D_MODEL, HEADS, D_HEAD, D_FF, VOCABULARY, LAYERS, CHUNK, HASHES = 256, 4, 64, 1024, 256, 6, 64, 4
RESULTS = Path(__file__).parent / "results" / "training_step.json"


def tokens_and_targets(length):
    """Random tokens and their successors, (1, length) each: what is learned does not matter here."""
    import numpy as np

    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (1, length + 1))
    return tokens[:, :-1], tokens[:, 1:]


def ours(length, layers=LAYERS):
    """`Reformer.loss_and_grads`, on the backend in use."""
    import minireformer as mr

    config = mr.ReformerConfig(
        vocab_size=VOCABULARY,
        d_model=D_MODEL,
        n_heads=HEADS,
        d_head=D_HEAD,
        d_ff=D_FF,
        attn_layers=("lsh",) * layers,
        lsh_chunk_len=CHUNK,
        n_hashes=HASHES,
        axial_shape=(length // 64, 64),
        max_len=length,
    )
    model, (tokens, targets) = mr.Reformer(config), map(mr.backend.asarray, tokens_and_targets(length))
    return lambda: model.loss_and_grads(tokens, targets)


def huggingface(length, layers=LAYERS, device="cpu"):
    """`ReformerModelWithLMHead` of transformers, chunked feed-forward layers included."""
    import torch
    from transformers import ReformerConfig, ReformerModelWithLMHead

    torch.set_num_threads(contest.N_THREADS)
    config = ReformerConfig(
        vocab_size=VOCABULARY,
        hidden_size=D_MODEL,
        num_attention_heads=HEADS,
        attention_head_size=D_HEAD,
        feed_forward_size=D_FF,
        attn_layers=["lsh"] * layers,
        lsh_attn_chunk_length=CHUNK,
        num_hashes=HASHES,
        is_decoder=True,
        axial_pos_shape=(length // 64, 64),
        axial_pos_embds_dim=(D_MODEL // 2, D_MODEL // 2),
        max_position_embeddings=length,
        chunk_size_feed_forward=1024,
        hidden_dropout_prob=0.0,
        lsh_attention_probs_dropout_prob=0.0,
        hash_seed=0,
    )
    model = ReformerModelWithLMHead(config).train().to(device)
    tokens = torch.tensor(tokens_and_targets(length)[0].copy(), device=device)

    def step():
        model.zero_grad()
        model(tokens, labels=tokens).loss.backward()

    return step


def lucidrains(length, layers=LAYERS):
    """`ReformerLM` of reformer-pytorch."""
    import torch
    from reformer_pytorch import ReformerLM

    torch.set_num_threads(contest.N_THREADS)
    model = ReformerLM(
        num_tokens=VOCABULARY,
        dim=D_MODEL,
        depth=layers,
        max_seq_len=length,
        heads=HEADS,
        bucket_size=CHUNK,
        n_hashes=HASHES,
        causal=True,
    ).train()
    tokens, targets = (torch.tensor(x.copy()) for x in tokens_and_targets(length))

    def step():
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(tokens)[0], targets[0]).backward()

    return step


CONTENDERS = {"minireformer": ours, "Hugging Face": huggingface, "lucidrains": lucidrains}

if __name__ == "__main__":
    contest.main(__file__, __doc__, CONTENDERS, [4096, 16384], RESULTS)
