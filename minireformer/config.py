"""The shape of a model, checked when it is made. Read next: `heads.py`."""

import math
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from minireformer.checks import check_count, check_eps, check_rate, check_sizes, expect
from minireformer.feed_forward import ACTIVATIONS
from minireformer.hashing import bucket_factors

KINDS = ("lsh", "local", "full", "shared_full")  # of attention layers: see `attention_layer.ATTENTION`
HEADS = ("tokens", "sequence", "span")  # see `heads.py`


@dataclass(frozen=True)
class ReformerConfig:
    """The shape of a model. Checked when made: a ValueError names the field that doesn't fit."""

    vocab_size: int = 256
    d_model: int = 256
    n_heads: int = 4
    d_head: int = 64
    d_ff: int = 1024
    attn_layers: tuple = ("local", "lsh")  # one block each, of "lsh", "local", "full" or "shared_full"
    lsh_chunk_len: int = 64
    local_chunk_len: int = 64
    lsh_n_before: int = 1  # how many chunks a query sees before its own,
    lsh_n_after: int = 0  # and after it
    local_n_before: int = 1
    local_n_after: int = 0
    n_hashes: int = 4  # hash rounds
    n_buckets: int | tuple | None = None  # even, or even factors; None: about two per chunk, depending on the length
    same_bucket: bool = False  # the paper's own equations: see `AttentionOptions`
    count_once: bool = False
    positions: str = "axial"  # "axial", "learned" or "sinusoidal"
    axial_shape: tuple = (128, 128)  # its product is at least max_len
    axial_dims: tuple | None = None  # sizes that add up to d_model; None: equal parts
    max_len: int = 16384  # the longest sequence
    causal: bool = True
    dropout: float = 0.0  # of embeddings and of the outputs of a block's two sub-layers
    attention_dropout: float = 0.0
    lsh_attention_dropout: float | None = None  # for one kind of layer, if it differs
    local_attention_dropout: float | None = None
    heads_at_once: int = 0  # heads that a reversible layer undoes at a time in training; 0: all
    ff_chunk_len: int = 1024  # positions that the feed-forward layer computes at a time; 0: all
    loss_chunk_len: int = 1024  # positions whose logits exist at the same time in training
    activation: str = "relu"  # or "gelu", or its approximation "gelu_tanh"
    layer_norm_eps: float = 1e-12
    reversible: bool = True  # False stores every activation, for comparison
    head: str = "tokens"  # or "sequence" or "span": see `heads.py`
    n_labels: int = 2  # of the sequence head
    head_dropout: float | None = None  # of the sequence head, if it differs from `dropout`

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            value = tuple(value) if isinstance(value, list) else value  # JSON gives tuples back as lists
            check = CHECKS.get(field.name) or CHECKS.get(field.type)
            if check and not (value is None and field.default is None):
                value = check(field.name, value)
            self._set(field.name, value)
        if self.positions == "axial":
            self._check_axial()
        if self.positions == "sinusoidal":
            expect("d_model", self.d_model, self.d_model % 2 == 0, "an even number, for sinusoidal positions")

    @property
    def chunk_lens(self) -> tuple[int, ...]:
        """The chunk lengths of the model's LSH and local layers: what `attention.padded_length` needs."""
        return tuple(getattr(self, f"{kind}_chunk_len") for kind in ("lsh", "local") if kind in self.attn_layers)

    def setting(self, part: str, name: str) -> Any:
        """The field `{part}_{name}` if there is one and it isn't None, else `name`: a part's own value comes first."""
        own = getattr(self, f"{part}_{name}", None)
        return getattr(self, name) if own is None else own

    def _set(self, name, value):
        object.__setattr__(self, name, value)  # how to set a field of a frozen dataclass

    def _check_axial(self):
        shape, dims, d_model = check_sizes("axial_shape", self.axial_shape), self.axial_dims, self.d_model
        if dims is None:
            part, rest = divmod(d_model, len(shape))
            dims = (part + rest, *[part] * (len(shape) - 1))
        dims = check_sizes("axial_dims", dims)
        expect("axial_dims", dims, len(dims) == len(shape), f"{len(shape)} sizes, one for each axis of axial_shape")
        expect("axial_dims", dims, sum(dims) == d_model, f"sizes that add up to d_model {d_model}")
        expect("axial_shape", shape, math.prod(shape) >= self.max_len, f"a product of at least max_len {self.max_len}")
        self._set("axial_shape", shape)
        self._set("axial_dims", dims)


def one_of(*choices):
    """A check that a field is one of these strings."""
    return lambda name, value: expect(name, value, value in choices, f"one of {', '.join(choices)}")


def _check_kinds(name, kinds):
    expect(name, kinds, isinstance(kinds, tuple), 'a tuple such as ("lsh",)')
    known = all(isinstance(kind, str) and kind in KINDS for kind in kinds)
    return expect(name, kinds, known and kinds, f"one or more of {', '.join(KINDS)}")


def _check_n_buckets(name, value):
    factors = tuple(int(factor) for factor in bucket_factors(value))
    return factors if isinstance(value, tuple) else factors[0]


CHECKS = {  # for a field, by its name or else its type: (name, value) -> the value in Python's own types, for JSON
    int: check_count,
    int | None: check_count,
    float: check_rate,
    float | None: check_rate,
    bool: lambda name, x: expect(name, x, isinstance(x, bool), "True or False"),
    "layer_norm_eps": check_eps,
    "attn_layers": _check_kinds,
    "n_buckets": _check_n_buckets,
    "activation": one_of(*ACTIVATIONS),
    "head": one_of(*HEADS),
    "positions": one_of("axial", "learned", "sinusoidal"),
}
MAY_BE_0 = "lsh_n_before lsh_n_after local_n_before local_n_after encoder_n_after heads_at_once ff_chunk_len pad_token"
CHECKS |= dict.fromkeys(MAY_BE_0.split(), partial(check_count, at_least=0))
