"""Generation: caches, decoding, sampling, and beam search."""

from minireformer.generation.beam_search import beam_search
from minireformer.generation.sampling import generate, stream, token_probabilities

__all__ = ["beam_search", "generate", "stream", "token_probabilities"]
