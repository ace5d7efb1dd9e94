"""minireformer: the Reformer (Kitaev, Kaiser, Levskaya, 2020) in NumPy or CuPy, every gradient by hand.

Read the modules in this order: `backend`, `rng`, `layer` (the ground); `basic`, `activations`, `feed_forward`,
`losses`, `positions` (what every Transformer has); `hashing`, `dense`, `fused`, `tiles`, `chunked`, `attention`,
`attention_layer`, `reversible` (what makes it a Reformer); `config`, `heads`, `model`, and for translation
`cross_attention`, `reversible_chain`, `encoder_decoder`; then `data`, `optim`, `checkpoint`, `training`,
`attention_cache`, `decoding`, `generation`, `beam_search`, `huggingface` (using it) and `gradcheck`, `memory`, `plots`
(looking at it); `gpu` holds the few kernels that a GPU is given.
"""

from minireformer import backend
from minireformer.attention import (
    AttentionOptions,
    full_attention,
    full_attention_backward,
    local_attention,
    local_attention_backward,
    lsh_attention,
    lsh_attention_backward,
)
from minireformer.collision import collision_probability
from minireformer.config import ReformerConfig
from minireformer.generation.beams import beam_search
from minireformer.generation.decoding import CachedDecoder
from minireformer.generation.sampling import generate, stream
from minireformer.hashing import hash_vectors, random_rotations, sort_by_bucket
from minireformer.interop import huggingface
from minireformer.interop.huggingface import from_huggingface, to_huggingface
from minireformer.model import Reformer
from minireformer.tools import memory
from minireformer.tools.gradcheck import gradcheck
from minireformer.training import data
from minireformer.training.loop import train
from minireformer.training.optimizers import Adafactor, Adam
from minireformer.translation.encoder_decoder import EncoderDecoder, EncoderDecoderConfig

__version__ = "0.1.0"

__all__ = [
    "Adafactor",
    "Adam",
    "AttentionOptions",
    "CachedDecoder",
    "EncoderDecoder",
    "EncoderDecoderConfig",
    "Reformer",
    "ReformerConfig",
    "backend",
    "beam_search",
    "collision_probability",
    "data",
    "from_huggingface",
    "full_attention",
    "full_attention_backward",
    "generate",
    "gradcheck",
    "hash_vectors",
    "huggingface",
    "local_attention",
    "local_attention_backward",
    "lsh_attention",
    "lsh_attention_backward",
    "memory",
    "random_rotations",
    "sort_by_bucket",
    "stream",
    "to_huggingface",
    "train",
]
