"""The same numbers as the PyTorch Reformers, on fresh random configurations: `make parity N=50`.

For each of N random seeds, a random configuration of Hugging Face's Reformer gets random weights, tokens and mask; its
logits, loss and gradients are compared with minireformer's, and what minireformer writes is loaded by `transformers`
again. N random settings of lucidrains' LSHAttention follow, then the two public architectures at full size. The same
comparison with fixed configurations is in the tests, which need neither library.
"""

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "tests"), str(ROOT / "tests" / "fixtures")]

from make_lucidrains import lucidrains_case  # noqa: E402
from peers import DROPOUTS, huggingface_case, huggingface_model, logits_of, watched_hashing  # noqa: E402

import minireformer as mr  # noqa: E402
from cases import FORWARD, PUBLIC_CONFIGS, differences, paper_differences, table  # noqa: E402

BORDER = 1e-5  # float32 knows a projected vector to some 1e-6 of its length: nearer to a border, buckets may differ


def random_case(seed):
    """What `huggingface_case` is given: any head, layers, windows, buckets, rounds, positions, length and mask."""
    draw = np.random.default_rng([seed, 2])
    head = draw.choice(["tokens", "tokens", "tokens", "sequence", "span"])
    kinds = draw.choice(["lsh", "local"], draw.integers(1, 4)).tolist()
    chunks = {kind: int(draw.choice([4, 6, 8, 12])) for kind in ("lsh", "local")}
    causal = bool(draw.integers(2))
    may_look_ahead = not (causal and head == "tokens")
    length = int(draw.integers(1, 90))
    n_batch = int(draw.integers(1, 4))
    axial = bool(draw.integers(2))
    longest = -(-length // math.lcm(*chunks.values())) * math.lcm(*chunks.values())
    columns = int(draw.integers(4, 17))
    n_rows = -(-longest // columns) + int(draw.integers(3))
    buckets = [None, int(2 * draw.integers(1, 9)), [2, 4], [4, 4], [6, 2, 2]][draw.integers(5)]
    config = {
        "vocab_size": int(draw.integers(5, 40)),
        "hidden_size": 16,
        "num_attention_heads": int(draw.integers(1, 4)),
        "attention_head_size": int(draw.integers(3, 9)),
        "feed_forward_size": int(draw.integers(4, 30)),
        "attn_layers": kinds,
        "num_buckets": buckets,
        "num_hashes": int(draw.integers(1, 5)),
        "is_decoder": causal,
        "axial_pos_embds": axial,
        "axial_pos_shape": [n_rows, columns],
        "axial_pos_embds_dim": [6, 10],
        "max_position_embeddings": n_rows * columns,
        "hidden_act": str(draw.choice(["relu", "gelu", "gelu_new", "gelu_pytorch_tanh"])),
        "layer_norm_eps": float(draw.choice([1e-12, 1e-5])),
    }
    for kind in ("lsh", "local"):
        config[f"{kind}_attn_chunk_length"] = chunks[kind]
        config[f"{kind}_num_chunks_before"] = int(draw.integers(3))
        config[f"{kind}_num_chunks_after"] = int(draw.integers(2)) if may_look_ahead else 0
    mask = None
    if draw.integers(2) and head != "span":  # their loss for answers counts hidden positions as places for one
        mask = draw.random((n_batch, length)) < draw.uniform(0.3, 1)
        mask[:, 0] = True
    num_hashes = int(draw.integers(1, 5)) if draw.random() < 0.25 else None
    given = {"n_batch": n_batch, "length": length, "mask": mask, "num_hashes": num_hashes}
    return {"config": config, "head": str(head), **given}


def describe(given):
    """A case in a few words."""
    config = given["config"]
    words = ["causal" if config["is_decoder"] else "both ways", "+".join(config["attn_layers"])]
    words += [f"T={given['length']}", f"R={given['num_hashes'] or config['num_hashes']}"]
    return " ".join([given["head"], *words] + ["mask"] * (given["mask"] is not None))


def written_and_loaded(given, seed, folder):
    """The largest difference between the logits of a model of theirs, and of the same after minireformer wrote it."""
    model = huggingface_model(given["config"], given["head"], 3, seed)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    mr.to_huggingface(mr.from_huggingface(weights, model.config.to_dict()), folder)
    again = type(model).from_pretrained(folder, hash_seed=seed, **dict.fromkeys(DROPOUTS, 0.0)).eval()
    tokens = np.random.default_rng(seed).integers(0, given["config"]["vocab_size"], (1, given["length"]))
    with torch.no_grad():
        logits = (logits_of(one, given["head"], tokens, None, given["num_hashes"]) for one in (model, again))
        return float((next(logits) - next(logits)).abs().max())


def at_full_size(name, length=600):
    """Logits of a public architecture at full size, with random weights: the largest difference in float64.

    Not in float32: with 512 buckets, some of its many tokens are always so near a border that either may be right.
    """
    config = PUBLIC_CONFIGS[name]
    model = huggingface_model(config, "tokens", None, seed=0).double()
    tokens = np.random.default_rng(0).integers(0, config["vocab_size"], (1, length))
    with watched_hashing() as seen, torch.no_grad():
        theirs = logits_of(model, "tokens", tokens, None, None).numpy()
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    ours = mr.from_huggingface(weights, config, "float64")
    return float(np.abs(ours(tokens, rotations=seen["rotations"][0].numpy()) - theirs).max())


def main():
    """Compare, print, and exit with 1 where anything is further apart than it may be."""
    transformers.utils.logging.disable_progress_bar()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--number", type=int, default=20, help="random configurations of each library")
    parser.add_argument("--seed", type=int, default=None, help="of the first; another each time if not given")
    options = parser.parse_args()
    seed = int(time.time()) % 2**31 if options.seed is None else options.seed
    print(f"transformers {transformers.__version__}, torch {torch.__version__}; --seed {seed} repeats this")
    failed = 0

    print("\nHugging Face: largest differences")
    print("\n".join(table([])))
    done = 0
    while done < options.number:
        given = random_case(seed)
        case = huggingface_case(**given, seed=seed)
        if case["margin"] > BORDER:
            found = differences(case)
            with tempfile.TemporaryDirectory() as folder:
                again = written_and_loaded(given, seed, folder)
            good = found.fit and again <= FORWARD["float32"]
            print("\n".join(table([(describe(given), found)])[1:]), f"seed {seed}" if good else f"FAILED, seed {seed}")
            failed += not good
            done += 1
        seed += 1

    print("\nlucidrains: largest differences, relative")
    torch.set_default_dtype(torch.float64)
    for number in range(options.number):
        draw = np.random.default_rng([seed, number])
        settings = [bool(choice) for choice in draw.integers(0, 2, 3)]
        case = lucidrains_case(*settings, n_hashes=int(draw.integers(1, 6)), seed=seed + number)
        found = paper_differences(case)
        words = [word for word, chosen in zip(("same bucket", "count once", "causal"), settings) if chosen]
        numbers = f"forward {found.forward:.1e}, gradients {found.gradient:.1e}"
        print(f"{', '.join(words):46} {numbers}", "" if found.fit else "FAILED")
        failed += not found.fit
    torch.set_default_dtype(torch.float32)

    print("\nPublic architectures at full size, random weights, float64")
    for name in PUBLIC_CONFIGS:
        apart = at_full_size(name)
        print(f"{name:46} logits {apart:.1e}", "" if apart <= FORWARD["float64"] else "FAILED")
        failed += apart > FORWARD["float64"]
    print(f"\n{failed} of {2 * options.number + len(PUBLIC_CONFIGS)} are further apart than they may be")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
