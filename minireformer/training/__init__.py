"""Training: what to train on (`data`), `optimizers`, the loop with its record, and scores for the result."""

from minireformer.training.data import ByteCorpus, ImageCorpus, duplicate_task
from minireformer.training.loop import train, training_step
from minireformer.training.parallel import use_own_gpu
from minireformer.training.scores import accuracy, bits_per_token

__all__ = [
    "ByteCorpus",
    "ImageCorpus",
    "accuracy",
    "bits_per_token",
    "duplicate_task",
    "train",
    "training_step",
    "use_own_gpu",
]
