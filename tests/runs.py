"""Short training runs of a tiny model, which several test files start, kill, resume and compare."""

import json

from arrays import xp
from minireformer import backend
from minireformer.model import Reformer, ReformerConfig
from minireformer.training import duplicate_task, train
from minireformer.training.optimizers import Adam

CONFIG = ReformerConfig(
    vocab_size=12,
    d_model=8,
    n_heads=1,
    d_head=4,
    d_ff=8,
    attn_layers=("lsh",),
    lsh_chunk_len=8,
    n_hashes=2,
    axial_shape=(4, 8),
    axial_dims=(4, 4),
    max_len=32,
    dropout=0.1,
    attention_dropout=0.1,
)


def tiny_model(seed=3):
    return Reformer(CONFIG, seed=seed)


def batches(step):
    return duplicate_task(step, batch=2, length=16, n_symbols=11)


def run(steps, checkpoint=None, make=Adam, seed=0, **settings):
    model = tiny_model()
    opt = make(model.params, lr=0.02)
    settings = {"log_every": 4, "clip": 1.0, "progress": False} | settings
    return model, train(
        model, settings.pop("batches", batches), opt, steps, checkpoint=checkpoint, seed=seed, **settings
    )


def host_copy(arrays):
    return {name: backend.to_numpy(array).copy() for name, array in arrays.items()}


def assert_same_bits(model, other):
    for name, param in model.params.items():
        xp.testing.assert_array_equal(backend.to_numpy(param), backend.to_numpy(other.params[name]), err_msg=name)


def without_clock(log):
    return [{k: v for k, v in row.items() if k not in ("tokens_per_s", "peak_memory")} for row in log]


def json_lines(path):
    return [json.loads(line) for line in path.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()]


class Stop(Exception):
    pass


def stop_at(last):
    def stopping(step):
        if step == last:
            raise Stop
        return batches(step)

    return stopping


def noting(asked):
    """`batches`, which notes in the list `asked` for which steps it was called."""

    def batches_noted(step):
        asked.append(step)
        return batches(step)

    return batches_noted
