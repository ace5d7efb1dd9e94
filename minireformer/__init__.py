"""minireformer: the Reformer (Kitaev, Kaiser, Levskaya, 2020) in NumPy or CuPy, every gradient by hand.

Read the modules in this order: `backend`, `rng`, `layer` (the ground); `basic`, `activations`, `feed_forward`,
`losses`, `positions` (what every Transformer has); `hashing`, `dense`, `fused`, `tiles`, `chunked`, `attention`,
`attention_layer`, `reversible` (what makes it a Reformer); `model`; then `data`, `optim`, `checkpoint`,
`training`, `generation` (using it) and `gradcheck`, `memory`, `plots` (looking at it); `gpu` holds the few kernels
that a GPU is given.
"""

from minireformer import backend, data, memory
from minireformer.attention import (
    full_attention,
    full_attention_backward,
    local_attention,
    local_attention_backward,
    lsh_attention,
    lsh_attention_backward,
)
from minireformer.generation import generate
from minireformer.gradcheck import gradcheck
from minireformer.hashing import collision_probability, hash_vectors, random_rotations, sort_by_bucket
from minireformer.model import Reformer, ReformerConfig
from minireformer.optim import Adafactor, Adam
from minireformer.training import train

__version__ = "0.1.0"

__all__ = [
    "Adafactor",
    "Adam",
    "Reformer",
    "ReformerConfig",
    "backend",
    "collision_probability",
    "data",
    "full_attention",
    "full_attention_backward",
    "generate",
    "gradcheck",
    "hash_vectors",
    "local_attention",
    "local_attention_backward",
    "lsh_attention",
    "lsh_attention_backward",
    "memory",
    "random_rotations",
    "sort_by_bucket",
    "train",
]
