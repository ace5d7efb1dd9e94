"""Generation: text from a trained model. Caches, decoding one token at a time, prompts, sampling, and beam search."""

from minireformer.generation.beams import beam_search
from minireformer.generation.decoding import CachedDecoder, PlainDecoder, is_exact
from minireformer.generation.sampling import generate, stream, token_probabilities

__all__ = ["CachedDecoder", "PlainDecoder", "beam_search", "generate", "is_exact", "stream", "token_probabilities"]
