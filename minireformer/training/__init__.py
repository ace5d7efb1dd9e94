"""Training: what to train on (`data`), the optimizers, the loop with its record, and scores of what was learned."""

from minireformer.training.data import ByteCorpus, ImageCorpus, duplicate_task, photograph, standard_library, text_files
from minireformer.training.loop import train, training_step
from minireformer.training.optimizers import (
    Adafactor,
    Adam,
    Optimizer,
    clip_by_global_norm,
    warmup_cosine,
    warmup_inverse_sqrt,
)
from minireformer.training.scores import accuracy, bits_per_token

__all__ = [
    "Adafactor",
    "Adam",
    "ByteCorpus",
    "ImageCorpus",
    "Optimizer",
    "accuracy",
    "bits_per_token",
    "clip_by_global_norm",
    "duplicate_task",
    "photograph",
    "standard_library",
    "text_files",
    "train",
    "training_step",
    "warmup_cosine",
    "warmup_inverse_sqrt",
]
