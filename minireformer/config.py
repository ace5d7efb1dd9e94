"""The shape of a model, checked when it is made. Read next: `heads.py`."""

import math
from dataclasses import dataclass

from minireformer.attention_layer import FullAttention, LocalAttention, LSHAttention, SharedFullAttention
from minireformer.checks import check_count, check_rate, is_number
from minireformer.feed_forward import ACTIVATIONS
from minireformer.hashing import bucket_factors
from minireformer.heads import HEADS
from minireformer.positions import check_sizes

ATTENTION = {
    "lsh": LSHAttention,
    "local": LocalAttention,
    "full": FullAttention,
    "shared_full": SharedFullAttention,
}


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
    lsh_n_before: int = 1  # chunks that a chunk sees before itself,
    lsh_n_after: int = 0  # and after
    local_n_before: int = 1
    local_n_after: int = 0
    n_hashes: int = 4  # hash rounds
    n_buckets: int | tuple | None = None  # even, or even factors; None: about two a chunk, by the length
    same_bucket: bool = False  # the paper's own equations: see `lsh_attention`
    count_once: bool = False
    positions: str = "axial"  # "axial", "learned" or "sinusoidal"
    axial_shape: tuple = (128, 128)  # its product is at least max_len
    axial_dims: tuple | None = None  # sizes that add up to d_model; None: equal parts
    max_len: int = 16384  # the longest sequence
    causal: bool = True
    dropout: float = 0.0  # of embeddings and of every block's two outputs
    attention_dropout: float = 0.0
    lsh_attention_dropout: float | None = None  # of one kind of layer, where it differs
    local_attention_dropout: float | None = None
    ff_chunk_len: int = 1024  # positions that pass the feed-forward layer together; 0: all
    loss_chunk_len: int = 1024  # positions whose logits exist together in training
    activation: str = "relu"  # or "gelu", or its fit "gelu_tanh"
    layer_norm_eps: float = 1e-12
    reversible: bool = True  # False stores every activation, to compare
    head: str = "tokens"  # or "sequence" or "span": see `heads.py`
    n_labels: int = 2  # of the sequence head
    head_dropout: float | None = None  # of the sequence head, where it differs from `dropout`

    def __post_init__(self):
        for name in ("attn_layers", "axial_shape", "axial_dims", "n_buckets"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        sizes = ("vocab_size", "d_model", "n_heads", "d_head", "d_ff", "lsh_chunk_len", "local_chunk_len")
        for name in (
            *sizes,
            "n_hashes",
            "max_len",
            "loss_chunk_len",
            "n_labels",
        ):  # as Python's own numbers, which JSON knows
            object.__setattr__(self, name, check_count(name, getattr(self, name)))
        for name in ("lsh_n_before", "lsh_n_after", "local_n_before", "local_n_after", "ff_chunk_len"):
            object.__setattr__(self, name, check_count(name, getattr(self, name), at_least=0))
        for name in ("dropout", "attention_dropout"):
            check_rate(name, getattr(self, name))
            object.__setattr__(self, name, float(getattr(self, name)))
        for name in ("lsh_attention_dropout", "local_attention_dropout", "head_dropout"):
            if getattr(self, name) is not None:
                check_rate(name, getattr(self, name))
                object.__setattr__(self, name, float(getattr(self, name)))
        eps = self.layer_norm_eps
        self._check("layer_norm_eps", is_number(eps) and 0 <= eps < math.inf, "a finite number >= 0")
        object.__setattr__(self, "layer_norm_eps", float(eps))
        for name in ("same_bucket", "count_once", "causal", "reversible"):
            self._check(name, isinstance(getattr(self, name), bool), "True or False")
        self._check("attn_layers", isinstance(self.attn_layers, tuple), 'a tuple such as ("lsh",)')
        known = all(isinstance(kind, str) and kind in ATTENTION for kind in self.attn_layers)
        self._check("attn_layers", known and self.attn_layers, f"one or more of {', '.join(ATTENTION)}")
        self._check("activation", self.activation in tuple(ACTIVATIONS), f"one of {', '.join(ACTIVATIONS)}")
        self._check("head", self.head in HEADS, f"one of {', '.join(HEADS)}")
        if self.n_buckets is not None:
            factors = tuple(int(factor) for factor in bucket_factors(self.n_buckets))
            object.__setattr__(self, "n_buckets", factors if isinstance(self.n_buckets, tuple) else factors[0])
        kinds = ("axial", "learned", "sinusoidal")
        self._check("positions", self.positions in kinds, f"one of {', '.join(kinds)}")
        if self.positions == "axial":
            self._check_axial()
        if self.positions == "sinusoidal":
            self._check("d_model", self.d_model % 2 == 0, "an even number, for sinusoidal positions")

    @property
    def chunk_lens(self):
        """The chunk lengths of the model's LSH and local layers: what `attention.padded_length` needs."""
        kinds = (kind for kind in ("lsh", "local") if kind in self.attn_layers)
        return tuple(getattr(self, f"{kind}_chunk_len") for kind in kinds)

    def _check(self, name, fits, expected):
        if not fits:
            raise ValueError(f"{name}: expected {expected}; got {getattr(self, name)!r}")

    def _check_axial(self):
        object.__setattr__(self, "axial_shape", check_sizes("axial_shape", self.axial_shape))
        n_axes = len(self.axial_shape)
        if self.axial_dims is None:
            part = self.d_model // n_axes
            object.__setattr__(self, "axial_dims", (self.d_model - part * (n_axes - 1), *[part] * (n_axes - 1)))
        object.__setattr__(self, "axial_dims", check_sizes("axial_dims", self.axial_dims))
        self._check("axial_dims", len(self.axial_dims) == n_axes, f"{n_axes} sizes, one an axis of axial_shape")
        self._check("axial_dims", sum(self.axial_dims) == self.d_model, f"sizes that add up to d_model {self.d_model}")
        grid = math.prod(self.axial_shape)
        self._check("axial_shape", grid >= self.max_len, f"a product of at least max_len {self.max_len}")
