"""Generation after a very long text: time per token and memory with a cache, from 64K tokens of context to a million.

    python benchmarks/speed/long_context.py                               # half an hour
    python benchmarks/speed/long_context.py --lengths 65536 262144        # only these; the record keeps the others
    python benchmarks/speed/long_context.py --lengths 1048576 --layers 3  # a smaller model: 1M tokens of context take
                                                                          # 2.3 GB a layer, and 10 GB for the prompt

The model of `generation.py`: six LSH layers, d_model 256, 4 heads of 64, 4 hash rounds, float32, batch 1; about two
buckets for each chunk. The text is Python's standard library. A prompt runs through the model once, and the cache then
takes token after token. Each length has a process of its own, whose memory is read from /proc: this works on Linux
alone. Writes results/long_context.json.
"""

import argparse
import json
import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import contest
from generation import seconds

import minireformer as mr
from minireformer.generation.decoding import CachedDecoder

RESULTS = Path(__file__).parent / "results" / "long_context.json"
LENGTHS = [2**16, 2**18, 2**20]


def measure(length, layers, n_tokens):
    """What a prompt of `length` tokens costs, and each of the tokens after it."""
    longest = -(-(length + n_tokens) // 64) * 64
    config = mr.ReformerConfig(attn_layers=("lsh",) * layers, axial_shape=(longest // 64, 64), max_len=longest)
    decoder = CachedDecoder(mr.Reformer(config), longest)
    tokens, _ = mr.data.standard_library().batch("train", 0, 1, longest)
    prompt_s = seconds(decoder.start, tokens[:, :length])
    resident = contest.machine.memory("VmRSS")
    low, median, high = statistics.quantiles((seconds(decoder.step, tokens[:, t]) for t in range(length, longest)), n=4)
    found = {"layers": layers, "prompt_s": prompt_s, "cached_s": median, "cached_quartiles_s": [low, high]}
    found |= {"resident_bytes": resident, "peak_resident_bytes": contest.machine.memory("VmHWM")}
    memory = f"{resident / 1e9:.1f} GB, at most {found['peak_resident_bytes'] / 1e9:.1f}"
    print(f"T = {length}: prompt {prompt_s:.0f} s, then {1e3 * median:.2f} ms a token; {memory}", flush=True)
    return found


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=64, help="how many to take after the prompt")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    contest.machine.require_proc()
    recorded = options.results.exists()
    results = json.loads(options.results.read_text(encoding="utf-8")) if recorded else {"lengths": {}}
    for length in options.lengths:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            results["lengths"][str(length)] = pool.submit(measure, length, options.layers, options.tokens).result()
        results |= {"surroundings": contest.surroundings(), "threads_used": mr.backend.n_threads()}
        options.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
