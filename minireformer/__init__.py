"""minireformer: the Reformer (Kitaev, Kaiser, Levskaya, 2020) in NumPy or CuPy, with every gradient derived by hand.

The files in this folder implement the paper. You can read them in an afternoon, in this order:

    the foundations                   `backend`, `threads`, `cuda`, `rng`, `checks`, `layer`
    what every Transformer has        `linear`, `layer_norm`, `embedding`, `dropout`, `activations`,
                                      `feed_forward`, `losses`, `positions`
    what makes it a Reformer          `unit_length`, `hashing`, `collision`, `reference`, `tables`, `schedule`,
                                      `kernel`, `attention`, `attention_layer`, `reversible`
    the whole model                   `config`, `heads`, `model`, `checkpoint`

You can skip `cuda` until you need it: it holds the few kernels that run on a GPU. The folders are built on these
files, which never import them. Open the one that you want to use:

    `training/`       data, optimizers and the training loop
    `generation/`     text from a trained model: caches, decoding, sampling and beam search
    `translation/`    the encoder-decoder with its cross-attention
    `interop/`        conversion to and from Hugging Face's models
    `tools/`          the gradient check and memory measurements
    `course/`         what the notebooks share: figures, exercises and the capstone
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


def __dir__():
    """The public names alone: what `mr.<Tab>` offers."""
    return [*__all__, "__version__"]
