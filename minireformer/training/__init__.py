"""Training: data, optimizers, and the loop."""

from minireformer.training.loop import accuracy, bits_per_token, train

__all__ = ["accuracy", "bits_per_token", "train"]
