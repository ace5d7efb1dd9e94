"""The model whose sums motivate the Reformer, for one whole training step on this CPU.

    python benchmarks/paper/motivating_example.py                            # batch 1: about a quarter of an hour
    python benchmarks/paper/motivating_example.py --batch 8                  # the paper's own batch: two hours
    python benchmarks/paper/motivating_example.py --layers 2 --length 8192   # smaller

12 layers, all LSH, 64K tokens, d_model 1024, 8 heads of 128, d_ff 4096, vocabulary 256, float32, with Adafactor. A
Transformer that stores its activations would keep several times 12 * 0.25 GB of them for each sequence, and one
attention matrix of one head alone takes 16 GB. A batch is computed one sequence after the other, and their gradients
are averaged. Prints the memory of the process as it goes, which it reads from /proc: this works on Linux alone.
Writes results/motivating_example.json, or results/motivating_batch.json for batch 8, at the real size.
"""

import argparse
from pathlib import Path

import recording
from one_step import one_step

import minireformer as mr

RESULTS = Path(__file__).parent / "results"
NAMES = {1: "motivating_example.json", 8: "motivating_batch.json"}


def main():
    """Make one step, write down time and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--length", type=int, default=65536)
    parser.add_argument("--d-model", type=int, default=1024, help="heads are of 128, d_ff is 4 d_model")
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    config = mr.ReformerConfig(
        vocab_size=256,
        d_model=options.d_model,
        n_heads=options.d_model // 128,
        d_head=128,
        d_ff=4 * options.d_model,
        attn_layers=("lsh",) * options.layers,
        n_hashes=4,
        max_len=options.length,
        axial_shape=(options.length // 64, 64),
    )
    results = one_step(config, options.length, options.batch, n_parts=options.batch)
    real_size = (options.layers, options.length, options.d_model) == (12, 65536, 1024)
    if real_size and options.batch in NAMES:
        recording.write(RESULTS / NAMES[options.batch], results)


if __name__ == "__main__":
    main()
